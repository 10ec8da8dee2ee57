//! Subscriptions.

use serde_json::{Value, json};

use super::exchange::ApiRequest;
use super::refusal::Refusal;
use super::state::State;
use super::{Answer, Stripe, invoices};

/// In seconds.
const DAY: i64 = 86_400;

pub(super) fn answer(state: &mut State, request: &ApiRequest) -> Option<Answer> {
    let params = &request.params;
    Some(match request.parts() {
        ("GET", path) if path == ["subscriptions"] => {
            let of_customer = |object: &Value| params.get("customer").is_none_or(|id| object["customer"] == id);
            let is_listed = |object: &Value| {
                of_customer(object)
                    && match params.get("status") {
                        None => object["status"] != "canceled",
                        Some("all") => true,
                        Some(status) => object["status"] == status,
                    }
            };
            if let Some(customer) = params.get("customer")
                && let Err(refusal) = state.named("customer", customer, "customer")
            {
                return Some(Err(refusal));
            }
            state.list("subscription", "/v1/subscriptions", params, is_listed)
        }
        ("GET", path) if path.len() == 2 && path[0] == "subscriptions" => state.object("subscription", path[1]),
        ("DELETE", path) if path.len() == 2 && path[0] == "subscriptions" => {
            let bills_usage = params.get("invoice_now") == Some("true");
            cancel(state, path[1], bills_usage)
        }
        _ => return None,
    })
}

/// Whether a price is of what a meter has counted.
pub(super) fn is_metered(price: &Value) -> bool {
    price["recurring"]["usage_type"] == "metered"
}

/// Makes one of these items (`price` and `quantity`), and an event.
pub(super) fn create(state: &mut State, customer: &str, items: &[Value], metadata: Value) -> Value {
    let (id, now) = (state.new_id("sub"), state.now());
    let mut made_items = Vec::new();
    for item in items {
        let mut made = json!({
            "id": state.new_id("si"), "object": "subscription_item", "created": now, "metadata": {}, "price": item["price"],
            "subscription": id, "current_period_start": now, "current_period_end": now + period(&item["price"]),
        });
        if !is_metered(&item["price"]) {
            made["quantity"] = item["quantity"].clone();
        }
        made_items.push(made);
    }
    let made = json!({
        "id": id, "object": "subscription", "billing_mode": {"type": "flexible"}, "cancel_at": null,
        "cancel_at_period_end": false, "canceled_at": null, "collection_method": "charge_automatically", "created": now,
        "currency": "usd", "customer": customer, "ended_at": null, "livemode": false, "metadata": metadata,
        "start_date": now, "status": "active", "items": {"object": "list", "has_more": false,
            "url": "/v1/subscription_items", "data": made_items},
    });
    state.emit("customer.subscription.created", &made);
    state.put(made).unwrap()
}

/// How long a price is paid for at once, in seconds.
pub(super) fn period(price: &Value) -> i64 {
    match price["recurring"]["interval"].as_str() {
        Some("year") => 365 * DAY,
        Some("week") => 7 * DAY,
        Some("day") => DAY,
        _ => 30 * DAY,
    }
}

/// Ends one now. What it has used until now is billed if that is asked for, and else never.
pub(super) fn cancel(state: &mut State, id: &str, bills_usage: bool) -> Answer {
    let mut found = state.object("subscription", id)?;
    if found["status"] == "canceled" {
        return Err(Refusal::unknown_object(404, "subscription", id, "id"));
    }
    let now = state.now();
    if bills_usage {
        let lines = invoices::of_usage(state, &found, now + 1);
        let invoice = invoices::paid(state, &found, lines);
        state.emit("invoice.paid", &invoice);
    }
    (found["status"], found["canceled_at"], found["ended_at"]) = (json!("canceled"), json!(now), json!(now));
    state.emit("customer.subscription.deleted", &found);
    state.put(found)
}

/// Changes one, and makes an event.
pub(super) fn change(state: &mut State, id: &str, change: impl FnOnce(&mut Value)) {
    let mut found = state.object("subscription", id).unwrap();
    change(&mut found);
    state.emit("customer.subscription.updated", &found);
    state.put(found).unwrap();
}

impl Stripe {
    /// Makes a subscription of a customer. Returns its id.
    pub fn subscribe(&self, customer: &str, price: &str) -> String {
        let mut state = self.state();
        let price = state.object("price", price).unwrap();
        let items = [json!({"price": price, "quantity": 1})];
        create(&mut state, customer, &items, json!({}))["id"].as_str().unwrap().to_owned()
    }

    /// Sets the status of a subscription.
    pub fn set_status(&self, id: &str, status: &str) {
        change(&mut self.state(), id, |subscription| subscription["status"] = json!(status));
    }

    /// Has a subscription end with its period: the one of its items that ends first.
    pub fn cancel_at_period_end(&self, id: &str) {
        change(&mut self.state(), id, |subscription| {
            let items = subscription["items"]["data"].as_array().unwrap();
            let end = items.iter().map(|item| item["current_period_end"].as_i64().unwrap()).min();
            (subscription["cancel_at_period_end"], subscription["cancel_at"]) = (json!(true), json!(end));
        });
    }

    /// Cancels a subscription, as a person does in the dashboard.
    pub fn cancel(&self, id: &str) {
        cancel(&mut self.state(), id, false).unwrap();
    }
}
