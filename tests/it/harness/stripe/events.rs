//! Web-hook events: made when something happens, and sent by tests, signed.

use std::thread;
use std::time::Duration;

use ring::hmac;
use serde_json::{Value, json};

use super::super::client::{Client, Reply};
use super::exchange::ApiRequest;
use super::state::State;
use super::{Answer, Stripe};

/// The secret that signs them.
pub const WEBHOOK_SECRET: &str = "whsec_of_the_fake";

/// The value of `Stripe-Signature`.
pub fn signature(secret: &str, time: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{time}.{body}").as_bytes());
    let digits: Vec<String> = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("t={time},v1={}", digits.concat())
}

pub(super) fn answer(state: &mut State, request: &ApiRequest) -> Option<Answer> {
    let id = request.path.strip_prefix("/v2/core/events/")?;
    (request.method == "GET").then(|| state.object("v2.core.event", id))
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
    /// Makes a thin event: a meter has not counted events that were taken. It is fetched for what it says.
    pub fn meter_error(&self, meter_id: &str, identifier: &str) {
        let mut state = self.state();
        let id = state.new_id("evt_test");
        let mut event = json!({
            "id": id, "object": "v2.core.event", "type": "v1.billing.meter.error_report_triggered",
            "created": "2026-09-26T17:46:22.134Z", "livemode": false, "context": null, "reason": null,
            "related_object": {"id": meter_id, "type": "billing.meter", "url": format!("/v1/billing/meters/{meter_id}")},
        });
        state.events.push(event.clone());
        event["data"] = json!({
            "developer_message_summary": "There is 1 invalid event", "reason": {"error_count": 1, "error_types": [{
                "code": "meter_event_customer_not_found", "error_count": 1, "sample_errors": [{
                    "error_message": "No such customer.", "request": {"identifier": identifier}}]}]},
            "validation_start": "2026-09-26T17:46:10.000Z", "validation_end": "2026-09-26T17:46:20.000Z",
        });
        state.put(event).unwrap();
    }

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
