//! What the comparison of ledger, outbox and Stripe finds, and what it must not take for a difference.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::done;
use crate::usage_reported::Case;

#[track_caller]
fn differs(case: &Case, words: &str) {
    let outcome = case.billing(&["check"]);
    assert_eq!(outcome.code, 1, "{outcome:?}");
    assert!(outcome.err.contains(words), "{outcome:?}");
}

#[test]
fn usage_that_is_never_closed_is_found() {
    let case = Case::new();
    case.begun(30);
    case.charge("a", 20, 5, 0);
    case.charge("b", 20, 9, 0);
    // It came late, from a journal. Account b has no customer yet.
    let said = done(case.billing(&["check"]));
    assert!(
        said.contains("5 micro-dollars came after their hour was closed, and were put into the outbox now"),
        "{said}"
    );
    assert!(said.contains("9 micro-dollars wait, as their accounts have no subscription"), "{said}");
    assert_eq!(case.send(&[]), "waiting 0, sent 1, put aside 0\n");
    assert_eq!(case.used(), 5);
    // Something leaves account a out.
    let sql = "ALTER FUNCTION textgen_close_subscribed_usage RENAME TO closes;
        CREATE FUNCTION textgen_close_subscribed_usage(after varchar, since date, of_meter varchar, of_hour timestamptz, is_full boolean,
            at_most integer, OUT last varchar, OUT made bigint) LANGUAGE sql AS 'SELECT NULL::varchar, 0::bigint'";
    case.db.run(sql);
    case.charge("a", 20, 100, 0);
    differs(&case, "account a: 105 was charged before the last hour was closed, but 5 was put into the outbox");
    case.db.run("DELETE FROM stripe_usage; DELETE FROM stripe_outbox");
    differs(&case, "account a: 105 was charged before the last hour was closed, but 0 was put into the outbox");
    // What was charged since is no difference.
    case.db.run("DELETE FROM usage_daily; DELETE FROM usage_events");
    case.charge("a", 0, 3, 0);
    let said = done(case.billing(&["check"]));
    assert!(said.contains("0 of them in the outbox, 3 since the last row"), "{said}");
}

#[test]
fn hours_that_nobody_closes_are_found() {
    let case = Case::new();
    case.db.run("UPDATE stripe_reporting SET closed = closed - interval '2 hours'");
    done(case.billing(&["check"]));
    case.db.run("UPDATE stripe_reporting SET closed = closed - interval '1 hour'");
    differs(&case, "were not closed");
}

#[test]
fn usage_that_is_closed_and_sent_meanwhile_is_no_difference() {
    let case = Case::new();
    case.stripe.state().work_time = Duration::from_millis(15);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _end = crate::harness::End(&is_over);
            for _ in 0..12 {
                case.charge("a", 0, 3, 500_000);
                case.send_now();
            }
        });
        let mut checks = 0;
        while !is_over.load(Ordering::Acquire) {
            done(case.billing(&["check"]));
            checks += 1;
        }
        println!("{checks} checks");
    });
    assert_eq!(case.used(), 42);
}
