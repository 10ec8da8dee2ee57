//! Stripe's error object.

use serde_json::{Map, Value, json};

#[derive(Clone, Debug)]
pub struct Refusal {
    pub status: u16,
    pub kind: &'static str,
    pub code: Option<&'static str>,
    pub message: String,
    pub param: Option<String>,
    /// In seconds.
    pub retry_after: Option<u32>,
}

impl Refusal {
    pub fn new(status: u16, kind: &'static str, message: impl Into<String>) -> Refusal {
        Refusal { status, kind, code: None, message: message.into(), param: None, retry_after: None }
    }

    /// 400 for a parameter.
    pub fn invalid(param: &str, message: impl Into<String>) -> Refusal {
        Refusal { param: Some(param.to_owned()), ..Refusal::new(400, "invalid_request_error", message) }
    }

    pub fn missing(param: &str) -> Refusal {
        Refusal::invalid(param, format!("Missing required param: {param}.")).with_code("parameter_missing")
    }

    /// No object has this id: 404 if it is in the path, 400 if it is a parameter.
    pub fn unknown_object(status: u16, kind: &str, id: &str, param: &str) -> Refusal {
        Refusal { status, ..Refusal::invalid(param, format!("No such {kind}: '{id}'")) }.with_code("resource_missing")
    }

    pub fn unknown_url(method: &str, path: &str) -> Refusal {
        Refusal::new(404, "invalid_request_error", format!("Unrecognized request URL ({method}: {path})."))
    }

    pub fn with_code(self, code: &'static str) -> Refusal {
        Refusal { code: Some(code), ..self }
    }

    pub fn body(&self) -> Value {
        let mut error = Map::new();
        if let Some(code) = self.code {
            error.insert("code".to_owned(), code.into());
            error.insert("doc_url".to_owned(), format!("https://stripe.com/docs/error-codes/{code}").into());
        }
        error.insert("message".to_owned(), self.message.as_str().into());
        if let Some(param) = &self.param {
            error.insert("param".to_owned(), param.as_str().into());
        }
        error.insert("type".to_owned(), self.kind.into());
        json!({"error": error})
    }
}
