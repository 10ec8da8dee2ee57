//! Password hashes: Argon2id (RFC 9106). A bcrypt hash of the older system is replaced when its owner next signs in.

use argon2::{Config, Variant};

use super::hasher::{HashError, Hasher};
use crate::error::Error;

/// Minimum length of a password, in characters.
pub const MIN_LENGTH: usize = 8;

/// Maximum length of a password, in characters.
pub const MAX_LENGTH: usize = 1024;

/// The beginning of every hash with the current parameters: Argon2id with 19 MiB, two passes and one lane, as in
/// OWASP's Password Storage Cheat Sheet.
const CURRENT: &str = "$argon2id$v=19$m=19456,t=2,p=1$";

const SALT_BYTES: usize = 16;

/// The secrets mixed into hashes.
#[derive(Clone)]
pub struct Peppers {
    /// For Argon2id hashes.
    pub current: String,
    /// For bcrypt hashes.
    pub bcrypt: String,
}

impl From<&crate::config::Config> for Peppers {
    fn from(config: &crate::config::Config) -> Peppers {
        Peppers { current: config.password_pepper.clone(), bcrypt: config.bcrypt_pepper().to_owned() }
    }
}

/// The result of checking a password.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordCheck {
    /// Whether the password is correct.
    pub is_correct: bool,
    /// A hash to store instead of the old one, if the password is correct and the old one is outdated.
    pub new_hash: Option<String>,
}

/// Hashes and checks passwords, on the threads of a [`Hasher`].
pub struct Passwords {
    hasher: Hasher,
    peppers: Peppers,
    /// Checked if there is no hash, so that the time taken does not reveal whether an account exists.
    decoy: String,
}

impl Passwords {
    /// Uses this hasher and these peppers.
    ///
    /// # Errors
    /// A hash cannot be computed.
    pub fn new(hasher: Hasher, peppers: Peppers) -> Result<Passwords, String> {
        let decoy = hash("no account has this password", &peppers)?;
        Ok(Passwords { hasher, peppers, decoy })
    }

    /// Checks the length of a new password.
    ///
    /// # Errors
    /// [`Error::PasswordTooShort`] or [`Error::PasswordTooLong`].
    pub fn validate(password: &str) -> Result<(), Error> {
        match password.chars().count() {
            n if n < MIN_LENGTH => Err(Error::PasswordTooShort(MIN_LENGTH)),
            n if n > MAX_LENGTH => Err(Error::PasswordTooLong(MAX_LENGTH)),
            _ => Ok(()),
        }
    }

    /// Hashes a new password.
    ///
    /// # Errors
    /// See [`HashError`].
    pub fn hash(&self, password: &str) -> Result<String, HashError> {
        let (password, peppers) = (password.to_owned(), self.peppers.clone());
        self.hasher.run(move || hash(&password, &peppers)).and_then(|hash| hash.map_err(HashError::Failed))
    }

    /// Checks a password against the stored hash. Without one, the password is wrong, after the same time.
    ///
    /// # Errors
    /// See [`HashError`].
    pub fn check(&self, password: &str, stored: Option<&str>) -> Result<PasswordCheck, HashError> {
        let (password, peppers) = (password.to_owned(), self.peppers.clone());
        let (stored, exists) = (stored.unwrap_or(&self.decoy).to_owned(), stored.is_some());
        let checked = self.hasher.run(move || {
            let is_correct = matches(&password, &stored, &peppers) && exists;
            let new_hash = match is_correct && !stored.starts_with(CURRENT) {
                true => Some(hash(&password, &peppers)?),
                false => None,
            };
            Ok(PasswordCheck { is_correct, new_hash })
        });
        checked.and_then(|check| check.map_err(HashError::Failed))
    }
}

fn hash(password: &str, peppers: &Peppers) -> Result<String, String> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|e| e.to_string())?;
    let config = Config { secret: peppers.current.as_bytes(), ..Config::owasp2() };
    debug_assert!(config.variant == Variant::Argon2id);
    argon2::hash_encoded(password.as_bytes(), &salt, &config).map_err(|e| e.to_string())
}

fn matches(password: &str, stored: &str, peppers: &Peppers) -> bool {
    if stored.starts_with("$2") {
        // The older system appended the pepper to the password. Of both, bcrypt uses the first 72 bytes.
        return bcrypt::verify(format!("{password}{}", peppers.bcrypt), stored).unwrap_or(false);
    }
    argon2::verify_encoded_ext(stored, password.as_bytes(), peppers.current.as_bytes(), &[]).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passwords() -> Passwords {
        let peppers = Peppers { current: "pepper".into(), bcrypt: "older".into() };
        Passwords::new(Hasher::new(1).unwrap(), peppers).unwrap()
    }

    #[test]
    fn passwords_may_differ_beyond_72_bytes() {
        let (passwords, stem) = (passwords(), "k".repeat(72));
        let stored = passwords.hash(&format!("{stem}A")).unwrap();
        assert!(stored.starts_with(CURRENT), "{stored}");
        assert!(passwords.check(&format!("{stem}A"), Some(&stored)).unwrap().is_correct);
        assert!(!passwords.check(&format!("{stem}B"), Some(&stored)).unwrap().is_correct);
        assert!(!passwords.check("no account has this password", None).unwrap().is_correct);
        assert!(!passwords.check("x", Some("not a hash")).unwrap().is_correct);
    }

    #[test]
    fn a_bcrypt_hash_becomes_argon2id() {
        let stored = bcrypt::hash("password1older", 4).unwrap();
        let check = passwords().check("password1", Some(&stored)).unwrap();
        let new = check.new_hash.unwrap();
        assert!(check.is_correct && passwords().check("password1", Some(&new)).unwrap().is_correct);
        assert!(!passwords().check("password2", Some(&stored)).unwrap().is_correct);
    }

    #[test]
    fn a_hash_with_other_parameters_is_replaced() {
        let weak = Config { mem_cost: 8192, secret: b"pepper", ..Config::owasp2() };
        let stored = argon2::hash_encoded(b"password1", b"saltsaltsaltsalt", &weak).unwrap();
        assert!(passwords().check("password1", Some(&stored)).unwrap().new_hash.is_some());
    }

    #[test]
    fn length_is_counted_in_characters() {
        assert!(Passwords::validate("ééééééé").is_err());
        assert!(Passwords::validate("éééééééé").is_ok());
        assert!(Passwords::validate(&"é".repeat(1024)).is_ok());
        assert!(Passwords::validate(&"é".repeat(1025)).is_err());
    }
}
