//! Everything that can end a request early: its status, and the words the client may see.

use std::borrow::Cow;
use std::time::Duration;

use serde_json::{Value, json};

use crate::blocking;
use crate::db;
use crate::http::form::FieldError;
use crate::http::{BodyError, Response};

/// The result of a handler.
pub type Result<T> = std::result::Result<T, Error>;

/// The words of a 401.
pub const NOT_AUTHENTICATED: &str = "Not authenticated";

/// Why a request is answered with an error. What a variant does not show the client is logged only.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// 400: the request makes no sense; the text says why.
    #[error("{0}")]
    BadRequest(Cow<'static, str>),
    /// 422: fields are missing or have the wrong type.
    #[error("invalid fields")]
    Invalid(Vec<Value>),
    /// 401: no credential, or one that is not valid.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// 403: known, and not allowed.
    #[error("{0}")]
    Forbidden(&'static str),
    /// 404: not there, or not for this caller.
    #[error("{0}")]
    NotFound(&'static str),
    /// 405, with the value of `Allow`.
    #[error("method not allowed")]
    MethodNotAllowed(String),
    /// 408: the body did not arrive in time.
    #[error("the request did not arrive in time")]
    Timeout,
    /// 409: it goes against what is there; the object is added to the reply.
    #[error("{0}")]
    Conflict(&'static str, Value),
    /// 413: longer than so many bytes.
    #[error("larger than {0} bytes")]
    TooLarge(usize),
    /// 429: too many attempts.
    #[error("too many attempts")]
    TooManyRequests(Duration),
    /// 503: too much to do just now.
    #[error("too busy")]
    Busy,
    /// 503: there is no model server for this; the setting that would name one.
    #[error("{0} is not set")]
    NotConfigured(&'static str),
    /// 502, 503 or 504: a model server did not do its work. The text is for the client and says nothing of where it is.
    #[error("{1}")]
    Upstream(u16, &'static str),
    /// What a model server itself says is wrong with the request.
    #[error("the model server answered {}", .0.status)]
    Relayed(Box<Relayed>),
    /// The client has left; nobody sees the reply.
    #[error("the client has left")]
    ClientLeft,
    /// 503, or 500 where the fault is ours.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// 500: a fault of ours.
    #[error("{0}")]
    Internal(String),
}

/// A refusal by a model server.
#[derive(Debug)]
pub struct Relayed {
    /// Its status.
    pub status: u16,
    /// Its body, if that is an error as OpenAI's protocol has it: `{"error": {...}}`.
    pub body: Option<Value>,
    /// Its words.
    pub message: String,
    /// Its `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
}

/// The key under which a reply names its error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// `{"detail": ...}`: most routes.
    #[default]
    Detail,
    /// `{"error": ...}`: the documents.
    Error,
    /// `{"error": {"message", "type", "param", "code"}}`: what clients of OpenAI's API know.
    OpenAi,
}

impl Error {
    /// 400 with these words.
    pub fn bad(text: impl Into<Cow<'static, str>>) -> Error {
        Error::BadRequest(text.into())
    }

    /// The status of the reply.
    pub fn status(&self) -> u16 {
        match self {
            Error::BadRequest(_) => 400,
            Error::Unauthorized(_) => 401,
            Error::Forbidden(_) => 403,
            Error::NotFound(_) => 404,
            Error::MethodNotAllowed(_) => 405,
            Error::Timeout => 408,
            Error::Conflict(..) => 409,
            Error::TooLarge(_) => 413,
            Error::Invalid(_) => 422,
            Error::TooManyRequests(_) => 429,
            Error::ClientLeft => 499,
            Error::Upstream(status, _) => *status,
            Error::Relayed(relayed) => relayed.status,
            Error::Database(e) if e.is_outage() => 503,
            Error::Busy | Error::NotConfigured(_) => 503,
            Error::Database(_) | Error::Internal(_) => 500,
        }
    }

    /// The words for the client.
    pub fn public(&self) -> Cow<'static, str> {
        match self {
            Error::BadRequest(text) => text.clone(),
            Error::Unauthorized(text) | Error::Forbidden(text) | Error::NotFound(text) | Error::Conflict(text, _) => {
                Cow::Borrowed(text)
            }
            Error::MethodNotAllowed(_) => Cow::Borrowed("Method Not Allowed"),
            Error::NotConfigured(variable) => {
                format!("No model server is configured for this: {variable} is not set").into()
            }
            Error::Upstream(_, text) => Cow::Borrowed(text),
            Error::Relayed(relayed) => Cow::Owned(relayed.message.clone()),
            Error::ClientLeft => Cow::Borrowed("The client has left"),
            Error::Timeout => Cow::Borrowed("The request did not arrive in time"),
            Error::TooLarge(limit) => format!("The body must not be larger than {limit} bytes").into(),
            Error::Invalid(issues) => issues.iter().map(in_words).collect::<Vec<_>>().join("; ").into(),
            Error::TooManyRequests(_) => Cow::Borrowed("Too many attempts, try again later"),
            Error::Database(e) if e.is_outage() => Cow::Borrowed("Service temporarily unavailable, try again"),
            Error::Busy => Cow::Borrowed("Service temporarily unavailable, try again"),
            Error::Database(_) | Error::Internal(_) => Cow::Borrowed("Internal Server Error"),
        }
    }

    /// How many seconds the client should wait before it tries again.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            // Rounded up: who comes back then is not to be told again.
            Error::TooManyRequests(wait) => Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)),
            Error::NotConfigured(_) => None,
            Error::Relayed(relayed) if relayed.retry_after.is_some() => relayed.retry_after,
            _ if self.status() == 503 => Some(1),
            _ => None,
        }
    }

    /// Whether an operator should hear of it.
    pub fn is_fault(&self) -> bool {
        self.status() >= 500
    }

    /// The reply.
    pub fn reply(&self, shape: Shape) -> Response {
        let key = match shape {
            Shape::Detail => "detail",
            Shape::Error | Shape::OpenAi => "error",
        };
        let mut response = match self {
            Error::Relayed(relayed) if shape == Shape::OpenAi && relayed.body.is_some() => {
                Response::json(relayed.status, &relayed.body)
            }
            _ if shape == Shape::OpenAi => Response::json(self.status(), &self.openai()),
            Error::Invalid(issues) if shape == Shape::Detail => Response::json(422, &json!({ "detail": issues })),
            Error::Conflict(text, Value::Object(more)) => {
                let mut body = serde_json::Map::from_iter([(key.to_owned(), json!(text))]);
                body.extend(more.clone());
                Response::json(409, &body)
            }
            _ => Response::json(self.status(), &json!({ key: self.public() })),
        };
        if let Some(seconds) = self.retry_after() {
            response = response.header("Retry-After", seconds.to_string());
        }
        if let Error::MethodNotAllowed(allow) = self {
            response = response.header("Allow", allow.clone());
        }
        if matches!(self, Error::Unauthorized(_)) {
            response = response.header("WWW-Authenticate", "Bearer");
        }
        response
    }
}

