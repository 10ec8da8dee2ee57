//! Reads cookies from arbitrary heads: no panic, no empty value, and never more than a few.
#![no_main]

use libfuzzer_sys::fuzz_target;
use textgen::http::{Head, Parsed, Request, cookie};

fuzz_target!(|bytes: &[u8]| {
    let mut head = Head::default();
    let start: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nCookie: ";
    if let Ok(Parsed::Complete(_)) = head.parse(&[start, bytes, b"\r\n\r\n"].concat()) {
        let request = Request { head, ..Request::default() };
        let all = || cookie::sessions(&request).chain(cookie::devices(&request));
        assert!(all().count() <= 8 && all().all(|value| !value.is_empty()));
        let _ = cookie::read(&request, cookie::NEW_SECRET);
    }
});
