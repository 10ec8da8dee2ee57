//! Meters, their events, and what these add up to.

use std::time::Duration;

use serde_json::{Value, json};

use super::exchange::ApiRequest;
use super::params::Params;
use super::state::{State, page};
use super::{Answer, Refusal};

/// How long an identifier is known, in seconds: Stripe promises "at least 24 hours".
const KNOWN_FOR: i64 = 24 * 3600;
/// How far in the past an event may be, and how far ahead, in seconds.
const TIMES: (i64, i64) = (35 * 24 * 3600, 300);

/// An event that was taken.
pub struct Usage {
    pub meter: String,
    pub customer: String,
    pub identifier: String,
    pub value: i64,
    pub timestamp: i64,
    /// When it was taken.
    pub since: i64,
}

pub fn create(state: &mut State, event_name: &str, lag: Duration) -> String {
    let (id, created) = (state.new_id("mtr"), state.now());
    state.objects.insert(
        id.clone(),
        json!({
            "id": id, "object": "billing.meter", "created": created, "updated": created, "livemode": false,
            "customer_mapping": {"event_payload_key": "stripe_customer_id", "type": "by_id"},
            "default_aggregation": {"formula": "sum"}, "display_name": event_name, "event_name": event_name,
            "event_time_window": null, "status": "active", "status_transitions": {"deactivated_at": null},
            "value_settings": {"event_payload_key": "value"},
        }),
    );
    state.lags.insert(id.clone(), i64::try_from(lag.as_secs()).unwrap());
    id
}

impl State {
    /// What a customer was counted, added up or not.
    pub fn used(&self, event_name: &str, customer: &str) -> i64 {
        let Some(meter) = self.meter_of(event_name) else { return 0 };
        let counted = |usage: &&Usage| usage.meter == meter && usage.customer == customer;
        self.usage.iter().filter(counted).map(|usage| usage.value).sum()
    }

    fn meter_of(&self, event_name: &str) -> Option<&str> {
        let is_meant = |object: &&Value| {
            object["object"] == "billing.meter" && object["event_name"] == event_name && object["status"] == "active"
        };
        self.objects.values().find(is_meant).and_then(|meter| meter["id"].as_str())
    }
}

pub(super) fn answer(state: &mut State, request: &ApiRequest) -> Option<Answer> {
    let params = &request.params;
    let (method, path) = request.parts();
    Some(match (method, path.as_slice()) {
        ("GET", ["billing", "meters"]) => {
            let status = params.get("status");
            let is_listed = |meter: &Value| status.is_none_or(|status| meter["status"] == status);
            state.list("billing.meter", "/v1/billing/meters", params, is_listed)
        }
        ("GET", ["billing", "meters", id]) => state.object("billing.meter", id),
        ("GET", ["billing", "meters", id, "event_summaries"]) => summaries(state, id, params),
        ("POST", ["billing", "meter_events"]) => count(state, params),
        _ => return None,
    })
}

fn count(state: &mut State, params: &Params) -> Answer {
    params.only(&["event_name", "identifier", "payload", "timestamp"])?;
    let event_name = params.required("event_name")?;
    let Some(meter) = state.meter_of(event_name).map(str::to_owned) else {
        let message = format!("No active meter found with event name: {event_name}");
        return Err(Refusal::invalid("event_name", message).with_code("resource_missing"));
    };
    let customer = params.required("payload[stripe_customer_id]")?;
    let text = params.required("payload[value]")?;
    let is_valid = text.len() <= 15 && !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !is_valid {
        return Err(Refusal::invalid("payload[value]", format!("Invalid value in the event payload: {text}")));
    }
    let now = state.now();
    let timestamp = params.number("timestamp")?.unwrap_or(now);
    if timestamp < now - TIMES.0 {
        return Err(Refusal::invalid("timestamp", "The timestamp must be within the past 35 calendar days."));
    }
    if timestamp > now + TIMES.1 {
        return Err(Refusal::invalid("timestamp", "The timestamp may not be more than 5 minutes in the future."));
    }
    let identifier = params.get("identifier").map_or_else(|| format!("made-{}", state.usage.len()), str::to_owned);
    if identifier.len() > 100 {
        return Err(Refusal::invalid("identifier", "Identifiers can be at most 100 characters."));
    }
    if state.usage.iter().any(|usage| usage.identifier == identifier && now - usage.since < KNOWN_FOR) {
        let message = format!("An event already exists with identifier {identifier}.");
        return Err(Refusal::new(400, "invalid_request_error", message));
    }
    state.named("customer", customer, "payload[stripe_customer_id]")?;
    let (value, customer) = (text.parse().unwrap(), customer.to_owned());
    state.usage.push(Usage { meter, customer, identifier: identifier.clone(), value, timestamp, since: now });
    Ok(json!({
        "object": "billing.meter_event", "created": now, "event_name": event_name, "identifier": identifier,
        "livemode": false, "payload": params.object("payload"), "timestamp": timestamp,
    }))
}

fn summaries(state: &State, id: &str, params: &Params) -> Answer {
    params.only(&["customer", "start_time", "end_time", "value_grouping_window", "limit", "starting_after"])?;
    state.object("billing.meter", id)?;
    let customer = params.required("customer")?;
    let grouping = params.get("value_grouping_window");
    let step = match grouping {
        None => 60,
        Some("hour") => 3600,
        Some("day") => 24 * 3600,
        Some(_) => return Err(Refusal::invalid("value_grouping_window", "Must be one of day or hour")),
    };
    let time = |key: &str| {
        let time = params.number(key)?.ok_or_else(|| Refusal::missing(key))?;
        match time % step {
            0 => Ok(time),
            _ => Err(Refusal::invalid(key, format!("{key} must align with boundaries of {step} seconds"))),
        }
    };
    let (start, end) = (time("start_time")?, time("end_time")?);
    if start >= end {
        return Err(Refusal::invalid("end_time", "The end must be after the start"));
    }
    let lag = state.lags.get(id).copied().unwrap_or(0);
    let added_up = |from: i64, until: i64| {
        let counts = |usage: &&super::meters::Usage| {
            usage.meter == id
                && usage.customer == customer
                && (from..until).contains(&usage.timestamp)
                && state.now() - usage.since >= lag
        };
        state.usage.iter().filter(counts).map(|usage| usage.value).sum::<i64>()
    };
    let summary = |from: i64, until: i64| {
        json!({
            "id": format!("mtrusg_test_{from}_{until}"), "object": "billing.meter_event_summary", "livemode": false,
            "aggregated_value": added_up(from, until), "start_time": from, "end_time": until, "meter": id,
        })
    };
    let all: Vec<Value> = if grouping.is_some() {
        let starts = (start..end).step_by(usize::try_from(step).unwrap());
        let all = starts.map(|from| summary(from, from + step));
        all.filter(|summary| summary["aggregated_value"] != 0).collect()
    } else {
        vec![summary(start, end)]
    };
    page(all, &format!("/v1/billing/meters/{id}/event_summaries"), params)
}
