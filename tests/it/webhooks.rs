//! Stripe's web-hooks: forged, doubled, late, shuffled, and with processes that die.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::stripe::{Fault, Faults, WEBHOOK_SECRET, signature};
use crate::harness::{Client, Random, Reply, Server, Signal, TestDb, User, at_once, soon};
use crate::payments::{check_out, settings, shop, stripe_with_prices, subscription};

fn send(web: &Client, signature: &str, body: &str) -> Reply {
    web.header("stripe-signature", signature).send("POST", "/webhook", Some("application/json"), body.as_bytes())
}

fn is_subscribed(user: &User) -> bool {
    user.browser.post("/api/get-user", &json!({})).expect(200).json()["is_subscribed"] == true
}

#[test]
fn a_forged_an_old_and_an_unsigned_event_change_nothing() {
    let (stripe, db, _server) = shop();
    let secrets = format!("whsec_new, {WEBHOOK_SECRET}");
    let server = Server::start_with(&db, &[&settings(&stripe)[..], &[("STRIPE_WEBHOOK_SECRET", &secrets)]].concat());
    let user = server.sign_up("ann@example.com");
    stripe.pay(&check_out(&user.browser, "monthly", 1));
    let body = stripe.events()[0].to_string();
    let (web, now) = (server.web.anonymous(), stripe.state().now());
    let calls = stripe.calls().len();
    web.send("POST", "/webhook", Some("application/json"), body.as_bytes()).expect(400);
    for bad in [
        signature("whsec_forged", now, &body),
        signature(WEBHOOK_SECRET, now - 302, &body),
        signature(WEBHOOK_SECRET, now, &format!("{body} ")),
        signature(WEBHOOK_SECRET, now, &body).replace("v1=", "v0="),
        String::new(),
    ] {
        send(&web, &bad, &body).expect(400);
    }
    let no_event = "{}";
    send(&web, &signature(WEBHOOK_SECRET, now, no_event), no_event).expect(400);
    let long = format!("{{\"id\": \"{}\"}}", "x".repeat(1 << 20));
    send(&web, &signature(WEBHOOK_SECRET, now, &long), &long).expect(413);
    assert_eq!((stripe.calls().len(), db.count("SELECT count(*) FROM stripe_events")), (calls, 0));
    assert!(!is_subscribed(&user));
    // What does not matter is taken, and not stored.
    let other = json!({"id": "evt_1", "type": "payout.paid", "data": {"object": {"id": "po_1"}}}).to_string();
    send(&web, &signature(WEBHOOK_SECRET, now, &other), &other).expect(200);
    let strange =
        json!({"id": "evt_2", "type": "customer.subscription.updated", "data": {"object": {"id": "sub_none"}}});
    let strange = strange.to_string();
    // Perhaps the key is that of another mode: Stripe repeats it.
    send(&web, &signature(WEBHOOK_SECRET, now, &strange), &strange).expect(503);
    assert_eq!(db.count("SELECT count(*) FROM stripe_events"), 0);
    // Either secret, while one is replaced.
    let second = signature("whsec_new", now, &body);
    let second = second.split_once(',').unwrap().1;
    send(&web, &format!("{},{second}", signature("whsec_other", now, &body)), &body).expect(200);
    assert!(is_subscribed(&user));
}

#[test]
fn an_event_is_not_taken_while_stripe_or_the_database_does_not_answer() {
    let (stripe, db, server) = shop();
    let user = server.sign_up("ann@example.com");
    stripe.pay(&check_out(&user.browser, "monthly", 1));
    let web = server.web.anonymous();
    stripe.inject(Faults::next(&[Some(Fault::ErrorBefore)]));
    let event = stripe.events()[0].clone();
    let reply = stripe.deliver(&web, &event).expect(503);
    assert!(reply.header("retry-after").is_some());
    assert_eq!(db.count("SELECT count(*) FROM stripe_events"), 0);
    db.run("ALTER TABLE stripe_events RENAME TO elsewhere");
    assert_eq!(stripe.deliver(&web, &event).status, 500);
    db.run("ALTER TABLE elsewhere RENAME TO stripe_events");
    assert!(!is_subscribed(&user));
    soon("the event to be taken", || stripe.deliver(&web, &event).status == 200);
    assert!(is_subscribed(&user));
}

