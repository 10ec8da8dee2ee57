//! Parses arbitrary bytes as the head of a request: no panic, and a complete head parses the same without what follows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use textgen::http::{Head, Parsed};

fuzz_target!(|bytes: &[u8]| {
    let mut head = Head::default();
    if let Ok(Parsed::Complete(n)) = head.parse(bytes) {
        let framing = head.framing();
        assert!(n <= bytes.len() && head.path().starts_with(['/', '*']));
        assert!(head.headers().all(|(name, _)| !name.is_empty()));
        assert_eq!(head.parse(&bytes[..n]), Ok(Parsed::Complete(n)));
        assert_eq!(head.framing(), framing);
        assert_eq!(head.parse(&bytes[..n - 1]), Ok(Parsed::Partial));
    }
});
