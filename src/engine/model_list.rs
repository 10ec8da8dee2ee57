//! A provider's list of its models, as its `/models` sends it.

use serde::Deserialize;
use serde_json::value::RawValue;

/// Most models of one list; the rest is not looked at.
const MAX_MODELS: usize = 10_000;
/// Most bytes of a model's name, as the ledger holds it.
pub const MAX_MODEL_NAME: usize = 200;

/// A model in a provider's list.
#[derive(Clone, Debug)]
pub struct ListedModel {
    /// Its name, of at most [`MAX_MODEL_NAME`] bytes and without control characters.
    pub id: String,
    /// The entry as the provider sent it, which has the name too.
    pub entry: Box<RawValue>,
}

impl PartialEq for ListedModel {
    fn eq(&self, other: &ListedModel) -> bool {
        self.entry.get() == other.entry.get()
    }
}

/// Whether a model may have this name.
pub fn is_model_name(name: &str) -> bool {
    (1..=MAX_MODEL_NAME).contains(&name.len()) && !name.contains(char::is_control)
}

/// The models of a list, each once; `None` for what is no list, since not every server has one (whisper.cpp's, for one).
/// Entries without a usable name are left out.
pub(super) fn parse(bytes: &[u8]) -> Option<Vec<ListedModel>> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Box<RawValue>>,
    }
    #[derive(Deserialize)]
    struct Entry {
        id: String,
    }
    let list: List = serde_json::from_slice(bytes).ok()?;
    let mut seen = std::collections::HashSet::new();
    let models = list.data.into_iter().take(MAX_MODELS).filter_map(|entry| {
        let Entry { id } = serde_json::from_str(entry.get()).ok()?;
        (is_model_name(&id) && seen.insert(id.clone())).then_some(ListedModel { id, entry })
    });
    Some(models.collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(text: &str) -> Option<Vec<String>> {
        parse(text.as_bytes()).map(|models| models.into_iter().map(|model| model.id).collect())
    }

    #[test]
    fn entries_with_a_name_are_models_and_what_is_no_list_is_none() {
        let long = "x".repeat(MAX_MODEL_NAME + 1);
        let list = format!(
            r#"{{"object":"list","data":[{{"id":"a/b","x":1.50}},{{"id":"c"}},{{"id":"a/b"}},{{"id":""}},{{"id":7}},3,
            {{"id":"\u0007"}},{{"id":"{long}"}},{{"name":"d"}}]}}"#
        );
        assert_eq!(ids(&list).unwrap(), ["a/b", "c"]);
        assert_eq!(parse(list.as_bytes()).unwrap()[0].entry.get(), r#"{"id":"a/b","x":1.50}"#, "as it was sent");
        assert_eq!(ids(r#"{"data":[]}"#).unwrap(), [""; 0]);
        for no_list in ["", "<html>", "[]", "{}", r#"{"data":{}}"#, r#"{"data":null}"#] {
            assert_eq!(ids(no_list), None, "{no_list}");
        }
    }

    #[test]
    fn a_list_is_bounded() {
        let entries: Vec<_> = (0..MAX_MODELS + 5).map(|n| format!(r#"{{"id":"m{n}"}}"#)).collect();
        assert_eq!(ids(&format!(r#"{{"data":[{}]}}"#, entries.join(","))).unwrap().len(), MAX_MODELS);
    }

    proptest! {
        #[test]
        fn no_list_makes_it_panic(id in any::<String>(), junk in any::<String>(), bytes in any::<Vec<u8>>()) {
            let _ = parse(&bytes);
            let _ = parse(junk.as_bytes());
            let text = serde_json::json!({"data": [{"id": id, "junk": junk}]}).to_string();
            let expected: &[&str] = if is_model_name(&id) { &[&id] } else { &[] };
            prop_assert_eq!(ids(&text).unwrap(), expected);
        }
    }
}
