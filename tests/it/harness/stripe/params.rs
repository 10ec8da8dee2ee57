//! Parameters, from a form or a query, by their names as sent: `payload[value]`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::refusal::Refusal;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(BTreeMap<String, String>);

impl Params {
    pub fn of(pairs: &[(&str, &str)]) -> Params {
        Params(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    /// Reads a form and a query.
    pub fn parse(query: &str, form: &[u8]) -> Params {
        let pairs = [query.as_bytes(), form].into_iter().flat_map(form_urlencoded::parse);
        Params(pairs.map(|(key, value)| (key.into_owned(), value.into_owned())).collect())
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// One that must be there.
    pub fn required(&self, key: &str) -> Result<&str, Refusal> {
        self.get(key).filter(|value| !value.is_empty()).ok_or_else(|| Refusal::missing(key))
    }

    /// A whole number.
    pub fn number(&self, key: &str) -> Result<Option<i64>, Refusal> {
        let parse = |text: &str| {
            text.parse().map_err(|_| {
                Refusal::invalid(key, format!("Invalid integer: {text}")).with_code("parameter_invalid_integer")
            })
        };
        self.get(key).map(parse).transpose()
    }

    /// `metadata[a]`, `metadata[b]`… as an object.
    pub fn object(&self, name: &str) -> Map<String, Value> {
        let inner = |key: &str| Some(key.strip_prefix(name)?.strip_prefix('[')?.strip_suffix(']')?.to_owned());
        self.0.iter().filter_map(|(key, value)| Some((inner(key)?, Value::from(value.as_str())))).collect()
    }

    /// Those of the list `name`: `name[0][price]` and `name[][price]` are `price` of an element.
    pub fn elements(&self, name: &str) -> Vec<Params> {
        let mut elements: BTreeMap<String, Params> = BTreeMap::new();
        for (key, value) in &self.0 {
            let Some((index, rest)) = key.strip_prefix(name).and_then(|key| key.strip_prefix('[')?.split_once(']'))
            else {
                continue;
            };
            // `[price][a]` is named `price[a]`.
            let inner = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'));
            let inner = inner.map_or(String::new(), |(first, more)| format!("{first}{more}"));
            elements.entry(index.to_owned()).or_default().0.insert(inner, value.clone());
        }
        elements.into_values().collect()
    }

    /// Refuses all parameters but these and their parts.
    pub fn only(&self, known: &[&str]) -> Result<(), Refusal> {
        for key in self.0.keys() {
            let root = key.split('[').next().unwrap_or_default();
            if root != "expand" && !known.contains(&root) {
                return Err(
                    Refusal::invalid(key, format!("Received unknown parameter: {root}")).with_code("parameter_unknown")
                );
            }
        }
        Ok(())
    }
}

#[test]
fn nested_parameters_are_read() {
    let params = Params::parse(
        "limit=3",
        b"metadata%5Ba%5D=x+y&line_items[0][price]=p&line_items[0][price_data][unit]=u&line_items[1][price]=q",
    );
    assert_eq!(params.get("limit"), Some("3"));
    assert_eq!(params.object("metadata")["a"], "x y");
    let items = params.elements("line_items");
    assert_eq!((items[0].get("price"), items[0].get("price_data[unit]")), (Some("p"), Some("u")));
    assert_eq!(items[1].get("price"), Some("q"));
    assert!(params.only(&["limit", "metadata"]).is_err() && params.only(&["limit", "metadata", "line_items"]).is_ok());
}
