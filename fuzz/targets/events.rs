//! Splits arbitrary bytes into server-sent events: no panic, no byte is lost or added, and the events do not depend on how
//! the input is split.
//!
//! The last byte is the length of the pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use textgen::http::sse::{Events, data};

fn split<'p>(pieces: impl Iterator<Item = &'p [u8]>) -> (Vec<Vec<u8>>, bool) {
    let (mut events, mut found) = (Events::default(), Vec::new());
    for piece in pieces {
        events.push(piece).expect("the input is shorter than the longest event");
        while let Some(event) = events.take() {
            let _ = data(event);
            found.push(event.to_vec());
        }
    }
    (found, events.is_incomplete())
}

fuzz_target!(|bytes: &[u8]| {
    let Some((length, bytes)) = bytes.split_last() else { return };
    let at_once = split(std::iter::once(bytes));
    assert!(bytes.starts_with(&at_once.0.concat()));
    assert_eq!(at_once, split(bytes.chunks(1 + usize::from(*length))));
});
