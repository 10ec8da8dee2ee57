//! Checkout sessions, and what becomes of them when they are paid; the portal's sessions.

use serde_json::{Value, json};

use super::exchange::ApiRequest;
use super::params::Params;
use super::refusal::Refusal;
use super::state::State;
use super::{Answer, Stripe, invoices, subscriptions};

/// In seconds.
const LIFETIME: i64 = 86_400;

const KNOWN: [&str; 13] = [
    "mode",
    "customer",
    "client_reference_id",
    "line_items",
    "success_url",
    "cancel_url",
    "return_url",
    "ui_mode",
    "metadata",
    "subscription_data",
    "payment_intent_data",
    "allow_promotion_codes",
    "customer_email",
];

pub(super) fn answer(state: &mut State, request: &ApiRequest) -> Option<Answer> {
    let params = &request.params;
    let (method, path) = request.parts();
    Some(match (method, path.as_slice()) {
        ("POST", ["checkout", "sessions"]) => create(state, params),
        ("GET", ["checkout", "sessions"]) => {
            let is = |session: &Value, field: &str| params.get(field).is_none_or(|value| session[field] == value);
            let is_listed =
                |session: &Value| ["payment_intent", "customer", "status"].iter().all(|field| is(session, field));
            state.list("checkout.session", "/v1/checkout/sessions", params, is_listed)
        }
        ("GET", ["checkout", "sessions", id]) => find(state, id),
        ("POST", ["checkout", "sessions", id, "expire"]) => expire(state, id),
        ("POST", ["billing_portal", "sessions"]) => open_portal(state, params),
        _ => return None,
    })
}

/// One whose time has come is expired.
fn find(state: &mut State, id: &str) -> Answer {
    let found = state.object("checkout.session", id)?;
    if found["status"] == "open" && found["expires_at"].as_i64().unwrap() <= state.now() {
        return expire(state, id);
    }
    Ok(found)
}

fn expire(state: &mut State, id: &str) -> Answer {
    let mut found = state.object("checkout.session", id)?;
    if found["status"] != "open" {
        let message = format!(
            "Only Checkout Sessions with a status in [\"open\"] can be expired. This one is {}.",
            found["status"]
        );
        return Err(Refusal::new(400, "invalid_request_error", message));
    }
    (found["status"], found["url"]) = (json!("expired"), Value::Null);
    state.emit("checkout.session.expired", &found);
    state.put(found)
}

fn create(state: &mut State, params: &Params) -> Answer {
    params.only(&KNOWN)?;
    let mode = params.required("mode")?;
    let customer = params.get("customer").map(|id| state.named("customer", id, "customer")).transpose()?;
    let is_embedded = params.get("ui_mode") == Some("embedded");
    params.required(if is_embedded { "return_url" } else { "success_url" })?;
    if is_embedded && params.get("success_url").is_some() {
        return Err(Refusal::invalid("success_url", "You can not pass `success_url` if `ui_mode` is `embedded`."));
    }
    let (items, total) = line_items(state, params, mode)?;
    let (id, now) = (state.new_id("cs"), state.now());
    let url = (!is_embedded).then(|| format!("{}/c/pay/{id}", state.url));
    let made = json!({
        "id": id, "object": "checkout.session", "amount_subtotal": total, "amount_total": total,
        "cancel_url": params.get("cancel_url"), "client_reference_id": params.get("client_reference_id"),
        "client_secret": is_embedded.then(|| format!("{id}_secret_fake")), "created": now, "currency": "usd",
        "customer": customer.map(|customer| customer["id"].clone()), "expires_at": now + LIFETIME, "livemode": false,
        "metadata": params.object("metadata"), "mode": mode, "payment_intent": null, "payment_status": "unpaid",
        "return_url": params.get("return_url"), "status": "open", "subscription": null,
        "success_url": params.get("success_url"), "ui_mode": if is_embedded { "embedded" } else { "hosted" }, "url": url,
        "x_fake": {"items": items, "metadata": params.object("subscription_data[metadata]")},
    });
    state.put(made)
}

