//! Payments for credit of accounts that are gone; and what Stripe is told of accounts that change.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::stripe::{Fault, Faults, SECRET_KEY, Stripe};
use crate::harness::{PASSWORD, Server, TestDb, User, done, refused, run, soon};
use crate::payments::{check_out, settings, shop};

fn object(stripe: &Stripe, page: &str) -> Value {
    stripe.state().objects[page.rsplit('/').next().unwrap()].clone()
}

fn refunds(stripe: &Stripe) -> Vec<Value> {
    stripe.state().objects.values().filter(|object| object["object"] == "refund").cloned().collect()
}

fn delete(user: &User) {
    user.browser.post("/api/delete-account", &json!({"password": PASSWORD})).expect(200);
}

#[test]
fn no_page_stays_open_after_the_account_was_deleted() {
    let (stripe, db, server) = shop();
    let user = server.sign_up("ann@example.com");
    let pages = [
        check_out(&user.browser, "credits", 500),
        check_out(&user.browser, "credits", 600),
        check_out(&user.browser, "monthly", 1),
    ];
    let other = server.sign_up("bob@example.com");
    let others = check_out(&other.browser, "credits", 700);
    delete(&user);
    for page in &pages {
        soon("the page to be closed", || object(&stripe, page)["status"] == "expired");
    }
    soon("the end", || db.count("SELECT count(*) FROM stripe_cancellations WHERE done IS NOT NULL") == 1);
    assert_eq!(object(&stripe, &others)["status"], "open");
}

#[test]
fn credit_that_is_paid_for_after_the_account_was_deleted_is_refunded_once() {
    for fault in [None, Some(Fault::CutAfter), Some(Fault::ErrorAfter), Some(Fault::ErrorBefore), Some(Fault::Conflict)]
    {
        let (stripe, db, server) = shop();
        let user = server.sign_up("ann@example.com");
        let page = check_out(&user.browser, "credits", 500);
        // Its money comes later, and meanwhile the account is deleted.
        stripe.pay_later(&page);
        let web = server.web.anonymous();
        stripe.deliver_from(&web, 0);
        delete(&user);
        soon("the end", || db.count("SELECT count(*) FROM stripe_cancellations WHERE done IS NOT NULL") == 1);
        let seen = stripe.events().len();
        stripe.money_comes(&page);
        let event = stripe.events()[seen].clone();
        // Fetching the session, then the refund.
        stripe.inject(Faults::next(&[None, fault]));
        stripe.deliver(&web, &event).expect(200);
        stripe.deliver(&web, &event).expect(200);
        let refunded = || {
            // It is tried again in a minute.
            db.run("UPDATE stripe_refunds SET next_at = now() WHERE problem IS NOT NULL");
            db.count("SELECT count(*) FROM stripe_refunds WHERE done IS NOT NULL") == 1
        };
        soon("the refund", refunded);
        let made = refunds(&stripe);
        assert_eq!((made.len(), &made[0]["amount"]), (1, &json!(500)), "{fault:?}");
        assert_eq!(made[0]["metadata"]["user_id"], user.id);
        // The news of it, and the payment once more.
        stripe.deliver_from(&web, 0);
        let mut again = event.clone();
        again["id"] = json!("evt_again");
        stripe.deliver(&web, &again).expect(200);
        assert_eq!(db.count("SELECT count(*) FROM stripe_refunds"), 1);
        assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'refund' AND actor = 'Stripe'"), 1);
        assert_eq!(refunds(&stripe).len(), 1);
    }
}

/// A payment for credit of an account that this installation has never had. Returns the page.
#[test]
fn late_news_of_credit_that_was_granted_refunds_nothing() {
    let (stripe, db, server) = shop();
    let user = server.sign_up("ann@example.com");
    let page = check_out(&user.browser, "credits", 500);
    stripe.pay(&page);
    let web = server.web.anonymous();
    stripe.deliver_from(&web, 0);
    assert_eq!(db.count("SELECT count(*) FROM credit_purchases"), 1);
    delete(&user);
    soon("the end", || db.count("SELECT count(*) FROM stripe_cancellations WHERE done IS NOT NULL") == 1);
    let completed = |event: &&Value| event["type"] == "checkout.session.completed";
    let mut late = stripe.events().iter().find(completed).unwrap().clone();
    late["id"] = json!("evt_late");
    stripe.deliver(&web, &late).expect(200);
    assert_eq!(db.count("SELECT count(*) FROM stripe_refunds"), 0);
}

