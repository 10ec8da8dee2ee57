//! Rows of the outbox that were put aside: which of them may be sent again, and when they alarm.

use std::time::Duration;

use crate::harness::{Server, done, refused, wait_until};
use crate::usage_reported::{Case, METER};

/// A row whose outcome nobody can tell: Stripe has neither what was sent beside it, nor that and the row. Returns its id.
fn undecided(case: &Case) -> String {
    case.charge("a", 0, 8, 0);
    case.send_now();
    case.db.run("UPDATE stripe_outbox SET sent = NULL, unknown_since = now() - interval '25 hours'");
    case.stripe.advance(Duration::from_secs(25 * 3600));
    case.stripe.state().usage[0].value = 3;
    let said = case.send(&[]);
    assert!(said.starts_with("waiting 0, sent 0, put aside 1\nperhaps counted, tried again only"), "{said}");
    case.db.connect().query_one("SELECT id FROM stripe_outbox", &[]).unwrap().get(0)
}

#[test]
fn what_may_have_been_counted_is_sent_again_only_by_its_id_and_after_a_comparison() {
    let case = Case::new();
    let id = undecided(&case);
    let unchanged = || {
        assert_eq!((case.used(), case.statuses()), (3, vec![200]));
        assert_eq!(case.rows("put_aside IS NOT NULL AND unknown_since < now() - interval '24 hours'"), 1);
    };
    unchanged();
    // Another one, that Stripe has refused, is tried again.
    case.db.run("UPDATE users SET stripe_id = 'cus_none' WHERE id = 'b'");
    case.charge("b", 0, 2, 0);
    assert!(case.send_now().starts_with("waiting 0, sent 0, put aside 2\n"));
    let customer = case.stripe.customer("b@example.com");
    case.db.run(&format!("UPDATE users SET stripe_id = '{customer}' WHERE id = 'b'; DELETE FROM users WHERE id = 'a'"));
    let said = case.send(&["--put-aside"]);
    assert!(said.starts_with("waiting 0, sent 1, put aside 1\n"), "{said}");
    assert_eq!((case.stripe.used(METER, &customer), case.used()), (2, 3));
    // By its id, it is compared, and nobody can tell again.
    let said = case.send(&["--put-aside", &id]);
    assert!(said.starts_with("waiting 0, sent 1, put aside 1\n") && said.contains("it is not known"), "{said}");
    assert_eq!(case.used(), 3);
    // Now Stripe shows that it was counted.
    case.stripe.state().usage[0].value = 8;
    assert_eq!(case.send(&["--put-aside", &id]), "waiting 0, sent 2, put aside 0\n");
    assert_eq!(case.used(), 8);
    refused(case.billing(&["send", "--put-aside", &id]), "is no row that was put aside");
}

#[test]
fn an_operator_can_say_what_became_of_a_row() {
    let case = Case::new();
    let id = undecided(&case);
    refused(case.billing(&["settle", "other", "counted"]), "is no row that was put aside");
    done(case.billing(&["settle", &id, "uncounted"]));
    assert_eq!(case.send(&[]), "waiting 0, sent 1, put aside 0\n");
    assert_eq!((case.used(), case.statuses()), (11, vec![200, 200]));
    let case = Case::new();
    let id = undecided(&case);
    done(case.billing(&["settle", &id, "counted"]));
    assert_eq!(case.send(&[]), "waiting 0, sent 1, put aside 0\n");
    assert_eq!((case.used(), case.statuses()), (3, vec![200]));
}

#[test]
fn a_refusal_does_not_say_what_became_of_an_earlier_attempt() {
    let case = Case::new();
    case.charge("a", 0, 8, 0);
    case.send_now();
    // It was counted, the answer was lost, and then the customer was deleted.
    case.db.run("UPDATE stripe_outbox SET sent = NULL, unknown_since = now(), key_number = 1");
    case.stripe.state().usage[0].identifier = "other".to_owned();
    case.stripe.state().objects.remove(&case.customer);
    let said = case.send(&[]);
    assert!(said.contains("perhaps counted") && said.contains("No such customer"), "{said}");
    assert!(case.send(&["--put-aside"]).starts_with("waiting 0, sent 0, put aside 1\n"));
    assert_eq!(case.statuses(), [200, 400]);
}

#[test]
fn a_row_that_was_put_aside_alarms_before_its_time_is_over() {
    let case = Case::new();
    case.db.run(&format!(
        "INSERT INTO stripe_outbox (user_id, customer, meter, hour, amount_micros, used_at, put_aside, problem)
        VALUES ('a', '{}', '{METER}', now() - interval '29 days', 77, now() - interval '29 days', now(), 'No such customer')",
        case.customer
    ));
    let server = Server::start_with(&case.db, &case.settings());
    wait_until("the alarm", || case.db.count("SELECT count(*) FROM events WHERE kind = 'billing.late'") == 1);
    server.wait_until("the log", || server.log().contains("was not sent for 28 days"));
    assert_eq!(case.used(), 0);
}

#[test]
fn usage_of_an_account_whose_customer_was_forgotten_waits_for_the_next_one() {
    let case = Case::new();
    case.charge("a", 0, 5, 0);
    case.send_now();
    case.db.run("UPDATE users SET stripe_id = NULL WHERE id = 'a'");
    case.charge("a", 0, 6, 0);
    assert_eq!(case.send_now(), "waiting 0, sent 1, put aside 0\n");
    let customer = case.stripe.customer("a@example.com");
    case.db.run(&format!("UPDATE users SET stripe_id = '{customer}' WHERE id = 'a'"));
    assert_eq!(case.send_now(), "waiting 0, sent 2, put aside 0\n");
    assert_eq!((case.used(), case.stripe.used(METER, &customer)), (5, 6));
}
