//! Invoices: what a plan costs in advance, and what was used afterwards.

use serde_json::{Value, json};

use super::exchange::ApiRequest;
use super::params::Params;
use super::state::State;
use super::subscriptions::{cancel, is_metered, period};
use super::{Answer, Refusal, Stripe};

pub(super) fn answer(state: &mut State, request: &ApiRequest) -> Option<Answer> {
    let params = &request.params;
    Some(match request.parts() {
        ("GET", path) if path == ["invoices"] => {
            let is_listed = |invoice: &Value| {
                let customer = params.get("customer").is_none_or(|id| invoice["customer"] == id);
                let of = &invoice["parent"]["subscription_details"]["subscription"];
                customer && params.get("subscription").is_none_or(|id| of == id)
            };
            state.list("invoice", "/v1/invoices", params, is_listed)
        }
        ("GET", path) if path.len() == 2 && path[0] == "invoices" => state.object("invoice", path[1]),
        ("POST", path) if path == ["invoices", "create_preview"] => preview(state, params),
        _ => return None,
    })
}

/// The next invoice of a subscription, as it would be now.
fn preview(state: &mut State, params: &Params) -> Answer {
    params.only(&["customer", "subscription"])?;
    let found = state.named("subscription", params.required("subscription")?, "subscription")?;
    if found["status"] == "canceled" {
        let message = "You cannot preview the upcoming invoice for a subscription that is canceled.";
        return Err(Refusal::invalid("subscription", message).with_code("invoice_upcoming_none"));
    }
    let lines = [of_usage(state, &found, i64::MAX), of_plan(&found)].concat();
    Ok(invoice("upcoming_in_1", &found, "draft", lines))
}

fn items(subscription: &Value) -> impl Iterator<Item = &Value> {
    subscription["items"]["data"].as_array().unwrap().iter()
}

/// The lines of items that are paid in advance.
pub(super) fn of_plan(subscription: &Value) -> Vec<Value> {
    let licensed = items(subscription).filter(|item| !is_metered(&item["price"]));
    licensed.map(|item| line(item, item["quantity"].as_i64().unwrap())).collect()
}

/// The lines of metered items: what their meters have counted in their periods, of events until a time.
pub(super) fn of_usage(state: &State, subscription: &Value, until: i64) -> Vec<Value> {
    let metered = items(subscription).filter(|item| is_metered(&item["price"]));
    let lines = metered.map(|item| {
        let time = |key: &str| item[key].as_i64().unwrap();
        let period = time("current_period_start")..time("current_period_end").min(until);
        let (meter, customer) = (&item["price"]["recurring"]["meter"], &subscription["customer"]);
        let counts = |usage: &&super::meters::Usage| {
            *meter == usage.meter && *customer == usage.customer && period.contains(&usage.timestamp)
        };
        line(item, state.usage.iter().filter(counts).map(|usage| usage.value).sum())
    });
    lines.collect()
}

fn line(item: &Value, quantity: i64) -> Value {
    let price = &item["price"];
    let cents: f64 = price["unit_amount_decimal"].as_str().unwrap().parse().unwrap();
    let start = item["current_period_start"].as_i64().unwrap();
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "amounts of tests are small")]
    let amount = (cents * quantity as f64).round() as i64;
    json!({
        "id": format!("il_{}", item["id"].as_str().unwrap()), "object": "line_item", "amount": amount, "currency": "usd",
        "parent": {"type": "subscription_item_details", "subscription_item_details": {
            "subscription": item["subscription"], "subscription_item": item["id"], "proration": false}},
        "period": {"start": start, "end": item["current_period_end"]},
        "pricing": {"type": "price_details", "unit_amount_decimal": price["unit_amount_decimal"],
            "price_details": {"price": price["id"], "product": price["product"]}},
        "quantity": quantity,
    })
}

fn invoice(id: &str, subscription: &Value, status: &str, lines: Vec<Value>) -> Value {
    let total: i64 = lines.iter().map(|line| line["amount"].as_i64().unwrap()).sum();
    json!({
        "id": id, "object": "invoice", "amount_due": total, "currency": "usd", "customer": subscription["customer"],
        "lines": {"object": "list", "has_more": false, "data": lines}, "livemode": false, "parent": {
            "type": "subscription_details", "subscription_details": {"subscription": subscription["id"]}},
        "status": status, "total": total,
    })
}

/// Makes an invoice that is final, and paid.
pub(super) fn paid(state: &mut State, subscription: &Value, lines: Vec<Value>) -> Value {
    let id = state.new_id("in");
    state.put(invoice(&id, subscription, "paid", lines)).unwrap()
}

impl Stripe {
    /// Ends the period of a subscription's items whose time has come: what was used in it is billed, and the next period of
    /// the plan. If the subscription was to end by now, it does, and all that was used until then is billed. Returns the
    /// invoice.
    pub fn end_period(&self, id: &str) -> Value {
        let mut state = self.state();
        let mut subscription = state.object("subscription", id).unwrap();
        let now = state.now();
        if let Some(end) = subscription["cancel_at"].as_i64().filter(|end| *end <= now) {
            let lines = of_usage(&state, &subscription, end);
            let invoice = paid(&mut state, &subscription, lines);
            cancel(&mut state, id, false).unwrap();
            return invoice;
        }
        let mut due = subscription.clone();
        let is_due = |item: &Value| item["current_period_end"].as_i64().unwrap() <= now;
        due["items"]["data"].as_array_mut().unwrap().retain(is_due);
        let usage = of_usage(&state, &due, i64::MAX);
        for items in [&mut subscription, &mut due] {
            for item in items["items"]["data"].as_array_mut().unwrap().iter_mut().filter(|item| is_due(item)) {
                let end = item["current_period_end"].as_i64().unwrap();
                item["current_period_start"] = json!(end);
                item["current_period_end"] = json!(end + period(&item["price"]));
            }
        }
        let lines = [usage, of_plan(&due)].concat();
        let invoice = paid(&mut state, &due, lines);
        state.emit("invoice.paid", &invoice);
        state.emit("customer.subscription.updated", &subscription);
        state.put(subscription).unwrap();
        invoice
    }

    /// The invoices of a subscription, the oldest first.
    pub fn invoices(&self, id: &str) -> Vec<Value> {
        let state = self.state();
        let of = |invoice: &&Value| {
            invoice["object"] == "invoice" && invoice["parent"]["subscription_details"]["subscription"] == id
        };
        state.objects.values().filter(of).cloned().collect()
    }
}
