//! Decodes arbitrary bytes as a chunked body: no panic, and the same result however the input is split. The first byte
//! determines the split.
#![no_main]

use libfuzzer_sys::fuzz_target;
use textgen::server::Chunked;

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let (mut at_once, mut body) = (Chunked::default(), Vec::new());
    let expected = at_once.decode(bytes, &mut body, usize::MAX);
    let (mut in_pieces, mut other, mut used) = (Chunked::default(), Vec::new(), Ok(0));
    for piece in bytes.chunks(1 + usize::from(*cut)) {
        let total = used.unwrap_or(0);
        used = in_pieces.decode(piece, &mut other, usize::MAX).map(|n| total + n);
        if used.is_err() || in_pieces.is_finished() {
            break;
        }
    }
    assert_eq!(expected, used);
    if expected.is_ok() {
        assert_eq!((at_once, body), (in_pieces, other));
    }
});
