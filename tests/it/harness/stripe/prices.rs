//! Prices, which tests make.

use serde_json::json;

use super::exchange::ApiRequest;
use super::state::State;
use super::{Answer, Stripe};

pub(super) fn answer(state: &mut State, request: &ApiRequest) -> Option<Answer> {
    match request.parts() {
        ("GET", path) if path.len() == 2 && path[0] == "prices" => Some(state.object("price", path[1])),
        _ => None,
    }
}

impl Stripe {
    /// Makes a price in US$, paid by the `interval`.
    pub fn price(&self, id: &str, cents: i64, interval: &str) {
        let price = json!({
            "id": id, "object": "price", "active": true, "billing_scheme": "per_unit", "currency": "usd", "livemode": false,
            "metadata": {}, "product": "prod_1", "recurring": {"interval": interval, "interval_count": 1,
                "usage_type": "licensed"}, "type": "recurring", "unit_amount": cents,
        });
        self.state().put(price).unwrap();
    }
}
