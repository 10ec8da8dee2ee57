//! Credit that is bought, refunded and disputed.

use serde_json::{Value, json};

use crate::harness::stripe::Stripe;
use crate::harness::{Server, TestDb, User, at_once, soon};
use crate::payments::{check_out, shop};

fn balance(user: &User) -> i64 {
    user.browser.get("/api/credits").expect(200).json()["balance_micros"].as_i64().unwrap()
}

/// Sends what happened since, the newest first, each twice.
fn deliver(stripe: &Stripe, server: &Server, from: usize) {
    let web = server.web.anonymous();
    for event in stripe.events()[from..].iter().rev() {
        for _ in 0..2 {
            stripe.deliver(&web, event).expect(200);
        }
    }
}

fn bought(cents: i64) -> (Stripe, TestDb, Server, User, String) {
    let (stripe, db, server) = shop();
    let user = server.sign_up("ann@example.com");
    let page = check_out(&user.browser, "credits", cents);
    stripe.pay(&page);
    (stripe, db, server, user, page)
}

#[test]
fn credit_bought_once_is_granted_once() {
    let (stripe, db, server, user, page) = bought(2500);
    let session = stripe.state().objects[page.rsplit('/').next().unwrap()].clone();
    assert_eq!(
        json!([
            session["mode"],
            session["client_reference_id"],
            session["metadata"]["purchase_type"],
            session["metadata"]["quantity"],
            session["amount_total"]
        ]),
        json!(["payment", user.id, "credits", "2500", 2500])
    );
    assert_eq!(balance(&user), 0);
    let event = stripe.events()[0].clone();
    let web = server.web.anonymous();
    at_once(6, |_| stripe.deliver(&web, &event).expect(200));
    let mut other: Value = event.clone();
    other["id"] = json!("evt_another");
    stripe.deliver(&web, &other).expect(200);
    assert_eq!(balance(&user), 25_000_000);
    let entries = user.browser.get("/api/credits").expect(200).json()["entries"].clone();
    assert_eq!(json!([entries[0]["kind"], entries[0]["amount_micros"]]), json!(["purchase", 25_000_000]));
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'purchase' AND actor = 'Stripe'"), 1);
    // A subscription is not a condition.
    assert_eq!(user.browser.post("/api/get-user", &json!({})).expect(200).json()["is_subscribed"], false);
}

#[test]
fn credit_is_granted_when_the_money_has_come() {
    let (stripe, _db, server) = shop();
    let user = server.sign_up("ann@example.com");
    let page = check_out(&user.browser, "credits", 500);
    stripe.pay_later(&page);
    deliver(&stripe, &server, 0);
    assert_eq!(balance(&user), 0);
    let seen = stripe.events().len();
    stripe.money_comes(&page);
    deliver(&stripe, &server, seen);
    assert_eq!(balance(&user), 5_000_000);
    deliver(&stripe, &server, 0);
    assert_eq!(balance(&user), 5_000_000);
}

#[test]
fn refunded_credit_is_taken_back_once_and_in_parts() {
    let (stripe, db, server, user, page) = bought(1000);
    stripe.refund(&page, 250);
    // The refund comes before the purchase.
    deliver(&stripe, &server, 0);
    assert_eq!(balance(&user), 7_500_000);
    let seen = stripe.events().len();
    stripe.refund(&page, 750);
    deliver(&stripe, &server, seen);
    deliver(&stripe, &server, 0);
    assert_eq!(balance(&user), 0);
    assert_eq!(db.count("SELECT count(*) FROM credit_entries"), 3);
    // What was granted otherwise stays.
    let more = check_out(&user.browser, "credits", 300);
    stripe.pay(&more);
    deliver(&stripe, &server, 0);
    assert_eq!(balance(&user), 3_000_000);
}

#[test]
fn disputed_credit_comes_back_if_the_dispute_is_won() {
    let (stripe, db, server, user, page) = bought(1000);
    deliver(&stripe, &server, 0);
    let id = stripe.dispute(&page);
    deliver(&stripe, &server, 0);
    assert_eq!(balance(&user), 0);
    stripe.close_dispute(&id, "won");
    deliver(&stripe, &server, 0);
    assert_eq!(balance(&user), 10_000_000);
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'credit' AND actor = 'Stripe'"), 2);
}

#[test]
fn disputed_credit_stays_away_if_the_dispute_is_lost() {
    let (stripe, _db, server, user, page) = bought(1000);
    deliver(&stripe, &server, 0);
    let id = stripe.dispute(&page);
    stripe.close_dispute(&id, "lost");
    deliver(&stripe, &server, 0);
    assert_eq!(balance(&user), 0);
}

#[test]
fn what_was_spent_cannot_be_taken_back_and_is_not_taken_from_later_credit() {
    let (stripe, db, server, user, page) = bought(1000);
    deliver(&stripe, &server, 0);
    let withdraw = ["credit", "withdraw", &user.id, "6"];
    crate::harness::done(crate::harness::run(&withdraw, &[("DATABASE_URL", &db.url())], ""));
    let id = stripe.dispute(&page);
    deliver(&stripe, &server, 0);
    assert_eq!(balance(&user), 0);
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE detail LIKE '%of 10000000 due: the rest was spent%'"), 1);
    let more = check_out(&user.browser, "credits", 500);
    stripe.pay(&more);
    deliver(&stripe, &server, 0);
    assert_eq!(balance(&user), 5_000_000);
    stripe.close_dispute(&id, "won");
    deliver(&stripe, &server, 0);
    assert_eq!(balance(&user), 9_000_000, "what was taken, and no more");
}

#[test]
fn prepaid_work_goes_on_in_every_process_once_the_payment_is_known() {
    let upstream = crate::budgets::obedient();
    let stripe = crate::payments::stripe_with_prices();
    let db = TestDb::new();
    crate::budgets::set_price(&db);
    let settings =
        [&crate::payments::settings(&stripe)[..], &[("BILLING", "prepaid"), ("INFERENCE_URL", &upstream.url)]].concat();
    let (server, other) = (Server::start_with(&db, &settings), Server::start_with(&db, &settings));
    other.wait_until_listening();
    let user = server.sign_up("ann@example.com");
    let program = user.program(&other.inference);
    program.post("/v1/chat/completions", &crate::budgets::chat(1)).expect(402);
    stripe.pay(&check_out(&user.browser, "credits", 500));
    deliver(&stripe, &server, 0);
    let paid = std::time::Instant::now();
    soon("work", || program.post("/v1/chat/completions", &crate::budgets::chat(1)).status == 200);
    println!("work goes on {:?} after the payment was known", paid.elapsed());
}
