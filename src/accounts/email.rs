//! E-mail addresses: one form for one account.

/// Most characters of an address (RFC 5321 section 4.5.3.1.3 with the brackets taken off).
const LONGEST: usize = 254;

/// Trimmed and lower-cased, as it is kept and looked up.
pub fn normalise(text: &str) -> String {
    text.trim().to_lowercase()
}

/// Whether a normalised address can be one: what browsers accept in `<input type=email>` (WHATWG HTML, "valid e-mail
/// address"), with letters of any script allowed.
pub fn is_valid(email: &str) -> bool {
    let Some((local, domain)) = email.rsplit_once('@') else { return false };
    let local_fits = |c: char| c.is_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c);
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    email.len() <= LONGEST && !local.is_empty() && local.chars().all(local_fits) && domain.split('.').all(label_fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_person_has_one_form() {
        assert_eq!(normalise("  Ann@Example.COM\n"), "ann@example.com");
    }

    #[test]
    fn tells_addresses_from_other_text() {
        for good in ["a@x", "ann.o'hara+tag@mail.example.com", "jörg@exämple.de"] {
            assert!(is_valid(good), "{good}");
        }
        let long = format!("{}@x", "a".repeat(253));
        for bad in ["", "zzz", "@x", "a@", "a b@x", "a@x..y", "a@-x", "a@x\"", "<a@x>", "a@b@c d", &long] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
