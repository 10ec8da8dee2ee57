//! A meter that was switched off and on again: usage of that time is reported only if somebody says so.

use crate::harness::{Server, done, refused, wait_until};
use crate::usage_reported::Case;

/// Reporting stopped three days ago, and six micro-dollars an account were charged before, 10 after that, 100 and 1000 on the
/// two days between, and 10,000 today before it went on.
fn switched_off() -> Case {
    let case = Case::new();
    case.begun(20);
    let customer = case.stripe.customer("b@example.com");
    case.db.run(&format!("UPDATE users SET stripe_id = '{customer}' WHERE id = 'b'"));
    case.charge("a", 5, 1, 0);
    case.send_now();
    for user in ["a", "b"] {
        case.charge(user, 3, 5, 600_000);
        case.charge(user, 3, 0, 400_000);
        // The last of these is charged to the same day, but after the stop.
        case.db.run("UPDATE usage_events SET created = date_trunc('day', created, 'UTC') + interval '1 hour' WHERE cost_picos > 0");
        case.charge(user, 3, 10, 0);
        case.db.run("UPDATE usage_events SET created = date_trunc('day', created, 'UTC') + interval '3 hours' WHERE cost_micros = 10");
        case.charge(user, 2, 100, 0);
        case.charge(user, 1, 1000, 0);
        case.charge(user, 0, 10_000, 0);
    }
    case.db.run(
        "UPDATE stripe_reporting SET sender_until = date_trunc('day', now() - interval '3 days', 'UTC') + interval '2 hours',
            closed = date_trunc('day', now() - interval '3 days', 'UTC') + interval '2 hours'",
    );
    case
}

#[test]
fn usage_of_the_time_without_a_meter_is_held_and_then_skipped() {
    let case = switched_off();
    let server = Server::start_with(&case.db, &case.settings());
    server.wait_until("the log", || server.log().contains("usage is not reported: nobody reported it from"));
    wait_until("the event", || case.db.count("SELECT count(*) FROM events WHERE kind = 'billing.held'") == 1);
    let said = case.send_now();
    assert!(said.contains("textgen billing resume skip"), "{said}");
    assert!(done(case.billing(&["check"])).contains("textgen billing resume skip"));
    assert_eq!((case.used(), case.rows("true")), (1, 1));
    let admin = server.sign_up("root@example.com");
    let url = case.db.url();
    done(crate::harness::run(&["user", "promote", "root@example.com"], &[("DATABASE_URL", &url)], ""));
    let page = || admin.browser.header("accept", "text/html").get("/admin");
    crate::harness::soon("the promotion to be seen", || page().status == 200);
    assert!(page().text().contains("textgen billing resume report"), "{}", page().text());
    // What is charged meanwhile is reported in any case.
    case.charge("a", 0, 100_000, 0);
    done(case.billing(&["resume", "skip"]));
    refused(case.billing(&["resume", "skip"]), "there is nothing to resume");
    // The server closes the hours that are over by itself.
    server.wait_until("the usage", || case.used() == 1 + 6 + 100_000);
    case.charge("a", 0, 7, 0);
    case.send_now();
    assert_eq!(case.used(), 1 + 6 + 100_000 + 7);
    let other =
        case.db.connect().query_one("SELECT stripe_id FROM users WHERE id = 'b'", &[]).unwrap().get::<_, String>(0);
    assert_eq!(case.stripe.used(crate::usage_reported::METER, &other), 6);
    let said = done(case.billing(&["check"]));
    assert!(said.starts_with("2 accounts: 100020 micro-dollars in the ledger, 100020 of them in the outbox"), "{said}");
}

#[test]
fn usage_of_the_time_without_a_meter_can_be_reported() {
    let case = switched_off();
    assert!(case.send_now().contains("textgen billing resume report"));
    done(case.billing(&["resume", "report"]));
    case.send_now();
    assert_eq!(case.used(), 1 + 6 + 10 + 100 + 1000 + 10_000);
    done(case.billing(&["check"]));
}

#[test]
fn servers_that_were_all_stopped_hold_nothing() {
    let case = Case::new();
    case.begun(20);
    case.charge("a", 9, 1, 0);
    case.charge("a", 0, 1, 0);
    case.db.run("UPDATE stripe_reporting SET sender_until = now() - interval '9 days'");
    assert_eq!(case.send_now(), "waiting 0, sent 1, put aside 0\n");
    assert_eq!(case.used(), 2);
}
