//! Usage that is reported to Stripe: what is put into the outbox, and the rules by which it is sent.

use std::time::Duration;

use serde_json::json;

use crate::harness::stripe::{Fault, Faults, Stripe};
use crate::harness::{Outcome, Server, TestDb, done, refused, run, wait_until};

pub const METER: &str = "api_usage";

/// A database with accounts `a` and `b`, and a Stripe account with a meter and a customer of `a`.
pub struct Case {
    pub db: TestDb,
    pub stripe: Stripe,
    pub meter_id: String,
    /// The customer of `a`.
    pub customer: String,
}

impl Case {
    pub fn new() -> Case {
        Case::with_lag(Duration::ZERO)
    }

    pub fn with_lag(lag: Duration) -> Case {
        let (db, stripe) = (TestDb::new(), Stripe::start());
        let meter_id = stripe.meter(METER, lag);
        let customer = stripe.customer("a@example.com");
        db.run(&format!(
            "INSERT INTO users (id, email, stripe_id) VALUES ('a', 'a@example.com', '{customer}'), ('b', 'b@example.com', NULL)"
        ));
        subscribed(&db, "a");
        subscribed(&db, "b");
        let case = Case { db, stripe, meter_id, customer };
        assert_eq!(case.send(&[]), "waiting 0, sent 0, put aside 0\n");
        case
    }

    pub fn settings(&self) -> Vec<(&str, &str)> {
        let mut settings = self.stripe.settings().to_vec();
        settings.push(("STRIPE_METER_EVENT", METER));
        settings
    }

    pub fn billing(&self, args: &[&str]) -> Outcome {
        let url = self.db.url();
        let mut settings = self.settings();
        settings.push(("DATABASE_URL", &url));
        run(&[&["billing"], args].concat(), &settings, "")
    }

    pub fn send(&self, args: &[&str]) -> String {
        done(self.billing(&[&["send"], args].concat()))
    }

    pub fn send_now(&self) -> String {
        self.send(&["--until", "now"])
    }

    /// Adds to what the ledger has of a day.
    pub fn charge(&self, user: &str, days_ago: i32, micros: i64, picos: i64) {
        charge(&self.db, user, days_ago, micros, picos);
    }

    /// Has reporting begun so many days ago.
    pub fn begun(&self, days_ago: i32) {
        self.db.run(&format!(
            "UPDATE stripe_reporting SET begins = (now() AT TIME ZONE 'UTC')::date - {days_ago};
            UPDATE stripe_usage SET settled_day = (now() AT TIME ZONE 'UTC')::date - {days_ago}"
        ));
    }

    /// What Stripe has counted for the customer of `a`.
    pub fn used(&self) -> i64 {
        self.stripe.used(METER, &self.customer)
    }

    /// The statuses of the events sent so far; 0 for none.
    pub fn statuses(&self) -> Vec<u16> {
        let events = self.stripe.calls().into_iter().filter(|call| call.request.path == "/v1/billing/meter_events");
        events.map(|call| call.status).collect()
    }

    pub fn rows(&self, condition: &str) -> i64 {
        self.db.count(&format!("SELECT count(*) FROM stripe_outbox WHERE {condition}"))
    }
}

/// Has an account be subscribed for long.
pub fn subscribed(db: &TestDb, user: &str) {
    db.run(&format!(
        "INSERT INTO stripe_subscriptions (id, user_id, item_id, plan, state, instances, cancel_at_period_end, fetch_number)
            VALUES ('sub_{user}', '{user}', '', 'other', 'active', 0, false, 0);
        UPDATE stripe_subscriptions SET invoiced_since = NULL WHERE id = 'sub_{user}'"
    ));
}

