//! What is paid at Stripe: checkouts, the portal, and who is subscribed then.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::stripe::{Fault, Faults, SECRET_KEY, Stripe};
use crate::harness::{Client, PASSWORD, Reply, Server, TestDb, User, at_once, refused, run, soon};

/// The settings of a server that sells everything.
pub fn settings(stripe: &Stripe) -> Vec<(&str, &str)> {
    let prices = [
        ("STRIPE_PRICE_MONTHLY", "price_monthly"),
        ("STRIPE_PRICE_ANNUAL", "price_annual"),
        ("STRIPE_PRICE_SELF_HOSTED", "price_self_hosted"),
    ];
    [&stripe.settings()[..], &prices, &[("BILLING", "prepaid")]].concat()
}

/// A Stripe with these prices, and a server that uses it.
pub fn shop() -> (Stripe, TestDb, Server) {
    let stripe = stripe_with_prices();
    let db = TestDb::new();
    let server = Server::start_with(&db, &settings(&stripe));
    (stripe, db, server)
}

pub fn stripe_with_prices() -> Stripe {
    let stripe = Stripe::start();
    stripe.price("price_monthly", 1900, "month");
    stripe.price("price_annual", 19_000, "year");
    stripe.price("price_self_hosted", 45_000, "month");
    stripe
}

/// Opens a checkout. Returns its address.
#[track_caller]
pub fn check_out(browser: &Client, kind: &str, quantity: i64) -> String {
    let reply = browser.form("/create-checkout-session", &[("type", kind), ("quantity", &quantity.to_string())]);
    reply.expect(303).header("location").unwrap().to_owned()
}

/// What an account has, by the database.
pub fn subscription(db: &TestDb, user: &User) -> Option<(String, String)> {
    let sql = "SELECT plan, state FROM stripe_subscriptions WHERE user_id = $1 ORDER BY state, id LIMIT 1";
    let row = db.connect().query_opt(sql, &[&user.id]).unwrap();
    row.map(|row| (row.get(0), row.get(1)))
}

fn is_subscribed(client: &Client) -> bool {
    client.get("/api/current-user").expect(200).json()["is_subscribed"] == true
}

fn made(stripe: &Stripe, kind: &str) -> Vec<Value> {
    let state = stripe.state();
    state.objects.values().filter(|object| object["object"] == kind).cloned().collect()
}

