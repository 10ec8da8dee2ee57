//! Web-hook events: made when something happens, and sent by tests, signed.

use std::thread;
use std::time::Duration;

use ring::hmac;
use serde_json::{Value, json};

use super::super::client::{Client, Reply};
use super::Stripe;
use super::state::State;

/// The secret that signs them.
pub const WEBHOOK_SECRET: &str = "whsec_of_the_fake";

/// The value of `Stripe-Signature`.
pub fn signature(secret: &str, time: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{time}.{body}").as_bytes());
    let digits: Vec<String> = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={time},v1={}", digits.concat())
}

impl State {
    /// Makes an event with the object as it is now.
    pub fn emit(&mut self, kind: &str, object: &Value) {
        let (id, now) = (self.new_id("evt"), self.now());
        self.events.push(json!({
            "id": id, "object": "event", "api_version": textgen::billing::VERSION, "created": now,
            "data": {"object": object}, "livemode": false, "pending_webhooks": 1,
            "request": {"id": null, "idempotency_key": null}, "type": kind,
        }));
    }
}

impl Stripe {
    /// The events so far.
    pub fn events(&self) -> Vec<Value> {
        self.state().events.clone()
    }

    /// Sends an event once, signed now.
    pub fn deliver(&self, web: &Client, event: &Value) -> Reply {
        let (body, now) = (event.to_string(), self.state().now());
        let signed = web.header("stripe-signature", &signature(WEBHOOK_SECRET, now, &body));
        signed.send("POST", "/api/stripe/webhook", Some("application/json"), body.as_bytes())
    }

    /// Sends all events from the `from`th on, in order, each until it is taken.
    pub fn deliver_from(&self, web: &Client, from: usize) {
        for event in &self.events()[from..] {
            self.deliver(web, event).expect(200);
        }
    }

    /// Sends each event as soon as it is made, in order, until the test process ends.
    pub fn deliver_to(&self, web: &Client) {
        let (stripe, web) = (self.clone(), web.clone());
        thread::spawn(move || {
            let mut sent = 0;
            loop {
                let next = stripe.state().events.get(sent).cloned();
                match next {
                    Some(event) if stripe.deliver(&web, &event).status == 200 => sent += 1,
                    _ => thread::sleep(Duration::from_millis(5)),
                }
            }
        });
    }
}
