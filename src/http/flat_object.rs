//! A JSON object of which only texts, numbers and the like are kept.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Most names.
const MOST_NAMES: usize = 1000;

/// The object. Lists and objects in it are read to their end, and replaced by empty ones, so that they take no memory; their
/// type can still be told.
pub(super) struct Flat(pub(super) Map<String, Value>);

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Flat, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Flat;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Flat, A::Error> {
                let mut members = Map::new();
                while let Some((name, Member(value))) = map.next_entry::<String, Member>()? {
                    members.insert(name, value);
                    if members.len() > MOST_NAMES {
                        return Err(A::Error::custom("too many names"));
                    }
                }
                Ok(Flat(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

struct Member(Value);

impl<'de> Deserialize<'de> for Member {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Member, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Member;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Member, E> {
                Ok(Member(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Member, E> {
                Ok(Member(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Member, E> {
                Ok(Member(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Member, E> {
                Ok(Member(value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Member, E> {
                Ok(Member(value.into()))
            }

            fn visit_unit<E>(self) -> Result<Member, E> {
                Ok(Member(Value::Null))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Member, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Member(Value::Array(Vec::new())))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Member, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Member(Value::Object(Map::new())))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_nested_is_read_and_not_kept() {
        let Flat(members) = serde_json::from_str(
            r#"{"a":"x\u0041","b":[1,{"c":[]}],"d":{"e":{"f":1}},"g":-1,"h":1.5,"i":18446744073709551615,"j":null,"k":true,"a":"y"}"#,
        )
        .unwrap();
        let expected =
            json!({"a":"y","b":[],"d":{},"g":-1,"h":1.5,"i":18_446_744_073_709_551_615_u64,"j":null,"k":true});
        assert_eq!(Value::Object(members), expected);
        for bad in [r#"{"a":[1,}"#, r#"{"a":{"b"}}"#, r#"{"a":"\ud800"}"#, "[]", "{", r#"{"a":1}x"#] {
            assert!(serde_json::from_str::<Flat>(bad).is_err(), "{bad}");
        }
        let names: Vec<_> = (0..=MOST_NAMES).map(|n| format!("\"{n}\":0")).collect();
        assert!(serde_json::from_str::<Flat>(&format!("{{{}}}", names.join(","))).is_err());
    }
}