#[test]
fn a_payment_is_seen_by_the_servers_of_every_process() {
    let (stripe, db, server) = shop();
    let other = Server::start_with(&db, &settings(&stripe));
    other.wait_until_listening();
    let user = server.sign_up("ann@example.com");
    // It is known there without a look into the database, unless that says that something has changed.
    let program = user.program(&other.inference);
    assert!(!is_subscribed(&program) && !is_subscribed(&user.program(&server.audio)));
    let page = check_out(&user.browser, "", 1);
    assert_eq!(stripe.pay(&page), format!("{}/subscribe?done=subscription", server.web.0));
    assert_eq!(made(&stripe, "customer")[0]["email"], "ann@example.com");
    let web = server.web.anonymous();
    let paid = Instant::now();
    stripe.deliver_from(&web, 0);
    let known = Instant::now();
    soon("the payment to be seen", || is_subscribed(&program));
    println!("three events in {:?}, seen {:?} later", known - paid, known.elapsed());
    let expected = Some(("monthly".to_owned(), "active".to_owned()));
    assert_eq!(subscription(&db, &user), expected);
    let status = user.browser.get("/api/subscription-status").expect(200).text();
    assert_eq!(status, r#"{"is_subscribed":true,"authenticated":true,"user_email":"ann@example.com"}"#);
    // A second one leads to the portal.
    for kind in ["monthly", "annual", "self-hosted"] {
        let place = check_out(&user.browser, kind, 1);
        assert!(place.contains("/p/session/"), "{place}");
    }
    user.browser.post("/create-checkout-session-embedded", &json!({})).expect(409);
    let portal = user.browser.get("/portal").expect(303);
    assert!(portal.header("location").unwrap().starts_with(&stripe.url));
    assert_eq!((made(&stripe, "customer").len(), made(&stripe, "subscription").len()), (1, 1));
    let text = user.browser.get("/subscribe").expect(200).text();
    assert!(text.contains("Monthly") && text.contains("Renews") && text.contains("href=\"/portal\""), "{text}");
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'subscription' AND detail LIKE 'active (sub%'"), 1);
}

#[test]
fn two_tabs_make_one_customer_and_one_subscription() {
    let (stripe, db, server) = shop();
    let user = server.sign_up("ann@example.com");
    stripe.state().work_time = Duration::from_millis(30);
    let pages = at_once(6, |_| check_out(&user.browser, "annual", 1));
    assert!(pages.iter().all(|page| *page == pages[0]), "{pages:?}");
    let open = || made(&stripe, "checkout.session").iter().filter(|session| session["status"] == "open").count();
    assert_eq!((made(&stripe, "customer").len(), open()), (1, 1));
    // Tabs with different plans: however they cross, one page is left.
    at_once(4, |n| check_out(&user.browser, if n % 2 == 0 { "monthly" } else { "annual" }, 1));
    let last = check_out(&user.browser, "monthly", 1);
    assert_eq!(open(), 1);
    stripe.pay(&last);
    // The news of it is not there yet, and all the same there is no second page.
    let place = check_out(&user.browser, "annual", 1);
    assert!(place.contains("/p/session/"), "{place}");
    assert_eq!((open(), made(&stripe, "subscription").len()), (0, 1));
    assert_eq!(subscription(&db, &user), Some(("monthly".to_owned(), "active".to_owned())));
    assert!(is_subscribed(&user.browser));
    // One that is over can be followed by another.
    let id = made(&stripe, "subscription")[0]["id"].as_str().unwrap().to_owned();
    stripe.cancel(&id);
    stripe.deliver_from(&server.web.anonymous(), 0);
    assert!(!is_subscribed(&user.browser));
    assert!(check_out(&user.browser, "annual", 1).contains("/c/pay/"));
}

#[test]
fn a_page_that_has_expired_is_followed_by_another() {
    let (stripe, _db, server) = shop();
    let user = server.sign_up("ann@example.com");
    let first = check_out(&user.browser, "monthly", 1);
    assert_eq!(check_out(&user.browser, "monthly", 1), first);
    stripe.advance(Duration::from_secs(2 * 86_400));
    let second = check_out(&user.browser, "monthly", 1);
    assert_ne!(first, second);
    let embedded = user.browser.post("/create-checkout-session-embedded", &json!({"type": "monthly", "referral": "a"}));
    let secret = embedded.expect(200).json();
    assert!(secret["clientSecret"].as_str().unwrap().contains("_secret_"), "{secret}");
    assert_eq!(made(&stripe, "checkout.session")[1]["status"], "expired");
}

#[test]
fn a_customer_that_stripe_does_not_know_is_replaced_and_faults_leave_no_second_one() {
    let (stripe, db, server) = shop();
    let user = server.sign_up("ann@example.com");
    db.run("UPDATE users SET stripe_id = 'cus_of_another_mode'");
    check_out(&user.browser, "monthly", 1);
    let customer = user.browser.post("/api/get-user", &json!({})).expect(200).json()["stripe_id"].clone();
    assert_eq!(customer, made(&stripe, "customer")[0]["id"]);
    let other = server.sign_up("bob@example.com");
    for fault in [Fault::CutBefore, Fault::CutAfter, Fault::ErrorBefore, Fault::RateLimit, Fault::Conflict] {
        stripe.inject(Faults::next(&[Some(fault), Some(fault)]));
        let reply = other.browser.form("/create-checkout-session", &[("type", "monthly")]);
        assert!([503, 303].contains(&reply.status), "{fault:?} {}", reply.text());
    }
    let served = |reply: Reply| reply.status == 303;
    soon("a checkout", || served(other.browser.form("/create-checkout-session", &[("type", "monthly")])));
    assert_eq!(made(&stripe, "customer").len(), 2);
}

#[test]
fn orders_that_cannot_be_are_refused() {
    let (_stripe, _db, server) = shop();
    let user = server.sign_up("ann@example.com");
    let order = |fields: &[(&str, &str)]| user.browser.form_for_json("/create-checkout-session", fields);
    for fields in [
        &[("type", "weekly")][..],
        &[("type", "monthly"), ("quantity", "2")],
        &[("type", "self-hosted"), ("quantity", "0")],
        &[("type", "credits")],
        &[("type", "credits"), ("quantity", "-500")],
        &[("type", "credits"), ("quantity", "1000001")],
    ] {
        order(fields).expect(400);
    }
    order(&[("quantity", "many")]).expect(422);
    let web = server.web.anonymous();
    for reply in [web.form_for_json("/create-checkout-session", &[]), web.get("/portal")] {
        assert_eq!(reply.expect(401).json(), json!({"detail": "Not authenticated"}));
    }
    let none = user.browser.get("/portal").expect(400).json();
    assert_eq!(none, json!({"detail": "No Stripe customer ID found"}));
}

#[test]
fn without_a_key_there_are_no_payments_and_all_else_works() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    for reply in [
        user.browser.form_for_json("/create-checkout-session", &[("type", "monthly")]),
        user.browser.post("/create-checkout-session-embedded", &json!({})),
        user.browser.get("/portal"),
        user.browser.get("/subscribe"),
        server.web.anonymous().post("/webhook", &json!({})),
        server.web.anonymous().post("/api/stripe/webhook", &json!({})),
    ] {
        let reply = reply.expect(503);
        assert!(
            reply.text().contains("STRIPE_SECRET_KEY") && reply.header("retry-after").is_none(),
            "{}",
            reply.text()
        );
    }
    let page = user.browser.get("/account").expect(200).text();
    assert!(!page.contains("/subscribe") && !page.contains("/portal"), "{page}");
    let refusal = user.browser.get("/api/validation-token").expect(403).json();
    assert_eq!(refusal, json!({"error": "Active subscription required"}));
    let page = user.browser.header("accept", "text/html").get("/subscribe").expect(503).text();
    assert!(page.contains("STRIPE_SECRET_KEY is not set"), "{page}");
}