impl Error {
    /// The body that clients of OpenAI's API know.
    pub fn openai(&self) -> Value {
        let (kind, code) = match self.status() {
            401 => ("invalid_request_error", Some("invalid_api_key")),
            403 => ("permission_error", None),
            404 => ("invalid_request_error", Some("not_found")),
            429 => ("rate_limit_error", Some("rate_limit_exceeded")),
            500.. => ("server_error", None),
            _ => ("invalid_request_error", None),
        };
        let (message, param) = match self {
            Error::Invalid(issues) => {
                let field = issues.first().and_then(|issue| issue["loc"].as_array()?.last()?.as_str());
                let words = issues.first().and_then(|issue| issue["msg"].as_str()).unwrap_or("Invalid");
                (field.map_or(words.to_owned(), |field| format!("{field}: {words}")), field.map(str::to_owned))
            }
            _ => (self.public().into_owned(), None),
        };
        json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
    }
}

impl From<blocking::Busy> for Error {
    fn from(_: blocking::Busy) -> Error {
        Error::Busy
    }
}

impl From<BodyError> for Error {
    fn from(e: BodyError) -> Error {
        match e {
            BodyError::TooLarge(limit) => Error::TooLarge(limit),
            BodyError::Timeout => Error::Timeout,
            BodyError::Malformed(_) => Error::bad("The body is incomplete or malformed"),
        }
    }
}