/// Adds to what the ledger has of a day.
pub fn charge(db: &TestDb, user: &str, days_ago: i32, micros: i64, picos: i64) {
    db.run(&format!(
        "INSERT INTO usage_daily (user_id, day, server, route, model, key_id, events, requests, prompt_tokens,
            completion_tokens, embedding_tokens, audio_millis, characters, cost_micros, cost_picos)
        VALUES ('{user}', (now() AT TIME ZONE 'UTC')::date - {days_ago}, 'inference', '/r', 'm', '', 1, 1, 0, 0, 0, 0, 0,
            {micros}, {picos})
        ON CONFLICT ON CONSTRAINT usage_daily_pkey DO UPDATE SET
            cost_micros = usage_daily.cost_micros + {micros} + (usage_daily.cost_picos + {picos}) / 1000000,
            cost_picos = (usage_daily.cost_picos + {picos}) % 1000000;
        INSERT INTO usage_events (created, id, user_id, server, route, model, latency_micros, requests, prompt_tokens,
            completion_tokens, embedding_tokens, audio_millis, characters, cost_micros, cost_picos)
        VALUES (now() - {days_ago} * interval '1 day', gen_random_uuid()::varchar, '{user}', 'inference', '/r', 'm', 0, 1,
            0, 0, 0, 0, 0, {micros}, {picos})"
    ));
}

#[test]
fn usage_is_sent_once_and_fractions_are_carried() {
    let case = Case::new();
    case.charge("a", 0, 5, 600_000);
    assert_eq!(case.send_now(), "waiting 0, sent 1, put aside 0\n");
    assert_eq!(case.used(), 5);
    case.charge("a", 0, 0, 300_000);
    assert_eq!(case.send_now(), "waiting 0, sent 1, put aside 0\n");
    case.charge("a", 0, 0, 300_000);
    assert_eq!(case.send_now(), "waiting 0, sent 2, put aside 0\n");
    assert_eq!((case.used(), case.send_now().as_str()), (6, "waiting 0, sent 2, put aside 0\n"));
    let events: Vec<_> =
        case.stripe.calls().into_iter().filter(|call| call.request.path.ends_with("/meter_events")).collect();
    assert_eq!(events.len(), 2);
    for event in &events {
        let params = &event.request.params;
        let identifier = params.get("identifier").unwrap();
        assert_eq!(event.request.idempotency_key.as_deref(), Some(identifier));
        assert!(identifier.len() <= 100 && event.status == 200);
        let age = case.stripe.state().now() - params.get("timestamp").unwrap().parse::<i64>().unwrap();
        assert!((-60..600).contains(&age), "{age}");
    }
    assert_ne!(events[0].request.idempotency_key, events[1].request.idempotency_key);
    assert!(done(case.billing(&["check"])).contains("6 added up by Stripe"));
}

#[test]
fn usage_waits_for_a_customer() {
    let case = Case::new();
    case.charge("b", 0, 7, 0);
    assert_eq!(case.send_now(), "waiting 0, sent 0, put aside 0\n");
    let customer = case.stripe.customer("b@example.com");
    case.db.run(&format!("UPDATE users SET stripe_id = '{customer}' WHERE id = 'b'"));
    case.charge("b", 0, 1, 0);
    assert_eq!(case.send_now(), "waiting 0, sent 1, put aside 0\n");
    assert_eq!(case.stripe.used(METER, &customer), 8);
}