#[test]
fn a_key_needs_a_webhook_secret_and_a_plan_its_price() {
    let db = TestDb::new();
    let url = db.url();
    let settings = [("DATABASE_URL", url.as_str()), ("STRIPE_SECRET_KEY", SECRET_KEY)];
    refused(run(&["serve"], &settings, ""), "STRIPE_WEBHOOK_SECRET");
    // Usage is not paid for twice.
    let twice = [("STRIPE_WEBHOOK_SECRET", "whsec_x"), ("STRIPE_METER_EVENT", "usage"), ("BILLING", "subscription")];
    refused(run(&["serve"], &[&settings[..], &twice].concat(), ""), "STRIPE_METER_EVENT");
    let stripe = Stripe::start();
    let server = Server::start_with(&db, &stripe.settings());
    let user = server.sign_up("ann@example.com");
    let reply = user.browser.form_for_json("/create-checkout-session", &[("type", "annual")]).expect(503);
    assert!(reply.text().contains("STRIPE_PRICE_ANNUAL"), "{}", reply.text());
    let page = user.browser.get("/subscribe").expect(200).text();
    assert!(page.contains("no plans") && !page.contains("Buy credit"), "{page}");
    // Nothing is paid for out of credit.
    let credits = [("type", "credits"), ("quantity", "500")];
    let reply = user.browser.form_for_json("/create-checkout-session", &credits).expect(400);
    assert!(reply.text().contains("Credit is not sold here"), "{}", reply.text());
    let (_stripe, _db, prepaid) = shop();
    let page = prepaid.web.anonymous().get("/subscribe").expect(200).text();
    assert!(page.contains("Plans and credit"), "{page}");
}

