//! One value for each unit: amounts used, prices.

use std::borrow::Cow;
use std::fmt;
use std::ops::{AddAssign, Index, IndexMut};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use serde_json::{Map, Value, json};

use super::{Display, MAX_UNITS, Unit};

/// One value for each unit, indexed by [`Unit`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByUnit<T>([T; Unit::COUNT]);

/// How much was used, in each unit. In JSON, an object with a field for each; missing ones read as 0.
pub type Units = ByUnit<i64>;

impl<T: Default> ByUnit<T> {
    /// These values, and the default for every other unit.
    pub fn of<const N: usize>(values: [(Unit, T); N]) -> ByUnit<T> {
        let mut all = ByUnit(std::array::from_fn(|_| T::default()));
        for (unit, value) in values {
            all[unit] = value;
        }
        all
    }
}

impl<T> ByUnit<T> {
    /// The value that `make` returns for each unit.
    pub fn from_fn(make: impl FnMut(Unit) -> T) -> ByUnit<T> {
        ByUnit(Unit::ALL.map(make))
    }

    /// As [`ByUnit::from_fn`], stopping at the first error.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn try_from_fn<E>(mut make: impl FnMut(Unit) -> Result<T, E>) -> Result<ByUnit<T>, E>
    where
        T: Copy + Default,
    {
        let mut all = ByUnit::default();
        for unit in Unit::ALL {
            all[unit] = make(unit)?;
        }
        Ok(all)
    }

    /// Each unit with its value, in the order of [`Unit::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (Unit, &T)> {
        Unit::ALL.into_iter().zip(&self.0)
    }

    /// The values alone, in the order of [`Unit::ALL`].
    pub fn values(&self) -> &[T; Unit::COUNT] {
        &self.0
    }
}

impl<T> Index<Unit> for ByUnit<T> {
    type Output = T;

    fn index(&self, unit: Unit) -> &T {
        &self.0[unit as usize]
    }
}

impl<T> IndexMut<Unit> for ByUnit<T> {
    fn index_mut(&mut self, unit: Unit) -> &mut T {
        &mut self.0[unit as usize]
    }
}

impl Units {
    /// Each amount limited to 0 to [`MAX_UNITS`]: what is recorded and priced.
    #[must_use]
    pub fn clamped(&self) -> Units {
        ByUnit(self.0.map(|amount| amount.clamp(0, MAX_UNITS)))
    }

    /// All kinds of tokens together, saturating.
    pub fn tokens(&self) -> i64 {
        let tokens = self.iter().filter(|(unit, _)| unit.declaration().display == Display::Tokens);
        tokens.fold(0, |sum, (_, amount)| i64::saturating_add(sum, *amount))
    }

    /// The use of one request for a person to read, such as `12 tokens` or `3 s`; a dash for nothing.
    pub fn describe(&self) -> String {
        let counted = |amount: i64, one: &str, many: &str| format!("{amount} {}", if amount == 1 { one } else { many });
        if self.tokens() > 0 {
            return counted(self.tokens(), "token", "tokens");
        }
        let shown = self.iter().filter(|(_, amount)| **amount > 0).find_map(|(unit, &amount)| {
            match unit.declaration().display {
                Display::Hidden | Display::Tokens => None,
                Display::Seconds => Some(format!("{} s", amount / 1000)),
                Display::Count(one, many) => Some(counted(amount, one, many)),
            }
        });
        shown.unwrap_or_else(|| "–".to_owned())
    }
}

/// Saturating: a sum never wraps around.
impl AddAssign<&Units> for Units {
    fn add_assign(&mut self, more: &Units) {
        for (sum, amount) in self.0.iter_mut().zip(&more.0) {
            *sum = sum.saturating_add(*amount);
        }
    }
}

impl Serialize for Units {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(Unit::COUNT))?;
        for (unit, amount) in self.iter() {
            map.serialize_entry(unit.column(), amount)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Units {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Units, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Units;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with a number for each unit")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Units, A::Error> {
                let mut units = Units::default();
                while let Some(name) = map.next_key::<Cow<'_, str>>()? {
                    match Unit::from_column(&name) {
                        Some(unit) => units[unit] = map.next_value()?,
                        None => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(units)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// An object with a field for each unit.
impl JsonSchema for Units {
    fn schema_name() -> Cow<'static, str> {
        "Units".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let properties = Unit::ALL.map(|unit| {
            let schema = json!({"type": "integer", "description": unit.description()});
            (unit.column().to_owned(), schema)
        });
        let required = Unit::ALL.map(Unit::column);
        let properties: Map<String, Value> = properties.into_iter().collect();
        json_schema!({"type": "object", "properties": properties, "required": required})
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_stop_at_the_limits() {
        let mut sum = Units::of([(Unit::PromptTokens, i64::MAX - 1), (Unit::Characters, i64::MIN + 1)]);
        sum += &Units::of([(Unit::PromptTokens, 5), (Unit::Characters, -5), (Unit::Requests, 2)]);
        let expected = [(Unit::PromptTokens, i64::MAX), (Unit::Characters, i64::MIN), (Unit::Requests, 2)];
        assert_eq!(sum, Units::of(expected));
        assert_eq!(Units::of([(Unit::PromptTokens, i64::MAX), (Unit::CompletionTokens, 1)]).tokens(), i64::MAX);
        assert_eq!(sum.clamped()[Unit::PromptTokens], MAX_UNITS);
        assert_eq!(sum.clamped()[Unit::Characters], 0);
    }

    #[test]
    fn json_names_every_unit_and_lacks_none() {
        let units = Units::of([(Unit::AudioMillis, 3), (Unit::Requests, 1)]);
        let json = serde_json::to_value(units).unwrap();
        assert_eq!(json.as_object().unwrap().len(), Unit::COUNT);
        assert_eq!(json["audio_millis"], 3);
        assert_eq!(serde_json::from_value::<Units>(json).unwrap(), units);
        let partial = serde_json::from_str::<Units>(r#"{"requests": 1, "audio_millis": 3, "unknown": "x"}"#);
        assert_eq!(partial.unwrap(), units);
    }

    #[test]
    fn use_is_described_in_plural_and_singular() {
        let describe = |units: &[(Unit, i64)]| {
            let mut all = Units::default();
            for (unit, amount) in units {
                all[*unit] = *amount;
            }
            all.describe()
        };
        assert_eq!(describe(&[(Unit::PromptTokens, 5), (Unit::CompletionTokens, 7), (Unit::Requests, 1)]), "12 tokens");
        assert_eq!(describe(&[(Unit::EmbeddingTokens, 1)]), "1 token");
        assert_eq!(describe(&[(Unit::AudioMillis, 3999)]), "3 s");
        assert_eq!(describe(&[(Unit::Characters, 1)]), "1 character");
        assert_eq!(describe(&[(Unit::Requests, 1)]), "–");
    }
}
