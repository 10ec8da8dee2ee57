//! Stripe's own library for Python against the Stripe of the tests. `tests/stripe/run` installs it and runs these.

use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::harness::stripe::{Fault, Faults, SECRET_KEY, Stripe, WEBHOOK_SECRET, signature};
use crate::harness::{Server, TestDb};

/// Runs a script of `tests/stripe` with these arguments.
#[track_caller]
fn python(script: &str, arguments: &[&str]) {
    let python = std::env::var("STRIPE_PYTHON").expect("STRIPE_PYTHON is not set: use tests/stripe/run");
    let script = format!("{}/tests/stripe/{script}", env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(python).arg("-W").arg("error").arg(script).args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    print!("{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[ignore = "tests/stripe/run runs it"]
fn usage() {
    let stripe = Stripe::start();
    let meter = stripe.meter("api_usage", Duration::ZERO);
    stripe.price("price_annual", 19_000, "year");
    stripe.metered_price("price_metered", &meter, "month");
    let faults = [Fault::CutBefore, Fault::CutAfter, Fault::Conflict, Fault::Silence, Fault::Conflict];
    stripe.inject(Faults::next(&faults.map(Some)));
    python("usage.py", &[&stripe.url, SECRET_KEY, &meter]);
    let lost = stripe.calls().iter().filter(|call| !call.is_answered).count();
    assert_eq!(lost, 3);
}

#[test]
#[ignore = "tests/stripe/run runs it"]
fn webhooks() {
    let (stripe, db) = (Stripe::start(), TestDb::new());
    let server = Server::start_with(&db, &stripe.settings());
    let now = stripe.state().now();
    let bodies = ["{}", "{\"id\": \"evt_1\", \"object\": \"event\"}", "{\"id\": \"evt_2\", \"name\": \"\u{fc}\"}"];
    let signed = bodies.map(|body| json!([signature(WEBHOOK_SECRET, now, body), body]));
    let web = format!("{}/api/stripe/webhook", server.web.0);
    python("webhooks.py", &[&json!(signed).to_string(), &web, WEBHOOK_SECRET]);
}
