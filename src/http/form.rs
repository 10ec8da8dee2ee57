//! The fields of a form or of a JSON object, whichever the client sent.

use std::fmt;
use std::io::{self, Read};

use serde_json::{Map, Value};

use super::flat_object::Flat;
use super::object::first_byte;
use super::parts::Parts;
use super::{BodyError, Request, multipart};
use crate::blocking::Refused;
use crate::memory_budget;

/// Maximum size of a body with fields, in bytes.
pub const FORM_LIMIT: usize = 1024 * 1024;

/// Maximum number of names in a form, or in a JSON object of more than [`FORM_LIMIT`] bytes.
const MOST_NAMES: usize = 1000;

/// Times the size of a body that copies of its texts take: what is decoded, and what is stored of it.
const TEXT_COPIES: usize = 2;

/// Bytes that a parsed value can take besides its text, for each bracket or comma before it: three times its size as a
/// member of an object, with its name and its place in the index, as there is room for four from the first one on.
const VALUE: usize = 3 * (size_of::<Value>() + size_of::<String>() + 2 * size_of::<usize>());

/// Named values: text in a form, any type in a JSON object.
#[derive(Default)]
pub struct Fields(Map<String, Value>);

/// Why fields could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FieldError {
    /// The body could not be read.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The body is not a form, a multipart form or a JSON object, or is malformed.
    #[error("{0}")]
    Malformed(String),
    /// These required fields are missing.
    #[error("fields are missing")]
    Missing(Vec<&'static str>),
    /// A field has the wrong type: its name, and the expected type.
    #[error("{0} must be {1}")]
    Type(&'static str, FieldType),
}

/// The type that a field must have. Displayed as in `must be a string`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// Text.
    String,
    /// A whole number of 64 bits.
    Integer,
    /// Any number.
    Number,
    /// A boolean.
    Boolean,
    /// A list of texts.
    StringList,
}

impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FieldType::String => "a string",
            FieldType::Integer => "a whole number",
            FieldType::Number => "a number",
            FieldType::Boolean => "true or false",
            FieldType::StringList => "a list of strings",
        })
    }
}

impl Fields {
    /// Reads a request's body by its media type: `application/json`, `multipart/form-data`, or (also by default)
    /// `application/x-www-form-urlencoded`. An empty body has no fields. If a name occurs twice, the last value counts.
    /// Files in a multipart body are ignored.
    ///
    /// # Errors
    /// See [`FieldError`]. Text with NUL, which PostgreSQL cannot store, is malformed.
    pub fn read(request: &mut Request, limit: usize) -> Result<Fields, FieldError> {
        let bytes = request.body.into_bytes(limit)?;
        Fields::parse(request, &bytes)
    }

    /// As [`Fields::read`], for a request whose body was read already.
    ///
    /// # Errors
    /// As there.
    pub fn parse(request: &Request, body: &[u8]) -> Result<Fields, FieldError> {
        Fields::parse_with(request, body, Repeated::LastCounts)
    }

    /// As [`Fields::parse`], but no name of a form may occur twice.
    ///
    /// # Errors
    /// As there.
    pub fn parse_unique(request: &Request, body: &[u8]) -> Result<Fields, FieldError> {
        Fields::parse_with(request, body, Repeated::Refused)
    }

    fn parse_with(request: &Request, body: &[u8], repeated: Repeated) -> Result<Fields, FieldError> {
        let fields = match request.media_type().as_str() {
            _ if body.is_empty() => Map::new(),
            "application/json" => json_object(body)?,
            "multipart/form-data" => {
                let boundary = request.header("content-type").and_then(multipart::boundary);
                let boundary = boundary.ok_or_else(|| malformed("multipart without a boundary"))?;
                from_multipart(body, &boundary, repeated)?
            }
            "" | "application/x-www-form-urlencoded" => from_form(body, repeated)?,
            other => return Err(malformed(&format!("cannot read a body of type {other}"))),
        };
        Ok(Fields(fields))
    }

    /// Reads a request's body as a JSON object, whatever its media type says.
    ///
    /// # Errors
    /// As [`Fields::read`].
    pub fn read_json(request: &mut Request, limit: usize) -> Result<Fields, FieldError> {
        Ok(Fields(json_object(&request.body.into_bytes(limit)?)?))
    }

    /// Reads a JSON object.
    ///
    /// # Errors
    /// [`FieldError::Malformed`].
    pub fn parse_json(bytes: &[u8]) -> Result<Fields, FieldError> {
        Ok(Fields(json_object(bytes)?))
    }

