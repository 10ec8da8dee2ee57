//! Password hashes: Argon2id (RFC 9106). A bcrypt hash of the older system is replaced when its owner next signs in.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

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

/// The cost of the older system's hashes.
const BCRYPT_COST: u32 = 12;

/// How many bytes of a password bcrypt looks at. One that is longer may differ beyond them from that which was chosen, so
/// it gets no hash of its own.
const BCRYPT_BYTES: usize = 72;

/// A new password must resist so many guesses: more than the lists of common passwords are long.
const FEWEST_GUESSES: u64 = 100_000;

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
        Peppers { current: config.log_in.password_pepper.clone(), bcrypt: config.log_in.bcrypt_pepper().to_owned() }
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
    bcrypt_time: OnceLock<Duration>,
}

impl Passwords {
    /// Uses this hasher and these peppers.
    ///
    /// # Errors
    /// A hash cannot be computed.
    pub fn new(hasher: Hasher, peppers: Peppers) -> Result<Passwords, String> {
        let decoy = hash("no account has this password", &peppers)?;
        Ok(Passwords { hasher, peppers, decoy, bcrypt_time: OnceLock::new() })
    }

    /// How long a check against a hash of the older system takes on this machine, about ten times as long as others.
    ///
    /// # Errors
    /// See [`HashError`].
    pub fn bcrypt_time(&self) -> Result<Duration, HashError> {
        if let Some(time) = self.bcrypt_time.get() {
            return Ok(*time);
        }
        let time = self.hasher.run(|| {
            let began = Instant::now();
            // The outcome does not matter.
            let _ = bcrypt::hash_with_salt("", BCRYPT_COST, [0; 16]);
            began.elapsed()
        })?;
        Ok(*self.bcrypt_time.get_or_init(|| time))
    }

    /// Checks the length of a new password, and that it is not among the first that anybody would guess for the account
    /// with this e-mail address.
    ///
    /// # Errors
    /// [`Error::PasswordTooShort`], [`Error::PasswordTooLong`] or [`Error::PasswordTooCommon`].
    pub fn validate(password: &str, email: &str) -> Result<(), Error> {
        match password.chars().count() {
            n if n < MIN_LENGTH => Err(Error::PasswordTooShort(MIN_LENGTH)),
            n if n > MAX_LENGTH => Err(Error::PasswordTooLong(MAX_LENGTH)),
            _ if is_common(password, email) => Err(Error::PasswordTooCommon),
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
            let is_whole = !is_bcrypt(&stored) || password.len() <= BCRYPT_BYTES;
            let new_hash = match is_correct && is_whole && !stored.starts_with(CURRENT) {
                true => Some(hash(&password, &peppers)?),
                false => None,
            };
            Ok(PasswordCheck { is_correct, new_hash })
        });
        checked.and_then(|check| check.map_err(HashError::Failed))
    }
}

/// Whether a password is found within [`FEWEST_GUESSES`] by trying lists of passwords, words and names, with the usual
/// changes to them (Wheeler, "zxcvbn: Low-Budget Password Strength Estimation", 2016).
fn is_common(password: &str, email: &str) -> bool {
    let name = email.split('@').next().unwrap_or("");
    zxcvbn::zxcvbn(password, &[email, name]).guesses() < FEWEST_GUESSES
}

fn hash(password: &str, peppers: &Peppers) -> Result<String, String> {
    let mut salt = [0; SALT_BYTES];
    getrandom::fill(&mut salt).map_err(|e| e.to_string())?;
    let config = Config { secret: peppers.current.as_bytes(), ..Config::owasp2() };
    debug_assert!(config.variant == Variant::Argon2id);
    argon2::hash_encoded(password.as_bytes(), &salt, &config).map_err(|e| e.to_string())
}

fn is_bcrypt(stored: &str) -> bool {
    stored.starts_with("$2")
}

fn matches(password: &str, stored: &str, peppers: &Peppers) -> bool {
    if is_bcrypt(stored) {
        // The older system appended the pepper to the password.
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
    fn what_bcrypt_did_not_look_at_is_not_hashed() {
        let (chosen, pepper) = ("k".repeat(72), "older");
        let stored = bcrypt::hash(format!("{chosen}{pepper}"), 4).unwrap();
        let check = |password: &str| passwords().check(password, Some(&stored)).unwrap();
        let longer = check(&format!("{chosen}x"));
        assert!(longer.is_correct && longer.new_hash.is_none(), "as the older system had it");
        assert!(check(&chosen).new_hash.is_some());
    }

    #[test]
    fn a_hash_with_other_parameters_is_replaced() {
        let weak = Config { mem_cost: 8192, secret: b"pepper", ..Config::owasp2() };
        let stored = argon2::hash_encoded(b"password1", b"saltsaltsaltsalt", &weak).unwrap();
        assert!(passwords().check("password1", Some(&stored)).unwrap().new_hash.is_some());
    }

    #[test]
    fn length_is_counted_in_characters() {
        let validate = |password: &str| Passwords::validate(password, "ann@example.com");
        assert!(matches!(validate("éüöäßçñ"), Err(Error::PasswordTooShort(8))));
        assert!(validate("éüöäßçñø").is_ok());
        assert!(validate(&"éüöäßçñø".repeat(128)).is_ok());
        assert!(matches!(validate(&"é".repeat(1025)), Err(Error::PasswordTooLong(1024))));
    }

    #[test]
    fn passwords_that_anybody_would_guess_are_refused() {
        let is_refused = |password: &str| {
            matches!(Passwords::validate(password, "ann.lee@example.com"), Err(Error::PasswordTooCommon))
        };
        for password in
            ["password", "Password1", "12345678", "qwertyuiop", "iloveyou", "aaaaaaaa", "abcdefgh", "p@ssw0rd"]
        {
            assert!(is_refused(password), "{password}");
        }
        assert!(is_refused("ann.lee@example.com") && is_refused("Ann.Lee1") && is_refused("ann.leeann.lee"));
        for password in ["correct horse battery", "long enough", "tr0ub4dor&3x", "Kx7#mPq2"] {
            assert!(!is_refused(password), "{password}");
        }
    }
}
