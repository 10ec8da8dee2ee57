//! Any bytes as a recording: no panic, and the same length however they are cut. The first byte says how.
#![no_main]

use libfuzzer_sys::fuzz_target;
use textgen::media::Measurer;

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let mut at_once = Measurer::new();
    at_once.push(bytes);
    let mut in_pieces = Measurer::new();
    for piece in bytes.chunks(1 + usize::from(*cut)) {
        in_pieces.push(piece);
    }
    assert_eq!(at_once.finish(), in_pieces.finish());
});
