//! The words of a field that is a text as a rule, and a list of parts on some servers.

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess};
use serde::{Deserialize, Deserializer};

use super::json_walk::{Walk, Walker};

/// A text, or all texts within a list or an object but their types, one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words(pub String);

impl Words {
    /// What is behind so many bytes; `None` if that is nothing.
    #[must_use]
    pub fn behind(mut self, bytes: usize) -> Option<Words> {
        let is_boundary = |at: &usize| self.0.is_char_boundary(*at);
        let from = (bytes..self.0.len()).find(is_boundary).unwrap_or(self.0.len());
        self.0.drain(..from);
        (!self.0.is_empty()).then_some(self)
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Words, D::Error> {
        let mut words = Words::default();
        Walk(&mut words).deserialize(deserializer)?;
        Ok(words)
    }
}

impl Walker for Words {
    fn text(&mut self, text: &str) {
        self.0.push_str(text);
    }
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "type" => map.next_value::<IgnoredAny>().map(drop),
            _ => map.next_value_seed(Walk(self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_wherever_they_are() {
        for (json, words) in [
            (r#""a b""#, "a b"),
            ("1.5", ""),
            (r#"[{"type":"thinking","thinking":[{"text":"x"}]},{"text":"y"},null,true,-1]"#, "xy"),
        ] {
            assert_eq!(serde_json::from_str::<Words>(json).unwrap().0, words);
        }
    }
}