#[test]
fn a_process_that_is_killed_while_it_handles_an_event_has_not_handled_it() {
    let (stripe, db, server) = shop();
    let user = server.sign_up("ann@example.com");
    stripe.pay(&check_out(&user.browser, "credits", 2500));
    let event = stripe.events()[0].clone();
    let second = Server::start_with(&db, &settings(&stripe));
    // Before it has asked Stripe, and after it has, with a lock that keeps it from writing.
    let calls = || stripe.calls().iter().filter(|call| call.request.method == "GET").count();
    let before = calls();
    let mut lock = db.connect();
    let mut holding = lock.transaction().unwrap();
    holding.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", &[&user.id]).unwrap();
    thread::scope(|scope| {
        let web = server.web.anonymous();
        let (stripe, event) = (&stripe, &event);
        scope.spawn(move || {
            let body = event.to_string();
            let signed = web.header("stripe-signature", &signature(WEBHOOK_SECRET, stripe.state().now(), &body));
            // The connection breaks.
            let _ = signed.try_send("POST", "/webhook", Some("application/json"), body.as_bytes());
        });
        soon("the object to be fetched", || calls() > before && db.has_waiting());
        server.signal(Signal::KILL);
        soon("its end", || server.has_ended());
    });
    holding.rollback().unwrap();
    assert_eq!(db.count("SELECT count(*) FROM credit_entries"), 0);
    let web = second.web.anonymous();
    soon("the event to be taken", || stripe.deliver(&web, &event).status == 200);
    stripe.deliver(&web, &event).expect(200);
    assert_eq!(db.count("SELECT sum(amount_picos / 1000000)::bigint FROM credit_entries"), 25_000_000);
    assert_eq!(db.count("SELECT count(*) FROM stripe_events"), 1);
}

/// Events that are to be delivered, each twice, in any order.
struct Pending {
    events: Vec<Value>,
    random: Random,
}

#[test]
fn a_thousand_events_shuffled_and_doubled_end_in_the_newest_state() {
    const ACCOUNTS: usize = 40;
    const CHANGES: usize = 1000;
    let stripe = stripe_with_prices();
    let db = TestDb::new();
    let servers: Vec<Server> = (0..3).map(|_| Server::start_with(&db, &settings(&stripe))).collect();
    let mut subscriptions = Vec::new();
    for n in 0..ACCOUNTS {
        let customer = stripe.customer(&format!("u{n}@x"));
        db.run(&format!("INSERT INTO users (id, email, stripe_id) VALUES ('u{n}', 'u{n}@x', '{customer}')"));
        subscriptions.push(stripe.subscribe(&customer, "price_monthly"));
    }
    // Fetches take a while, so that they cross.
    stripe.state().work_time = Duration::from_millis(3);
    let pending = Mutex::new(Pending { events: Vec::new(), random: Random(1) });
    let is_over = AtomicBool::new(false);
    let taken = Mutex::new(0_usize);
    let began = std::time::Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let _end = crate::harness::End(&is_over);
            let mut random = Random(2);
            let mut seen = 0;
            for _ in 0..CHANGES - ACCOUNTS {
                let id = &subscriptions[random.place(ACCOUNTS)];
                let status = ["active", "past_due", "trialing", "unpaid", "paused"][random.place(5)];
                stripe.set_status(id, status);
                let new = stripe.events()[seen..].to_vec();
                seen += new.len();
                let mut pending = pending.lock().unwrap();
                pending.events.extend(new.iter().cloned());
                pending.events.extend(new);
                drop(pending);
                thread::sleep(Duration::from_millis(1));
            }
        });
        for n in 0..6 {
            let (servers, pending, is_over, taken, stripe) = (&servers, &pending, &is_over, &taken, &stripe);
            scope.spawn(move || {
                let web = servers[n % servers.len()].web.anonymous();
                loop {
                    assert!(began.elapsed() < Duration::from_secs(300), "events are not taken");
                    let done = is_over.load(Ordering::Acquire);
                    let next = {
                        let mut pending = pending.lock().unwrap();
                        let count = pending.events.len();
                        (count > 0).then(|| {
                            let at = pending.random.place(count);
                            pending.events.swap_remove(at)
                        })
                    };
                    match next {
                        Some(event) if stripe.deliver(&web, &event).status == 200 => *taken.lock().unwrap() += 1,
                        Some(event) => pending.lock().unwrap().events.push(event),
                        None if done => return,
                        None => thread::sleep(Duration::from_millis(1)),
                    }
                }
            });
        }
    });
    let events = stripe.events().len();
    println!("{} deliveries of {events} events in {:?}", taken.lock().unwrap(), began.elapsed());
    assert_eq!((events, *taken.lock().unwrap()), (CHANGES, 2 * CHANGES));
    assert_eq!(db.count("SELECT count(*) FROM stripe_events"), i64::try_from(CHANGES).unwrap());
    let rows = db.connect().query("SELECT id, state FROM stripe_subscriptions", &[]).unwrap();
    let stored: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let state = stripe.state();
    let newest: BTreeMap<String, String> =
        subscriptions.iter().map(|id| (id.clone(), state.objects[id]["status"].as_str().unwrap().to_owned())).collect();
    assert_eq!(stored, newest);
    let wrong = "SELECT count(*) FROM users u JOIN stripe_subscriptions s ON s.user_id = u.id
        WHERE u.is_subscribed <> (s.state IN ('active', 'trialing', 'past_due'))";
    assert_eq!(db.count(wrong), 0);
}