/// What is to be paid, and how much that is today, in cents.
fn line_items(state: &State, params: &Params, mode: &str) -> Result<(Vec<Value>, i64), Refusal> {
    let (mut items, mut total) = (Vec::new(), 0);
    for (place, item) in params.elements("line_items").iter().enumerate() {
        let price = if let Some(id) = item.get("price") {
            state.named("price", id, &format!("line_items[{place}][price]"))?
        } else {
            let amount = item.number("price_data[unit_amount]")?.ok_or_else(|| Refusal::missing("unit_amount"))?;
            item.required("price_data[product_data][name]")?;
            let currency = item.required("price_data[currency]")?;
            json!({"id": "price_once", "currency": currency, "unit_amount": amount, "recurring": null})
        };
        if (mode == "subscription") != price["recurring"].is_object() {
            let message =
                "You must provide at least one recurring price in `subscription` mode, and none in `payment` mode.";
            return Err(Refusal::invalid("line_items", message));
        }
        let quantity = item.number("quantity")?;
        let param = format!("line_items[{place}]");
        match quantity {
            Some(_) if subscriptions::is_metered(&price) => {
                let message = format!(
                    "Quantity should not be specified where usage_type is `metered`. Remove quantity from `{param}`"
                );
                return Err(Refusal::invalid(&format!("{param}[quantity]"), message));
            }
            None if !subscriptions::is_metered(&price) => {
                return Err(Refusal::invalid(&param, format!("Quantity is required. Add `quantity` to `{param}`")));
            }
            _ => total += quantity.unwrap_or(0) * price["unit_amount"].as_i64().unwrap_or(0),
        }
        items.push(json!({"price": price, "quantity": quantity}));
    }
    let interval = |item: &Value| item["price"]["recurring"]["interval"].clone();
    let are_mixed = items.iter().any(|item| interval(item) != interval(&items[0]));
    if are_mixed && params.get("subscription_data[billing_mode][type]") != Some("flexible") {
        return Err(Refusal::invalid("line_items", "All recurring prices must have the same billing interval."));
    }
    match items.is_empty() {
        true => Err(Refusal::missing("line_items")),
        false => Ok((items, total)),
    }
}

/// What the button of the page does. Returns where it leads.
pub(super) fn pay(state: &mut State, id: &str, is_late: bool) -> Result<String, Refusal> {
    let mut session = find(state, id)?;
    if session["status"] != "open" {
        return Err(Refusal::new(
            400,
            "invalid_request_error",
            "You have already completed this payment, or it has expired.",
        ));
    }
    let customer = session["customer"].as_str().unwrap().to_owned();
    let items = session["x_fake"]["items"].as_array().unwrap().clone();
    if session["mode"] == "subscription" {
        let metadata = session["x_fake"]["metadata"].clone();
        let made = subscriptions::create(state, &customer, &items, metadata);
        session["subscription"] = made["id"].clone();
        let lines = invoices::of_plan(&made);
        let invoice = invoices::paid(state, &made, lines);
        state.emit("invoice.paid", &invoice);
    } else {
        let intent = state.new_id("pi");
        let charge = json!({"id": state.new_id("ch"), "object": "charge", "amount": session["amount_total"],
            "amount_refunded": 0, "currency": "usd", "customer": customer, "disputed": false, "paid": true,
            "payment_intent": intent, "refunded": false, "status": "succeeded"});
        state.put(charge)?;
        session["payment_intent"] = json!(intent);
    }
    session["payment_status"] = json!(if is_late { "unpaid" } else { "paid" });
    (session["status"], session["url"]) = (json!("complete"), Value::Null);
    state.emit("checkout.session.completed", &session);
    let session = state.put(session)?;
    Ok(session["success_url"].as_str().or(session["return_url"].as_str()).unwrap_or_default().to_owned())
}

fn open_portal(state: &mut State, params: &Params) -> Answer {
    params.only(&["customer", "return_url"])?;
    let customer = state.named("customer", params.required("customer")?, "customer")?;
    let id = state.new_id("bps");
    let url = format!("{}/p/session/{id}", state.url);
    let made = json!({"id": id, "object": "billing_portal.session", "customer": customer["id"], "livemode": false,
        "return_url": params.get("return_url"), "url": url});
    state.put(made)
}

impl Stripe {
    /// Pays at a checkout page, given its address or its id. Returns where that leads.
    pub fn pay(&self, page: &str) -> String {
        pay(&mut self.state(), page.rsplit('/').next().unwrap(), false).unwrap()
    }

    /// The same, by a method whose money comes later.
    pub fn pay_later(&self, page: &str) {
        pay(&mut self.state(), page.rsplit('/').next().unwrap(), true).unwrap();
    }

    /// The money has come.
    pub fn money_comes(&self, page: &str) {
        let mut state = self.state();
        let mut session = state.object("checkout.session", page.rsplit('/').next().unwrap()).unwrap();
        session["payment_status"] = json!("paid");
        state.emit("checkout.session.async_payment_succeeded", &session);
        state.put(session).unwrap();
    }
}
