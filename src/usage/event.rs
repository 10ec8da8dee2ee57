//! Converts a charge to a row of the ledger.

use std::borrow::Cow;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::{Charge, ChargeId, MAX_MODELS, new_id};
use crate::hex;
use crate::money::Cost;
use crate::store::usage::charges::{Event, LeaseUse, Part};
use crate::units::Units;

/// Maximum length of an id in bytes; a longer one, which might not fit into an index, is replaced by its digest.
const LONGEST_ID: usize = 200;

/// Maximum length in characters of all other text, such as a model's name, which the client may have chosen.
const LONGEST_TEXT: usize = 200;

/// The rows for a charge, made `now`, that is paid out of `leases`. They can always be stored, whatever the charge contains.
pub(super) fn from_charge(
    charge: Charge,
    now: OffsetDateTime,
    leases: Option<Arc<LeaseUse>>,
    cost: impl Fn(&str, &Units) -> Cost,
) -> Event {
    // The database stores microseconds.
    let created = now.replace_nanosecond(now.nanosecond() / 1000 * 1000).unwrap_or(now);
    let (id, client_supplied) = match charge.id {
        ChargeId::Generated(id) => (id, false),
        ChargeId::ClientSupplied(id) => (id, true),
    };
    let parts = charge.parts.into_iter().take(MAX_MODELS - 1).map(|part| {
        let cost = cost(&part.model, &part.units);
        Part {
            id: new_id(),
            model: text(part.model),
            units: part.units.clamped(),
            cost_micros: cost.micros(),
            cost_picos: cost.picos(),
            estimated: part.estimated,
            latency_micros: part.latency_micros.max(0),
        }
    });
    let (parts, cost) = (parts.collect(), cost(&charge.model, &charge.units));
    Event {
        id: bounded_id(id),
        client_supplied,
        user_id: text(charge.user_id),
        key_id: text(charge.key_id.unwrap_or_default()),
        server: Cow::Borrowed(charge.server),
        route: Cow::Borrowed(charge.route),
        model: text(charge.model),
        units: charge.units.clamped(),
        cost_micros: cost.micros(),
        cost_picos: cost.picos(),
        estimated: charge.estimated,
        latency_micros: charge.latency_micros.max(0),
        created,
        leases,
        reply: charge.keep.map(|keep| Box::new(keep.reply)),
        parts,
    }
}

fn bounded_id(id: String) -> String {
    if id.len() <= LONGEST_ID && !id.contains('\0') {
        return id;
    }
    let digest = Sha256::digest(id.as_bytes());
    format!("sha256:{}", hex::encode(&digest))
}

/// PostgreSQL's `text` cannot contain NUL.
fn text(text: String) -> String {
    if text.len() <= LONGEST_TEXT && !text.contains('\0') {
        return text;
    }
    text.chars().take(LONGEST_TEXT).map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{MAX_UNITS, Unit};

    #[test]
    fn whatever_a_client_sent_fits() {
        let charge = Charge {
            id: ChargeId::ClientSupplied("k".repeat(5000)),
            user_id: "u".to_owned(),
            key_id: None,
            server: "inference",
            route: "/r",
            model: format!("a\0{}", "ß".repeat(500)),
            units: Units::of([(Unit::PromptTokens, -1), (Unit::CompletionTokens, i64::MAX)]),
            estimated: false,
            latency_micros: -3,
            keep: None,
            admission: None,
            parts: Vec::new(),
        };
        let event = from_charge(charge.clone(), OffsetDateTime::now_utc(), None, |_, _| Cost::new(1, 0));
        assert!(event.id.starts_with("sha256:") && event.id.len() == 7 + 64);
        assert_ne!(event.id, bounded_id("k".repeat(5001)));
        assert!(event.model.starts_with("a\u{fffd}ß") && event.model.chars().count() == LONGEST_TEXT);
        let (prompt, completion) = (event.units[Unit::PromptTokens], event.units[Unit::CompletionTokens]);
        assert_eq!((prompt, completion, event.latency_micros), (0, MAX_UNITS, 0));
        assert_eq!(event.created.nanosecond() % 1000, 0);
        assert_eq!(bounded_id("user:1".to_owned()), "user:1");
    }
}