#[test]
fn prices_are_shown_and_asked_for_once() {
    let (stripe, _db, server) = shop();
    let web = server.web.anonymous();
    stripe.inject(Faults::next(&[Some(Fault::ErrorBefore)]));
    let page = web.get("/subscribe").expect(200).text();
    assert!(page.contains("shown at checkout") && !page.contains("19.00"), "{page}");
    let shows = || web.get("/subscribe").expect(200).text().contains("$19.00 per month");
    soon("prices", shows);
    let before = stripe.calls().len();
    at_once(4, |_| assert!(shows()));
    assert_eq!(stripe.calls().len(), before);
    let policy = web.get("/subscribe").expect(200);
    assert!(
        policy
            .header("content-security-policy")
            .unwrap()
            .contains(&format!("form-action 'self' https: {}", stripe.url))
    );
    let elsewhere = web.get("/login").expect(200);
    assert!(elsewhere.header("content-security-policy").unwrap().contains("form-action 'self';"));
}

#[test]
fn self_hosted_instances_and_the_end_of_a_subscription_are_known() {
    let (stripe, db, server) = shop();
    let user = server.sign_up("ann@example.com");
    stripe.pay(&check_out(&user.browser, "self-hosted", 3));
    let web = server.web.anonymous();
    stripe.deliver_from(&web, 0);
    let fresh = || user.browser.post("/api/get-user", &json!({})).expect(200).json();
    assert_eq!(
        (fresh()["num_self_hosted_instances"].clone(), fresh()["is_subscribed"].clone()),
        (json!(3), json!(true))
    );
    let id = made(&stripe, "subscription")[0]["id"].as_str().unwrap().to_owned();
    let seen = stripe.events().len();
    stripe.cancel(&id);
    stripe.deliver_from(&web, seen);
    assert_eq!(
        (fresh()["num_self_hosted_instances"].clone(), fresh()["is_subscribed"].clone()),
        (json!(0), json!(false))
    );
    assert_eq!(subscription(&db, &user), Some(("self-hosted".to_owned(), "canceled".to_owned())));
}

#[test]
fn a_failed_payment_has_a_grace() {
    let (stripe, db, server) = shop();
    let user = server.sign_up("ann@example.com");
    stripe.pay(&check_out(&user.browser, "monthly", 1));
    let web = server.web.anonymous();
    stripe.deliver_from(&web, 0);
    let id = made(&stripe, "subscription")[0]["id"].as_str().unwrap().to_owned();
    let status = |status: &str| {
        let seen = stripe.events().len();
        stripe.set_status(&id, status);
        stripe.deliver_from(&web, seen);
    };
    status("past_due");
    assert!(is_subscribed(&user.browser));
    db.run("UPDATE stripe_subscriptions SET past_due_since = now() - interval '8 days'");
    soon("the grace to end", || !is_subscribed(&user.browser));
    // It can be paid in the portal; a second subscription is not what helps.
    assert!(check_out(&user.browser, "monthly", 1).contains("/p/session/"));
    status("active");
    assert!(is_subscribed(&user.browser));
    assert_eq!(db.count("SELECT count(*) FROM stripe_subscriptions WHERE past_due_since IS NULL"), 1);
    for (other, counts) in [("trialing", true), ("unpaid", false), ("incomplete", false), ("paused", false)] {
        status(other);
        assert_eq!(is_subscribed(&user.browser), counts, "{other}");
    }
}

