//! Web-hooks: calls addresses of the operator's when something has happened, signed as [Standard
//! Webhooks](https://www.standardwebhooks.com/) has it. `docs/operations.md` explains them.
//!
//! Events are rows that are made in the transaction that causes them. `store::webhooks` makes a delivery of each for each
//! endpoint, and any process takes those that are due. No database connection is held while an endpoint is called.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::db::{self, Database};
use crate::engine::Poster;
use crate::repeating::{FailureLog, sleep};
use crate::store::timestamp;
use crate::store::webhooks::{self, Delivery};

/// How often it is looked for something to do.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often it is looked whether usage is stuck.
const OUTBOX_INTERVAL: Duration = Duration::from_secs(60);
/// Deliveries at once, each on a thread of its own.
const AT_ONCE: i64 = 8;
/// Characters of a problem that are kept.
const MAX_PROBLEM: usize = 300;

/// Delivers events until the process is stopped. `has_outbox` says whether usage is sent to Stripe.
pub fn follow(db: &Database, poster: &Poster, has_outbox: bool, stopped: &AtomicBool) {
    let mut failures = FailureLog::new("web-hooks: events are not delivered, trying again");
    let mut looked = None::<Instant>;
    while sleep(INTERVAL, stopped) {
        if !db.is_open() {
            continue;
        }
        let is_due = has_outbox && looked.is_none_or(|at| at.elapsed() >= OUTBOX_INTERVAL);
        if is_due {
            looked = Some(Instant::now());
        }
        failures.note(turn(db, poster, is_due, stopped));
    }
}

fn turn(db: &Database, poster: &Poster, looks_at_outbox: bool, stopped: &AtomicBool) -> Result<(), db::Error> {
    let mut session = db.session()?;
    if looks_at_outbox {
        webhooks::note_stuck_outbox(&mut session)?;
    }
    while webhooks::distribute(&mut session)? > 0 {}
    drop(session);
    while !stopped.load(Ordering::Acquire) {
        let taken = webhooks::take(&mut db.session()?, AT_ONCE)?;
        if taken.is_empty() {
            break;
        }
        deliver_all(db, poster, &taken)?;
    }
    Ok(())
}

fn deliver_all(db: &Database, poster: &Poster, taken: &[Delivery]) -> Result<(), db::Error> {
    thread::scope(|scope| {
        let start = |delivery| thread::Builder::new().spawn_scoped(scope, move || deliver(db, poster, delivery));
        // What no thread could be started for is taken again later.
        let threads: Vec<_> = taken.iter().filter_map(|delivery| start(delivery).ok()).collect();
        let mut outcome = Ok(());
        for thread in threads {
            if let Ok(Err(e)) = thread.join() {
                outcome = Err(e);
            }
        }
        outcome
    })
}

fn deliver(db: &Database, poster: &Poster, delivery: &Delivery) -> Result<(), db::Error> {
    let (headers, body) = signed(delivery, OffsetDateTime::now_utc());
    let answer = poster.post(&delivery.url, &headers, &body);
    let mut session = db.session()?;
    match answer {
        Ok(status @ 200..=299) => webhooks::delivered(&mut session, delivery.id, status.into()),
        Ok(status) => {
            log::warn!(
                "web-hook {}: event {} was answered with status {status}",
                delivery.endpoint_id,
                delivery.event_id
            );
            // Gone: the receiver does not want to be called any more.
            if status == 410 {
                webhooks::set_disabled(&mut session, &delivery.endpoint_id, true)?;
            }
            webhooks::failed(&mut session, delivery.id, Some(status.into()), &format!("status {status}"))
        }
        Err(problem) => {
            let problem: String = problem.chars().take(MAX_PROBLEM).collect();
            log::warn!("web-hook {}: event {} was not delivered: {problem}", delivery.endpoint_id, delivery.event_id);
            webhooks::failed(&mut session, delivery.id, None, &problem)
        }
    }
}

/// The headers and the body of a call.
fn signed(delivery: &Delivery, now: OffsetDateTime) -> (Vec<(&'static str, String)>, String) {
    let mut data: Value = serde_json::from_str(&delivery.payload).unwrap_or_else(|_| json!({}));
    if let Value::Object(fields) = &mut data {
        for (name, value) in [("user_id", &delivery.user_id), ("key_id", &delivery.key_id)] {
            if !value.is_empty() {
                fields.insert(name.to_owned(), value.as_str().into());
            }
        }
    }
    let body = json!({"type": delivery.kind, "timestamp": timestamp::zulu(delivery.created), "data": data}).to_string();
    let (id, time) = (format!("evt_{}", delivery.event_id), now.unix_timestamp().to_string());
    let key = hmac::Key::new(hmac::HMAC_SHA256, &delivery.secret);
    let signature = BASE64.encode(hmac::sign(&key, format!("{id}.{time}.{body}").as_bytes()));
    let headers =
        vec![("webhook-id", id), ("webhook-timestamp", time), ("webhook-signature", format!("v1,{signature}"))];
    (headers, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's libraries.
    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let secret = BASE64.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let signed = "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        let signature = BASE64.encode(hmac::sign(&key, signed.as_bytes()));
        assert_eq!(signature, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