fn of_another_system(stripe: &Stripe) -> String {
    let customer = stripe.customer("eve@example.com");
    let form = textgen::billing::Form::new()
        .with("mode", "payment")
        .with("customer", customer)
        .with("client_reference_id", "elsewhere")
        .with("success_url", "http://example.com")
        .with("metadata[purchase_type]", "credits")
        .with("metadata[quantity]", 900)
        .with("line_items[0][price_data][currency]", "usd")
        .with("line_items[0][price_data][unit_amount]", 900)
        .with("line_items[0][price_data][product_data][name]", "Credit")
        .with("line_items[0][quantity]", 1);
    let client = textgen::billing::Stripe::new(SECRET_KEY, &stripe.url, Duration::from_secs(10)).unwrap();
    let key = format!("elsewhere {}", stripe.calls().len());
    let made: Value = client.post("/v1/checkout/sessions", &form, &key).unwrap();
    made["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_payment_of_an_account_that_was_never_here_is_left_to_an_operator() {
    let (stripe, db, server) = shop();
    let (first, second) = (of_another_system(&stripe), of_another_system(&stripe));
    stripe.pay(&first);
    stripe.pay(&second);
    stripe.deliver_from(&server.web.anonymous(), 0);
    let url = db.url();
    let settings = [&settings(&stripe)[..], &[("DATABASE_URL", url.as_str())]].concat();
    let command = |args: &[&str]| run(&[&["billing", "refund"], args].concat(), &settings, "");
    let listed = done(command(&[]));
    assert!(listed.contains(&first) && listed.contains("900 hundredths: no account has this id"), "{listed}");
    let admin = server.sign_up("root@example.com");
    done(run(&["user", "promote", "root@example.com"], &[("DATABASE_URL", &url)], ""));
    let page = || admin.browser.header("accept", "text/html").get("/admin");
    soon("the promotion to be seen", || page().status == 200);
    assert!(page().text().contains("Payments without an account") && page().text().contains(&first));
    done(command(&[&second, "--dismiss"]));
    assert!(refunds(&stripe).is_empty());
    done(command(&[&first]));
    soon("the refund", || refunds(&stripe).len() == 1);
    soon("the end", || done(command(&[])).is_empty());
    assert_eq!(refunds(&stripe)[0]["payment_intent"], object(&stripe, &first)["payment_intent"]);
    refused(command(&[&second]), "is no payment that is open");
    assert_eq!(refunds(&stripe).len(), 1);
}

#[test]
fn stripe_is_told_of_a_new_address_however_often_it_fails() {
    let (stripe, db, server) = shop();
    let user = server.sign_up("ann@example.com");
    check_out(&user.browser, "monthly", 1);
    let customer = || {
        let state = stripe.state();
        let found = state.objects.values().find(|object| object["object"] == "customer").unwrap();
        (found["email"].clone(), found["name"].clone())
    };
    stripe.inject(Faults::next(&[Some(Fault::ErrorAfter), Some(Fault::CutBefore), Some(Fault::CutBefore)]));
    db.run("UPDATE users SET email = 'ann@example.org', name = 'Ann'; UPDATE users SET email = 'ann@example.net'");
    let told = || {
        db.run("UPDATE stripe_customer_changes SET next_at = now()");
        db.count("SELECT count(*) FROM stripe_customer_changes") == 0
    };
    soon("Stripe to be told", told);
    assert_eq!(customer(), (json!("ann@example.net"), json!("Ann")));
    // What does not matter to Stripe is not told.
    db.run("UPDATE users SET updated = now()");
    assert_eq!(db.count("SELECT count(*) FROM stripe_customer_changes"), 0);
}

#[test]
fn a_key_needs_the_public_address() {
    let db = TestDb::new();
    let url = db.url();
    let settings =
        [("DATABASE_URL", url.as_str()), ("STRIPE_SECRET_KEY", SECRET_KEY), ("STRIPE_WEBHOOK_SECRET", "whsec_x")];
    refused(run(&["serve"], &settings, ""), "PUBLIC_URL is not");
    let server = Server::start_with(&db, &[&settings[1..], &[("PUBLIC_URL", "https://example.com")]].concat());
    assert_eq!(server.stop(), 0);
}
