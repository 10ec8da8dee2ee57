//! Charges, refunds and disputes.

use serde_json::{Value, json};

use super::exchange::ApiRequest;
use super::state::State;
use super::{Answer, Stripe};

pub(super) fn answer(state: &mut State, request: &ApiRequest) -> Option<Answer> {
    let (method, path) = request.parts();
    match (method, path.as_slice()) {
        ("GET", ["charges", id]) => Some(state.object("charge", id)),
        ("GET", ["disputes", id]) => Some(state.object("dispute", id)),
        _ => None,
    }
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
