//! Usage that Stripe has taken, but did not count after all. It says so later, by thin events whose details are fetched.

use serde_json::Value;

use super::Form;
use super::client::Stripe;
use super::payments::Asked;

/// Characters that are kept of what Stripe says.
const LONGEST: usize = 1000;

/// What an event says, in words. One that cannot be read, as the key may not, is worth telling all the same.
///
/// # Errors
/// Stripe does not answer now.
pub(super) fn fetch(stripe: &Stripe, id: &str) -> Asked<String> {
    match stripe.get::<Value>(&format!("/v2/core/events/{id}"), &Form::new()) {
        Ok(event) => Ok(in_words(&event)),
        Err(e) if e.may_pass() => Err(e),
        Err(e) => Ok(format!("{id} tells of usage that was not counted, and cannot be read: {e}")),
    }
}

fn in_words(event: &Value) -> String {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let mut words = format!("{} {}", text("/related_object/id"), text("/data/developer_message_summary"));
    let kinds = event.pointer("/data/reason/error_types").and_then(Value::as_array);
    for kind in kinds.into_iter().flatten() {
        words += &format!("; {} of {}", kind["error_count"], kind["code"].as_str().unwrap_or("an unknown kind"));
        for sample in kind["sample_errors"].as_array().into_iter().flatten() {
            let message = sample["error_message"].as_str().unwrap_or_default();
            let identifier = sample.pointer("/request/identifier").and_then(Value::as_str).unwrap_or_default();
            words += &format!(", such as {identifier}: {message}");
        }
    }
    words.trim().chars().filter(|c| !c.is_control()).take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_details_are_named() {
        let event = json!({"related_object": {"id": "mtr_1"}, "data": {
            "developer_message_summary": "There is 1 invalid event", "reason": {"error_count": 1, "error_types": [
                {"code": "meter_event_no_customer_defined", "error_count": 1, "sample_errors": [
                    {"error_message": "No customer.", "request": {"identifier": "cb44"}}]}]}}});
        let expected =
            "mtr_1 There is 1 invalid event; 1 of meter_event_no_customer_defined, such as cb44: No customer.";
        assert_eq!(in_words(&event), expected);
        assert_eq!(in_words(&json!({"data": null})), "");
    }
}
