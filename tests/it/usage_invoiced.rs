//! Usage that is billed by subscriptions: their metered item, and the invoices that Stripe makes of it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::stripe::{Fault, Faults, SECRET_KEY, Stripe};
use crate::harness::{PASSWORD, Server, TestDb, User, done, refused, run, soon};
use crate::payments::{check_out, stripe_with_prices};
use crate::usage_reported::charge;

const METER: &str = "api_usage";

struct Case {
    db: TestDb,
    stripe: Stripe,
    server: Server,
    user: User,
}

/// The settings of a server that sells plans and reports usage.
fn settings(stripe: &Stripe) -> Vec<(&str, &str)> {
    let metered = [("STRIPE_METER_EVENT", METER), ("STRIPE_PRICE_METERED", "price_metered"), ("BILLING", "metered")];
    [&crate::payments::settings(stripe)[..], &metered].concat()
}

impl Case {
    fn new() -> Case {
        let (db, stripe) = (TestDb::new(), stripe_with_prices());
        let meter = stripe.meter(METER, Duration::ZERO);
        stripe.metered_price("price_metered", &meter, "month");
        let server = Server::start_with(&db, &settings(&stripe));
        let user = server.sign_up("ann@example.com");
        let case = Case { db, stripe, server, user };
        case.billing(&["send"]);
        case
    }

    fn billing(&self, args: &[&str]) -> String {
        let url = self.db.url();
        let settings = [&settings(&self.stripe)[..], &[("DATABASE_URL", &url)]].concat();
        done(run(&[&["billing"], args].concat(), &settings, ""))
    }

    /// Charges the account so many micro-dollars, and reports it.
    fn use_and_report(&self, micros: i64) {
        charge(&self.db, &self.user.id, 0, micros, 0);
        let said = self.billing(&["send", "--until", "now"]);
        assert!(said.starts_with("waiting 0, ") && said.ends_with("put aside 0\n"), "{said}");
    }

    /// The only subscription.
    fn subscription(&self) -> Value {
        let state = self.stripe.state();
        let mut all = state.objects.values().filter(|object| object["object"] == "subscription");
        let found = all.next().unwrap().clone();
        assert!(all.next().is_none());
        found
    }

    /// Price, quantity and amount in cents of the lines of what the subscription's next invoice would be.
    fn preview(&self, subscription: &Value) -> Vec<Value> {
        let id = subscription["id"].as_str().unwrap();
        let client = textgen::billing::Stripe::new(SECRET_KEY, &self.stripe.url, Duration::from_secs(10)).unwrap();
        let form = textgen::billing::Form::new().with("subscription", id);
        let key = format!("preview {}", self.stripe.calls().len());
        lines(&client.post("/v1/invoices/create_preview", &form, &key).unwrap())
    }
}

fn lines(invoice: &Value) -> Vec<Value> {
    let all = invoice["lines"]["data"].as_array().unwrap().iter();
    all.map(|line| json!([line["pricing"]["price_details"]["price"], line["quantity"], line["amount"]])).collect()
}

/// The items of a subscription, each by its price and quantity.
fn items(subscription: &Value) -> Vec<(&str, Option<i64>)> {
    let all = subscription["items"]["data"].as_array().unwrap().iter();
    all.map(|item| (item["price"]["id"].as_str().unwrap(), item["quantity"].as_i64())).collect()
}

#[test]
fn usage_is_on_the_invoices_of_the_subscription() {
    let case = Case::new();
    let page = check_out(&case.user.browser, "monthly", 1);
    case.stripe.pay(&page);
    case.stripe.deliver_from(&case.server.web.anonymous(), 0);
    let subscription = case.subscription();
    assert_eq!(items(&subscription), [("price_monthly", Some(1)), ("price_metered", None)]);
    // Today, only the plan is paid.
    let first = &case.stripe.invoices(subscription["id"].as_str().unwrap())[0];
    assert_eq!(lines(first), [json!(["price_monthly", 1, 1900])]);
    case.use_and_report(1_250_000);
    case.use_and_report(5_004_999);
    let expected = [json!(["price_metered", 6_254_999, 625]), json!(["price_monthly", 1, 1900])];
    assert_eq!(case.preview(&subscription), expected);
    // The period ends.
    case.stripe.advance(Duration::from_secs(31 * 86_400));
    let invoice = case.stripe.end_period(subscription["id"].as_str().unwrap());
    assert_eq!((lines(&invoice), &invoice["total"]), (expected.to_vec(), &json!(2525)));
    let renewed = case.subscription();
    assert_eq!(case.preview(&renewed)[0], json!(["price_metered", 0, 0]));
    let shown = case.billing(&["check"]);
    assert!(shown.contains("6254999 added up by Stripe"), "{shown}");
    // The plan is what it is known by.
    let item = subscription["items"]["data"][0]["id"].as_str().unwrap();
    let sql = format!("SELECT count(*) FROM stripe_subscriptions WHERE plan = 'monthly' AND item_id = '{item}'");
    assert_eq!(case.db.count(&sql), 1);
}