#[test]
fn a_subscription_that_can_be_paid_is_not_hidden_by_one_that_was_canceled() {
    let (stripe, _db, server) = shop();
    let user = server.sign_up("ann@example.com");
    check_out(&user.browser, "monthly", 1);
    let customer = made(&stripe, "customer")[0]["id"].as_str().unwrap().to_owned();
    let web = server.web.anonymous();
    for (status, seed) in [("unpaid", 1), ("paused", 2), ("past_due", 3)] {
        let seen = stripe.events().len();
        let alive = stripe.subscribe(&customer, "price_monthly");
        stripe.set_status(&alive, status);
        // Its period ends later.
        let over = stripe.subscribe(&customer, "price_annual");
        stripe.cancel(&over);
        let mut events = stripe.events()[seen..].to_vec();
        let mut random = crate::harness::Random(seed);
        while !events.is_empty() {
            let next = events.swap_remove(random.place(events.len()));
            stripe.deliver(&web, &next).expect(200);
        }
        for kind in ["monthly", "annual", "self-hosted"] {
            let place = check_out(&user.browser, kind, 1);
            assert!(place.contains("/p/session/"), "{status}: {place}");
        }
        let page = user.browser.get("/subscribe").expect(200).text();
        assert!(page.contains("href=\"/portal\"") && page.contains("Monthly"), "{status}: {page}");
        let seen = stripe.events().len();
        stripe.cancel(&alive);
        stripe.deliver_from(&web, seen);
        assert!(check_out(&user.browser, "monthly", 1).contains("/c/pay/"), "{status}");
    }
}

#[test]
fn the_subscription_of_a_deleted_account_is_cancelled_even_if_stripe_is_down_then() {
    let (stripe, db, server) = shop();
    let user = server.sign_up("ann@example.com");
    stripe.pay(&check_out(&user.browser, "monthly", 1));
    let web = server.web.anonymous();
    stripe.deliver_from(&web, 0);
    let other = server.sign_up("bob@example.com");
    let open = check_out(&other.browser, "annual", 1);
    stripe.inject(Faults::next(&[Some(Fault::CutBefore); 6]));
    user.browser.post("/api/delete-account", &json!({"password": PASSWORD})).expect(200);
    soon("an attempt", || db.count("SELECT count(*) FROM stripe_cancellations WHERE attempts > 0") == 1);
    assert_eq!(made(&stripe, "subscription")[0]["status"], "active");
    stripe.inject(Faults::default());
    db.run("UPDATE stripe_cancellations SET next_at = now()");
    soon("the cancellation", || made(&stripe, "subscription")[0]["status"] == "canceled");
    soon("the record", || db.count("SELECT count(*) FROM audit WHERE action = 'cancel subscription'") == 1);
    // One account is deleted while its page is open.
    other.browser.post("/api/delete-account", &json!({"password": PASSWORD})).expect(200);
    let id = open.rsplit('/').next().unwrap().to_owned();
    soon("the page to be closed", || stripe.state().objects[&id]["status"] == "expired");
    soon("the end", || db.count("SELECT count(*) FROM stripe_cancellations WHERE done IS NOT NULL") == 2);
    // One that is made late all the same.
    let customer = stripe.state().objects[&id]["customer"].as_str().unwrap().to_owned();
    let seen = stripe.events().len();
    let late = stripe.subscribe(&customer, "price_monthly");
    stripe.deliver_from(&web, seen);
    soon("the late one to be cancelled", || stripe.state().objects[&late]["status"] == "canceled");
}

