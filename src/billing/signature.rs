//! [Signatures of web-hooks](https://docs.stripe.com/webhooks/signature): `Stripe-Signature: t=…,v1=…`, where `v1` is an
//! HMAC with SHA-256 of the time, a dot and the body.

use std::time::Duration;

use ring::hmac;
use subtle::ConstantTimeEq;

use crate::hex;

/// How old a signature may be: an event that somebody has recorded cannot be sent again later.
pub const TOLERANCE: Duration = Duration::from_secs(300);

/// Signatures of one header that are looked at. Stripe sends one for each secret that is valid, of which there are two
/// at most.
const MOST_SIGNATURES: usize = 16;

/// Why an event is not taken for Stripe's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forged {
    /// The header has no time, or no signature of this scheme.
    #[error("the signature is malformed")]
    Malformed,
    /// It was made too long ago.
    #[error("the signature is too old")]
    Old,
    /// No secret has made it for this body.
    #[error("the signature is not by a known secret")]
    Unknown,
}

/// A header, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Header<'h> {
    /// As it stands there, which is what was signed.
    time: &'h str,
    /// In seconds since 1970.
    seconds: u64,
    signatures: Vec<&'h str>,
}

/// Checks that a body was signed by one of the secrets, at most [`TOLERANCE`] before `now`, in seconds since 1970.
///
/// # Errors
/// See [`Forged`].
pub fn check(header: &str, body: &[u8], secrets: &[String], now: u64) -> Result<(), Forged> {
    let Header { time, seconds, signatures } = parse(header).ok_or(Forged::Malformed)?;
    if seconds < now.saturating_sub(TOLERANCE.as_secs()) {
        return Err(Forged::Old);
    }
    let mut is_known = false;
    for secret in secrets {
        let own = sign(secret, time, body);
        // All are compared, so that the time taken says nothing.
        is_known |=
            signatures.iter().fold(false, |any, other| any | bool::from(own.as_bytes().ct_eq(other.as_bytes())));
    }
    if is_known { Ok(()) } else { Err(Forged::Unknown) }
}

/// The signature of a body at a time, in seconds since 1970.
fn sign(secret: &str, time: &str, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
    for part in [time.as_bytes(), b".", body] {
        context.update(part);
    }
    hex::encode(context.sign().as_ref())
}

/// The time and the signatures; as in Stripe's libraries, the first time counts, and parts of other schemes do not.
fn parse(header: &str) -> Option<Header<'_>> {
    let parts = || header.split(',').filter_map(|part| part.split_once('='));
    let (_, time) = parts().find(|(name, _)| *name == "t")?;
    let is_number = !time.is_empty() && time.bytes().all(|b| b.is_ascii_digit());
    // What Stripe signs has no leading zero, and libraries sign the number that they have read.
    let is_plain = is_number && (time == "0" || !time.starts_with('0'));
    let seconds = time.parse().ok().filter(|_| is_plain)?;
    let signatures: Vec<&str> =
        parts().filter(|(name, _)| *name == "v1").map(|(_, text)| text).take(MOST_SIGNATURES).collect();
    (!signatures.is_empty()).then_some(Header { time, seconds, signatures })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn secrets() -> Vec<String> {
        vec!["whsec_old".to_owned(), "whsec_new".to_owned()]
    }

    fn header(secret: &str, seconds: u64, body: &[u8]) -> String {
        format!("t={seconds},v1={}", sign(secret, &seconds.to_string(), body))
    }

    #[test]
    fn a_known_signature() {
        // As `printf '1800000000.{}' | openssl dgst -sha256 -hmac whsec_old` has it.
        let signature = "0b0a7f96579d6583e5b4034d2c441a0f84ea523b979cc55c72831bd0cf188dcd";
        assert_eq!(check(&format!("t={NOW},v1={signature}"), b"{}", &secrets(), NOW), Ok(()));
    }

    #[test]
    fn a_signature_holds_for_its_body_secret_and_time() {
        let body = br#"{"id": "evt_1"}"#;
        let check = |header: &str, body: &[u8], now| check(header, body, &secrets(), now);
        for secret in secrets() {
            let good = header(&secret, NOW, body);
            assert_eq!(check(&good, body, NOW), Ok(()));
            assert_eq!(check(&good, body, NOW + 300), Ok(()));
            assert_eq!(check(&good, body, NOW + 301), Err(Forged::Old));
            // Clocks differ; Stripe's libraries take it too.
            assert_eq!(check(&good, body, NOW - 1000), Ok(()));
            assert_eq!(check(&good, br#"{"id": "evt_2"}"#, NOW), Err(Forged::Unknown));
            let (time, signature) = good.split_once(",v1=").unwrap();
            assert_eq!(check(&format!("{time},v0=abc,v1=00,v1={signature}"), body, NOW), Ok(()));
            assert_eq!(check(&format!("{time},v0={signature}"), body, NOW), Err(Forged::Malformed));
            assert_eq!(check(&format!("t=1800000001,v1={signature}"), body, NOW), Err(Forged::Unknown));
            assert_eq!(check(&format!("{time},v1={}", signature.to_uppercase()), body, NOW), Err(Forged::Unknown));
        }
        let other = header("whsec_other", NOW, body);
        assert_eq!(check(&other, body, NOW), Err(Forged::Unknown));
        assert_eq!(super::check(&header("", NOW, body), body, &[], NOW), Err(Forged::Unknown));
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        for bad in
            ["", "t=1", "v1=00", "t=,v1=00", "t=x,v1=00", "t=-1,v1=00", "t= 1,v1=00", "t=01,v1=0", "t,v1", "==,=,"]
        {
            assert_eq!(check(bad, b"", &secrets(), 0), Err(Forged::Malformed), "{bad}");
        }
        assert_eq!(check("t=99999999999999999999,v1=0", b"", &secrets(), 0), Err(Forged::Malformed));
    }

    proptest! {
        #[test]
        fn nothing_that_was_not_signed_is_accepted(text in "[tv01=,a-f0-9 ]{0,80}", body: Vec<u8>) {
            prop_assert!(check(&text, &body, &secrets(), NOW).is_err());
        }

        #[test]
        fn any_text_is_parsed_without_a_panic(text: String) {
            if let Some(header) = parse(&text) {
                prop_assert!(header.signatures.len() <= MOST_SIGNATURES && header.time.parse() == Ok(header.seconds));
            }
        }

        #[test]
        fn one_changed_byte_is_noticed(
            body in proptest::collection::vec(any::<u8>(), 1..200), at: prop::sample::Index, flip in 1_u8..,
        ) {
            let good = header("whsec_new", NOW, &body);
            prop_assert_eq!(check(&good, &body, &secrets(), NOW), Ok(()));
            let mut other = body.clone();
            other[at.index(body.len())] ^= flip;
            prop_assert_eq!(check(&good, &other, &secrets(), NOW), Err(Forged::Unknown));
        }
    }
}