    /// The bytes that the values take, or a few more.
    pub fn held(&self) -> usize {
        held_by(&self.0)
    }

    /// The fields of an object that is part of a larger value.
    pub fn of(object: Map<String, Value>) -> Fields {
        Fields(object)
    }

    /// All of them.
    pub fn into_object(self) -> Map<String, Value> {
        self.0
    }

    /// The value of a field; `None` also for `null`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// A number that may be missing or `null`.
    ///
    /// # Errors
    /// It is not a number.
    pub fn optional_number(&self, name: &'static str) -> Result<Option<f64>, FieldError> {
        self.get(name).map(|value| value.as_f64().ok_or(FieldError::Type(name, FieldType::Number))).transpose()
    }

    /// Fails unless all of these fields are present.
    ///
    /// # Errors
    /// [`FieldError::Missing`] with those that are missing.
    pub fn require(&self, names: &[&'static str]) -> Result<(), FieldError> {
        let missing: Vec<_> = names.iter().copied().filter(|n| !self.0.contains_key(*n)).collect();
        if missing.is_empty() { Ok(()) } else { Err(FieldError::Missing(missing)) }
    }

    /// Whether a field is present, even if it is `null`.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A required text.
    ///
    /// # Errors
    /// Missing, or not text.
    pub fn text(&self, name: &'static str) -> Result<&str, FieldError> {
        self.require(&[name])?;
        self.0.get(name).and_then(Value::as_str).ok_or(FieldError::Type(name, FieldType::String))
    }

    /// A text that may be missing or `null`.
    ///
    /// # Errors
    /// It is not text.
    pub fn optional_text(&self, name: &'static str) -> Result<Option<&str>, FieldError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(FieldError::Type(name, FieldType::String)),
        }
    }

    /// A whole number that may be missing or `null`; digits in a form.
    ///
    /// # Errors
    /// It is not a whole number of 64 bits.
    pub fn optional_integer(&self, name: &'static str) -> Result<Option<i64>, FieldError> {
        let number = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(value) => value.as_i64(),
        };
        number.map(Some).ok_or(FieldError::Type(name, FieldType::Integer))
    }

    /// An object that may be missing or `null`; in a form, its JSON.
    ///
    /// # Errors
    /// [`FieldError::Malformed`]: it is no such object; the message names the field.
    pub fn optional_object<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, FieldError> {
        let parsed = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) if text.is_empty() => return Ok(None),
            Some(Value::String(text)) => serde_json::from_str(text),
            Some(value) => T::deserialize(value),
        };
        parsed.map(Some).map_err(|e| FieldError::Malformed(format!("{name}: {e}")))
    }

    /// Whether the field is `null`.
    pub fn is_null(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(Value::is_null)
    }

    /// A boolean that may be missing or `null`; in a form `true`, `on`, `1` or `yes`, and `false`, `off`, `0` or `no`.
    ///
    /// # Errors
    /// It is not a boolean.
    pub fn optional_bool(&self, name: &'static str) -> Result<Option<bool>, FieldError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(Value::String(text)) => match text.to_ascii_lowercase().as_str() {
                "true" | "on" | "1" | "yes" => Ok(Some(true)),
                "false" | "off" | "0" | "no" | "" => Ok(Some(false)),
                _ => Err(FieldError::Type(name, FieldType::Boolean)),
            },
            Some(_) => Err(FieldError::Type(name, FieldType::Boolean)),
        }
    }
}

/// What a name that occurs twice in a form means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeated {
    LastCounts,
    Refused,
}

impl Repeated {
    fn insert(self, fields: &mut Map<String, Value>, name: String, value: String) -> Result<(), FieldError> {
        if self == Repeated::Refused && fields.contains_key(&name) {
            let name: String = name.chars().filter(|c| !c.is_control()).take(100).collect();
            return Err(FieldError::Malformed(format!("the form has the field {name:?} twice")));
        }
        fields.insert(name, Value::String(value));
        if fields.len() > MOST_NAMES { Err(malformed("the form has too many fields")) } else { Ok(()) }
    }
}

fn reserve(bytes: usize) -> Result<(), FieldError> {
    Ok(memory_budget::reserve_if_large(bytes).map(drop).map_err(BodyError::from)?)
}

/// Reserves what the values in a JSON text can take when they are parsed. Returns how much of it is not for their texts.
///
/// # Errors
/// There is no memory for that.
pub fn reserve_values(json: &[u8]) -> Result<usize, Refused> {
    let (texts, values) = (TEXT_COPIES * json.len(), VALUE * count_values(json));
    let is_reserved = memory_budget::reserve_if_large(texts + values)?;
    Ok(if is_reserved { values } else { 0 })
}

