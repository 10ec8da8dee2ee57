//! The bodies of errors, as they are sent and as the API reference describes them.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::Value;

use crate::store::Document;

/// The shape of an error's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// `{"detail": ...}`: most routes.
    #[default]
    Detail,
    /// `{"error": ...}`: the documents.
    Error,
    /// `{"error": {"message", "type", "param", "code"}}`: what OpenAI's clients expect.
    OpenAi,
    /// `{"type": "error", "error": {"type", "message"}}`: the Messages protocol.
    Messages,
}

impl Shape {
    /// The schema of the bodies of this shape.
    pub fn schema(self, generator: &mut SchemaGenerator) -> Schema {
        match self {
            Shape::Detail => generator.subschema_for::<DetailBody<'_>>(),
            Shape::Error => generator.subschema_for::<ErrorBody<'_>>(),
            Shape::OpenAi => generator.subschema_for::<OpenAiBody<'_>>(),
            Shape::Messages => generator.subschema_for::<MessagesBody<'_>>(),
        }
    }
}

/// The error of most operations.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub(super) struct DetailBody<'e> {
    pub(super) detail: Detail<'e>,
    /// Given where it is about a second factor: `totp_required`, `totp_invalid`, `login_expired` or
    /// `two_factor_required`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<&'static str>,
    #[serde(flatten)]
    pub(super) more: Option<&'e Conflicting>,
}

/// What is wrong; for a 422, a list of the fields that are.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub(super) enum Detail<'e> {
    Message(&'e str),
    #[schemars(with = "Vec<serde_json::Map<String, Value>>")]
    Fields(&'e [Value]),
}

/// The error of operations on documents.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "DocumentError")]
pub(super) struct ErrorBody<'e> {
    pub(super) error: &'e str,
    #[serde(flatten)]
    pub(super) more: Option<&'e Conflicting>,
}

/// What the error of a conflict, or of a quota that is used up, adds to its message.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Conflicting {
    /// How many there may be, or how many bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// The saved document, where another save came first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub document: Option<Box<Document>>,
}

/// The error of OpenAI's API. A model server's own error may lack fields, or have others.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "OpenAiError")]
pub(super) struct OpenAiBody<'e> {
    pub(super) error: OpenAiError<'e>,
}

/// The error of the Messages protocol.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MessagesError")]
pub(super) struct MessagesBody<'e> {
    pub(super) r#type: &'static str,
    pub(super) error: MessagesError<'e>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct MessagesError<'e> {
    pub(super) r#type: &'static str,
    pub(super) message: Cow<'e, str>,
}

impl<'e> MessagesBody<'e> {
    /// The error of a reply with this status.
    pub(super) fn new(status: u16, message: Cow<'e, str>) -> MessagesBody<'e> {
        let kind = match status {
            401 => "authentication_error",
            402 => "billing_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            504 => "timeout_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        MessagesBody { r#type: "error", error: MessagesError { r#type: kind, message } }
    }
}

#[derive(Serialize, JsonSchema)]
#[schemars(inline, extend("required" = ["message"]))]
pub(super) struct OpenAiError<'e> {
    pub(super) message: Cow<'e, str>,
    pub(super) r#type: &'static str,
    /// The field that is wrong.
    pub(super) param: Option<&'e str>,
    /// Given where programs act on it. Some model servers send a number.
    #[schemars(with = "Value")]
    pub(super) code: Option<&'static str>,
}
