//! Checks the objects within a request against those that are known, in one walk that builds no values.
//!
//! What is not known may be work that a model server does and no usage numbers tell. Plain values beside the known fields
//! say nothing of that kind, so they pass.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::strict;

/// What kind of objects stand somewhere in a request.
pub struct Shape {
    /// The types that one may have. Behind one that ends with `_` comes a date, such as `bash_20250124`.
    pub types: &'static [&'static str],
    /// The field that one without a type must have; if there is none, it must have a type.
    pub untyped: Option<&'static str>,
    /// The fields that may hold more than plain values, or that have to be checked.
    pub fields: &'static [(&'static str, Rule)],
}

/// What a field may hold.
#[derive(Clone, Copy)]
pub enum Rule {
    /// A text, a number, true, false or null.
    Plain,
    /// Any JSON.
    Any,
    /// An object of this shape, or a list of them; or a plain value.
    Of(&'static Shape),
    /// An object with any JSON in fields of these names and in no others; or a plain value.
    Only(&'static [&'static str]),
    /// How long something is kept in a cache, in its `ttl`.
    Cache,
    /// False or null, for this reason.
    False(&'static str),
    /// This text or null.
    Text(&'static str),
    /// Null, for this reason.
    Null(&'static str),
}

/// What was found in a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// A document, of which only the model server knows how long it is.
    pub has_document: bool,
    /// Something is to be kept in a cache for longer than usual, which costs more.
    pub has_long_cache: bool,
}

/// The types of objects that hold documents.
const DOCUMENTS: [&str; 2] = ["document", "input_file"];
/// The usual times for which something is kept in a cache.
const SHORT_TTLS: [&str; 2] = ["5m", "30m"];
/// Names within a conversation that decide what is read and charged. Some servers take them in any case.
const DECISIVE: [&str; 14] = [
    "type",
    "role",
    "content",
    "text",
    "input",
    "output",
    "source",
    "tools",
    "definition",
    "file_id",
    "file_data",
    "file_url",
    "image_url",
    "cache_control",
];
/// Most characters of what a client wrote that are repeated to it.
const MAX_SHOWN: usize = 100;

/// Checks the value of a field of a request.
///
/// # Errors
/// What may not be there, by its place in the request.
pub fn check(name: &str, rule: Rule, value: &RawValue, found: &mut Found) -> Result<(), String> {
    let mut walk = Walk { place: shown(name), refused: None, found };
    let mut json = serde_json::Deserializer::from_str(value.get());
    let checked = Ruled(&mut walk, rule).deserialize(&mut json);
    match (walk.refused, checked) {
        (Some(refused), _) => Err(refused),
        (None, Err(e)) => Err(format!("{}: {e}", shown(name))),
        (None, Ok(())) => Ok(()),
    }
}

/// A text of a client as it may be repeated to it.
pub fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect()
}

struct Walk<'f> {
    place: String,
    refused: Option<String>,
    found: &'f mut Found,
}

impl Walk<'_> {
    fn refuse<E: Error>(&mut self, what: &str) -> E {
        self.refused.get_or_insert_with(|| format!("{} {what}", self.place));
        E::custom("refused")
    }

    fn check_type<E: Error>(&mut self, shape: &Shape, kind: &str) -> Result<(), E> {
        self.found.has_document |= DOCUMENTS.contains(&kind);
        let is_date = |rest: &str| rest.len() == 8 && rest.bytes().all(|byte| byte.is_ascii_digit());
        let is = |known: &&str| match known.ends_with('_') {
            true => kind.strip_prefix(known).is_some_and(is_date),
            false => kind == *known,
        };
        match shape.types {
            [] => Ok(()),
            types if types.iter().any(is) => Ok(()),
            _ if kind == "item_reference" => Err(self.refuse(
                "is item_reference, which is not supported. Responses are not stored: set store to false, so that your \
                 library sends the items themselves",
            )),
            types => Err(self.refuse(&format!("must be one of {}, not {:?}", types.join(", "), shown(kind)))),
        }
    }
}

/// A value of which this must hold.
struct Ruled<'w, 'f>(&'w mut Walk<'f>, Rule);

