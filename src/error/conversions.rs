//! What the errors of lower layers are for clients.

use serde_json::json;

use super::Error;
use crate::blocking;
use crate::db;
use crate::http::BodyError;
use crate::http::form::{FieldError, FieldType};
use crate::http::sse::EventError;

impl From<db::Error> for Error {
    fn from(e: db::Error) -> Error {
        match e {
            db::Error::NoMemory(refused) => Error::from(refused),
            e => Error::Database(e),
        }
    }
}

impl From<blocking::Refused> for Error {
    fn from(refused: blocking::Refused) -> Error {
        match refused {
            blocking::Refused::Full => Error::Busy,
            blocking::Refused::ShareIsUsed => Error::TooManyWaiting,
        }
    }
}

impl From<BodyError> for Error {
    fn from(e: BodyError) -> Error {
        match e {
            BodyError::TooLarge(limit) => Error::TooLarge(limit),
            BodyError::Timeout => Error::RequestTimeout,
            BodyError::Malformed(_) => Error::bad("The body is incomplete or malformed"),
            BodyError::Refused(refused) => Error::from(refused),
        }
    }
}

impl From<EventError> for Error {
    fn from(e: EventError) -> Error {
        match e {
            EventError::TooLong => Error::Upstream(502, "The model server sent an event that is too long"),
            EventError::NoMemory(refused) => Error::from(refused),
        }
    }
}

impl From<FieldError> for Error {
    fn from(e: FieldError) -> Error {
        // FastAPI's names for what is wrong, which clients of the older system know.
        let issue = |kind: &str, name: &str, text: String| json!({"type": kind, "loc": ["body", name], "msg": text, "input": null});
        match e {
            FieldError::Body(e) => Error::from(e),
            FieldError::Malformed(text) => Error::BadRequest(capitalised(&text).into()),
            FieldError::Missing(names) => {
                let missing = names.iter().map(|name| issue("missing", name, "Field required".to_owned()));
                Error::InvalidFields(missing.collect())
            }
            FieldError::Type(name, expected) => {
                let kind = match expected {
                    FieldType::String => "string_type",
                    FieldType::Integer => "int_parsing",
                    FieldType::StringList => "list_type",
                    FieldType::Number | FieldType::Boolean => "type_error",
                };
                Error::InvalidFields(vec![issue(kind, name, format!("Input should be {expected}"))])
            }
        }
    }
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| first.to_uppercase().chain(characters).collect())
}
