//! The records of a journal: length and CRC-32 of the payload (both 32 bits, little-endian), its code, then the payload,
//! JSON. The code is an HMAC-SHA256 under a key that stands in the database, so nobody who can only write to the folder
//! can have anything charged. In journals of older releases records have no code.

use ring::hmac;

use super::MAX_MODELS;
use crate::money::Cost;
use crate::store::replies::MAX_KEPT_BODY;
use crate::store::usage::charges::Event;
use crate::units::MAX_UNITS;

/// The first bytes of a journal.
pub(super) const MAGIC: &[u8; 16] = b"textgen charges2";

/// The first bytes of a journal whose records have no code.
pub(super) const UNSIGNED_MAGIC: &[u8; 16] = b"textgen charges1";

/// Length of a record's header without the code: length and CRC.
const PREFIX: usize = 8;

/// Length of the code.
const TAG: usize = 32;

/// Maximum length of a payload: all texts of an event at their maximum, each byte escaped as six; its parts; the headers of
/// its reply; and the body of that in base64.
const LONGEST: usize = 16 * 1024 + MAX_MODELS * 2 * 1024 + 32 * 1024 + MAX_KEPT_BODY.div_ceil(3) * 4;

/// The longest record.
pub(super) const LONGEST_RECORD: usize = PREFIX + TAG + LONGEST;

/// Who may have written a journal.
#[derive(Clone)]
pub enum Origin {
    /// Whoever knows this key: records have codes.
    Key(hmac::Key),
    /// An older release: records have none.
    Unsigned,
}

impl Origin {
    /// A server on the database with this key.
    pub fn of(key: &[u8]) -> Origin {
        Origin::Key(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// Length of a record's header.
    fn header(&self) -> usize {
        match self {
            Origin::Key(_) => PREFIX + TAG,
            Origin::Unsigned => PREFIX,
        }
    }
}

/// What stands at the start of some bytes.
pub enum Found {
    /// A record of this length.
    Record(Box<Event>, usize),
    /// Bytes of this length that are whole and must not be charged: their code is wrong, or no server makes such a charge.
    Forged(usize),
    /// No complete record.
    Nothing,
}

/// Adds a record to `out`.
///
/// # Errors
/// The event cannot be written as JSON, or is too long. Neither is possible for an event made from a charge.
pub fn write(event: &Event, origin: &Origin, out: &mut Vec<u8>) -> std::io::Result<()> {
    let (start, header) = (out.len(), origin.header());
    out.resize(start + header, 0);
    serde_json::to_writer(&mut *out, event)?;
    let payload = &out[start + header..];
    let length = u32::try_from(payload.len()).ok().filter(|n| *n as usize <= LONGEST);
    let length = length.ok_or_else(|| std::io::Error::other("a charge is too long for the journal"))?;
    let crc = crc32fast::hash(payload);
    if let Origin::Key(key) = origin {
        let tag = hmac::sign(key, payload);
        out[start + PREFIX..start + header].copy_from_slice(tag.as_ref());
    }
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..start + PREFIX].copy_from_slice(&crc.to_le_bytes());
    Ok(())
}

/// What stands at the start of `bytes`.
pub fn read(bytes: &[u8], origin: &Origin) -> Found {
    let Some((payload, tag)) = payload(bytes, origin.header()) else { return Found::Nothing };
    let length = origin.header() + payload.len();
    if let Origin::Key(key) = origin
        && hmac::verify(key, payload, tag).is_err()
    {
        return Found::Forged(length);
    }
    match serde_json::from_slice::<Event>(payload) {
        Ok(event) if is_possible(&event) => Found::Record(Box::new(event), length),
        _ => Found::Forged(length),
    }
}

/// How many bytes [`read`] looks through to find no record at the start of `bytes`.
pub(super) fn length(bytes: &[u8]) -> usize {
    let length = bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize);
    if length <= LONGEST { length } else { 0 }
}

/// The payload of the record at the start of `bytes`, and its code.
fn payload(bytes: &[u8], header: usize) -> Option<(&[u8], &[u8])> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let length = word(0)? as usize;
    if length == 0 || length > LONGEST {
        return None;
    }
    let payload = bytes.get(header..header + length)?;
    (crc32fast::hash(payload) == word(4)?).then(|| (payload, &bytes[PREFIX..header]))
}

