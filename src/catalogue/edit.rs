//! Changes one entry of the stored catalogue, and leaves all others as they are.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::db::Transaction;
use crate::error::{Error, Result};
use crate::store::audit::{self, Actor};
use crate::store::catalogue as store;
use crate::store::prices;

use super::apply::{model_entry, provider_entry, provider_row, set_price};
use super::entries::{KeyEntry, ModelEntry, ProviderEntry};
use super::seal::Sealer;
use super::validate::{validate_model, validate_provider};

/// The most characters of what the audit log says of a change.
const LONGEST_DETAIL: usize = 1000;

/// A change of one entry.
pub struct EntryChange {
    name: String,
    is_removal: bool,
    /// Whether there must be no such entry yet.
    is_creation: bool,
    /// The fields to be changed, in the form of the file; null is the same as to leave one out of the file.
    fields: Map<String, Value>,
}

/// What a change has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Outcome {
    /// There was no entry of this name.
    Created,
    /// There was one.
    Changed,
    /// There was one, and it was like this already.
    Unchanged,
    /// There is none any more.
    Removed,
}

impl EntryChange {
    /// From an object with the `name` of the entry, and either `remove` or the fields to be changed.
    ///
    /// # Errors
    /// 400.
    pub fn new(mut fields: Map<String, Value>) -> Result<EntryChange> {
        let Some(Value::String(name)) = fields.shift_remove("name") else {
            return Err(Error::bad("name: expected a text"));
        };
        let is_removal = match fields.shift_remove("remove") {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Bool(true)) if fields.is_empty() => true,
            Some(Value::Bool(true)) => return Err(Error::bad("remove: expected no other field than the name with it")),
            Some(_) => return Err(Error::bad("remove: expected true or false")),
        };
        Ok(EntryChange { name, is_removal, is_creation: false, fields })
    }

    /// The same, but there must be no such entry yet.
    #[must_use]
    pub fn of_new_entry(self) -> EntryChange {
        EntryChange { is_creation: true, ..self }
    }

    /// The name of the entry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The entry as it is to be.
    fn applied_to<E: Serialize + DeserializeOwned>(&self, existing: Option<E>) -> Result<E> {
        if self.is_creation && existing.is_some() {
            return Err(Error::bad(format!("name: there is already one with the name {:?}", self.name)));
        }
        let mut object = match existing.map(serde_json::to_value) {
            Some(Ok(Value::Object(object))) => object,
            _ => Map::new(),
        };
        object.insert("name".to_owned(), Value::String(self.name.clone()));
        for (name, value) in &self.fields {
            object.shift_remove(name);
            if !value.is_null() {
                object.insert(name.clone(), value.clone());
            }
        }
        serde_path_to_error::deserialize(Value::Object(object)).map_err(|e| {
            let (path, problem) = (e.path().to_string(), in_words(&e.inner().to_string()));
            Error::bad(if path == "." { problem } else { format!("{path}: {problem}") })
        })
    }

    /// What the audit log says of it. API keys and headers may be secrets, so only their names are there.
    fn details(&self) -> String {
        let field = |(name, value): (&String, &Value)| match name.as_str() {
            "api_key" | "headers" => name.clone(),
            _ => format!("{name} = {value}"),
        };
        let all: Vec<String> = self.fields.iter().map(field).collect();
        all.join(", ").chars().take(LONGEST_DETAIL).collect()
    }

    fn record(&self, db: &mut Transaction<'_>, actor: Actor<'_>, kind: &str, outcome: Outcome) -> Result<Outcome> {
        let action = match outcome {
            Outcome::Created => "create",
            Outcome::Changed => "change",
            Outcome::Removed => "remove",
            Outcome::Unchanged => return Ok(outcome),
        };
        audit::insert_for(db, actor, &format!("{action} {kind}"), &self.name, &self.details())?;
        Ok(outcome)
    }
}

/// Says what was expected in place of what was found, without showing that: it may be a secret.
fn in_words(problem: &str) -> String {
    let expected = problem.split_once(", expected ").filter(|_| problem.starts_with("invalid "));
    match expected.map(|(_, expected)| expected) {
        None => problem.chars().take(300).collect(),
        Some("i64") => "expected a whole number".to_owned(),
        Some("a string") => "expected a text".to_owned(),
        Some("a sequence") => "expected a list".to_owned(),
        Some("a map") => "expected an object".to_owned(),
        Some(other) if other.starts_with("struct ") => "expected an object".to_owned(),
        Some(other) => format!("expected {other}"),
    }
}

/// Creates, changes or removes a model, and records that in the audit log.
///
/// # Errors
/// 400 that says what is wrong; 404 if the model to be removed does not exist.
pub fn change_model(db: &mut Transaction<'_>, change: &EntryChange, actor: Actor<'_>) -> Result<Outcome> {
    store::lock(db)?;
    let stored = store::read(db)?;
    let existing = stored.models.iter().find(|model| model.name == change.name);
    if change.is_removal {
        existing.ok_or(Error::NotFound("There is no model of this name"))?;
        store::remove_model(db, &change.name)?;
        return change.record(db, actor, "model", Outcome::Removed);
    }
    let entry: ModelEntry = change.applied_to(existing.cloned().map(model_entry))?;
    let (row, price) = validate_model(&entry, &stored).map_err(|problems| Error::bad(problems.to_string()))?;
    let is_changed = existing != Some(&row);
    if is_changed {
        store::put_model(db, &row)?;
    }
    let prices = prices::all(db)?;
    let has_new_price = set_price(db, &prices, &row.name, price)?;
    change.record(db, actor, "model", outcome(existing.is_some(), is_changed || has_new_price))
}

