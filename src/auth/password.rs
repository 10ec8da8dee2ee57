//! Password hashes: Argon2id (RFC 9106), and the bcrypt of the older system until its owner next signs in.

use argon2::{Config, Variant};

use super::hasher::{Hasher, Overloaded};

/// Fewest characters of a password.
pub const SHORTEST: usize = 8;

/// Most characters of a password.
pub const LONGEST: usize = 1024;

/// How every Argon2id hash of ours begins: 19 MiB, two passes, one lane (OWASP's second choice, m=19456).
const CURRENT: &str = "$argon2id$v=19$m=19456,t=2,p=1$";

const SALT_BYTES: usize = 16;

/// The secrets mixed into hashes.
#[derive(Clone)]
pub struct Peppers {
    /// Of Argon2id hashes.
    pub current: String,
    /// Of bcrypt hashes.
    pub bcrypt: String,
}

/// What a check of a password found.
#[derive(Clone, PartialEq, Eq)]
pub struct Check {
    /// Whether it was right.
    pub right: bool,
    /// A hash to keep instead of the old one, where it was right and that is outdated.
    pub better_hash: Option<String>,
}

/// Hashes and checks passwords on the hasher's threads.
pub struct Passwords {
    hasher: Hasher,
    peppers: Peppers,
    /// Checked in place of a missing one, so that an unknown account takes as long as a known one.
    decoy: String,
}

impl Passwords {
    /// Checks with these peppers.
    ///
    /// # Errors
    /// The threads cannot be started, or the first hash cannot be made.
    pub fn new(hasher: Hasher, peppers: Peppers) -> Result<Passwords, String> {
        let decoy = hash("no account has this password", &peppers)?;
        Ok(Passwords { hasher, peppers, decoy })
    }

    /// Whether a new password may be used; what is wrong with it otherwise.
    ///
    /// # Errors
    /// Words for the client.
    pub fn is_acceptable(password: &str) -> Result<(), &'static str> {
        match password.chars().count() {
            n if n < SHORTEST => Err("The password must have at least 8 characters"),
            n if n > LONGEST => Err("The password must have at most 1024 characters"),
            _ => Ok(()),
        }
    }

    /// The hash to keep of a new password.
    ///
    /// # Errors
    /// Too many wait for a hash already, or hashing failed.
    pub fn hash(&self, password: &str) -> Result<String, Overloaded> {
        let (password, peppers) = (password.to_owned(), self.peppers.clone());
        self.hasher.run(move || hash(&password, &peppers)).and_then(|hash| hash.map_err(Overloaded::Failed))
    }

    /// Checks a password against the hash kept of it; without one it is wrong, in the same time.
    ///
    /// # Errors
    /// Too many wait for a hash already, or hashing failed.
    pub fn check(&self, password: &str, kept: Option<&str>) -> Result<Check, Overloaded> {
        let (password, peppers) = (password.to_owned(), self.peppers.clone());
        let (kept, exists) = (kept.unwrap_or(&self.decoy).to_owned(), kept.is_some());
        let checked = self.hasher.run(move || {
            let right = matches(&password, &kept, &peppers) && exists;
            let better_hash = match right && !kept.starts_with(CURRENT) {
                true => Some(hash(&password, &peppers)?),
                false => None,
            };
            Ok(Check { right, better_hash })
        });
        checked.and_then(|check| check.map_err(Overloaded::Failed))
    }
}

fn hash(password: &str, peppers: &Peppers) -> Result<String, String> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|e| e.to_string())?;
    let config = Config { secret: peppers.current.as_bytes(), ..Config::owasp2() };
    debug_assert!(config.variant == Variant::Argon2id);
    argon2::hash_encoded(password.as_bytes(), &salt, &config).map_err(|e| e.to_string())
}

fn matches(password: &str, kept: &str, peppers: &Peppers) -> bool {
    if kept.starts_with("$2") {
        // The older system hashed password and pepper together; bcrypt reads 72 bytes of that.
        return bcrypt::verify(format!("{password}{}", peppers.bcrypt), kept).unwrap_or(false);
    }
    argon2::verify_encoded_ext(kept, password.as_bytes(), peppers.current.as_bytes(), &[]).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords() -> Passwords {
        let peppers = Peppers { current: "pepper".into(), bcrypt: "older".into() };
        Passwords::new(Hasher::new(1).unwrap(), peppers).unwrap()
    }

    #[test]
    fn right_is_told_from_wrong_beyond_72_bytes() {
        let (passwords, stem) = (passwords(), "k".repeat(72));
        let kept = passwords.hash(&format!("{stem}A")).unwrap();
        assert!(kept.starts_with(CURRENT), "{kept}");
        assert!(passwords.check(&format!("{stem}A"), Some(&kept)).unwrap().right);
        assert!(!passwords.check(&format!("{stem}B"), Some(&kept)).unwrap().right);
        assert!(!passwords.check("no account has this password", None).unwrap().right);
        assert!(!passwords.check("x", Some("not a hash")).unwrap().right);
    }

    #[test]
    fn a_bcrypt_hash_becomes_argon2id() {
        let kept = bcrypt::hash("password1older", 4).unwrap();
        let check = passwords().check("password1", Some(&kept)).unwrap();
        let better = check.better_hash.unwrap();
        assert!(check.right && passwords().check("password1", Some(&better)).unwrap().right);
        assert!(!passwords().check("password2", Some(&kept)).unwrap().right);
    }

    #[test]
    fn other_parameters_are_outdated() {
        let weak = Config { mem_cost: 8192, secret: b"pepper", ..Config::owasp2() };
        let kept = argon2::hash_encoded(b"password1", b"saltsaltsaltsalt", &weak).unwrap();
        assert!(passwords().check("password1", Some(&kept)).unwrap().better_hash.is_some());
    }

    #[test]
    fn length_is_counted_in_characters() {
        assert!(Passwords::is_acceptable("ééééééé").is_err());
        assert!(Passwords::is_acceptable("éééééééé").is_ok());
        assert!(Passwords::is_acceptable(&"é".repeat(1024)).is_ok());
        assert!(Passwords::is_acceptable(&"é".repeat(1025)).is_err());
    }
}
