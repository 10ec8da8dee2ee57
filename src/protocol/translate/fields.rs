//! Reads the fields of JSON objects one by one. What is left when all that is known was taken is refused.

use serde_json::{Map, Value, json};

/// What cannot be translated: a message for the client that names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(pub String);

/// Most characters of what a client wrote that are repeated to it.
const MAX_SHOWN: usize = 100;

/// The fields of an object that were not taken yet. Null is as good as left out.
pub(super) struct Fields {
    /// Where the object stands in the request; empty for the request itself.
    place: String,
    fields: Map<String, Value>,
}

impl Fields {
    /// Those of a value at this place, which must be an object.
    pub(super) fn of(place: impl Into<String>, value: Value) -> Result<Fields, Refusal> {
        let place = place.into();
        match value {
            Value::Object(fields) => Ok(Fields { place, fields }),
            _ => Err(Refusal(format!("{place} must be an object"))),
        }
    }

    /// The place of one of them.
    pub(super) fn place(&self, name: &str) -> String {
        if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) }
    }

    /// Takes one.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.shift_remove(name).filter(|value| !value.is_null())
    }

    /// Looks at one.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// Takes a text.
    pub(super) fn text(&mut self, name: &str) -> Result<Option<String>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal(format!("{} must be a string", self.place(name)))),
        }
    }

    /// Takes a text that must be there.
    pub(super) fn needed_text(&mut self, name: &str) -> Result<String, Refusal> {
        self.text(name)?.ok_or_else(|| self.is_needed(name))
    }

    /// Takes what must be there.
    pub(super) fn needed(&mut self, name: &str) -> Result<Value, Refusal> {
        self.take(name).ok_or_else(|| self.is_needed(name))
    }

    fn is_needed(&self, name: &str) -> Refusal {
        Refusal(format!("{} is required", self.place(name)))
    }

    /// Takes a list; an empty one if it is not there.
    pub(super) fn list(&mut self, name: &str) -> Result<Vec<Value>, Refusal> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => Ok(list),
            Some(_) => Err(Refusal(format!("{} must be a list", self.place(name)))),
        }
    }

    /// Takes whether something is so.
    pub(super) fn flag(&mut self, name: &str) -> Result<Option<bool>, Refusal> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(Refusal(format!("{} must be true or false", self.place(name)))),
        }
    }

    /// Takes what says nothing to a model.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.fields.shift_remove(*name);
        }
    }

    /// Takes those with these names to another object, under the names there.
    pub(super) fn hand_over(&mut self, names: &[(&str, &str)], to: &mut Map<String, Value>) {
        for (name, there) in names {
            if let Some(value) = self.take(name) {
                to.insert((*there).to_owned(), value);
            }
        }
    }

    /// A refusal of what one of them says.
    pub(super) fn refuse(&self, name: &str, what: &str) -> Refusal {
        Refusal(format!(
            "{}: {} cannot be translated for this model, whose server speaks only chat completions",
            self.place(name),
            shown(what)
        ))
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// The first field that was not taken.
    pub(super) fn end(self) -> Result<(), Refusal> {
        match self.fields.iter().find(|(_, value)| !value.is_null()) {
            None => Ok(()),
            Some((name, _)) => Err(Refusal(format!(
                "{} cannot be translated for this model, whose server speaks only chat completions",
                shown(&self.place(name))
            ))),
        }
    }
}

/// The parts of a content, which may be written as one text: then that is the only part, of this type.
pub(super) fn parts(place: &str, content: Value, text_type: &str) -> Result<Vec<Value>, Refusal> {
    match content {
        Value::String(text) => Ok(vec![json!({"type": text_type, "text": text})]),
        Value::Array(parts) => Ok(parts),
        _ => Err(Refusal(format!("{place} must be a string or a list"))),
    }
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_SHOWN).collect()
}
