//! Measures any bytes as a recording: it must not panic, and the result must not depend on how the input is split.
//!
//! The last byte is the length of the pieces, so that ordinary recordings can be used as seeds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use textgen::media::Measurer;

fuzz_target!(|bytes: &[u8]| {
    let Some((length, bytes)) = bytes.split_last() else { return };
    let mut at_once = Measurer::new();
    at_once.push(bytes);
    let mut in_pieces = Measurer::new();
    for piece in bytes.chunks(1 + usize::from(*length)) {
        in_pieces.push(piece);
    }
    assert_eq!(at_once.finish(), in_pieces.finish());
});
