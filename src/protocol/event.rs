//! Writes server-sent events, as the protocols have them that name each one.

use serde::Serialize;

/// Adds an event with this name and data to `out`.
pub fn write(out: &mut Vec<u8>, name: &str, data: &impl Serialize) {
    for part in ["event: ", name, "\ndata: "] {
        out.extend_from_slice(part.as_bytes());
    }
    // Writing what is made here to memory does not fail.
    let _ = serde_json::to_writer(&mut *out, data);
    out.extend_from_slice(b"\n\n");
}
