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
                "meter": null, "trial_period_days": null, "usage_type": "licensed"}, "type": "recurring",
            "unit_amount": cents, "unit_amount_decimal": cents.to_string(),
        });
        self.state().put(price).unwrap();
    }

    /// Makes a price of what a meter has counted: 0.0001 cents per unit, billed by the `interval`.
    pub fn metered_price(&self, id: &str, meter_id: &str, interval: &str) {
        let mut state = self.state();
        state.object("billing.meter", meter_id).unwrap();
        let price = json!({
            "id": id, "object": "price", "active": true, "billing_scheme": "per_unit", "currency": "usd", "livemode": false,
            "metadata": {}, "product": "prod_2", "recurring": {"interval": interval, "interval_count": 1,
                "meter": meter_id, "trial_period_days": null, "usage_type": "metered"}, "type": "recurring",
            "unit_amount": null, "unit_amount_decimal": "0.0001",
        });
        state.put(price).unwrap();
    }
}