#[test]
fn usage_waits_for_a_subscription() {
    let case = Case::new();
    let customer = case.stripe.customer("b@example.com");
    case.db.run(&format!("UPDATE users SET stripe_id = '{customer}' WHERE id = 'b'"));
    let state =
        |state: &str| case.db.run(&format!("UPDATE stripe_subscriptions SET state = '{state}' WHERE id = 'sub_b'"));
    case.charge("b", 0, 7, 0);
    for not_invoiced in ["incomplete", "incomplete_expired", "paused", "canceled"] {
        state(not_invoiced);
        assert_eq!(case.send_now(), "waiting 0, sent 0, put aside 0\n", "{not_invoiced}");
        let said = done(case.billing(&["check"]));
        assert!(said.contains("7 micro-dollars wait, as their accounts have no subscription"), "{said}");
    }
    // What was used before is closed with an hour that was over before the subscription began, and yet in its period.
    state("active");
    let since = "(SELECT date_trunc('second', invoiced_since) FROM stripe_subscriptions WHERE id = 'sub_b')";
    case.db.run("UPDATE stripe_reporting SET closed = closed - interval '1 hour'");
    assert_eq!(case.send(&[]), "waiting 0, sent 1, put aside 0\n");
    assert_eq!(case.rows(&format!("user_id = 'b' AND amount_micros = 7 AND used_at = {since}")), 1);
    assert!(!done(case.billing(&["check"])).contains(" wait, as"));
    // A payment that fails is no new beginning.
    case.db.run("UPDATE stripe_subscriptions SET invoiced_since = NULL WHERE id = 'sub_b'");
    for (invoiced, sum) in [("past_due", 8), ("unpaid", 9), ("trialing", 10)] {
        state(invoiced);
        case.charge("b", 0, 1, 0);
        case.send_now();
        assert_eq!(case.stripe.used(METER, &customer), sum, "{invoiced}");
    }
    assert_eq!(case.db.count("SELECT count(*) FROM stripe_subscriptions WHERE invoiced_since IS NOT NULL"), 0);
    // It ends, and what is used then waits for the next one.
    state("canceled");
    case.charge("b", 0, 5, 0);
    case.send_now();
    assert_eq!(case.stripe.used(METER, &customer), 10);
    // A deleted account's is reported.
    case.db.run("DELETE FROM users WHERE id = 'b'");
    case.send_now();
    assert_eq!(case.stripe.used(METER, &customer), 15);
}

#[test]
fn charges_that_come_late_make_further_rows() {
    let case = Case::new();
    case.begun(30);
    case.charge("a", 0, 1, 0);
    case.charge("a", 1, 10, 0);
    case.charge("a", 20, 100, 0);
    case.send_now();
    assert_eq!((case.used(), case.rows("true")), (111, 1));
    // From journals, when all of these days were closed long ago.
    case.charge("a", 1, 1000, 0);
    case.charge("a", 20, 10_000, 0);
    case.send_now();
    assert_eq!((case.used(), case.rows("true")), (11_111, 2));
    // What was charged before reporting began is not reported.
    case.charge("a", 31, 100_000, 0);
    case.send_now();
    assert_eq!((case.used(), case.rows("true")), (11_111, 2));
}

#[test]
fn an_account_that_is_deleted_is_reported() {
    let case = Case::new();
    case.charge("a", 0, 3, 0);
    case.db.run("DELETE FROM users WHERE id = 'a'");
    case.charge("a", 0, 4, 0);
    assert_eq!(case.send_now(), "waiting 0, sent 1, put aside 0\n");
    assert_eq!(case.used(), 7);
}

#[test]
fn an_hour_is_closed_when_it_is_over() {
    let case = Case::new();
    let server = Server::start_with(&case.db, &case.settings());
    case.charge("a", 0, 9, 0);
    case.db.run("UPDATE stripe_reporting SET closed = closed - interval '1 hour'");
    server.wait_until("the row to be sent", || case.used() == 9);
    wait_until("the row to be noted", || case.rows("sent IS NOT NULL") == 1);
    assert_eq!(
        case.rows(
            "hour = date_trunc('hour', now()) - interval '1 hour' AND used_at = date_trunc('hour', now()) - interval '1 second'"
        ),
        1
    );
    // The open hour is left alone.
    case.charge("a", 0, 1, 0);
    case.charge("b", 0, 1, 0);
    assert_eq!(case.send(&[]), "waiting 0, sent 1, put aside 0\n");
    assert_eq!(server.stop(), 0);
    assert_eq!(case.used(), 9);
}