fn held_by(object: &Map<String, Value>) -> usize {
    object.iter().map(|(name, value)| VALUE + name.capacity() + held(value)).sum()
}

/// The bytes that a value takes besides itself. The parser limits how deep it is.
fn held(value: &Value) -> usize {
    match value {
        Value::String(text) => text.capacity(),
        Value::Array(list) => list.capacity() * size_of::<Value>() + list.iter().map(held).sum::<usize>(),
        Value::Object(object) => held_by(object),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// The brackets and commas outside of texts, and one more: no fewer than the values, if it is JSON.
fn count_values(json: &[u8]) -> usize {
    let (mut count, mut rest) = (1, json);
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            b'[' | b'{' | b',' => count += 1,
            b'"' => {
                while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
                    let is_end = rest[at] == b'"';
                    rest = rest.get(at + if is_end { 1 } else { 2 }..).unwrap_or_default();
                    if is_end {
                        break;
                    }
                }
            }
            _ => {}
        }
    }
    count
}

fn malformed(text: &str) -> FieldError {
    FieldError::Malformed(text.to_owned())
}

/// Parses an object. Lists and objects in one of more than [`FORM_LIMIT`] bytes are checked, but not kept: what takes
/// such a body has texts in it. For all others the memory is reserved that they can take.
fn json_object(bytes: &[u8]) -> Result<Map<String, Value>, FieldError> {
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("the body is not UTF-8"))?;
    let parsed = if bytes.len() > FORM_LIMIT {
        // Such a body was read while it came, so this thread may wait.
        memory_budget::reserve_in_time(TEXT_COPIES * bytes.len()).map_err(BodyError::from)?;
        if first_byte(bytes) == Some(b'"') {
            return Err(malformed("the body must be a JSON object"));
        }
        serde_json::from_str(text).map(|Flat(fields)| Value::Object(fields))
    } else {
        reserve_values(bytes).map_err(BodyError::from)?;
        serde_json::from_str(text)
    };
    match parsed {
        Ok(Value::Object(fields)) => {
            if fields.values().any(|value| value.as_str().is_some_and(|text| text.contains('\0'))) {
                return Err(malformed("text must not contain NUL"));
            }
            Ok(fields)
        }
        Ok(_) => Err(malformed("the body must be a JSON object")),
        Err(e) if e.is_data() => Err(FieldError::Malformed(format!("the body must be a JSON object: {e}"))),
        Err(e) => Err(FieldError::Malformed(format!("the body is not valid JSON: {e}"))),
    }
}

fn from_form(bytes: &[u8], repeated: Repeated) -> Result<Map<String, Value>, FieldError> {
    reserve(TEXT_COPIES * bytes.len())?;
    let mut fields = Map::new();
    for (name, value) in bytes.split(|b| *b == b'&').filter(|pair| !pair.is_empty()).map(|pair| {
        let at = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
        (&pair[..at], pair.get(at + 1..).unwrap_or(&[]))
    }) {
        repeated.insert(&mut fields, unescape(name)?, unescape(value)?)?;
    }
    Ok(fields)
}

/// The crate `form_urlencoded` would replace invalid UTF-8 by U+FFFD, which would make different passwords equal.
fn unescape(part: &[u8]) -> Result<String, FieldError> {
    let spaced: Vec<u8> = part.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
    text(percent_encoding::percent_decode(&spaced).collect())
}

fn from_multipart(bytes: &[u8], boundary: &str, repeated: Repeated) -> Result<Map<String, Value>, FieldError> {
    reserve(TEXT_COPIES * bytes.len())?;
    let mut fields = Map::new();
    let mut parts = Parts::new(bytes, boundary);
    let invalid = |e: io::Error| malformed(&e.to_string());
    while let Some(head) = parts.next_part().map_err(invalid)? {
        if head.file_name.is_none() {
            let mut value = Vec::new();
            parts.read_to_end(&mut value).map_err(invalid)?;
            repeated.insert(&mut fields, head.name, text(value)?)?;
        }
    }
    Ok(fields)
}

fn text(bytes: Vec<u8>) -> Result<String, FieldError> {
    let text = String::from_utf8(bytes).map_err(|_| malformed("text must be UTF-8"))?;
    if text.contains('\0') { Err(malformed("text must not contain NUL")) } else { Ok(text) }
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
