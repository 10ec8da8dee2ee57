//! A request as Stripe's routes see it, and what is noted of it.

use super::params::Params;

/// A request whose key and version are right.
#[derive(Clone, Debug)]
pub struct ApiRequest {
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Of the query and the form.
    pub params: Params,
    pub idempotency_key: Option<String>,
    pub version: String,
}

impl ApiRequest {
    /// The method, and the parts of the path behind `/v1/`: `("GET", ["customers", "cus_1"])`.
    pub fn parts(&self) -> (&str, Vec<&str>) {
        (&self.method, self.path.trim_start_matches("/v1/").split('/').collect())
    }

    /// What no second request may be at work on at the same time.
    pub fn exclusive(&self) -> Option<String> {
        let of = |key: &str| self.params.get(key).unwrap_or_default();
        let is_usage = self.method == "POST" && self.path == "/v1/billing/meter_events";
        is_usage.then(|| format!("{} {}", of("event_name"), of("payload[stripe_customer_id]")))
    }
}

/// A request that was answered, or not.
#[derive(Clone, Debug)]
pub struct Call {
    pub request: ApiRequest,
    /// Of the answer, whether or not it reached the client.
    pub status: u16,
    /// Whether the answer is that of an earlier request with the same key.
    pub is_replay: bool,
    /// Whether the answer was sent.
    pub is_answered: bool,
}