#[test]
fn failures_that_may_pass_are_tried_again() {
    let case = Case::new();
    let mut expected = 0;
    for (fault, statuses) in [
        // Requests on connections that were cut are repeated at once.
        (Fault::CutBefore, vec![0, 0, 200]),
        (Fault::CutAfter, vec![200, 200, 200]),
        (Fault::Silence, vec![200, 200, 200]),
        (Fault::ErrorBefore, vec![500, 500, 200]),
        (Fault::ErrorAfter, vec![500, 400]),
        (Fault::Conflict, vec![409, 409, 200]),
        (Fault::RateLimit, vec![429, 429, 200]),
    ] {
        case.charge("a", 0, 11, 0);
        expected += 11;
        let before = case.statuses().len();
        // The first request reads the meters.
        case.stripe.inject(Faults::next(&[None, Some(fault), Some(fault)]));
        let began = std::time::Instant::now();
        assert!(case.send_now().starts_with("waiting 0"), "{fault:?}");
        assert_eq!((case.used(), &case.statuses()[before..]), (expected, &*statuses), "{fault:?}");
        if fault == Fault::RateLimit {
            assert!(began.elapsed() >= Duration::from_secs(1), "Retry-After was not heeded");
        }
    }
    assert_eq!(case.rows("sent IS NOT NULL AND problem IS NULL"), 7);
}

#[test]
fn what_stripe_refuses_is_put_aside_and_stalls_nothing() {
    let case = Case::new();
    case.db.run("UPDATE users SET stripe_id = 'cus_none' WHERE id = 'b'");
    case.charge("a", 0, 1, 0);
    case.charge("b", 0, 2, 0);
    let said = case.send_now();
    assert!(said.starts_with("waiting 0, sent 1, put aside 1\nput aside: "), "{said}");
    assert!(
        said.contains("account b customer cus_none 2 micro-dollars") && said.contains("No such customer"),
        "{said}"
    );
    assert!(case.send(&[]).starts_with("waiting 0, sent 1, put aside 1\n"), "it is not tried again by itself");
    let server = Server::start_with(&case.db, &case.settings());
    let admin = server.sign_up("root@example.com");
    let url = case.db.url();
    done(run(&["user", "promote", "root@example.com"], &[("DATABASE_URL", &url)], ""));
    let page = || admin.browser.header("accept", "text/html").get("/admin");
    crate::harness::soon("the promotion to be seen", || page().status == 200);
    let shown = page().text();
    assert!(shown.contains("0 rows of usage wait to be sent, 1 put aside"), "{shown}");
    assert!(shown.contains("customer cus_none") && shown.contains("No such customer"), "{shown}");
    assert_eq!(server.stop(), 0);
    let customer = case.stripe.customer("b@example.com");
    case.db.run(&format!("UPDATE users SET stripe_id = '{customer}' WHERE id = 'b'"));
    case.charge("b", 0, 20, 0);
    case.send_now();
    assert_eq!((case.used(), case.stripe.used(METER, &customer)), (1, 20));
    assert_eq!(case.send(&["--put-aside"]), "waiting 0, sent 3, put aside 0\n");
    assert_eq!(case.stripe.used(METER, &customer), 22);
    done(case.billing(&["check"]));
}

/// Makes a row that was sent look as if a process had died on it more than 24 hours ago.
fn forget_outcome(case: &Case) {
    case.db.run(
        "UPDATE stripe_outbox SET sent = NULL, unknown_since = now() - interval '25 hours', problem = 'no answer'
        WHERE place = (SELECT max(place) FROM stripe_outbox)",
    );
    case.stripe.advance(Duration::from_secs(25 * 3600));
}

