//! Random credentials and ids, and the digests by which credentials are stored.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Letters and digits need no escaping in headers, cookies, URLs and shells.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Length of a credential without its prefix. 62^43 is more than 2^256.
const CREDENTIAL_LENGTH: usize = 43;

/// Length of the visible prefix of a secret, including `tg_`.
const VISIBLE: usize = 8;

/// A credential in clear text. It is never stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A new API secret, `tg_…`, of 256 random bits.
    ///
    /// # Errors
    /// The operating system provides no randomness.
    pub fn new_api_key() -> Result<Secret, getrandom::Error> {
        Ok(Secret(format!("tg_{}", random_text(CREDENTIAL_LENGTH)?)))
    }

    /// A new session token, `ts_…`, of 256 random bits.
    ///
    /// # Errors
    /// The operating system provides no randomness.
    pub fn new_session() -> Result<Secret, getrandom::Error> {
        Ok(Secret(format!("ts_{}", random_text(CREDENTIAL_LENGTH)?)))
    }

    /// A new token of a link that can be used once, `tl_…`, of 256 random bits.
    ///
    /// # Errors
    /// The operating system provides no randomness.
    pub fn new_link() -> Result<Secret, getrandom::Error> {
        Ok(Secret(format!("tl_{}", random_text(CREDENTIAL_LENGTH)?)))
    }

    /// The clear text, to be shown once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The part that may be shown later: `tg_Ab3dE…`.
    pub fn visible_prefix(&self) -> String {
        format!("{}…", &self.0[..VISIBLE])
    }

    /// The digest by which it is stored.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// The SHA-256 of a credential. A fast hash is enough, as nobody can guess a secret of 256 random bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest of a credential that a client sent.
    pub fn of(credential: &str) -> Digest {
        Digest(Sha256::digest(credential.as_bytes()).into())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(…)")
    }
}

/// `length` random letters and digits, uniformly distributed.
///
/// # Errors
/// The operating system provides no randomness.
pub fn random_text(length: usize) -> Result<String, getrandom::Error> {
    let mut text = String::with_capacity(length);
    let mut bytes = [0; 64];
    loop {
        getrandom::fill(&mut bytes)?;
        for byte in bytes {
            // 248 is a multiple of 62: the bytes from there on would favour the first letters.
            if byte < 248 {
                text.push(char::from(ALPHABET[usize::from(byte % 62)]));
            }
            if text.len() == length {
                return Ok(text);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_long_unique_and_not_shown() {
        let (one, two) = (Secret::new_api_key().unwrap(), Secret::new_api_key().unwrap());
        assert!(one != two && one.digest() != two.digest());
        assert_eq!(one.reveal().len(), 46);
        assert!(one.visible_prefix().starts_with("tg_") && one.visible_prefix().chars().count() == 9);
        assert!(!format!("{one:?}{:?}", one.digest()).contains(&one.reveal()[3..]));
    }

    #[test]
    fn the_digest_is_sha_256() {
        assert_eq!(Digest::of("abc").0[..4], [0xba, 0x78, 0x16, 0xbf]);
    }
}
