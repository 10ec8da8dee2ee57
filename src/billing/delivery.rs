//! Sending one row of the outbox, and what its outcome means.

use std::time::Duration;

use time::OffsetDateTime;

use super::client::Stripe;
use super::failure::{ApiError, Failure};
use super::meters::MeterEvent;
use crate::store::reporting::outbox::{Due, Knowledge};

/// The first pause before a row is tried again; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// The shortest pause where an operator has to do something.
const OPERATOR_PAUSE: Duration = Duration::from_secs(30);

/// Characters that are stored of a problem.
const MAX_PROBLEM: usize = 500;

/// What became of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Stripe has counted it.
    Sent,
    /// It is not sent as it is: Stripe refuses it, or nobody can tell whether it was counted.
    PutAside {
        /// Why.
        problem: String,
        /// Whether an earlier attempt may have been counted.
        is_unknown: bool,
    },
    /// It is to be tried again.
    Again(Retry),
}

/// How a row is to be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Retry {
    /// After what time, at least.
    pub(super) pause: Duration,
    /// Whether with another `Idempotency-Key`.
    pub(super) new_key: bool,
    /// What is known of the attempts.
    pub(super) knowledge: Knowledge,
    /// Why.
    pub(super) problem: String,
    /// Whether somebody has to do something about it.
    pub(super) needs_operator: bool,
}

/// Sends a row. One with an attempt of unknown outcome that Stripe may have forgotten is first looked for in what Stripe
/// has added up.
pub(super) fn deliver(stripe: &Stripe, meter_id: &str, row: &Due) -> Outcome {
    let mut is_unknown = row.is_unknown;
    if let Some(beside) = row.sent_beside {
        let from = minute(row.used_at);
        match stripe.usage(meter_id, &row.customer, from, from + Duration::from_secs(60)) {
            Ok(counted) if counted == beside + row.amount_micros => return Outcome::Sent,
            Ok(counted) if counted == beside => is_unknown = false,
            Ok(counted) => {
                let problem = format!(
                    "it is not known whether it was counted: Stripe has {counted} micro-dollars for its minute, where \
                     {beside} were sent and this row has {}",
                    row.amount_micros
                );
                return Outcome::PutAside { problem, is_unknown: true };
            }
            Err(e) => return after(&e, row.attempts, true),
        }
    }
    let event = MeterEvent {
        event_name: &row.meter,
        customer: &row.customer,
        value: row.amount_micros,
        identifier: &row.id,
        timestamp: row.used_at,
    };
    match stripe.report_usage(&event, &row.idempotency_key()) {
        Ok(()) => Outcome::Sent,
        Err(Failure::Refused(e)) if is_known_already(&e) => Outcome::Sent,
        Err(Failure::Refused(e)) if e.status == 400 => Outcome::PutAside { problem: in_words(&e), is_unknown },
        Err(e) => after(&e, row.attempts, is_unknown),
    }
}

/// The beginning of the minute.
fn minute(time: OffsetDateTime) -> OffsetDateTime {
    time - Duration::from_secs(time.second().into()) - Duration::from_nanos(time.nanosecond().into())
}

/// Whether Stripe refuses an event because it has its identifier. There is mostly no code for it, only words.
fn is_known_already(e: &ApiError) -> bool {
    e.status == 400 && e.message.contains("already exists with identifier")
}

/// What follows a failure that may pass. `is_unknown`: it is not known what became of an earlier attempt.
fn after(failure: &Failure, attempts: i32, is_unknown: bool) -> Outcome {
    // A request in use is that of an earlier attempt, of which it is not known what becomes.
    let latest_unknown = failure.is_outcome_unknown() || matches!(failure, Failure::InUse(_));
    let knowledge = match (is_unknown, latest_unknown) {
        (true, _) => Knowledge::Unknown,
        (false, true) => Knowledge::LatestUnknown,
        (false, false) => Knowledge::NotSent,
    };
    let needs_operator = !failure.may_pass();
    let asked = if let Failure::RateLimited(_, Some(wait)) = failure { *wait } else { Duration::ZERO };
    let least = if needs_operator { OPERATOR_PAUSE } else { Duration::ZERO };
    let doublings = u32::try_from(attempts.clamp(1, 20) - 1).unwrap_or(0);
    let pause = FIRST_PAUSE.saturating_mul(1 << doublings).max(asked).max(least).min(LONGEST_PAUSE);
    Outcome::Again(Retry {
        pause,
        // The answer to the key is remembered, an error too. The identifier keeps the event from being counted twice.
        new_key: matches!(failure, Failure::Server(_)),
        knowledge,
        problem: in_words(failure),
        needs_operator,
    })
}

/// What is stored of a problem: Stripe's words may be long.
fn in_words(problem: &impl ToString) -> String {
    problem.to_string().chars().take(MAX_PROBLEM).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, message: &str) -> Failure {
        let body = format!(r#"{{"error": {{"type": "invalid_request_error", "message": "{message}"}}}}"#);
        Failure::of_reply(status, body.as_bytes(), (status == 429).then_some(Duration::from_secs(7)))
    }

    fn retry(failure: &Failure, attempts: i32, is_unknown: bool) -> Retry {
        match after(failure, attempts, is_unknown) {
            Outcome::Again(retry) => retry,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn pauses_grow_to_a_bound_and_heed_what_stripe_asks() {
        let pause = |status, attempts| retry(&failure(status, ""), attempts, false).pause.as_millis();
        assert_eq!((pause(500, 1), pause(500, 2), pause(500, 4), pause(500, 900)), (500, 1000, 4000, 600_000));
        assert_eq!((pause(429, 1), pause(409, 1), pause(401, 1)), (7000, 500, 30_000));
    }

    #[test]
    fn what_is_known_follows_from_all_attempts() {
        let of = |status, is_unknown| retry(&failure(status, ""), 1, is_unknown).knowledge;
        for status in [500, 409] {
            assert_eq!((of(status, false), of(status, true)), (Knowledge::LatestUnknown, Knowledge::Unknown));
        }
        for status in [429, 401, 404] {
            assert_eq!((of(status, false), of(status, true)), (Knowledge::NotSent, Knowledge::Unknown));
        }
        assert_eq!(retry(&Failure::Unanswered(String::new()), 1, false).knowledge, Knowledge::LatestUnknown);
    }

    #[test]
    fn long_words_are_shortened() {
        assert_eq!(retry(&failure(500, &"ü".repeat(9000)), 1, false).problem.chars().count(), MAX_PROBLEM);
    }

    #[test]
    fn only_an_answer_that_is_remembered_needs_another_key() {
        assert!(retry(&failure(500, ""), 1, false).new_key);
        for failure in [failure(409, ""), failure(429, ""), Failure::Unanswered(String::new())] {
            assert!(!retry(&failure, 1, false).new_key);
        }
    }

    #[test]
    fn an_event_that_exists_was_counted() {
        let known = |status, message| match failure(status, message) {
            Failure::Refused(e) => is_known_already(&e),
            _ => false,
        };
        assert!(known(400, "An event already exists with identifier abc."));
        assert!(!known(400, "No such customer: 'cus_1'") && !known(401, "already exists with identifier"));
    }

    #[test]
    fn a_minute_begins_with_its_first_second() {
        let time = OffsetDateTime::from_unix_timestamp(1_700_000_039).unwrap();
        assert_eq!((time.second(), minute(time).unix_timestamp()), (59, 1_699_999_980));
        assert_eq!(minute(minute(time)), minute(time));
    }
}
