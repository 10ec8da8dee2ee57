//! Errors that model servers send with status 200, or as an event in the middle of a stream.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// Maximum length of an error message that is kept, in characters.
const LONGEST: usize = 500;

/// The parts of a reply or an event that show whether it is an error.
#[derive(Deserialize)]
struct Shape<'a> {
    #[serde(default)]
    error: Value,
    #[serde(default, borrow)]
    object: Option<std::borrow::Cow<'a, str>>,
    #[serde(default)]
    message: Value,
    #[serde(default, borrow)]
    choices: Option<&'a RawValue>,
    #[serde(default, borrow)]
    data: Option<&'a RawValue>,
}

/// The error message, if this JSON is an error and not a reply: `{"error": …}`, or `{"object": "error", …}` as sent by
/// vLLM.
pub fn message(json: &[u8]) -> Option<String> {
    // Nearly all replies and events are not errors, so a fast search comes before parsing.
    memchr::memmem::find(json, b"error")?;
    json.trim_ascii_start().strip_prefix(b"{")?;
    let Shape { error, object, message, choices, data } = serde_json::from_slice(json).ok()?;
    let has_any =
        |list: &RawValue| list.get().strip_prefix('[').is_some_and(|list| !list.trim_start().starts_with(']'));
    if [choices, data].into_iter().flatten().any(has_any) {
        return None;
    }
    let words = match &error {
        Value::Null | Value::Bool(false) if object.as_deref() == Some("error") => &message,
        Value::Null | Value::Bool(false) => return None,
        Value::Object(error) => error.get("message").unwrap_or(&message),
        error => error,
    };
    let words = words.as_str().map_or_else(|| "no reason given".to_owned(), str::to_owned);
    Some(words.chars().filter(|c| !c.is_control()).take(LONGEST).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_from_replies() {
        let is = |json: &str| message(json.as_bytes());
        assert_eq!(is(r#"{"error":{"message":"too\nlong","code":400}}"#).as_deref(), Some("toolong"));
        assert_eq!(is(r#"{"error":"busy"}"#).as_deref(), Some("busy"));
        assert_eq!(is(r#"{"object":"error","message":"m","code":400}"#).as_deref(), Some("m"));
        assert_eq!(is(r#"{"error":{"code":1},"choices":[]}"#).as_deref(), Some("no reason given"));
        for reply in [
            r#"{"choices":[{"message":{"content":"an error"}}]}"#,
            r#"{"choices":[{"index":0}],"error":{"message":"m"}}"#,
            r#"{"error":null,"choices":[]}"#,
            r#"{"text":"error"}"#,
            r#"{"data":[{"embedding":[1]}],"error":"x"}"#,
            r#"["error"]"#,
            "error",
        ] {
            assert_eq!(is(reply), None, "{reply}");
        }
        assert_eq!(message(format!(r#"{{"error":"{}"}}"#, "x".repeat(10_000)).as_bytes()).unwrap().len(), LONGEST);
    }
}
