//! Requests to Stripe, over a socket: what is sent, and what each kind of failure is taken for.

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use textgen::billing::{Failure, Form, Stripe, VERSION};

use crate::harness::stripe::{self, Fault, Faults, SECRET_KEY};
use crate::harness::{Upstream, at_once};

fn client(url: &str) -> Stripe {
    Stripe::new(SECRET_KEY, url, Duration::from_secs(20)).unwrap()
}

fn create(client: &Stripe, email: &str, key: &str) -> Result<Value, Failure> {
    client.post("/v1/customers", &Form::new().with("email", email).with("metadata[account]", "a&b"), key)
}

fn customers(stripe: &stripe::Stripe) -> usize {
    stripe.state().objects.len()
}

#[test]
fn an_object_is_created_read_and_deleted() {
    let stripe = stripe::Stripe::start();
    let client = client(&stripe.url);
    let made = create(&client, "a@example.com", "1").unwrap();
    assert_eq!((&made["email"], &made["metadata"]), (&json!("a@example.com"), &json!({"account": "a&b"})));
    let path = format!("/v1/customers/{}", made["id"].as_str().unwrap());
    assert_eq!(client.get::<Value>(&path, &Form::new()).unwrap(), made);
    assert_eq!(client.delete::<Value>(&path).unwrap()["deleted"], true);
    let failure = client.get::<Value>("/v1/customers/cus_none", &Form::new()).unwrap_err();
    assert!(failure.is_not_found() && failure.api_error().unwrap().code == "resource_missing", "{failure:?}");
    let call = &stripe.calls()[0];
    assert_eq!((call.request.version.as_str(), call.request.idempotency_key.as_deref()), (VERSION, Some("1")));
}

#[test]
fn what_is_refused_says_why() {
    let stripe = stripe::Stripe::start();
    let failure = client(&stripe.url).post::<Value>("/v1/customers", &Form::new().with("mail", "x"), "1").unwrap_err();
    let error = failure.api_error().unwrap();
    assert!(matches!(failure, Failure::Refused(_)) && !failure.may_pass());
    assert_eq!((error.status, &*error.code, &*error.param), (400, "parameter_unknown", "mail"));
    let stranger = Stripe::new("sk_wrong", &stripe.url, Duration::from_secs(20)).unwrap();
    let failure = stranger.get::<Value>("/v1/customers", &Form::new()).unwrap_err();
    assert_eq!(failure.api_error().unwrap().status, 401, "{failure:?}");
}

#[test]
fn a_repeat_that_is_refused_does_not_say_what_became_of_the_first_request() {
    let stripe = stripe::Stripe::start();
    let client = client(&stripe.url);
    for cut in [Fault::CutBefore, Fault::CutAfter] {
        stripe.inject(Faults::next(&[Some(cut), Some(Fault::RateLimit)]));
        let failure = create(&client, "a@example.com", &format!("{cut:?}")).unwrap_err();
        assert!(matches!(failure, Failure::Unanswered(_)) && failure.is_outcome_unknown(), "{failure:?}");
        // A conflict says that it is known.
        stripe.inject(Faults::next(&[Some(cut), Some(Fault::Conflict)]));
        let failure = create(&client, "b@example.com", &format!("{cut:?} b")).unwrap_err();
        assert!(matches!(failure, Failure::InUse(_)), "{failure:?}");
    }
    stripe.inject(Faults::next(&[Some(Fault::RateLimit)]));
    let failure = create(&client, "c@example.com", "c").unwrap_err();
    assert!(matches!(failure, Failure::RateLimited(..)), "{failure:?}");
}

#[test]
fn a_list_is_read_page_by_page() {
    let stripe = stripe::Stripe::start();
    let made: Vec<String> = (0..120).map(|n| stripe.customer(&format!("{n}@example.com"))).collect();
    let mut read = Vec::new();
    let each = |customer: Value| {
        read.push(customer["id"].as_str().unwrap().to_owned());
        true
    };
    client(&stripe.url).list("/v1/customers", &Form::new(), each).unwrap();
    read.reverse();
    assert_eq!(read, made);
    let mut some = 0;
    let each = |_: Value| {
        some += 1;
        some < 3
    };
    client(&stripe.url).list("/v1/customers", &Form::new(), each).unwrap();
    assert_eq!(some, 3);
}