/// Creates, changes or removes a provider, and records that in the audit log. `sealer` is asked for only if there is an
/// API key to be sealed.
///
/// # Errors
/// 400 that says what is wrong, also if a provider to be removed has routes; 404 if it does not exist.
pub fn change_provider(
    db: &mut Transaction<'_>,
    change: &EntryChange,
    sealer: impl FnOnce() -> std::result::Result<Sealer, String>,
    actor: Actor<'_>,
) -> Result<Outcome> {
    store::lock(db)?;
    let stored = store::read(db)?;
    let existing = stored.providers.iter().find(|provider| provider.name == change.name);
    if change.is_removal {
        existing.ok_or(Error::NotFound("There is no provider of this name"))?;
        let leads_to = |model: &&store::ModelRow| model.routes.iter().any(|route| route.provider == change.name);
        if let Some(model) = stored.models.iter().find(leads_to) {
            let (provider, model) = (&change.name, &model.name);
            return Err(Error::bad(format!("provider {provider:?}: the model {model:?} has a route to it")));
        }
        store::remove_provider(db, &change.name)?;
        return change.record(db, actor, "provider", Outcome::Removed);
    }
    let entry: ProviderEntry = change.applied_to(existing.cloned().map(provider_entry))?;
    validate_provider(&entry, &stored).map_err(|problems| Error::bad(problems.to_string()))?;
    let in_field = |e: String| Error::bad(format!("provider {:?}: api_key: {e}", change.name));
    let sealer = matches!(entry.api_key, KeyEntry::Literal(_)).then(sealer).transpose().map_err(in_field)?;
    let row = provider_row(entry, existing, sealer.as_ref()).map_err(Error::bad)?;
    let is_changed = existing != Some(&row);
    if is_changed {
        store::put_provider(db, &row)?;
    }
    change.record(db, actor, "provider", outcome(existing.is_some(), is_changed))
}

fn outcome(existed: bool, is_changed: bool) -> Outcome {
    match (existed, is_changed) {
        (false, _) => Outcome::Created,
        (true, true) => Outcome::Changed,
        (true, false) => Outcome::Unchanged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn applied<E: Serialize + DeserializeOwned>(existing: Option<E>, fields: Value) -> std::result::Result<E, String> {
        let change = EntryChange::new(fields.as_object().cloned().unwrap_or_default());
        change.and_then(|change| change.applied_to(existing)).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_not_named_stays_and_null_is_the_default() {
        let fields = json!({"name": "m", "aliases": ["a"], "max_output_tokens": 5, "route": [{"provider": "p"}],
            "price": {"input": "1"}, "price_from": "2999-01-01T00:00:00Z"});
        let made: ModelEntry = applied(None, fields).unwrap();
        assert_eq!((made.route[0].weight, made.price_from.as_deref()), (1, Some("2999-01-01T00:00:00Z")));
        let changed = applied(Some(made), json!({"name": "m", "max_output_tokens": null, "aliases": ["b"]})).unwrap();
        assert_eq!((changed.max_output_tokens, changed.aliases, changed.route.len()), (None, vec!["b".to_owned()], 1));
    }

    #[test]
    fn a_wrong_field_is_named_and_what_is_in_it_is_not_shown() {
        for (fields, words) in [
            (json!({}), "name: expected a text"),
            (json!({"name": 5}), "name: expected a text"),
            (json!({"name": "m", "remove": "yes"}), "remove: expected true or false"),
            (json!({"name": "m", "remove": true, "aliases": []}), "remove: expected no other field"),
            (json!({"name": "m", "aliases": "hunter2"}), "aliases: expected a list"),
            (json!({"name": "m", "aliases": [{"hunter2": 1}]}), "aliases[0]: expected a text"),
            (json!({"name": "m", "max_output_tokens": "hunter2"}), "max_output_tokens: expected a whole number"),
            (json!({"name": "m", "price": {"input": 0.15}}), "price.input: expected a text"),
            (json!({"name": "m", "price": "hunter2"}), "price: expected an object"),
            (json!({"name": "m", "price_from": 5}), "price_from: a time such as"),
            (
                json!({"name": "m", "route": [{"provider": "p"}, {"provider": "p", "weight": "hunter2"}]}),
                "route[1].weight: ",
            ),
            (json!({"name": "m", "route": [{"weight": 1}]}), "route[0]: missing field `provider`"),
            (json!({"name": "m", "max_tokens": 5}), "max_tokens: unknown field `max_tokens`"),
        ] {
            let problem = applied::<ModelEntry>(None, fields.clone()).unwrap_err();
            assert!(problem.contains(words) && !problem.contains("hunter2"), "{fields}: {problem}");
        }
        for (fields, words) in [
            (json!({"name": "p", "api_key": ["hunter2"]}), "api_key: api_key must be a text"),
            (json!({"name": "p", "headers": "hunter2"}), "headers: expected an object"),
            (json!({"name": "p", "base_url": ["hunter2"]}), "base_url: expected a text"),
        ] {
            let problem = applied::<ProviderEntry>(None, fields.clone()).unwrap_err();
            assert!(problem.contains(words) && !problem.contains("hunter2"), "{fields}: {problem}");
        }
    }

    #[test]
    fn the_audit_log_has_no_secrets() {
        let fields = json!({"name": "p", "api_key": "hunter2", "headers": {"X": "hunter2"}, "max_concurrent": 5});
        let details = EntryChange::new(fields.as_object().unwrap().clone()).unwrap().details();
        assert_eq!(details, "api_key, headers, max_concurrent = 5");
    }
}
