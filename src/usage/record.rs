//! The records of a journal: length and CRC-32 of the payload (both 32 bits, little-endian), then the payload, JSON.

use super::MAX_MODELS;
use crate::store::replies::MAX_KEPT_BODY;
use crate::store::usage::charges::Event;

/// The first bytes of a journal.
pub(super) const MAGIC: &[u8; 16] = b"textgen charges1";

/// Length of a record's header: length and CRC.
const PREFIX: usize = 8;

/// Maximum length of a payload: all texts of an event at their maximum, each byte escaped as six; its parts; the headers of
/// its reply; and the body of that in base64.
const LONGEST: usize = 16 * 1024 + MAX_MODELS * 2 * 1024 + 32 * 1024 + MAX_KEPT_BODY.div_ceil(3) * 4;

/// The longest record.
pub(super) const LONGEST_RECORD: usize = PREFIX + LONGEST;

/// Adds a record to `out`.
///
/// # Errors
/// The event cannot be written as JSON, or is too long. Neither is possible for an event made from a charge.
pub(super) fn write(event: &Event, out: &mut Vec<u8>) -> std::io::Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    serde_json::to_writer(&mut *out, event)?;
    let payload = &out[start + PREFIX..];
    let length = u32::try_from(payload.len()).ok().filter(|n| *n as usize <= LONGEST);
    let length = length.ok_or_else(|| std::io::Error::other("a charge is too long for the journal"))?;
    let crc = crc32fast::hash(payload);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + PREFIX].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// The record at the start of `bytes`, and its length; `None` if there is no complete record.
pub(super) fn read(bytes: &[u8]) -> Option<(Event, usize)> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let length = word(0)? as usize;
    if length == 0 || length > LONGEST {
        return None;
    }
    let payload = bytes.get(PREFIX..PREFIX + length)?;
    if crc32fast::hash(payload) != word(4)? {
        return None;
    }
    Some((serde_json::from_slice(payload).ok()?, PREFIX + length))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::usage) fn event(id: &str) -> Event {
        let charge = crate::usage::Charge {
            id: crate::usage::ChargeId::Generated(id.to_owned()),
            user_id: "user".to_owned(),
            key_id: Some("key_1".to_owned()),
            server: "inference",
            route: "/v1/chat/completions",
            model: "m".to_owned(),
            units: crate::units::Units::of([(crate::units::Unit::PromptTokens, 3), (crate::units::Unit::Requests, 1)]),
            estimated: false,
            latency_micros: 12,
            keep: None,
            admission: None,
            parts: Vec::new(),
        };
        let cost = |_: &str, _: &crate::units::Units| crate::money::Cost::new(45, 0);
        crate::usage::event::from_charge(charge, time::OffsetDateTime::now_utc(), None, cost)
    }

    #[test]
    fn reads_what_was_written_and_nothing_else() {
        let mut bytes = Vec::new();
        write(&event("a"), &mut bytes).unwrap();
        let first = bytes.len();
        write(&event("b"), &mut bytes).unwrap();
        let (a, length) = read(&bytes).unwrap();
        assert_eq!((a.id.as_str(), length), ("a", first));
        assert_eq!(read(&bytes[first..]).unwrap().0.id, "b");
        for cut in 0..first {
            assert!(read(&bytes[..cut]).is_none());
        }
        for at in 0..first {
            let mut bent = bytes.clone();
            bent[at] ^= 1;
            assert!(read(&bent).is_none(), "{at}");
        }
        assert!(read(&[0; 100]).is_none());
    }

    #[test]
    fn the_longest_event_fits() {
        let mut longest = event(&"\u{1}".repeat(200));
        for text in [&mut longest.user_id, &mut longest.key_id, &mut longest.model] {
            *text = "\u{1}".repeat(200);
        }
        let part = crate::store::usage::charges::Part {
            id: "x".repeat(32),
            model: "\u{1}".repeat(200),
            units: crate::units::Units::from_fn(|_| crate::units::MAX_UNITS),
            cost_micros: i64::MAX,
            cost_picos: 999_999,
            estimated: true,
            latency_micros: i64::MAX,
        };
        longest.parts = vec![part; MAX_MODELS - 1];
        longest.reply = Some(Box::new(crate::store::replies::KeptReply {
            claimed: None,
            key: "k".repeat(255),
            fingerprint: vec![255; 32],
            status: 200,
            headers: "\u{1}".repeat(5 * 1024),
            body: Some(vec![255; MAX_KEPT_BODY]),
            bytes: i64::MAX,
        }));
        let mut bytes = Vec::new();
        write(&longest, &mut bytes).unwrap();
        assert_eq!(read(&bytes).unwrap().0, longest);
        longest.model = "x".repeat(LONGEST);
        assert!(write(&longest, &mut Vec::new()).is_err());
    }
}
