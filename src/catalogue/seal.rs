//! Seals API keys: encrypts them for the database ([`crate::sealing`]). A sealed key is bound to the name of its provider, so
//! that it cannot be copied to another provider in the database.

use crate::config::EncryptionKey;
use crate::engine::Hidden;
use crate::sealing::Sealing;

/// Encrypts and decrypts with one key.
pub struct Sealer(Sealing);

impl Sealer {
    /// With the setting `ENCRYPTION_KEY`.
    ///
    /// # Errors
    /// It is not set, or cannot be used; in words for the operator.
    pub fn new(key: Option<&EncryptionKey>) -> Result<Sealer, String> {
        let key = key
            .ok_or("ENCRYPTION_KEY is not set, with which API keys are sealed; `openssl rand -base64 32` makes one")?;
        Ok(Sealer(Sealing::new(key.bytes())?))
    }

    /// The key, sealed for this provider.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn seal(&self, provider: &str, secret: &Hidden) -> Result<Vec<u8>, String> {
        self.0.seal(provider, secret.reveal().as_bytes())
    }

    /// What was sealed for this provider.
    ///
    /// # Errors
    /// It was sealed with another key or for another provider, or it was changed.
    pub fn open(&self, provider: &str, sealed: &[u8]) -> Result<Hidden, String> {
        let opened = self.0.open(provider, sealed).and_then(|text| String::from_utf8(text).ok());
        opened
            .map(Hidden::new)
            .ok_or_else(|| format!("the API key of provider {provider:?} was not sealed with this ENCRYPTION_KEY"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(Some(&[byte; 32].into())).unwrap()
    }

    #[test]
    fn only_the_same_key_and_provider_open_it() {
        let secret = Hidden::new("sk-hunter2");
        let sealed = sealer(1).seal("a", &secret).unwrap();
        assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
        assert_ne!(sealed, sealer(1).seal("a", &secret).unwrap(), "the nonce is another one each time");
        assert!(sealer(1).open("a", &sealed).unwrap() == secret);
        assert!(sealer(1).open("b", &sealed).is_err() && sealer(2).open("a", &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(sealer(1).open("a", &changed).is_err(), "{at}");
            assert!(sealer(1).open("a", &sealed[..at]).is_err(), "{at}");
        }
    }

    #[test]
    fn without_a_key_the_error_says_what_to_do() {
        assert!(Sealer::new(None).err().unwrap().contains("ENCRYPTION_KEY"));
    }
}
