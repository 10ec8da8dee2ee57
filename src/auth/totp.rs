//! Codes of authenticator apps: TOTP (RFC 6238) with HMAC-SHA-1, six digits and steps of 30 seconds, which is what all
//! such apps know.

use ring::hmac;
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// Bytes of a new secret, as long as the digest (RFC 4226, section 4).
const SECRET_BYTES: usize = 20;

/// Seconds for which a code is valid.
const STEP_SECONDS: i64 = 30;

/// Digits of a code.
pub const DIGITS: usize = 6;

/// How many steps a device's clock may be off.
const TOLERANCE: i64 = 1;

/// The digits of base32 (RFC 4648).
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// What a server and an authenticator app share.
pub struct Seed(Vec<u8>);

impl Seed {
    /// A new one, of 160 random bits.
    ///
    /// # Errors
    /// The operating system provides no randomness.
    pub fn new() -> Result<Seed, getrandom::Error> {
        let mut bytes = vec![0; SECRET_BYTES];
        getrandom::fill(&mut bytes)?;
        Ok(Seed(bytes))
    }

    /// A stored one.
    pub fn from_bytes(bytes: Vec<u8>) -> Seed {
        Seed(bytes)
    }

    /// To be sealed and stored.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As it is typed into an app, in base32.
    pub fn text(&self) -> String {
        let bits = |at: usize| {
            let byte = |n: usize| u16::from(self.0.get(n).copied().unwrap_or(0));
            let pair = byte(at * 5 / 8) << 8 | byte(at * 5 / 8 + 1);
            usize::from(pair >> (11 - at * 5 % 8) & 31)
        };
        (0..(self.0.len() * 8).div_ceil(5)).map(|at| char::from(BASE32[bits(at)])).collect()
    }

    /// The address that an app reads from a QR code, for the account of this name.
    pub fn address(&self, issuer: &str, account: &str) -> String {
        let encoded = |text| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
        let (issuer, account, secret) = (encoded(issuer), encoded(account), self.text());
        format!(
            "otpauth://totp/{issuer}:{account}?secret={secret}&issuer={issuer}&algorithm=SHA1&digits={DIGITS}&period={STEP_SECONDS}"
        )
    }

    /// The code of a step.
    pub fn code(&self, step: i64) -> u32 {
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &self.0);
        let tag = hmac::sign(&key, &step.to_be_bytes());
        let tag = tag.as_ref();
        // Dynamic truncation (RFC 4226, section 5.3).
        let at = usize::from(tag[tag.len() - 1] & 15);
        let word = u32::from_be_bytes([tag[at] & 0x7f, tag[at + 1], tag[at + 2], tag[at + 3]]);
        word % 1_000_000
    }

    /// The step that a code belongs to, of those that are accepted at this time (seconds since 1970) and come after the
    /// one used last. Takes as long for a wrong code as for a right one.
    pub fn step_of(&self, code: u32, now: i64, last: i64) -> Option<i64> {
        let mut found = -1;
        for step in step_at(now) - TOLERANCE..=step_at(now) + TOLERANCE {
            let is_right = self.code(step).ct_eq(&code);
            found.conditional_assign(&step, is_right);
        }
        (found > last).then_some(found)
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(…)")
    }
}

/// The step at a time, in seconds since 1970.
pub fn step_at(now: i64) -> i64 {
    now.div_euclid(STEP_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed() -> Seed {
        Seed::from_bytes(b"12345678901234567890".to_vec())
    }

    /// The last six digits of those in RFC 6238, appendix B.
    #[test]
    fn codes_are_those_of_the_standard() {
        for (time, code) in [
            (59, 287_082),
            (1_111_111_109, 81_804),
            (1_111_111_111, 50_471),
            (1_234_567_890, 5_924),
            (2_000_000_000, 279_037),
            (20_000_000_000, 353_130),
        ] {
            assert_eq!(seed().code(step_at(time)), code, "{time}");
        }
    }

    #[test]
    fn a_code_holds_for_one_step_around_its_own_and_only_after_the_last_one() {
        let code = seed().code(100);
        for (now, step) in [(2969, None), (2970, Some(100)), (3000, Some(100)), (3059, Some(100)), (3060, None)] {
            assert_eq!(seed().step_of(code, now, 0), step, "{now}");
        }
        assert_eq!(seed().step_of(code, 3000, 99), Some(100));
        assert_eq!(seed().step_of(code, 3000, 100), None, "used already");
        assert_eq!(seed().step_of(code, 3000, 101), None, "a later one was used");
    }

    #[test]
    fn the_secret_is_written_in_base32() {
        assert_eq!(seed().text(), "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ");
        assert_eq!(Seed::from_bytes(b"foob".to_vec()).text(), "MZXW6YQ");
        let address = seed().address("textgen", "ann@example.com");
        assert!(address.starts_with("otpauth://totp/textgen:ann%40example%2Ecom?secret=GEZDGNBV"), "{address}");
        assert!(!format!("{:?}", seed()).contains("123"));
    }
}