/// Whether a server can have made this charge: all amounts are within the bounds of one.
fn is_possible(event: &Event) -> bool {
    let own = (&event.units, event.cost_micros, event.cost_picos, event.latency_micros);
    let parts = event.parts.iter().map(|part| (&part.units, part.cost_micros, part.cost_picos, part.latency_micros));
    event.parts.len() < MAX_MODELS
        && std::iter::once(own).chain(parts).all(|(units, micros, picos, latency)| {
            (0..=Cost::MAX.micros()).contains(&micros)
                && (0..1_000_000).contains(&picos)
                && latency >= 0
                && units.iter().all(|(_, amount)| (0..=MAX_UNITS).contains(amount))
        })
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

    pub(in crate::usage) fn record(bytes: &[u8], origin: &Origin) -> Option<(Event, usize)> {
        match read(bytes, origin) {
            Found::Record(event, length) => Some((*event, length)),
            _ => None,
        }
    }

    #[test]
    fn reads_what_was_written_and_nothing_else() {
        for origin in [Origin::of(b"key"), Origin::Unsigned] {
            let mut bytes = Vec::new();
            write(&event("a"), &origin, &mut bytes).unwrap();
            let first = bytes.len();
            write(&event("b"), &origin, &mut bytes).unwrap();
            let (a, length) = record(&bytes, &origin).unwrap();
            assert_eq!((a.id.as_str(), length), ("a", first));
            assert_eq!(record(&bytes[first..], &origin).unwrap().0.id, "b");
            for cut in 0..first {
                assert!(record(&bytes[..cut], &origin).is_none());
            }
            for at in 0..first {
                let mut bent = bytes.clone();
                bent[at] ^= 1;
                assert!(record(&bent, &origin).is_none(), "{at}");
            }
            assert!(record(&[0; 100], &origin).is_none());
        }
    }

    #[test]
    fn a_record_by_somebody_else_is_known_as_such() {
        let (own, other) = (Origin::of(b"key"), Origin::of(b"another"));
        let mut bytes = Vec::new();
        write(&event("a"), &other, &mut bytes).unwrap();
        assert!(matches!(read(&bytes, &own), Found::Forged(length) if length == bytes.len()));
    }

    #[test]
    fn amounts_that_no_server_charges_are_not_read() {
        let too_many = crate::units::Units::of([(crate::units::Unit::PromptTokens, MAX_UNITS + 1)]);
        let part = |cost_micros| crate::store::usage::charges::Part {
            id: "p".to_owned(),
            model: "m".to_owned(),
            units: crate::units::Units::default(),
            cost_micros,
            cost_picos: 0,
            estimated: false,
            latency_micros: 0,
        };
        let most = Cost::MAX.micros();
        let possible = [
            Event { cost_micros: most, cost_picos: 999_999, ..event("a") },
            Event { parts: vec![part(most); MAX_MODELS - 1], cost_micros: most, ..event("a") },
        ];
        let impossible = [
            Event { cost_micros: -999_999_999, ..event("a") },
            Event { cost_micros: i64::MAX, ..event("a") },
            Event { cost_picos: i64::MIN, ..event("a") },
            Event { cost_picos: 1_000_000, ..event("a") },
            Event { latency_micros: -1, ..event("a") },
            Event { units: too_many, ..event("a") },
            Event { parts: vec![part(-1)], ..event("a") },
            Event { parts: vec![part(0); MAX_MODELS], ..event("a") },
        ];
        for (events, is_possible) in [(&possible[..], true), (&impossible[..], false)] {
            for event in events {
                let mut bytes = Vec::new();
                write(event, &Origin::Unsigned, &mut bytes).unwrap();
                assert_eq!(record(&bytes, &Origin::Unsigned).is_some(), is_possible, "{event:?}");
                let _ = (event.cost(), event.cost().total_picos());
            }
        }
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
            cost_micros: Cost::MAX.micros(),
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
        let (mut bytes, origin) = (Vec::new(), Origin::of(b"key"));
        write(&longest, &origin, &mut bytes).unwrap();
        assert_eq!(record(&bytes, &origin).unwrap().0, longest);
        longest.model = "x".repeat(LONGEST);
        assert!(write(&longest, &origin, &mut Vec::new()).is_err());
    }
}
