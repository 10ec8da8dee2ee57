//! A JSON object that keeps its values as they were sent: those that are not changed are passed on byte for byte.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// Maximum number of names at the top level, and of bytes of each.
const MOST_NAMES: usize = 1000;
const LONGEST_NAME: usize = 256;

/// A text longer than this is read as nothing but a text: the error would repeat it, with escapes that are several times as long.
const LONG_TEXT: usize = 1024;

/// The first byte of this JSON, which tells what it is. Parsed as something else, a long text would be repeated by the error.
pub fn first_byte(json: &[u8]) -> Option<u8> {
    json.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// The object, in the order in which it was sent. If a name occurs twice, only the last value is kept and passed on, so
/// that the next reader cannot choose another one.
#[derive(Debug, Default)]
pub struct Object<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'a> Object<'a> {
    /// Parses one.
    ///
    /// # Errors
    /// What is wrong with it, as a message for the client.
    pub fn parse(bytes: &'a [u8]) -> Result<Object<'a>, String> {
        if first_byte(bytes) == Some(b'"') {
            return Err("The body must be a JSON object".to_owned());
        }
        serde_json::from_slice(bytes).map_err(|e| match e.classify() {
            serde_json::error::Category::Data => format!("The body must be a JSON object: {e}"),
            _ => format!("The body is not valid JSON: {e}"),
        })
    }

    /// This value as an object; empty if it is not an object.
    pub fn of(value: &serde_json::Value) -> Object<'static> {
        let pair = |(name, value): (&String, &serde_json::Value)| {
            let value = serde_json::value::to_raw_value(value).ok()?;
            Some((Cow::Owned(name.clone()), Cow::Owned(value)))
        };
        Object(value.as_object().into_iter().flatten().filter_map(pair).collect())
    }

    /// The value as it was sent, if the name is present.
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| &**value)
    }

    /// Whether the name is present with a value other than `null`.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.get() != "null")
    }

    /// All names, in the order in which they were sent.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    /// The value, if it is present and has this type, which is no text.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let json = self.get(name)?.get();
        let is_long_text = json.len() > LONG_TEXT && json.starts_with('"');
        if is_long_text { None } else { serde_json::from_str(json).ok() }
    }

    /// The value, if it is present and a text.
    pub fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    /// Replaces the value with this name, or appends it. A value that cannot be serialised is left out.
    pub fn set(&mut self, name: &'static str, value: &impl Serialize) {
        let Ok(value) = serde_json::value::to_raw_value(value) else { return };
        self.put(Cow::Borrowed(name), Cow::Owned(value));
    }

    /// Replaces the value with this name, or appends it. What is no JSON is left out.
    pub fn set_json(&mut self, name: &'static str, json: Vec<u8>) {
        let json = String::from_utf8(json).ok().and_then(|json| RawValue::from_string(json).ok());
        if let Some(json) = json {
            self.put(Cow::Borrowed(name), Cow::Owned(json));
        }
    }

    /// [`Object::set`], unless the name is present with a value other than `null`.
    pub fn set_default(&mut self, name: &'static str, value: &impl Serialize) {
        if !self.has(name) {
            self.set(name, value);
        }
    }

    /// Removes a name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(n, _)| n != name);
    }

    /// Removes the names whose value is `null`.
    pub fn remove_nulls(&mut self) {
        self.0.retain(|(_, value)| value.get() != "null");
    }

    /// All names and values, in the order in which they were sent.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The object as JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_bytes_with(None, None)
    }

    /// The object as JSON, with this text for its `model` (if it has one), and with another value, in JSON, for the name
    /// in `changed`; without that name for `None`.
    pub fn to_bytes_with(&self, model: Option<&str>, changed: Option<(&str, Option<&str>)>) -> Vec<u8> {
        let mut bytes = vec![b'{'];
        for (name, value) in &self.0 {
            let changed = changed.filter(|(changed, _)| changed == name).map(|(_, value)| value);
            let Some(value) = changed.unwrap_or(Some(value.get())) else { continue };
            if bytes.len() > 1 {
                bytes.push(b',');
            }
            // Writing a string to memory does not fail.
            let _ = serde_json::to_writer(&mut bytes, name);
            bytes.push(b':');
            match model.filter(|_| name == "model") {
                Some(model) => drop(serde_json::to_writer(&mut bytes, model)),
                None => bytes.extend_from_slice(value.as_bytes()),
            }
        }
        bytes.push(b'}');
        bytes
    }

    fn put(&mut self, name: Cow<'a, str>, value: Cow<'a, RawValue>) {
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<'a>, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut object = Object::default();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if name.len() > LONGEST_NAME {
                        return Err(A::Error::custom("a name is too long"));
                    }
                    object.put(Cow::Owned(name), Cow::Borrowed(value));
                    if object.0.len() > MOST_NAMES {
                        return Err(A::Error::custom("too many names"));
                    }
                }
                Ok(object)
            }
        }
        deserializer.deserialize_map(Names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_not_changed_keep_their_bytes() {
        let sent = br#"{"a" : 1e400, "b":[1, 2.50], "c":"\ud800", "stream":true}"#;
        let mut object = Object::parse(sent).unwrap();
        object.set("stream", &false);
        object.set("new", &"x");
        let expected = br#"{"a":1e400,"b":[1, 2.50],"c":"\ud800","stream":false,"new":"x"}"#;
        assert_eq!(object.to_bytes(), expected, "{}", String::from_utf8_lossy(&object.to_bytes()));
    }

    #[test]
    fn values_become_an_object() {
        let values = serde_json::json!({"model": "x", "n": {"a": [1]}});
        let object = Object::of(&values);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&object.to_bytes()).unwrap(), values);
    }

    #[test]
    fn another_model_may_be_written() {
        let object = Object::parse(br#"{"a":{"model":1},"model":"x","b":2}"#).unwrap();
        let omitted = object.to_bytes_with(Some("y\"z"), Some(("b", None)));
        assert_eq!(omitted, br#"{"a":{"model":1},"model":"y\"z"}"#);
        let changed = object.to_bytes_with(None, Some(("b", Some("[]"))));
        assert_eq!(changed, br#"{"a":{"model":1},"model":"x","b":[]}"#);
        assert_eq!(Object::parse(b"{}").unwrap().to_bytes_with(Some("y"), Some(("b", Some("1")))), b"{}");
    }

    #[test]
    fn of_duplicate_names_the_last_value_is_kept() {
        let object = Object::parse(br#"{"model":"cheap","x":null,"mod\u0065l":"dear"}"#).unwrap();
        assert_eq!(object.text("model").unwrap(), "dear");
        assert_eq!(object.to_bytes(), br#"{"model":"dear","x":null}"#);
        assert!(!object.has("x") && object.get("x").is_some());
    }

    #[test]
    fn refuses_what_is_not_an_object() {
        for bytes in [&b""[..], b"[1]", b"{", b"{}x", b"\xff", br#"{"a":}"#] {
            assert!(Object::parse(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
        let names: Vec<_> = (0..=MOST_NAMES).map(|n| format!("\"{n}\":0")).collect();
        assert!(Object::parse(format!("{{{}}}", names.join(",")).as_bytes()).is_err());
    }
}
