//! `localstripe`, another program that imitates Stripe, as a second opinion on what the Stripe of the tests and ours take for
//! granted, as far as it knows the calls: it has no checkouts, portal, meters, prices or idempotency. `tests/stripe/run`
//! installs it and runs this.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use textgen::billing::objects::{Customer, Subscription};
use textgen::billing::{Failure, Form, Stripe, signature};

use crate::harness::stripe::SECRET_KEY;
use crate::harness::wait_until;

/// Ends with the test.
struct Localstripe(Child);

impl Drop for Localstripe {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts it on a free port. Returns its address too.
fn start() -> (Localstripe, String) {
    let program = std::env::var("LOCALSTRIPE").expect("LOCALSTRIPE is not set: use tests/stripe/run");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut command = Command::new(program);
    command.args(["--from-scratch", "--port", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Localstripe(command.spawn().unwrap());
    wait_until("localstripe", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    (running, format!("http://127.0.0.1:{port}"))
}

fn client(url: &str) -> Stripe {
    Stripe::new(SECRET_KEY, url, Duration::from_secs(10)).unwrap()
}

/// What a failure is, by our reading.
fn kind(failure: &Failure) -> String {
    format!("{} {}", failure.is_not_found(), failure.may_pass())
}

/// The calls that both know, and what is read of their answers.
fn ask(stripe: &Stripe) -> Vec<Value> {
    let form = Form::new().with("email", "a@example.com").with("name", "Ann").with("metadata[user_id]", "u1");
    let made: Customer = stripe.post("/v1/customers", &form, "key 1").unwrap();
    let path = format!("/v1/customers/{}", made.id);
    let changed: Value = stripe.post(&path, &Form::new().with("email", "b@example.com"), "key 2").unwrap();
    for n in 0..60 {
        let form = Form::new().with("email", format!("{n}@example.com"));
        stripe.post::<Value>("/v1/customers", &form, &format!("customer {n}")).unwrap();
    }
    let count = |query: &Form| {
        let mut found = 0;
        stripe.list("/v1/customers", query, |_: Customer| {
            found += 1;
            true
        })?;
        Ok::<_, Failure>(found)
    };
    let of_address = count(&Form::new().with("email", "b@example.com")).unwrap();
    let mut subscriptions = 0;
    let query = Form::new().with("customer", &made.id);
    stripe
        .list("/v1/subscriptions", &query, |_: Subscription| {
            subscriptions += 1;
            true
        })
        .unwrap();
    let deleted: Value = stripe.delete(&path).unwrap();
    let failures = [
        stripe.get::<Value>("/v1/customers/cus_none", &Form::new()).unwrap_err(),
        stripe.delete::<Value>("/v1/subscriptions/sub_none?invoice_now=true").unwrap_err(),
        stripe.get::<Value>("/v1/charges/ch_none", &Form::new()).unwrap_err(),
        client_with_wrong_call(stripe),
    ];
    vec![
        json!([made.id.starts_with("cus_"), made.metadata["user_id"]]),
        json!([changed["email"], changed["name"], changed["metadata"]["user_id"]]),
        json!([of_address, count(&Form::new()).unwrap(), subscriptions, deleted["deleted"]]),
        json!(failures.iter().map(kind).collect::<Vec<_>>()),
    ]
}

/// A parameter that there is not.
fn client_with_wrong_call(stripe: &Stripe) -> Failure {
    stripe.post::<Value>("/v1/customers", &Form::new().with("mail", "x"), "wrong").unwrap_err()
}

#[test]
#[ignore = "tests/stripe/run runs it"]
fn both_answer_alike() {
    let (_running, url) = start();
    let fake = crate::harness::stripe::Stripe::start();
    let (theirs, ours) = (ask(&client(&url)), ask(&client(&fake.url)));
    assert_eq!(ours, theirs);
    println!("localstripe: the same answers to customers, lists, subscriptions and errors: {ours:?}");
}

#[test]
#[ignore = "tests/stripe/run runs it"]
fn its_subscriptions_are_read_and_cancelled() {
    let (_running, url) = start();
    let stripe = client(&url);
    let post = |path: &str, fields: &[(&str, &str)]| -> Value {
        let form = fields.iter().fold(Form::new(), |form, (key, value)| form.with(*key, value));
        stripe.post(path, &form, path).unwrap()
    };
    post("/v1/products", &[("id", "prod_1"), ("name", "Plan"), ("type", "service")]);
    let plan =
        [("id", "plan_1"), ("product", "prod_1"), ("amount", "1900"), ("currency", "usd"), ("interval", "month")];
    post("/v1/plans", &plan);
    let customer = post("/v1/customers", &[("email", "a@example.com"), ("metadata[user_id]", "u1")])["id"].clone();
    let customer = customer.as_str().unwrap();
    let card = [
        ("type", "card"),
        ("card[number]", "4242424242424242"),
        ("card[exp_month]", "12"),
        ("card[exp_year]", "2040"),
        ("card[cvc]", "123"),
    ];
    let card = post("/v1/payment_methods", &card)["id"].clone();
    post(&format!("/v1/payment_methods/{}/attach", card.as_str().unwrap()), &[("customer", customer)]);
    let default = [("invoice_settings[default_payment_method]", card.as_str().unwrap())];
    post(&format!("/v1/customers/{customer}"), &default);
    post("/v1/subscriptions", &[("customer", customer), ("items[0][plan]", "plan_1"), ("metadata[user_id]", "u1")]);
    let listed = || {
        let mut found = Vec::new();
        let query = Form::new().with("customer", customer).with("status", "all");
        stripe
            .list("/v1/subscriptions", &query, |subscription: Subscription| {
                found.push(subscription);
                true
            })
            .unwrap();
        found
    };
    let found = listed();
    let [one] = &found[..] else { panic!("{found:?}") };
    assert_eq!((one.customer.as_str(), one.status.as_str(), one.is_over()), (customer, "active", false));
    assert!(one.period_end().is_some() && one.metadata["user_id"] == "u1" && one.items.data.len() == 1, "{one:?}");
    let over: Subscription = stripe.delete(&format!("/v1/subscriptions/{}?invoice_now=true", one.id)).unwrap();
    assert!(over.is_over(), "{over:?}");
    println!("localstripe: a subscription is read and cancelled");
}

/// The next request: the value of `Stripe-Signature`, and the body.
fn receive(listener: &TcpListener) -> (String, Vec<u8>) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut signed, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        match line.trim().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("stripe-signature") => value.clone_into(&mut signed),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap(),
            None if line.trim().is_empty() => break,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    (signed, body)
}

#[test]
#[ignore = "tests/stripe/run runs it"]
fn its_signatures_are_taken() {
    let (_running, url) = start();
    let stripe = client(&url);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let hook = format!("http://{}/", listener.local_addr().unwrap());
    let form = Form::new().with("url", hook).with("secret", "whsec_of_localstripe");
    // Its answer is empty.
    let answer = stripe.post::<Value>("/_config/webhooks/one", &form, "hook");
    assert!(matches!(answer, Err(Failure::Malformed(_))), "{answer:?}");
    stripe.post::<Value>("/v1/customers", &Form::new().with("email", "a@example.com"), "customer").unwrap();
    let (signed, body) = receive(&listener);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let check = |secret: &str, body: &[u8]| signature::check(&signed, body, &[secret.to_owned()], now).is_ok();
    assert!(check("whsec_of_localstripe", &body), "{signed}");
    assert!(!check("whsec_other", &body) && !check("whsec_of_localstripe", b"{}"));
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["type"], "customer.created");
    println!("localstripe: its signatures are taken");
}
