//! One entry of the catalogue, for `textgen models` and `textgen provider`: shown, set and removed in the form of the file.

use serde_json::{Map, Value};

use super::{Failure, database};
use crate::catalogue::{self, CatalogueFile, EntryChange, Outcome, Sealer};
use crate::config::Config;
use crate::store::audit::COMMAND_LINE;

/// What an entry is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Model,
    Provider,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Kind::Model => "model",
            Kind::Provider => "provider",
        }
    }
}

/// An entry, as it would stand in the file.
pub(super) fn show(kind: Kind, name: &str, config: &Config) -> Result<String, Failure> {
    let CatalogueFile { mut provider, mut model } = catalogue::export(&mut database(config)?.session()?)?;
    match kind {
        Kind::Model => {
            provider.clear();
            model.retain(|entry| entry.name == name || entry.aliases.iter().any(|alias| alias == name));
        }
        Kind::Provider => {
            model.clear();
            provider.retain(|entry| entry.name == name);
        }
    }
    if provider.is_empty() && model.is_empty() {
        return Err(Failure(format!("no such {}: {name:?}", kind.name())));
    }
    Ok(CatalogueFile { provider, model }.to_toml()?)
}

/// Creates or changes an entry: `fields` are lines as in the file.
pub(super) fn set(kind: Kind, name: &str, fields: &[String], config: &Config) -> Result<String, Failure> {
    let table: toml::Table = fields.join("\n").parse().map_err(|e: toml::de::Error| {
        Failure(format!("{}: expected lines as in the catalogue file, such as 'max_output_tokens = 4096'", e.message()))
    })?;
    let object = serde_json::to_value(table).map_err(|e| Failure(e.to_string()))?;
    let Value::Object(object) = object else { return Err(Failure("expected fields".to_owned())) };
    if let Some(Value::String(key)) = object.get("api_key")
        && !key.starts_with("env:")
    {
        return Err(Failure(
            "api_key: everybody on this machine can read arguments: use env:NAME, or `textgen models apply FILE`"
                .to_owned(),
        ));
    }
    change(kind, name, object, config)
}

/// Removes an entry.
pub(super) fn remove(kind: Kind, name: &str, config: &Config) -> Result<String, Failure> {
    change(kind, name, Map::from_iter([("remove".to_owned(), Value::Bool(true))]), config)
}

fn change(kind: Kind, name: &str, mut object: Map<String, Value>, config: &Config) -> Result<String, Failure> {
    object.insert("name".to_owned(), name.into());
    let change = EntryChange::new(object)?;
    let db = database(config)?;
    let mut session = db.session()?;
    let mut transaction = session.transaction()?;
    let sealer = || Sealer::new(config.encryption_key.as_ref());
    let outcome = match kind {
        Kind::Model => catalogue::change_model(&mut transaction, &change, COMMAND_LINE)?,
        Kind::Provider => catalogue::change_provider(&mut transaction, &change, sealer, COMMAND_LINE)?,
    };
    transaction.commit()?;
    let done = match outcome {
        Outcome::Created => "created",
        Outcome::Changed => "changed",
        Outcome::Unchanged => "nothing changed:",
        Outcome::Removed => "removed",
    };
    Ok(format!("{done} {} {name}\n", kind.name()))
}
