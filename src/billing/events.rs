//! Web-hook events: which object they are about. What they say of it is not used, as they come late and out of order.

use serde::Deserialize;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::error::{Error, Result};

/// The most bytes of an id that is stored.
const LONGEST_ID: usize = 255;

/// An event.
#[derive(Clone, Debug)]
pub struct Event {
    /// `evt_…`.
    pub id: String,
    /// Such as `invoice.paid`.
    pub kind: String,
    /// When it happened, by Stripe's clock.
    pub created: OffsetDateTime,
    /// What is to be fetched; `None` if it does not matter here.
    pub subject: Option<Subject>,
}

/// An object that an event is about, by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A subscription.
    Subscription(String),
    /// A checkout session.
    Checkout(String),
    /// A charge that was refunded.
    Charge(String),
    /// A dispute.
    Dispute(String),
    /// Usage that Stripe has taken, but did not count after all, by the event's id.
    MeterError(String),
}

impl Subject {
    /// The object's id.
    pub fn id(&self) -> &str {
        match self {
            Subject::Subscription(id)
            | Subject::Checkout(id)
            | Subject::Charge(id)
            | Subject::Dispute(id)
            | Subject::MeterError(id) => id,
        }
    }
}

#[derive(Deserialize)]
struct Envelope {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    /// Seconds since 1970; of thin events, text.
    #[serde(default)]
    created: Value,
    #[serde(default)]
    data: Data,
}

#[derive(Default, Deserialize)]
struct Data {
    #[serde(default)]
    object: Value,
}

impl Event {
    /// Reads the body of a web-hook, whose signature was checked.
    ///
    /// # Errors
    /// 400 for what is no event.
    pub fn parse(body: &[u8]) -> Result<Event> {
        let read: Envelope = serde_json::from_slice(body).map_err(|_| Error::bad("The body is not an event"))?;
        let Envelope { id, kind, created, data } = read;
        if !is_id(&id) {
            return Err(Error::bad("The event has no valid id"));
        }
        let created = time_of(&created).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let subject = match kind.as_str() {
            // Thin events, which say nothing but their id.
            "v1.billing.meter.error_report_triggered" | "v1.billing.meter.no_meter_found" => {
                Some(Subject::MeterError(id.clone()))
            }
            _ => subject(&kind, &data.object).filter(|subject| is_id(subject.id())),
        };
        Ok(Event { id, kind, created, subject })
    }
}

fn time_of(created: &Value) -> Option<OffsetDateTime> {
    match created {
        Value::String(text) => OffsetDateTime::parse(text, &Rfc3339).ok(),
        seconds => OffsetDateTime::from_unix_timestamp(seconds.as_i64()?).ok(),
    }
}

/// Ids become parts of paths and rows.
fn is_id(text: &str) -> bool {
    (1..=LONGEST_ID).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn subject(kind: &str, object: &Value) -> Option<Subject> {
    let id_at = |pointer: &str| {
        let found = object.pointer(pointer)?;
        // An expanded object is there as a whole.
        found.as_str().or_else(|| found["id"].as_str()).map(str::to_owned)
    };
    match kind {
        "checkout.session.completed" | "checkout.session.async_payment_succeeded" => {
            id_at("/id").map(Subject::Checkout)
        }
        "invoice.paid" | "invoice.payment_failed" => {
            let newer = id_at("/parent/subscription_details/subscription");
            newer.or_else(|| id_at("/subscription")).map(Subject::Subscription)
        }
        "charge.refunded" => id_at("/id").map(Subject::Charge),
        "charge.refund.updated" | "refund.created" | "refund.updated" | "refund.failed" => {
            id_at("/charge").map(Subject::Charge)
        }
        _ if kind.starts_with("customer.subscription.") => id_at("/id").map(Subject::Subscription),
        _ if kind.starts_with("charge.dispute.") => id_at("/id").map(Subject::Dispute),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn subject_of(kind: &str, object: Value) -> Option<Subject> {
        let body = json!({"id": "evt_1", "type": kind, "created": 1_800_000_000, "data": {"object": object}});
        Event::parse(body.to_string().as_bytes()).unwrap().subject
    }

    #[test]
    fn events_name_what_they_are_about() {
        let subscription = Some(Subject::Subscription("sub_1".to_owned()));
        for kind in ["created", "updated", "deleted", "paused"] {
            assert_eq!(subject_of(&format!("customer.subscription.{kind}"), json!({"id": "sub_1"})), subscription);
        }
        for object in [
            json!({"id": "in_1", "subscription": "sub_1"}),
            json!({"id": "in_1", "subscription": {"id": "sub_1"}}),
            json!({"id": "in_1", "parent": {"subscription_details": {"subscription": "sub_1"}}}),
        ] {
            assert_eq!(subject_of("invoice.paid", object), subscription);
        }
        assert_eq!(subject_of("invoice.paid", json!({"id": "in_1", "parent": null})), None);
        assert_eq!(subject_of("charge.refunded", json!({"id": "ch_1"})), Some(Subject::Charge("ch_1".to_owned())));
        assert_eq!(
            subject_of("charge.dispute.closed", json!({"id": "dp_1"})),
            Some(Subject::Dispute("dp_1".to_owned()))
        );
        assert_eq!(subject_of("payout.paid", json!({"id": "po_1"})), None);
        assert_eq!(subject_of("charge.refunded", json!({"id": "../v1/account"})), None);
    }

    #[test]
    fn thin_events_of_meters_are_read() {
        for kind in ["v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found"] {
            let body = json!({"id": "evt_test_65RC", "object": "v2.core.event", "type": kind,
                "created": "2024-09-26T17:46:22.134Z", "related_object": null});
            let event = Event::parse(body.to_string().as_bytes()).unwrap();
            assert_eq!(event.subject, Some(Subject::MeterError("evt_test_65RC".to_owned())));
            assert_eq!(event.created.unix_timestamp(), 1_727_372_782);
        }
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for bad in ["", "[]", "{}", r#"{"id": "evt_1"}"#, r#"{"id": "", "type": "x"}"#, r#"{"id": "a b", "type": "x"}"#]
        {
            assert!(Event::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(Event::parse(br#"{"id": "evt_1", "type": "v2.core.event"}"#).unwrap().subject, None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, text in r#"\{"id":"[a-z_.]{0,9}","type":"[a-z.]{0,30}","data":.{0,20}\}"#) {
            let _ = (Event::parse(&bytes), Event::parse(text.as_bytes()));
        }

        #[test]
        fn ids_that_are_taken_fit_into_a_path(id in ".{0,20}") {
            if let Some(subject) = subject_of("charge.refunded", json!({"id": id})) {
                prop_assert!(!subject.id().is_empty() && !subject.id().contains(['/', '?', '.', '%']));
            }
        }
    }
}