#[test]
fn what_stripe_may_have_forgotten_is_looked_for_before_it_is_sent_again() {
    let case = Case::new();
    case.charge("a", 0, 5, 0);
    case.send_now();
    case.charge("a", 0, 8, 0);
    case.send_now();
    // It was counted.
    forget_outcome(&case);
    assert_eq!(case.send(&[]), "waiting 0, sent 2, put aside 0\n");
    assert_eq!((case.used(), case.statuses()), (13, vec![200, 200]));
    // It was not.
    forget_outcome(&case);
    case.stripe.state().usage.pop();
    assert_eq!(case.send(&[]), "waiting 0, sent 2, put aside 0\n");
    assert_eq!((case.used(), case.statuses()), (13, vec![200, 200, 200]));
    // Nobody can say.
    forget_outcome(&case);
    case.stripe.state().usage.last_mut().unwrap().value = 3;
    let said = case.send(&[]);
    assert!(said.starts_with("waiting 0, sent 1, put aside 1\n") && said.contains("it is not known"), "{said}");
    assert_eq!(case.statuses(), [200, 200, 200]);
}

#[test]
fn a_row_that_waits_for_weeks_alarms() {
    let case = Case::new();
    case.stripe.inject(Faults::random(1, 100));
    let server = Server::start_with(&case.db, &case.settings());
    case.db.run(&format!(
        "INSERT INTO stripe_outbox (user_id, customer, meter, hour, amount_micros, used_at)
            VALUES ('a', '{}', '{METER}', now() - interval '29 days', 77, now() - interval '29 days');
        UPDATE stripe_reporting SET closed = closed - interval '1 hour'",
        case.customer
    ));
    wait_until("the alarm", || case.db.count("SELECT count(*) FROM events WHERE kind = 'billing.late'") == 1);
    server.wait_until("the log", || server.log().contains("was not sent for 28 days"));
    case.db.run("UPDATE stripe_reporting SET closed = closed - interval '1 hour'");
    wait_until("the next hour", || {
        case.db.count("SELECT count(*) FROM stripe_reporting WHERE closed = date_trunc('hour', now())") == 1
    });
    assert_eq!(server.log().matches("was not sent for 28 days").count(), 1);
    case.stripe.inject(Faults::default());
    case.db.run("UPDATE stripe_outbox SET next_at = now()");
    server.wait_until("it to be sent", || case.used() == 77);
}

#[test]
fn one_process_sends_and_another_takes_over() {
    let case = Case::new();
    case.stripe.state().work_time = Duration::from_millis(30);
    let servers = [Server::start_with(&case.db, &case.settings()), Server::start_with(&case.db, &case.settings())];
    for n in 1..=10 {
        case.charge("a", 0, 1, 0);
        case.send_now();
        assert_eq!(case.used(), n);
    }
    let [first, second] = servers;
    crate::harness::kill(first.pid());
    drop(first);
    case.charge("a", 0, 1, 0);
    case.db.run("UPDATE stripe_reporting SET closed = closed - interval '1 hour'");
    second.wait_until("the other one to send", || case.used() == 11);
    // Never two at once for one customer.
    assert_eq!(case.statuses(), [200; 11]);
}

#[test]
fn without_its_meter_nothing_is_put_aside() {
    let case = Case::new();
    let wrong = [case.settings(), vec![("STRIPE_METER_EVENT", "misspelt")]].concat();
    let server = Server::start_with(&case.db, &wrong);
    case.charge("a", 0, 5, 0);
    case.db.run("UPDATE stripe_reporting SET closed = closed - interval '1 hour'");
    server.wait_until("the log", || server.log().contains("no active meter for events named misspelt"));
    wait_until("the row", || case.rows("sent IS NULL AND put_aside IS NULL AND attempts = 0") == 1);
    assert_eq!(server.stop(), 0);
}