#[test]
fn one_key_is_one_object_whatever_fails() {
    let stripe = stripe::Stripe::start();
    let client = client(&stripe.url);
    for (n, fault) in [Fault::CutBefore, Fault::CutAfter, Fault::Silence].into_iter().enumerate() {
        // A cut is tried again at once.
        stripe.inject(Faults::next(&[Some(fault), Some(fault)]));
        let failure = create(&client, "a@example.com", &format!("cut {n}")).unwrap_err();
        assert!(failure.may_pass() && failure.is_outcome_unknown(), "{fault:?} {failure:?}");
        create(&client, "a@example.com", &format!("cut {n}")).unwrap();
        assert_eq!(customers(&stripe), n + 1, "{fault:?}");
    }
    stripe.inject(Faults::next(&[Some(Fault::Conflict), Some(Fault::RateLimit)]));
    let conflict = create(&client, "b@example.com", "b").unwrap_err();
    assert!(matches!(conflict, Failure::InUse(_)) && conflict.may_pass() && !conflict.is_outcome_unknown());
    let limited = create(&client, "b@example.com", "b").unwrap_err();
    assert!(matches!(limited, Failure::RateLimited(_, Some(wait)) if wait.as_secs() == 1), "{limited:?}");
    create(&client, "b@example.com", "b").unwrap();
    assert_eq!(customers(&stripe), 4);
}

#[test]
fn the_fake_repeats_its_answers_for_a_day() {
    let stripe = stripe::Stripe::start();
    let client = client(&stripe.url);
    let first = create(&client, "a@example.com", "1").unwrap();
    assert_eq!(create(&client, "a@example.com", "1").unwrap(), first);
    let failure = create(&client, "b@example.com", "1").unwrap_err();
    let error = failure.api_error().unwrap();
    assert_eq!((error.status, &*error.kind), (400, "idempotency_error"));
    stripe.inject(Faults::next(&[Some(Fault::ErrorAfter)]));
    for _ in 0..2 {
        assert!(matches!(create(&client, "c@example.com", "2"), Err(Failure::Server(_))));
    }
    assert_eq!(customers(&stripe), 2);
    stripe.advance(Duration::from_secs(24 * 3600));
    assert_ne!(create(&client, "a@example.com", "1").unwrap(), first);
    assert_eq!(customers(&stripe), 3);
}

#[test]
fn the_fake_refuses_a_key_that_is_in_use() {
    let stripe = stripe::Stripe::start();
    stripe.state().work_time = Duration::from_millis(500);
    let client = client(&stripe.url);
    let outcomes = at_once(5, |_| create(&client, "a@example.com", "1"));
    assert!(outcomes.iter().any(Result::is_ok));
    for failure in outcomes.into_iter().filter_map(Result::err) {
        assert!(matches!(&failure, Failure::InUse(e) if e.code == "idempotency_key_in_use"), "{failure:?}");
    }
    assert_eq!(customers(&stripe), 1);
}

#[test]
fn a_server_that_is_silent_or_talks_too_much_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let silent = Stripe::new(SECRET_KEY, &url, Duration::from_millis(200)).unwrap();
    let reader = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut read = Vec::new();
        let _ = stream.read_to_end(&mut read);
    });
    let failure = silent.get::<Value>("/v1/customers", &Form::new()).unwrap_err();
    assert!(matches!(failure, Failure::Unanswered(_)), "{failure:?}");
    reader.join().unwrap();
    let talkative = Upstream::start(|_, wire| wire.reply(200, "application/json", vec![b' '; (1 << 20) + 1]));
    let failure = client(&talkative.url).get::<Value>("/v1/customers", &Form::new()).unwrap_err();
    assert!(matches!(failure, Failure::Malformed(_)), "{failure:?}");
    let nonsense = Upstream::start(|_, wire| wire.reply(200, "text/html", "<html>"));
    let failure = client(&nonsense.url).post::<Value>("/v1/customers", &Form::new(), "1").unwrap_err();
    assert!(matches!(failure, Failure::Malformed(_)) && failure.is_outcome_unknown(), "{failure:?}");
}
