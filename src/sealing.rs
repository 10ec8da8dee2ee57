//! Encrypts what the database must not show, with AES-256-GCM. What is sealed is bound to a context, such as the name of
//! what it belongs to, so that it cannot be moved to another place in the database.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Salt};

/// Encrypts and decrypts with one key.
pub struct Sealing(LessSafeKey);

impl Sealing {
    /// With this key of 256 bits.
    ///
    /// # Errors
    /// In words for the operator; not expected.
    pub fn new(key: &[u8; 32]) -> Result<Sealing, String> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| "the key cannot be used".to_owned())?;
        Ok(Sealing(LessSafeKey::new(key)))
    }

    /// With a key that is derived from another one, of any length but as hard to guess, for a `purpose` of its own.
    ///
    /// # Errors
    /// As [`Sealing::new`].
    pub fn derived(from: &[u8], purpose: &str) -> Result<Sealing, String> {
        let failed = |_| "no key can be derived".to_owned();
        let mut key = [0; 32];
        let derived = Salt::new(HKDF_SHA256, &[]).extract(from);
        derived.expand(&[purpose.as_bytes()], HKDF_SHA256).map_err(failed)?.fill(&mut key).map_err(failed)?;
        Sealing::new(&key)
    }

    /// A random nonce, the ciphertext, and its tag.
    ///
    /// # Errors
    /// The system has no random numbers, or the text has gigabytes.
    pub fn seal(&self, context: &str, text: &[u8]) -> Result<Vec<u8>, String> {
        let mut sealed = vec![0; NONCE_LEN];
        getrandom::fill(&mut sealed).map_err(|e| e.to_string())?;
        let nonce = Nonce::try_assume_unique_for_key(&sealed).map_err(|_| "a nonce has the wrong length".to_owned())?;
        let mut text = text.to_vec();
        let sealing = self.0.seal_in_place_append_tag(nonce, Aad::from(context), &mut text);
        sealing.map_err(|_| "it is too long to be sealed".to_owned())?;
        sealed.extend(text);
        Ok(sealed)
    }

    /// What was sealed for this context; `None` if it was sealed with another key or for another context, or changed.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut text = text.to_vec();
        let length = self.0.open_in_place(nonce, Aad::from(context), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_purpose_and_context_open_it() {
        let sealing = |from: &str, purpose| Sealing::derived(from.as_bytes(), purpose).unwrap();
        let sealed = sealing("key", "one").seal("ann", b"hunter2").unwrap();
        assert!(!sealed.windows(7).any(|w| w == b"hunter2"));
        assert_eq!(sealing("key", "one").open("ann", &sealed).unwrap(), b"hunter2");
        for (key, purpose, context) in [("other", "one", "ann"), ("key", "two", "ann"), ("key", "one", "bob")] {
            assert_eq!(sealing(key, purpose).open(context, &sealed), None, "{key} {purpose} {context}");
        }
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(sealing("key", "one").open("ann", &changed), None, "{at}");
            assert_eq!(sealing("key", "one").open("ann", &sealed[..at]), None, "{at}");
        }
    }
}
