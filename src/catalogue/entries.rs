//! The catalogue as people write it: a TOML file.

use std::collections::BTreeMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use toml::value::Datetime;

use crate::engine::Hidden;

/// The most bytes of a file.
const MAX_FILE: usize = 4 << 20;

/// The whole file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogueFile {
    /// The providers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provider: Vec<ProviderEntry>,
    /// The models; the first that has a protocol is the default for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub model: Vec<ModelEntry>,
}

/// An API server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderEntry {
    /// Its name in routes and in the log.
    pub name: String,
    /// Its address, taken as it is: `/chat/completions` is appended.
    #[serde(default)]
    pub base_url: String,
    /// Its API key.
    #[serde(default, skip_serializing_if = "KeyEntry::is_none")]
    pub api_key: KeyEntry,
    /// What it may be asked; `chat`, `embeddings` and `audio` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Vec<String>>,
    /// A file with the certificates (PEM) that its own is checked against, on each server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// Milliseconds for a connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect_timeout_ms: Option<i64>,
    /// Milliseconds to the head of the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_timeout_ms: Option<i64>,
    /// Milliseconds between two pieces of the reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_ms: Option<i64>,
    /// Milliseconds for the whole call, unless its reply is a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_timeout_ms: Option<i64>,
    /// Most calls at once, for each server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<i64>,
    /// Sent with each request. A value `env:NAME` is read from the environment; others are stored as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
}

/// An API key in the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyEntry {
    /// None is needed.
    #[default]
    None,
    /// `env:NAME`: it is in this environment variable of each server.
    Variable(String),
    /// `sealed`: the one that is stored is kept.
    Stored,
    /// The key itself.
    Literal(Hidden),
}

/// A model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelEntry {
    /// What clients write, exactly.
    pub name: String,
    /// What they may write as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The most tokens that one reply may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<i64>,
    /// From when on the price applies; from now on by default.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "time")]
    pub price_from: Option<String>,
    /// What it costs in US dollars: tokens per million, the rest each. Without it, the price stays as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<BTreeMap<String, String>>,
    /// Where it is served.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub route: Vec<RouteEntry>,
}

/// A way to a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteEntry {
    /// The provider's name.
    pub provider: String,
    /// The model's name there; the same by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Its share of the calls among routes of the same priority.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: i64,
    /// Routes with a higher number are asked when all with a lower one fail.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i64,
}

/// A time as TOML has it, or as a text, which is how JSON has it.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a time such as 2027-01-01T00:00:00Z")]
    enum Time {
        Toml(Datetime),
        Text(String),
    }
    Ok(Some(match Time::deserialize(deserializer)? {
        Time::Toml(time) => time.to_string(),
        Time::Text(text) => text,
    }))
}

const fn one() -> i64 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_one(number: &i64) -> bool {
    *number == 1
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl CatalogueFile {
    /// Reads a file.
    ///
    /// # Errors
    /// It is no TOML, or not of this form; with the line, but without showing it, as it may hold an API key.
    pub fn parse(text: &str) -> Result<CatalogueFile, String> {
        if text.len() > MAX_FILE {
            return Err(format!("the file is larger than {MAX_FILE} bytes"));
        }
        toml::from_str(text).map_err(|e| {
            let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
            format!("line {line}: {}", e.message().replace('\n', " "))
        })
    }

    /// Writes it as a file.
    ///
    /// # Errors
    /// It cannot be written as TOML.
    pub fn to_toml(&self) -> Result<String, String> {
        toml::to_string(self).map_err(|e| e.to_string())
    }
}

impl KeyEntry {
    fn is_none(&self) -> bool {
        *self == KeyEntry::None
    }
}

/// A literal is never written: whoever exports a catalogue gets `sealed` in its place.
impl Serialize for KeyEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            KeyEntry::None => serializer.serialize_str(""),
            KeyEntry::Variable(name) => serializer.serialize_str(&format!("env:{name}")),
            KeyEntry::Stored | KeyEntry::Literal(_) => serializer.serialize_str("sealed"),
        }
    }
}

impl<'de> Deserialize<'de> for KeyEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeyEntry, D::Error> {
        // The error of `String` would show what was given.
        let text = String::deserialize(deserializer).map_err(|_| D::Error::custom("api_key must be a text"))?;
        Ok(match text.strip_prefix("env:") {
            Some(name) => KeyEntry::Variable(name.to_owned()),
            None if text == "sealed" => KeyEntry::Stored,
            None if text.is_empty() => KeyEntry::None,
            None => KeyEntry::Literal(Hidden::new(text)),
        })
    }
}
