//! The parameters of `/api/v1/generate`, and the chat request that they are translated into.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::gateway::completion::StopConditions;
use crate::http::form::{FieldError, FieldType, Fields};

/// Model names of the older API that stand for the default model, unless there is a model of such a name.
pub(super) const DEFAULT_MODEL_NAMES: [&str; 7] = ["", "any", "fastest", "best", "instruct", "multilingual", "chat"];

/// Most completions of one prompt.
const MAX_RESULTS: i64 = 128;

/// Fields of the chat request that are not part of OpenAI's protocol; a strict model server may refuse them.
pub(super) const EXTENSIONS: [&str; 5] =
    ["top_k", "repetition_penalty", "min_tokens", "repeat_penalty", "chat_template_kwargs"];

/// One prompt and how it is to be completed.
pub(super) struct Params {
    /// The number of completions.
    pub(super) results: usize,
    /// The model, if one is named.
    pub(super) model: Option<String>,
    /// What ends a completion, beside its length.
    pub(super) stop: StopConditions,
    /// The seed of the first completion.
    pub(super) seed: Option<i64>,
    /// The chat request, without model, number of completions and seed.
    pub(super) request: Map<String, Value>,
}

impl Params {
    /// Reads the fields, with the defaults of the older API.
    ///
    /// # Errors
    /// 422 for missing fields and wrong types, 400 for an empty prompt and for numbers out of range.
    pub(super) fn read(fields: &Fields) -> Result<Params> {
        let text = fields.text("text")?;
        if text.is_empty() {
            return Err(Error::bad("Please enter some text"));
        }
        let results = fields.optional_integer("number_of_results")?.unwrap_or(1);
        let results = usize::try_from(results).ok().filter(|_| (1..=MAX_RESULTS).contains(&results));
        let max_sentences = optional_limit(fields, "max_sentences")?;
        let stop = StopConditions::new(stop_sequences(fields)?, max_sentences)?;
        let model = fields.optional_text("model")?.map(str::to_owned);
        Ok(Params {
            results: results.ok_or(Error::bad("number_of_results must be from 1 to 128"))?,
            model,
            stop,
            seed: fields.optional_integer("seed")?,
            request: chat_request(fields, text)?,
        })
    }
}

fn chat_request(fields: &Fields, text: &str) -> Result<Map<String, Value>> {
    let mut messages = Vec::new();
    if let Some(system) = fields.optional_text("system_message")?.filter(|text| !text.is_empty()) {
        messages.push(json!({"role": "system", "content": system}));
    }
    messages.push(json!({"role": "user", "content": text}));
    let mut request = Map::from_iter([("messages".to_owned(), Value::Array(messages))]);
    let mut set = |name: &str, value: Value| {
        request.insert(name.to_owned(), value);
    };
    // `null` means the model server's default; a missing field means the older API's.
    let default_of = |name: &str, default: Value| if fields.has(name) { Value::Null } else { default };
    let max_tokens =
        fields.optional_integer("max_length")?.map_or_else(|| default_of("max_length", json!(100)), |n| json!(n));
    let top_k = fields.optional_integer("top_k")?.map_or_else(|| default_of("top_k", json!(40)), |n| json!(n));
    for (name, value) in [("max_tokens", max_tokens), ("top_k", top_k)] {
        if !value.is_null() {
            set(name, value);
        }
    }
    for (name, default) in [("temperature", 0.7), ("top_p", 0.9), ("repetition_penalty", 1.2)] {
        let value = fields.optional_number(name)?.map_or_else(|| default_of(name, json!(default)), |n| json!(n));
        if !value.is_null() {
            set(name, value);
        }
    }
    if let Some(min) = fields.optional_integer("min_length")?.filter(|n| *n > 1) {
        set("min_tokens", json!(min));
    }
    if let Some(thinks) = fields.optional_bool("enable_thinking")? {
        set("chat_template_kwargs", json!({"enable_thinking": thinks}));
    }
    // Older clients send it; it never had an effect.
    fields.optional_number("min_probability")?;
    Ok(request)
}

/// A limit that must not be negative; the published description defines 0 as no limit.
fn optional_limit(fields: &Fields, name: &'static str) -> Result<Option<usize>> {
    let number = fields.optional_integer(name)?.filter(|n| *n != 0);
    number.map(|n| usize::try_from(n).map_err(|_| Error::bad(format!("{name} must not be negative")))).transpose()
}

/// A list of stop sequences, or a single one.
fn stop_sequences(fields: &Fields) -> Result<Vec<String>> {
    const NAME: &str = "stop_sequences";
    let wrong = || Error::from(FieldError::Type(NAME, FieldType::StringList));
    match fields.get(NAME) {
        None => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one.clone()]),
        Some(Value::Array(several)) => {
            several.iter().map(|stop| stop.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Params> {
        Params::read(&Fields::parse_json(json.as_bytes()).unwrap())
    }

    #[test]
    fn defaults_are_those_of_the_older_api() {
        let params = read(r#"{"text":"a","max_sentences":0}"#).unwrap();
        let expected = json!({"messages": [{"role": "user", "content": "a"}], "max_tokens": 100, "top_k": 40,
            "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2});
        assert_eq!(Value::Object(params.request), expected);
        assert_eq!((params.results, params.model, params.stop.max_sentences, params.seed), (1, None, None, None));
        let params =
            read(r#"{"text":"a","max_length":null,"top_k":null,"temperature":null,"system_message":"s"}"#).unwrap();
        assert!(!params.request.contains_key("max_tokens") && !params.request.contains_key("temperature"));
        assert_eq!(params.request["messages"][0]["role"], "system");
    }

    #[test]
    fn refuses_invalid_fields() {
        for (json, status) in [
            ("{}", 422),
            (r#"{"text":1}"#, 422),
            (r#"{"text":""}"#, 400),
            (r#"{"text":"a","number_of_results":0}"#, 400),
            (r#"{"text":"a","number_of_results":"x"}"#, 422),
            (r#"{"text":"a","max_sentences":-1}"#, 400),
            (r#"{"text":"a","stop_sequences":[1]}"#, 422),
            (r#"{"text":"a","top_p":"x"}"#, 422),
        ] {
            assert_eq!(read(json).err().map(|e| e.status()), Some(status), "{json}");
        }
    }
}