impl From<FieldError> for Error {
    fn from(e: FieldError) -> Error {
        let issue = |kind: &str, name: &str, text: String| json!({"type": kind, "loc": ["body", name], "msg": text, "input": null});
        match e {
            FieldError::Body(e) => Error::from(e),
            FieldError::Malformed(text) => Error::BadRequest(capitalised(&text).into()),
            FieldError::Missing(names) => {
                Error::Invalid(names.iter().map(|n| issue("missing", n, "Field required".to_owned())).collect())
            }
            FieldError::Type(name, expected) => {
                let kind = match expected {
                    "a string" => "string_type",
                    "a whole number" => "int_parsing",
                    "a list of strings" => "list_type",
                    _ => "type_error",
                };
                Error::Invalid(vec![issue(kind, name, format!("Input should be {expected}"))])
            }
        }
    }
}

/// What is wrong with which field, in one phrase.
fn in_words(issue: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!("{}: {}", text(&issue["loc"][1]), text(&issue["msg"]))
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(e: &Error, shape: Shape) -> Value {
        match e.reply(shape).content {
            crate::http::Content::Bytes(bytes) => serde_json::from_slice(&bytes).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn internals_never_reach_the_client() {
        for e in [
            Error::Internal("hunter2".into()),
            Error::Database(db::Error::Other("hunter2".into())),
            Error::Database(db::Error::Unavailable("hunter2".into())),
            Error::Database(db::Error::Unique("hunter2".into())),
        ] {
            assert!(!body(&e, Shape::Detail).to_string().contains("hunter2"));
            assert!(e.status() >= 500);
        }
    }

    #[test]
    fn an_outage_is_503_and_says_when_to_come_back() {
        let e = Error::Database(db::Error::Busy);
        assert_eq!((e.status(), e.reply(Shape::Error).get_header("Retry-After")), (503, Some("1")));
        assert!(body(&e, Shape::Error).get("error").is_some());
    }

    #[test]
    fn a_conflict_carries_what_is_there() {
        let e = Error::Conflict("Changed meanwhile", json!({"document": {"version": 2}}));
        assert_eq!(body(&e, Shape::Error), json!({"error": "Changed meanwhile", "document": {"version": 2}}));
    }

    #[test]
    fn openai_clients_find_what_they_know() {
        let e = Error::from(FieldError::Missing(vec!["prompt"]));
        assert_eq!((e.status(), body(&e, Shape::OpenAi)["error"]["param"].as_str()), (422, Some("prompt")));
        let e = body(&Error::Unauthorized("No"), Shape::OpenAi);
        assert_eq!(e["error"]["code"], "invalid_api_key");
        let theirs = json!({"error": {"message": "too long", "x": 1}});
        let relayed =
            Relayed { status: 400, body: Some(theirs.clone()), message: "too long".into(), retry_after: None };
        let e = Error::Relayed(Box::new(relayed));
        assert_eq!((body(&e, Shape::OpenAi), body(&e, Shape::Detail)), (theirs, json!({"detail": "too long"})));
    }

    #[test]
    fn missing_fields_are_listed_as_the_older_system_did() {
        let e = Error::from(FieldError::Missing(vec!["email", "password"]));
        let detail = body(&e, Shape::Detail)["detail"].clone();
        assert_eq!(detail[0]["type"], "missing");
        assert_eq!(detail[1]["loc"], json!(["body", "password"]));
    }
}