#[test]
fn what_was_fetched_earlier_does_not_replace_what_was_fetched_later() {
    let (stripe, db, server) = shop();
    let user = server.sign_up("ann@example.com");
    stripe.pay(&check_out(&user.browser, "monthly", 1));
    let web = server.web.anonymous();
    stripe.deliver_from(&web, 0);
    let id = db.connect().query_one("SELECT id FROM stripe_subscriptions", &[]).unwrap().get::<_, String>(0);
    // The first event's fetch says past_due, and is stored only after that of the second one.
    let seen = stripe.events().len();
    stripe.set_status(&id, "past_due");
    let mut lock = db.connect();
    let mut holding = lock.transaction().unwrap();
    holding.execute("SELECT FROM users WHERE id = $1 FOR UPDATE", &[&user.id]).unwrap();
    thread::scope(|scope| {
        let first = stripe.events()[seen].clone();
        let (stripe, web) = (&stripe, &web);
        scope.spawn(move || stripe.deliver(web, &first).expect(200));
        soon("it to be fetched", || db.has_waiting());
        stripe.set_status(&id, "active");
        // As if the second one had been stored by a process that was quicker.
        holding
            .execute("UPDATE stripe_subscriptions SET state = 'active', fetch_number = nextval('stripe_fetches')", &[])
            .unwrap();
        holding.commit().unwrap();
    });
    assert_eq!(subscription(&db, &user), Some(("monthly".to_owned(), "active".to_owned())));
    stripe.deliver_from(&web, seen);
    assert_eq!(subscription(&db, &user), Some(("monthly".to_owned(), "active".to_owned())));
}

#[test]
fn of_accounts_that_share_a_customer_the_one_that_has_paid_is_subscribed() {
    let (stripe, db, server) = shop();
    let (older, younger) = (server.sign_up("ann@example.com"), server.sign_up("bob@example.com"));
    let customer = stripe.customer("ann@example.com");
    db.run(&format!("UPDATE users SET stripe_id = '{customer}'"));
    stripe.pay(&check_out(&younger.browser, "monthly", 1));
    stripe.deliver_from(&server.web.anonymous(), 0);
    assert_eq!(subscription(&db, &younger), Some(("monthly".to_owned(), "active".to_owned())));
    assert_eq!(subscription(&db, &older), None);
}

#[test]
fn one_event_to_many_processes_at_once_is_handled_once() {
    let (stripe, db, server) = shop();
    let second = Server::start_with(&db, &settings(&stripe));
    let user = server.sign_up("ann@example.com");
    stripe.pay(&check_out(&user.browser, "credits", 1000));
    stripe.state().work_time = Duration::from_millis(20);
    let event = stripe.events()[0].clone();
    let webs = [server.web.anonymous(), second.web.anonymous()];
    at_once(8, |n| stripe.deliver(&webs[n % 2], &event).expect(200));
    assert_eq!(db.count("SELECT count(*) FROM credit_entries"), 1);
    assert_eq!(db.count("SELECT count(*) FROM stripe_events"), 1);
    db.run("UPDATE stripe_events SET handled = now() - interval '36 days'");
    let third = Server::start_with(&db, &settings(&stripe));
    soon("old events to be forgotten", || db.count("SELECT count(*) FROM stripe_events") == 0);
    // It comes again, much later.
    stripe.deliver(&third.web.anonymous(), &event).expect(200);
    assert_eq!(db.count("SELECT count(*) FROM credit_entries"), 1);
}
