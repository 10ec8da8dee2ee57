//! Customers.

use serde_json::{Value, json};

use super::exchange::ApiRequest;
use super::params::Params;
use super::state::State;
use super::{Answer, Refusal};

const KNOWN: [&str; 6] = ["email", "name", "description", "metadata", "phone", "invoice_settings"];

pub(super) fn answer(state: &mut State, request: &ApiRequest) -> Option<Answer> {
    let params = &request.params;
    Some(match request.parts() {
        ("POST", path) if path == ["customers"] => create(state, params),
        ("GET", path) if path == ["customers"] => {
            let email = params.get("email");
            let is_listed = |customer: &Value| email.is_none_or(|email| customer["email"] == email);
            state.list("customer", "/v1/customers", params, is_listed)
        }
        ("GET", path) if path.len() == 2 && path[0] == "customers" => state.object("customer", path[1]),
        ("POST", path) if path.len() == 2 && path[0] == "customers" => update(state, path[1], params),
        ("DELETE", path) if path.len() == 2 && path[0] == "customers" => delete(state, path[1]),
        _ => return None,
    })
}

pub(super) fn create(state: &mut State, params: &Params) -> Answer {
    params.only(&KNOWN)?;
    let (id, created) = (state.new_id("cus"), state.now());
    state.put(json!({
        "id": id, "object": "customer", "address": null, "balance": 0, "created": created, "currency": null,
        "default_source": null, "delinquent": false, "description": params.get("description"), "discount": null,
        "email": params.get("email"), "invoice_prefix": "FAKE", "livemode": false,
        "metadata": params.object("metadata"), "name": params.get("name"), "phone": params.get("phone"),
        "preferred_locales": [], "shipping": null, "tax_exempt": "none", "test_clock": null,
    }))
}

fn update(state: &mut State, id: &str, params: &Params) -> Answer {
    params.only(&KNOWN)?;
    let mut customer = state.object("customer", id)?;
    if customer["deleted"] == true {
        return Err(Refusal::unknown_object(404, "customer", id, "id"));
    }
    for field in ["email", "name", "description", "phone"] {
        if let Some(value) = params.get(field) {
            customer[field] = value.into();
        }
    }
    for (key, value) in params.object("metadata") {
        customer["metadata"][key] = value;
    }
    state.put(customer)
}

fn delete(state: &mut State, id: &str) -> Answer {
    state.object("customer", id)?;
    state.put(json!({"id": id, "object": "customer", "deleted": true}))
}
