//! Walks through any JSON without keeping it.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Takes what a [`Walk`] meets.
pub trait Walker {
    /// A text.
    fn text(&mut self, text: &str);

    /// A number.
    fn number(&mut self) {}

    /// An object begins.
    fn object(&mut self) {}

    /// A field of an object, whose value it must take from `map`: with a `Walk`, to walk through that too.
    ///
    /// # Errors
    /// Those of the deserializer.
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error>;
}

/// A walk through one value.
pub struct Walk<'w, W>(pub &'w mut W);

impl<'de, W: Walker> DeserializeSeed<'de> for Walk<'_, W> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, W: Walker> Visitor<'de> for Walk<'_, W> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }
    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.text(text);
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.0.number();
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.0.number();
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.0.number();
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Walk(&mut *self.0))?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.object();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            self.0.field(&name, &mut map)?;
        }
        Ok(())
    }
}

/// Shows each element of a list, without a copy of them, and returns how many there are; `None` if this is no list.
pub fn each_element(list: &RawValue, each: impl FnMut(&RawValue)) -> Option<usize> {
    struct Elements<F>(F);

    impl<'de, F: FnMut(&RawValue)> Visitor<'de> for Elements<F> {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<usize, A::Error> {
            let mut count = 0;
            while let Some(element) = list.next_element::<&RawValue>()? {
                self.0(element);
                count += 1;
            }
            Ok(count)
        }
    }

    serde_json::Deserializer::from_str(list.get()).deserialize_seq(Elements(each)).ok()
}

/// Bytes that a value takes, with as much again where a list grew by doubling.
const VALUE: usize = 2 * size_of::<serde_json::Value>();
/// Bytes of the smallest list or map that is not empty.
const CONTAINER: usize = 8 * size_of::<serde_json::Value>();

/// How many bytes this JSON takes at most when it is parsed to a [`serde_json::Value`]. It is counted by its brackets and
/// commas, which is fast.
pub fn held(json: &str) -> usize {
    let bytes = json.as_bytes();
    let (mut values, mut containers, mut at) = (1_usize, 0_usize, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = super::strict::string_end(json, at),
            b',' => values += 1,
            b'[' | b'{' => (values, containers) = (values + 1, containers + 1),
            _ => {}
        }
        at += usize::from(byte != b'"');
    }
    json.len() + values.saturating_mul(VALUE) + containers.saturating_mul(CONTAINER)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// The bytes that a value takes, without what allocators and tables of hashes take besides.
    fn size(value: &Value) -> usize {
        let within = match value {
            Value::String(text) => text.capacity(),
            Value::Array(list) => {
                let spare = list.capacity() - list.len();
                spare * size_of::<Value>() + list.iter().map(size).sum::<usize>()
            }
            Value::Object(map) => map.iter().map(|(name, value)| 48 + name.capacity() + size(value)).sum(),
            _ => 0,
        };
        size_of::<Value>() + within
    }

    #[test]
    fn what_json_takes_when_it_is_parsed_is_bounded() {
        let many = |element: &str| format!("[{element}{}]", format!(",{element}").repeat(1000));
        for json in [
            "0".to_owned(),
            many("0"),
            many("[]"),
            many("[0]"),
            many(r#"{"":0}"#),
            many(r#""[,{""#),
            many(r#"{"a":[[{}]],"b":"\\\""}"#),
            many(&many("1")),
        ] {
            let (most, parsed) = (held(&json), serde_json::from_str::<Value>(&json).unwrap());
            assert!(size(&parsed) <= most && most < json.len() * 450 + 1000, "{most} for {}", size(&parsed));
        }
        let text = format!(r#"{{"input":"{}"}}"#, "a, [b] {c} ".repeat(1000));
        assert!(held(&text) < text.len() + 5000, "texts take no more than they are long");
    }
}