#[test]
fn validation_tokens_are_for_subscribers_and_the_same_from_every_process() {
    let (stripe, db, server) = shop();
    let user = server.sign_up("ann@example.com");
    let token = |server: &Server| user.browser_of(server).get("/api/validation-token").expect(200).json();
    let anonymous = server.web.anonymous().get("/api/validation-token").expect(401).json();
    assert_eq!(anonymous, json!({"error": "Authentication required"}));
    assert_eq!(
        user.browser.get("/api/validation-token").expect(403).json(),
        json!({"error": "Active subscription required"})
    );
    stripe.pay(&check_out(&user.browser, "monthly", 1));
    stripe.deliver_from(&server.web.anonymous(), 0);
    let one = token(&server);
    let item = made(&stripe, "subscription")[0]["items"]["data"][0]["id"].clone();
    assert_eq!(json!([one["user_email"], one["subscription_item_id"]]), json!(["ann@example.com", item]));
    let second = Server::start_with(&db, &settings(&stripe));
    let with_secret =
        Server::start_with(&db, &[&settings(&stripe)[..], &[("BACKEND_VALIDATION_SECRET", "shared")]].concat());
    // What a program does that knows the key.
    let key = db.connect().query_one("SELECT validation_key FROM installation", &[]).unwrap().get::<_, Vec<u8>>(0);
    for (server, key) in [(&server, &key[..]), (&second, &key), (&with_secret, b"shared")] {
        let token = token(server);
        let (end, tag) = token["validation_token"].as_str().unwrap().split_once('.').unwrap();
        let signed = format!("ann@example.com\n{}\n{end}", item.as_str().unwrap());
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
        let tag: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&tag[2 * at..2 * at + 2], 16).unwrap()).collect();
        assert!(ring::hmac::verify(&key, signed.as_bytes(), &tag).is_ok());
        let left = end.parse::<i64>().unwrap() - stripe.state().now();
        assert!((3500..=3600).contains(&left), "{left}");
    }
}

#[test]
fn accounts_that_were_subscribed_before_are_imported_once_and_from_where_it_stopped() {
    let stripe = stripe_with_prices();
    let db = TestDb::new();
    db.run(
        "INSERT INTO users (id, email, created) SELECT 'u' || lpad(n::text, 3, '0'), 'u' || n || '@x', now() FROM generate_series(1, 30) n",
    );
    for n in 1..=30 {
        let customer = stripe.customer(&format!("u{n}@x"));
        if n % 3 == 0 {
            stripe.subscribe(&customer, "price_monthly");
        }
        if n % 5 == 0 {
            let gone = stripe.subscribe(&customer, "price_annual");
            stripe.cancel(&gone);
        }
        let customer = if n == 7 { "cus_unknown" } else { &customer };
        db.run(&format!("UPDATE users SET stripe_id = '{customer}' WHERE id = 'u{n:03}'"));
    }
    let url = db.url();
    let settings = [&settings(&stripe)[..], &[("DATABASE_URL", url.as_str())]].concat();
    // It stops in the middle.
    stripe.inject(Faults::next(&[&[None; 12][..], &[Some(Fault::Conflict); 6]].concat()));
    refused(run(&["billing", "import"], &settings, ""), "run it again");
    assert_eq!(db.count("SELECT count(*) FROM users WHERE is_subscribed"), 4);
    let before = stripe.calls().len();
    let began = Instant::now();
    let import = || {
        let outcome = run(&["billing", "import"], &settings, "");
        assert_eq!(outcome.code, 0, "{outcome:?}");
        outcome.out
    };
    let done = import();
    let requests = stripe.calls().len() - before;
    assert_eq!(requests, 18, "{done}");
    assert!(began.elapsed() >= Duration::from_millis(50 * 17), "{:?}", began.elapsed());
    assert!(done.contains("18 accounts"), "{done}");
    assert_eq!(db.count("SELECT count(*) FROM users WHERE is_subscribed"), 10);
    assert_eq!(db.count("SELECT count(*) FROM stripe_subscriptions"), 10);
    // Again, from the beginning.
    let again = import();
    assert!(again.contains("30 accounts") && again.contains("10 subscribed") && again.contains("1 unknown"), "{again}");
    refused(run(&["billing", "import"], &[("DATABASE_URL", &url)], ""), "STRIPE_SECRET_KEY");
}
