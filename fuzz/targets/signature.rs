//! Checks arbitrary bytes as the header and the body of an event of Stripe: no panic, and nothing is taken that was not
//! signed.
//!
//! The header ends at the first line feed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use textgen::billing::signature::check;

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let Ok(header) = std::str::from_utf8(&bytes[..end]) else { return };
    let secrets = ["whsec_one".to_owned(), "whsec_two".to_owned()];
    for now in [0, 1_700_000_000, u64::MAX] {
        assert!(check(header, &bytes[end..], &secrets, now).is_err());
    }
});