impl<'de> DeserializeSeed<'de> for Ruled<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.1 {
            Rule::Any => deserializer.deserialize_ignored_any(IgnoredAny).map(drop),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl Ruled<'_, '_> {
    fn plain<E: Error>(self) -> Result<(), E> {
        match self.1 {
            Rule::Null(why) => Err(self.0.refuse(&format!("is not supported. {why}"))),
            Rule::False(why) => Err(self.0.refuse(&format!("must be false. {why}"))),
            Rule::Text(text) => Err(self.0.refuse(&format!("must be {text}"))),
            Rule::Plain | Rule::Any | Rule::Of(_) | Rule::Only(_) | Rule::Cache => Ok(()),
        }
    }
}

impl<'de> Visitor<'de> for Ruled<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E: Error>(self, is: bool) -> Result<(), E> {
        if matches!(self.1, Rule::False(_)) && !is { Ok(()) } else { self.plain() }
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if matches!(self.1, Rule::Text(only) if only == text) { Ok(()) } else { self.plain() }
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.plain()
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.plain()
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.plain()
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let Ruled(walk, rule @ Rule::Of(_)) = self else { return self.structured() };
        let length = walk.place.len();
        let mut index = 0_usize;
        loop {
            walk.place.push_str(&format!("[{index}]"));
            if seq.next_element_seed(Ruled(&mut *walk, rule))?.is_none() {
                break;
            }
            walk.place.truncate(length);
            index += 1;
        }
        walk.place.truncate(length);
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        match self {
            Ruled(walk, Rule::Of(shape)) => object(walk, shape, map),
            Ruled(walk, Rule::Only(names)) => only(walk, names, map),
            Ruled(walk, Rule::Cache) => cache(walk, map),
            ruled => ruled.structured(),
        }
    }
}

impl Ruled<'_, '_> {
    /// A list or an object.
    fn structured<E: Error>(self) -> Result<(), E> {
        match self.1 {
            Rule::Plain => Err(self.0.refuse("must not be a list or an object: what it would cost is not known here")),
            Rule::Only(_) | Rule::Cache => Err(self.0.refuse("must be an object")),
            _ => self.plain(),
        }
    }
}

fn object<'de, A: MapAccess<'de>>(walk: &mut Walk<'_>, shape: &Shape, mut map: A) -> Result<(), A::Error> {
    let (mut has_type, mut is_known) = (false, false);
    let length = walk.place.len();
    while let Some(name) = map.next_key::<Cow<'de, str>>()? {
        walk.place.push('.');
        walk.place.push_str(&shown(&name));
        is_known |= shape.untyped == Some(&*name);
        let known = || DECISIVE.iter().copied().chain(shape.fields.iter().map(|(known, _)| *known));
        match shape.fields.iter().find(|(known, _)| *known == name) {
            _ if name == "type" => {
                if let Some(kind) = map.next_value::<Option<Cow<'de, str>>>()? {
                    has_type = true;
                    walk.check_type(shape, &kind)?;
                }
            }
            Some((_, rule)) => map.next_value_seed(Ruled(&mut *walk, *rule))?,
            None if known().any(|known| strict::confusable([&*name], &[known]).is_some()) => {
                return Err(walk.refuse("is written in another case than the protocol has it"));
            }
            None => map.next_value_seed(Ruled(&mut *walk, Rule::Plain))?,
        }
        walk.place.truncate(length);
    }
    match has_type || is_known || shape.types.is_empty() {
        true => Ok(()),
        false => Err(walk.refuse(&match shape.untyped {
            Some(other) => format!("must have a type or a {other}"),
            None => "must have a type".to_owned(),
        })),
    }
}

fn only<'de, A: MapAccess<'de>>(walk: &mut Walk<'_>, names: &[&str], mut map: A) -> Result<(), A::Error> {
    while let Some(name) = map.next_key::<Cow<'de, str>>()? {
        if !names.contains(&&*name) {
            walk.place.push('.');
            walk.place.push_str(&shown(&name));
            return Err(walk.refuse("is not supported: what it would cost is not known here"));
        }
        map.next_value::<IgnoredAny>()?;
    }
    Ok(())
}

fn cache<'de, A: MapAccess<'de>>(walk: &mut Walk<'_>, mut map: A) -> Result<(), A::Error> {
    while let Some(name) = map.next_key::<Cow<'de, str>>()? {
        if name == "ttl" {
            let ttl = map.next_value::<Option<Cow<'de, str>>>()?;
            walk.found.has_long_cache |= ttl.is_some_and(|ttl| !SHORT_TTLS.contains(&&*ttl));
        } else {
            walk.found.has_long_cache |= name.eq_ignore_ascii_case("ttl");
            map.next_value::<IgnoredAny>()?;
        }
    }
    Ok(())
}
