//! Parses arbitrary bytes as a multipart body: no panic, and the parts do not depend on how the input is split.
//!
//! The last byte is the length of the pieces.
#![no_main]

use std::io::{self, Read};

use libfuzzer_sys::fuzz_target;
use textgen::http::parts::Parts;

/// Yields its bytes in pieces of at most this length.
struct Pieces<'a>(&'a [u8], usize);

impl Read for Pieces<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let most = to.len().min(self.1);
        self.0.read(&mut to[..most])
    }
}

/// The heads and contents of all parts, as far as they can be read, and whether the body ended as it should.
fn parts(bytes: &[u8], piece: usize) -> (Vec<(String, Vec<u8>)>, bool) {
    let mut parser = Parts::new(Pieces(bytes, piece), "b");
    let mut parts = Vec::new();
    loop {
        match parser.next_part() {
            Ok(Some(head)) => {
                let mut content = Vec::new();
                if parser.read_to_end(&mut content).is_err() {
                    return (parts, false);
                }
                parts.push((format!("{head:?}"), content));
            }
            Ok(None) => return (parts, true),
            Err(_) => return (parts, false),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((length, bytes)) = bytes.split_last() else { return };
    let at_once = parts(bytes, usize::MAX);
    assert!(at_once.0.iter().map(|(_, content)| content.len()).sum::<usize>() <= bytes.len());
    assert_eq!(at_once, parts(bytes, 1 + usize::from(*length)));
});
