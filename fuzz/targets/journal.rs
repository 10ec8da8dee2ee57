//! Reads arbitrary bytes as a record of a journal, and as the payload of one: no panic, nothing is read beyond the end, and
//! without the key nothing is charged. What a server wrote is read as it was, whatever follows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use textgen::usage::record::{Found, Origin, read, write};

fuzz_target!(|bytes: &[u8]| {
    let own = Origin::of(b"a key");
    let mut framed = u32::try_from(bytes.len()).expect("it is short").to_le_bytes().to_vec();
    framed.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
    framed.extend_from_slice(bytes);
    for record in [bytes, &framed] {
        match read(record, &own) {
            Found::Record(..) => panic!("nobody has signed this"),
            Found::Forged(length) => assert!(length <= record.len()),
            Found::Nothing => {}
        }
        if let Found::Record(event, length) = read(record, &Origin::Unsigned) {
            assert!(length <= record.len());
            let mut again = Vec::new();
            write(&event, &own, &mut again).expect("it is as long as before, or a default longer");
            let written = again.len();
            again.extend_from_slice(bytes);
            let Found::Record(known, length) = read(&again, &own) else { panic!("it was written") };
            assert_eq!((length, known), (written, event));
        }
    }
});
