//! [Meters](https://docs.stripe.com/api/billing/meter): usage is reported as events, which Stripe adds up.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Number;
use time::OffsetDateTime;

use super::client::Stripe;
use super::failure::Failure;
use super::form::Form;

/// A meter.
#[derive(Clone, Debug, Deserialize)]
pub struct Meter {
    /// `mtr_…`.
    pub id: String,
    /// The name that its events have.
    pub event_name: String,
}

/// Usage to be reported.
#[derive(Clone, Copy, Debug)]
pub struct MeterEvent<'a> {
    /// The meter's name for its events.
    pub event_name: &'a str,
    /// Who has used it.
    pub customer: &'a str,
    /// How much; at most 15 digits.
    pub value: i64,
    /// Stripe counts an identifier once within at least 24 hours. At most 100 characters.
    pub identifier: &'a str,
    /// When it was used: at most 35 days ago, and 5 minutes ahead.
    pub timestamp: OffsetDateTime,
}

/// A part of what Stripe has added up.
#[derive(Deserialize)]
struct Summary {
    aggregated_value: Number,
}

impl Stripe {
    /// The active meters.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn meters(&self) -> Result<Vec<Meter>, Failure> {
        let mut meters = Vec::new();
        self.list("/v1/billing/meters", &Form::new().with("status", "active"), |meter| {
            meters.push(meter);
            true
        })?;
        Ok(meters)
    }

    /// Reports usage.
    ///
    /// # Errors
    /// See [`Failure`]; a 400 may say that the identifier is known.
    pub fn report_usage(&self, event: &MeterEvent<'_>, idempotency_key: &str) -> Result<(), Failure> {
        let form = Form::new()
            .with("event_name", event.event_name)
            .with("identifier", event.identifier)
            .with("payload[stripe_customer_id]", event.customer)
            .with("payload[value]", event.value)
            .with("timestamp", event.timestamp.unix_timestamp());
        self.post::<IgnoredAny>("/v1/billing/meter_events", &form, idempotency_key).map(drop)
    }

    /// What a customer has used between two times, which must be whole minutes. Stripe adds events up with a delay of
    /// some minutes.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn usage(
        &self,
        meter_id: &str,
        customer: &str,
        from: OffsetDateTime,
        until: OffsetDateTime,
    ) -> Result<i64, Failure> {
        let query = Form::new()
            .with("customer", customer)
            .with("start_time", from.unix_timestamp())
            .with("end_time", until.unix_timestamp());
        let mut sum = Some(0_i64);
        self.list(&format!("/v1/billing/meters/{meter_id}/event_summaries"), &query, |summary: Summary| {
            sum = sum.and_then(|sum| sum.checked_add(whole(&summary.aggregated_value)?));
            true
        })?;
        sum.ok_or_else(|| Failure::Malformed("a sum of usage is no whole number".to_owned()))
    }
}

/// A whole number, which may be written with a point.
fn whole(number: &Number) -> Option<i64> {
    /// Beyond it, not all whole numbers are floating-point numbers.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let from_float = || {
        let float = number.as_f64()?;
        #[allow(clippy::cast_possible_truncation)] // it was checked
        let is_whole = float.fract() == 0.0 && float.abs() < EXACT;
        #[allow(clippy::cast_possible_truncation)]
        is_whole.then_some(float as i64)
    };
    number.as_i64().or_else(from_float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_whole_numbers() {
        let read = |text: &str| whole(&serde_json::from_str(text).unwrap());
        assert_eq!((read("12"), read("12.0"), read("1e3"), read("0")), (Some(12), Some(12), Some(1000), Some(0)));
        assert_eq!((read("0.5"), read("1e16"), read("9007199254740993")), (None, None, Some(9_007_199_254_740_993)));
    }
}