#[test]
fn every_plan_has_the_metered_item_on_either_page() {
    for (kind, quantity, is_embedded) in
        [("monthly", 1, true), ("annual", 1, false), ("annual", 1, true), ("self-hosted", 3, false)]
    {
        let case = Case::new();
        let page = if is_embedded {
            let order = json!({"type": kind, "quantity": quantity});
            let reply = case.user.browser.post("/create-checkout-session-embedded", &order).expect(200).json();
            reply["clientSecret"].as_str().unwrap().split("_secret_").next().unwrap().to_owned()
        } else {
            check_out(&case.user.browser, kind, quantity)
        };
        case.stripe.pay(&page);
        case.stripe.deliver_from(&case.server.web.anonymous(), 0);
        let subscription = case.subscription();
        let price = format!("price_{}", kind.replace('-', "_"));
        assert_eq!(items(&subscription), [(price.as_str(), Some(quantity)), ("price_metered", None)]);
        case.use_and_report(20_000);
        assert_eq!(case.preview(&subscription)[0], json!(["price_metered", 20_000, 2]));
        // It renews when the plan does, although usage is billed by the month.
        let end = subscription["items"]["data"][0]["current_period_end"].as_i64().unwrap();
        let sql = format!("SELECT count(*) FROM stripe_subscriptions WHERE period_end = to_timestamp({end})");
        assert_eq!(case.db.count(&sql), 1, "{kind}");
    }
}

#[test]
fn a_page_that_was_opened_without_the_metered_price_is_replaced() {
    let case = Case::new();
    let before = Server::start_with(&case.db, &crate::payments::settings(&case.stripe));
    let first = check_out(&case.user.browser_of(&before), "monthly", 1);
    assert_eq!(check_out(&case.user.browser_of(&before), "monthly", 1), first);
    let second = check_out(&case.user.browser, "monthly", 1);
    let status = |page: &str| case.stripe.state().objects[page.rsplit('/').next().unwrap()]["status"].clone();
    assert_eq!((status(&first), status(&second)), (json!("expired"), json!("open")));
}

#[test]
fn the_meter_and_its_price_are_set_together() {
    let (db, stripe) = (TestDb::new(), stripe_with_prices());
    let url = db.url();
    let settings =
        [&crate::payments::settings(&stripe)[..], &[("DATABASE_URL", &url), ("BILLING", "metered")]].concat();
    let started = |name, value| run(&["serve"], &[&settings[..], &[(name, value)]].concat(), "");
    refused(started("STRIPE_METER_EVENT", METER), "STRIPE_PRICE_METERED is not set");
    refused(started("STRIPE_PRICE_METERED", "price_x"), "STRIPE_METER_EVENT is not");
}

#[test]
fn a_price_of_another_meter_is_found() {
    let case = Case::new();
    case.billing(&["check"]);
    let other = case.stripe.meter("other", Duration::ZERO);
    case.stripe.metered_price("price_metered", &other, "month");
    let url = case.db.url();
    let settings = [&settings(&case.stripe)[..], &[("DATABASE_URL", &url)]].concat();
    let differs = || {
        let outcome = run(&["billing", "check"], &settings, "");
        assert_eq!(outcome.code, 1, "{outcome:?}");
        assert!(outcome.err.contains("price_metered is no price of the meter"), "{outcome:?}");
    };
    differs();
    case.stripe.price("price_metered", 1, "month");
    differs();
    case.stripe.state().objects.remove("price_metered");
    differs();
}

