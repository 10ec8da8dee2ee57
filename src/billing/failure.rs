//! What can become of a request to Stripe.

use std::time::Duration;

use serde::Deserialize;

/// Why a request to Stripe has no result.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    /// No answer was received, so it is unknown whether the request was carried out. The same request with the same
    /// `Idempotency-Key` finds out.
    #[error("no answer from Stripe: {0}")]
    Unanswered(String),
    /// 409: a request for the same object, or with the same `Idempotency-Key`, is running.
    #[error("Stripe is busy with another request: {0}")]
    InUse(ApiError),
    /// 429: too many requests. Stripe may say after what time to come back.
    #[error("Stripe limits requests: {0}")]
    RateLimited(ApiError, Option<Duration>),
    /// 5xx: it is unknown whether the request was carried out, and Stripe repeats this answer to the same
    /// `Idempotency-Key`.
    #[error("Stripe failed: {0}")]
    Server(ApiError),
    /// Any other refusal (400, 401, 402, 403): the same request will fail again.
    #[error("Stripe refused: {0}")]
    Refused(ApiError),
    /// 404, or the object was deleted.
    #[error("Stripe does not know this: {0}")]
    NotFound(ApiError),
    /// A successful answer that does not say what it must.
    #[error("Stripe's answer cannot be read: {0}")]
    Malformed(String),
}

/// [Stripe's error object](https://docs.stripe.com/api/errors). Fields that are missing are empty.
#[derive(Clone, Debug, Default, Deserialize, thiserror::Error)]
#[error("{status} {kind} {code} {param}: {message}")]
#[serde(default)]
pub struct ApiError {
    /// The status of the reply.
    #[serde(skip)]
    pub status: u16,
    /// Such as `invalid_request_error` or `idempotency_error`.
    #[serde(rename = "type", deserialize_with = "text")]
    pub kind: String,
    /// For programs, such as `resource_missing`; often missing.
    #[serde(deserialize_with = "text")]
    pub code: String,
    /// For people.
    #[serde(deserialize_with = "text")]
    pub message: String,
    /// The parameter that is wrong.
    #[serde(deserialize_with = "text")]
    pub param: String,
}

/// A text; null is empty.
fn text<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Option::<String>::deserialize(from).map(Option::unwrap_or_default)
}

impl Failure {
    /// Whether the same request, with the same `Idempotency-Key`, may succeed later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Failure::Unanswered(_) | Failure::InUse(_) | Failure::RateLimited(..) | Failure::Server(_))
    }

    /// Whether the request may have been carried out although it failed.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Failure::Unanswered(_) | Failure::Server(_) | Failure::Malformed(_))
    }

    /// Whether it says what became of an earlier request with the same key, or that this is unknown. Another failure of a
    /// repeated request is only of the repeat.
    pub(super) fn tells_of_earlier(&self) -> bool {
        match self {
            Failure::InUse(_) => true,
            Failure::Refused(e) => e.kind == "idempotency_error" || e.message.contains("already exists"),
            _ => self.is_outcome_unknown(),
        }
    }

    /// Whether it is known that the object is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Failure::NotFound(_))
    }

    /// What Stripe said, if it has answered with an error.
    pub fn api_error(&self) -> Option<&ApiError> {
        match self {
            Failure::InUse(e)
            | Failure::RateLimited(e, _)
            | Failure::Server(e)
            | Failure::Refused(e)
            | Failure::NotFound(e) => Some(e),
            Failure::Unanswered(_) | Failure::Malformed(_) => None,
        }
    }

    /// An answer that is not a success.
    pub(super) fn of_reply(status: u16, body: &[u8], retry_after: Option<Duration>) -> Failure {
        #[derive(Deserialize)]
        struct Body {
            error: ApiError,
        }
        let error = serde_json::from_slice::<Body>(body).map(|body| body.error).unwrap_or_default();
        let error = ApiError { status, ..error };
        match status {
            404 => Failure::NotFound(error),
            409 => Failure::InUse(error),
            429 => Failure::RateLimited(error, retry_after),
            500.. => Failure::Server(error),
            _ => Failure::Refused(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_words_are_kept() {
        let body = br#"{"error": {"type": "invalid_request_error", "code": null, "message": "No", "more": 1}}"#;
        let failure = Failure::of_reply(400, body, None);
        let error = failure.api_error().unwrap();
        assert_eq!(
            (error.status, &*error.kind, &*error.code, &*error.message),
            (400, "invalid_request_error", "", "No")
        );
        assert!(!failure.may_pass() && !failure.is_outcome_unknown());
    }

    #[test]
    fn what_may_pass_is_told_from_what_will_not() {
        for (status, may_pass, is_unknown) in [
            (400, false, false),
            (401, false, false),
            (402, false, false),
            (404, false, false),
            (409, true, false),
            (429, true, false),
            (500, true, true),
            (503, true, true),
            (302, false, false),
        ] {
            let failure = Failure::of_reply(status, b"<html>", None);
            assert_eq!((failure.may_pass(), failure.is_outcome_unknown()), (may_pass, is_unknown), "{status}");
            assert_eq!(failure.is_not_found(), status == 404);
        }
    }
}
