//! Seals API keys: encrypts them for the database with AES-256-GCM. A sealed key is bound to the name of its provider, so
//! that it cannot be copied to another provider in the database.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::config::EncryptionKey;
use crate::engine::Hidden;

/// Encrypts and decrypts with one key.
pub struct Sealer(LessSafeKey);

impl Sealer {
    /// With the setting `ENCRYPTION_KEY`.
    ///
    /// # Errors
    /// It is not set, or cannot be used; in words for the operator.
    pub fn new(key: Option<&EncryptionKey>) -> Result<Sealer, String> {
        let key = key
            .ok_or("ENCRYPTION_KEY is not set, with which API keys are sealed; `openssl rand -base64 32` makes one")?;
        let key = UnboundKey::new(&AES_256_GCM, key.bytes()).map_err(|_| "ENCRYPTION_KEY cannot be used".to_owned())?;
        Ok(Sealer(LessSafeKey::new(key)))
    }

    /// A random nonce, the ciphertext, and its tag.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn seal(&self, provider: &str, secret: &Hidden) -> Result<Vec<u8>, String> {
        let mut sealed = vec![0; NONCE_LEN];
        getrandom::fill(&mut sealed).map_err(|e| e.to_string())?;
        let nonce = Nonce::try_assume_unique_for_key(&sealed).map_err(|_| "a nonce has the wrong length".to_owned())?;
        let mut text = secret.reveal().as_bytes().to_vec();
        let sealing = self.0.seal_in_place_append_tag(nonce, Aad::from(provider), &mut text);
        sealing.map_err(|_| "the key is too long to be sealed".to_owned())?;
        sealed.extend(text);
        Ok(sealed)
    }

    /// What was sealed for this provider.
    ///
    /// # Errors
    /// It was sealed with another key or for another provider, or it was changed.
    pub fn open(&self, provider: &str, sealed: &[u8]) -> Result<Hidden, String> {
        let failed = || format!("the API key of provider {provider:?} was not sealed with this ENCRYPTION_KEY");
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN).ok_or_else(failed)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| failed())?;
        let mut text = text.to_vec();
        let text = self.0.open_in_place(nonce, Aad::from(provider), &mut text).map_err(|_| failed())?;
        std::str::from_utf8(text).map(Hidden::new).map_err(|_| failed())
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
