//! Charges, refunds and disputes.

use serde_json::{Value, json};

use super::exchange::ApiRequest;
use super::params::Params;
use super::refusal::Refusal;
use super::state::State;
use super::{Answer, Stripe};

pub(super) fn answer(state: &mut State, request: &ApiRequest) -> Option<Answer> {
    let (method, path) = request.parts();
    match (method, path.as_slice()) {
        ("GET", ["charges", id]) => Some(state.object("charge", id)),
        ("GET", ["disputes", id]) => Some(state.object("dispute", id)),
        ("GET", ["refunds"]) => Some(state.list("refund", "/v1/refunds", &request.params, |_| true)),
        ("POST", ["refunds"]) => Some(refund(state, &request.params)),
        _ => None,
    }
}

/// Refunds what is left of a payment.
fn refund(state: &mut State, params: &Params) -> Answer {
    params.only(&["payment_intent", "amount", "reason", "metadata"])?;
    let intent = params.required("payment_intent")?;
    let is_meant = |object: &&Value| object["object"] == "charge" && object["payment_intent"] == intent;
    let Some(mut charge) = state.objects.values().find(is_meant).cloned() else {
        return Err(Refusal::unknown_object(400, "payment_intent", intent, "payment_intent"));
    };
    let number = |key: &str| charge[key].as_i64().unwrap();
    let left = number("amount") - number("amount_refunded");
    if left == 0 {
        let message = format!("Charge {} has already been refunded.", charge["id"].as_str().unwrap());
        return Err(Refusal::new(400, "invalid_request_error", message).with_code("charge_already_refunded"));
    }
    let amount = params.number("amount")?.unwrap_or(left);
    if !(1..=left).contains(&amount) {
        return Err(Refusal::invalid("amount", "Refund amount is greater than unrefunded amount on charge"));
    }
    charge["amount_refunded"] = json!(number("amount_refunded") + amount);
    charge["refunded"] = json!(charge["amount_refunded"] == charge["amount"]);
    state.emit("charge.refunded", &charge);
    let id = state.new_id("re");
    let made = json!({"id": id, "object": "refund", "amount": amount, "charge": charge["id"], "currency": "usd",
        "created": state.now(), "metadata": params.object("metadata"), "payment_intent": intent, "reason": null,
        "status": "succeeded"});
    state.put(charge)?;
    state.put(made)
}

/// The charge of a checkout, which was paid.
fn charge(state: &State, page: &str) -> Value {
    let session = state.object("checkout.session", page.rsplit('/').next().unwrap()).unwrap();
    let mut charges = state.objects.values();
    let found =
        charges.find(|object| object["object"] == "charge" && object["payment_intent"] == session["payment_intent"]);
    found.unwrap().clone()
}

impl Stripe {
    /// Refunds a part of what was paid at a checkout.
    pub fn refund(&self, page: &str, cents: i64) {
        let mut state = self.state();
        let mut charge = charge(&state, page);
        charge["amount_refunded"] = json!(charge["amount_refunded"].as_i64().unwrap() + cents);
        charge["refunded"] = json!(charge["amount_refunded"] == charge["amount"]);
        state.emit("charge.refunded", &charge);
        state.put(charge).unwrap();
    }

    /// A bank takes a payment back. Returns the id of the dispute.
    pub fn dispute(&self, page: &str) -> String {
        let mut state = self.state();
        let charge = charge(&state, page);
        let id = state.new_id("dp");
        let dispute = json!({"id": id, "object": "dispute", "amount": charge["amount"], "charge": charge["id"],
            "currency": "usd", "payment_intent": charge["payment_intent"], "reason": "fraudulent",
            "status": "needs_response"});
        state.emit("charge.dispute.created", &dispute);
        state.put(dispute).unwrap();
        id
    }

    /// A dispute is `won` or `lost`.
    pub fn close_dispute(&self, id: &str, status: &str) {
        let mut state = self.state();
        let mut dispute = state.object("dispute", id).unwrap();
        dispute["status"] = json!(status);
        state.emit("charge.dispute.closed", &dispute);
        state.put(dispute).unwrap();
    }
}
