//! Normalising and validating e-mail addresses.

/// Maximum length of an address in bytes: RFC 5321 section 4.5.3.1.3, without the brackets of a path.
const MAX_LENGTH: usize = 254;

/// Trims an address and converts it to lower case, the form in which it is stored and looked up.
pub fn normalise(text: &str) -> String {
    text.trim().to_lowercase()
}

/// Whether a normalised address is valid: what browsers accept in `<input type=email>` (WHATWG HTML, "valid e-mail
/// address"), and letters of any script.
pub fn is_valid(email: &str) -> bool {
    let Some((local, domain)) = email.rsplit_once('@') else { return false };
    let local_fits = |c: char| c.is_alphanumeric() || ".!#$%&'*+/=?^_`{|}~-".contains(c);
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    email.len() <= MAX_LENGTH && !local.is_empty() && local.chars().all(local_fits) && domain.split('.').all(label_fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_blanks_do_not_matter() {
        assert_eq!(normalise("  Ann@Example.COM\n"), "ann@example.com");
    }

    #[test]
    fn validates_addresses() {
        for good in ["a@x", "ann.o'hara+tag@mail.example.com", "jörg@exämple.de"] {
            assert!(is_valid(good), "{good}");
        }
        let long = format!("{}@x", "a".repeat(253));
        for bad in ["", "zzz", "@x", "a@", "a b@x", "a@x..y", "a@-x", "a@x\"", "<a@x>", "a@b@c d", &long] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}