#[test]
fn without_a_key_there_is_no_reporting() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("STRIPE_METER_EVENT", METER)]);
    let url = db.url();
    refused(run(&["billing", "send"], &[("DATABASE_URL", &url)], ""), "STRIPE_SECRET_KEY is not set");
    refused(run(&["billing", "check"], &[("DATABASE_URL", &url)], ""), "STRIPE_SECRET_KEY is not set");
    let no_meter = [("DATABASE_URL", &*url), ("STRIPE_SECRET_KEY", "sk_x")];
    refused(run(&["billing", "send"], &no_meter, ""), "STRIPE_METER_EVENT is not set");
    assert_eq!(server.stop(), 0);
    assert_eq!(db.count("SELECT count(*) FROM stripe_reporting"), 0);
}

#[test]
fn the_check_finds_what_is_missing() {
    let case = Case::with_lag(Duration::from_secs(3600));
    case.charge("a", 0, 50, 0);
    case.send_now();
    let said = done(case.billing(&["check"]));
    assert!(
        said.contains("50 sent in the last 35 days, 0 added up by Stripe\n1 customers have usage on its way"),
        "{said}"
    );
    case.stripe.advance(Duration::from_secs(3600));
    case.charge("a", 0, 2, 500_000);
    let said = done(case.billing(&["check"]));
    assert!(
        said.starts_with("1 accounts: 52 micro-dollars in the ledger, 50 of them in the outbox, 2 since"),
        "{said}"
    );
    assert!(said.ends_with("50 added up by Stripe\n"), "{said}");
    let differs = |words: &str| {
        let outcome = case.billing(&["check"]);
        assert_eq!(outcome.code, 1, "{outcome:?}");
        assert!(outcome.err.contains(words), "{outcome:?}");
    };
    // Stripe has too much, then too little.
    case.stripe.state().usage[0].value = 51;
    differs("50 was sent, Stripe has 51");
    case.db.run("UPDATE stripe_outbox SET sent = sent - interval '1 hour'");
    case.stripe.state().usage[0].value = 49;
    differs("50 was sent, Stripe has 49");
    case.stripe.state().usage[0].value = 50;
    done(case.billing(&["check"]));
    case.db.run("UPDATE usage_daily SET cost_micros = 49");
    differs("the ledger has 49, but 50 was put into the outbox");
    case.db.run("UPDATE usage_daily SET cost_micros = 50; DELETE FROM stripe_outbox");
    differs("the outbox holds 0, but 50 was put into it");
    case.stripe.state().objects.remove(&case.meter_id);
}

#[test]
fn the_sums_are_compared_every_day() {
    let case = Case::new();
    case.charge("a", 0, 50, 0);
    case.send_now();
    case.stripe.state().usage[0].value = 60;
    let server = Server::start_with(&case.db, &case.settings());
    case.db.run("UPDATE stripe_reporting SET checked = now() - interval '2 days'");
    wait_until("the event", || {
        case.db.count("SELECT count(*) FROM events WHERE kind = 'billing.difference' AND user_id = ''") == 1
    });
    server.wait_until("the log", || server.log().contains("50 was sent, Stripe has 60"));
    case.stripe.state().usage[0].value = 50;
    case.db.run("UPDATE stripe_reporting SET checked = now() - interval '2 days'");
    server.wait_until("the log", || server.log().contains("agree for 1 accounts and 1 customers"));
}

#[test]
fn rows_of_long_ago_are_forgotten_but_not_their_sums() {
    let case = Case::new();
    case.charge("a", 0, 50, 0);
    case.send_now();
    case.db.run(
        "UPDATE stripe_outbox SET used_at = used_at - interval '101 days';
        UPDATE stripe_reporting SET closed_all = closed_all - interval '2 days'",
    );
    case.stripe.state().usage[0].timestamp -= 101 * 24 * 3600;
    assert_eq!(case.send(&[]), "waiting 0, sent 0, put aside 0\n");
    case.charge("a", 0, 1, 0);
    assert_eq!(case.send_now(), "waiting 0, sent 1, put aside 0\n");
    assert_eq!(case.used(), 51);
    let said = done(case.billing(&["check"]));
    assert!(said.starts_with("1 accounts: 51 micro-dollars in the ledger, 51 of them"), "{said}");
}