#[test]
fn what_a_deleted_account_has_used_is_on_the_last_invoice() {
    let case = Case::new();
    case.stripe.pay(&check_out(&case.user.browser, "monthly", 1));
    case.stripe.deliver_from(&case.server.web.anonymous(), 0);
    let subscription = case.subscription();
    charge(&case.db, &case.user.id, 0, 70_000, 0);
    case.user.browser.post("/api/delete-account", &json!({"password": PASSWORD})).expect(200);
    soon("the cancellation", || case.subscription()["status"] == "canceled");
    let invoices = case.stripe.invoices(subscription["id"].as_str().unwrap());
    assert_eq!(lines(invoices.last().unwrap()), [json!(["price_metered", 70_000, 7])]);
}

#[test]
fn usage_is_sent_shortly_before_a_subscription_ends() {
    let case = Case::new();
    case.stripe.pay(&check_out(&case.user.browser, "monthly", 1));
    case.stripe.deliver_from(&case.server.web.anonymous(), 0);
    charge(&case.db, &case.user.id, 0, 70_000, 0);
    let customer = case.subscription()["customer"].as_str().unwrap().to_owned();
    case.db.run("UPDATE stripe_subscriptions SET period_end = now() + interval '14 seconds'");
    assert_eq!(case.db.count("SELECT count(*) FROM stripe_outbox"), 0);
    case.db.run("UPDATE stripe_subscriptions SET cancel_at_period_end = true");
    soon("the usage", || case.stripe.used(METER, &customer) == 70_000);
    let sql = "SELECT count(*) FROM stripe_outbox o, stripe_subscriptions s WHERE o.used_at < s.period_end";
    assert_eq!(case.db.count(sql), 1);
    // Once for this end.
    charge(&case.db, &case.user.id, 0, 1, 0);
    assert_eq!(case.db.count("SELECT count(*) FROM stripe_subscriptions WHERE usage_closed = period_end"), 1);
}

#[test]
fn an_annual_plan_with_monthly_usage_ends_with_the_month_as_stripe_ends_it() {
    let case = Case::new();
    case.stripe.pay(&check_out(&case.user.browser, "annual", 1));
    let web = case.server.web.anonymous();
    case.stripe.deliver_from(&web, 0);
    let subscription = case.subscription();
    let id = subscription["id"].as_str().unwrap();
    let end = |item: usize| subscription["items"]["data"][item]["current_period_end"].as_i64().unwrap();
    assert!(end(1) < end(0));
    let stored = |end: i64| {
        let sql = format!("SELECT count(*) FROM stripe_subscriptions WHERE period_end = to_timestamp({end})");
        case.db.count(&sql) == 1
    };
    assert!(stored(end(0)));
    let seen = case.stripe.events().len();
    case.stripe.cancel_at_period_end(id);
    case.stripe.deliver_from(&web, seen);
    assert!(stored(end(1)), "it ends with the month");
    case.use_and_report(30_000);
    case.stripe.advance(Duration::from_secs(31 * 86_400));
    let seen = case.stripe.events().len();
    assert_eq!(lines(&case.stripe.end_period(id)), [json!(["price_metered", 30_000, 3])]);
    case.stripe.deliver_from(&web, seen);
    assert_eq!(case.db.count("SELECT count(*) FROM stripe_subscriptions WHERE state = 'canceled'"), 1);
}

#[test]
fn usage_that_stripe_has_not_counted_after_all_is_shown() {
    let case = Case::new();
    let meter =
        case.stripe.state().objects.values().find(|object| object["object"] == "billing.meter").unwrap()["id"].clone();
    let seen = case.stripe.events().len();
    case.stripe.meter_error(meter.as_str().unwrap(), "cb44");
    let web = case.server.web.anonymous();
    // Not while its details cannot be read.
    case.stripe.inject(Faults::next(&[Some(Fault::ErrorBefore)]));
    case.stripe.deliver(&web, &case.stripe.events()[seen]).expect(503);
    case.stripe.deliver_from(&web, seen);
    case.stripe.deliver_from(&web, seen);
    assert_eq!(case.db.count("SELECT count(*) FROM events WHERE kind = 'billing.uncounted'"), 1);
    case.server.wait_until("the log", || case.server.log().contains("meter_event_customer_not_found, such as cb44"));
    done(run(&["user", "promote", "ann@example.com"], &[("DATABASE_URL", &case.db.url())], ""));
    let page = || case.user.browser.header("accept", "text/html").get("/admin");
    soon("the promotion to be seen", || page().status == 200);
    assert!(page().text().contains("billing.uncounted") && page().text().contains("cb44"), "{}", page().text());
}
