//! Checks the bodies of requests in the Responses and the Messages protocol: nothing in them may choose a price, make the
//! model server work at a cost that is in no usage numbers, or reach what is not the caller's own.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::http::object::Object;
use crate::protocol::dialect::Dialect;
use crate::protocol::json_walk::{Walk, Walker};

use super::body::{is_given, json_object_with_tools};

/// The kinds of tools of the Responses protocol that a client runs.
const RESPONSES_TOOLS: [&str; 4] = ["function", "custom", "local_shell", "apply_patch"];

/// The beginnings of the kinds of tools of the Messages protocol that a client runs, whose ends are dates.
const MESSAGES_TOOLS: [&str; 6] = ["custom", "bash_", "text_editor_", "computer_", "memory_", "browser_"];

/// Fields of the Responses protocol that are refused, and what to do instead.
const RESPONSES_REFUSED: [(&str, &str); 6] = [
    ("previous_response_id", "Responses are not stored: send the whole conversation in input"),
    ("conversation", "Conversations are not stored: send the whole conversation in input"),
    ("prompt", "Prompts are not stored: send their text in instructions and input"),
    ("background_options", "The reply is always waited for"),
    ("prompt_cache_options", "It would choose another price"),
    ("n", "There is one reply"),
];

/// Fields of the Messages protocol that are refused, and why.
const MESSAGES_REFUSED: [(&str, &str); 6] = [
    ("container", "Tools are run by the client"),
    ("mcp_servers", "Tools are run by the client"),
    ("inference_geo", "It would choose another price"),
    ("workspace_id", "It would choose another account"),
    ("fallbacks", "It would choose another model"),
    ("n", "There is one reply"),
];

/// A request in this protocol.
///
/// # Errors
/// 400 for a body that is not valid, or with a field that is refused, which it names.
pub(super) fn dialect_object(dialect: Dialect, body: &[u8]) -> Result<Object<'_>> {
    let known = match dialect {
        Dialect::Responses => &RESPONSES_TOOLS[..],
        Dialect::Messages => &MESSAGES_TOOLS[..],
    };
    let mut object = json_object_with_tools(body, &|kind| is_client_tool(dialect, kind), known)?;
    match dialect {
        Dialect::Responses => check_responses(&mut object)?,
        Dialect::Messages => check_messages(&mut object)?,
    }
    match nested(dialect, &object).refused {
        Some(Refused::File) => {
            Err(Error::bad("file_id is not supported. Files are not stored: send their content in the request"))
        }
        Some(Refused::Tool) => {
            Err(Error::bad(format!("tools in {} must be run by the client", dialect.prompt_field())))
        }
        Some(Refused::Item) => Err(Error::bad(
            "item_reference is not supported. Responses are not stored: set store to false, so that your library sends \
                 the items themselves",
        )),
        None => Ok(object),
    }
}

/// Checks that a request, which is passed on, keeps nothing in a cache for longer than usual, which would cost more.
///
/// # Errors
/// 400.
pub(super) fn check_caches(dialect: Dialect, object: &Object<'_>) -> Result<()> {
    let is_long = object.get("cache_control").is_some_and(is_long_cache) || nested(dialect, object).has_long_cache;
    match is_long {
        true => Err(Error::bad("ttl must be the shortest one, such as 5m or 30m, or left out")),
        false => Ok(()),
    }
}

fn refuse(object: &mut Object<'_>, fields: &[(&'static str, &str)]) -> Result<()> {
    match fields.iter().find(|(name, _)| is_given(object, name)) {
        Some((name, why)) => Err(Error::bad(format!("{name} is not supported. {why}"))),
        None => Ok(()),
    }
}

fn is_client_tool(dialect: Dialect, kind: &str) -> bool {
    match dialect {
        Dialect::Responses => RESPONSES_TOOLS.contains(&kind),
        Dialect::Messages => MESSAGES_TOOLS.iter().any(|known| kind.starts_with(known)),
    }
}

fn check_responses(object: &mut Object<'_>) -> Result<()> {
    refuse(object, &RESPONSES_REFUSED)?;
    if is_given(object, "background") && object.read::<bool>("background") != Some(false) {
        return Err(Error::bad("background must be false. The reply is always waited for: use stream for a long one"));
    }
    if is_given(object, "store") && object.read::<bool>("store") != Some(false) {
        return Err(Error::bad("store must be false. Responses are not stored: send the whole conversation in input"));
    }
    match object.get("input").map(RawValue::get) {
        Some(input) if input.starts_with(['"', '[']) => Ok(()),
        Some("null") | None => Err(Error::bad("input is required")),
        Some(_) => Err(Error::bad("input must be a string or a list")),
    }
}

fn check_messages(object: &mut Object<'_>) -> Result<()> {
    refuse(object, &MESSAGES_REFUSED)?;
    if is_given(object, "speed") && object.read::<String>("speed").as_deref() != Some("standard") {
        return Err(Error::bad("speed must be standard"));
    }
    // What a model server writes to shorten a conversation is not in the usage of the reply.
    let managed = object.read::<Value>("context_management").unwrap_or_default();
    let kinds = managed["edits"].as_array().into_iter().flatten().filter_map(|edit| edit["type"].as_str());
    if kinds.into_iter().any(|kind| kind.starts_with("compact")) {
        return Err(Error::bad("context_management must not have edits that compact the conversation"));
    }
    match object.get("messages").map(RawValue::get) {
        Some(messages) if messages.starts_with('[') => Ok(()),
        Some("null") | None => Err(Error::bad("messages is required")),
        Some(_) => Err(Error::bad("messages must be a list")),
    }
}

/// What a request has anywhere in its conversation, and in what describes tools.
fn nested(dialect: Dialect, object: &Object<'_>) -> Nested {
    let mut nested = Nested { dialect, refused: None, has_long_cache: false };
    for value in [dialect.prompt_field(), "system", "tools"].into_iter().filter_map(|field| object.get(field)) {
        let mut json = serde_json::Deserializer::from_str(value.get());
        // It is valid: it was parsed before.
        let _ = Walk(&mut nested).deserialize(&mut json);
    }
    nested
}

/// Whether something is to be kept in a cache for longer than usual, which costs more.
fn is_long_cache(control: &RawValue) -> bool {
    let cache = serde_json::from_str::<Option<Cache>>(control.get());
    cache.ok().flatten().and_then(|cache| cache.ttl).is_some_and(|ttl| !matches!(&*ttl, "5m" | "30m"))
}

/// What a request may not have anywhere.
enum Refused {
    /// A file that a model server has stored, which may be another account's.
    File,
    /// The same of a part of a conversation.
    Item,
    /// A tool that the model server runs.
    Tool,
}

struct Nested {
    dialect: Dialect,
    refused: Option<Refused>,
    has_long_cache: bool,
}

#[derive(Deserialize)]
struct Tool {
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Cache {
    #[serde(default)]
    ttl: Option<String>,
}

impl Walker for Nested {
    fn text(&mut self, _: &str) {}

    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> std::result::Result<(), A::Error> {
        match name {
            // What a tool takes or was called with may have any names.
            "input" | "input_schema" | "parameters" | "input_examples" => map.next_value::<IgnoredAny>().map(drop)?,
            "file_id" | "file_ids" => {
                if map.next_value::<&RawValue>()?.get() != "null" {
                    self.refused = Some(Refused::File);
                }
            }
            "cache_control" | "prompt_cache_breakpoint" => {
                self.has_long_cache |= is_long_cache(map.next_value()?);
            }
            "type" => {
                let kind = serde_json::from_str::<Cow<'_, str>>(map.next_value::<&RawValue>()?.get());
                if kind.is_ok_and(|kind| kind == "item_reference") {
                    self.refused = Some(Refused::Item);
                }
            }
            // Some items of a conversation bring tools of their own.
            "tools" => {
                let tools = serde_json::from_str::<Option<Vec<Tool>>>(map.next_value::<&RawValue>()?.get());
                let is_other = |tool: &Tool| tool.kind.as_ref().is_some_and(|kind| !is_client_tool(self.dialect, kind));
                if tools.map_or(true, |tools| tools.iter().flatten().any(is_other)) {
                    self.refused = Some(Refused::Tool);
                }
            }
            _ => map.next_value_seed(Walk(self))?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dodges_the_bill_or_reaches_what_is_stored_is_refused_by_name() {
        let refusal =
            |dialect, body: &str| dialect_object(dialect, body.as_bytes()).err().map(|e| e.message().into_owned());
        let with = |fields: &str| format!(r#"{{"input":"x",{fields}}}"#);
        for (fields, named) in [
            (r#""previous_response_id":"resp_1""#, "previous_response_id"),
            (r#""conversation":{"id":"c"}"#, "conversation"),
            (r#""prompt":{"id":"p"}"#, "prompt"),
            (r#""store":true"#, "store"),
            (r#""background":true"#, "background"),
            (r#""service_tier":"priority""#, "service_tier"),
            (r#""tools":[{"type":"function","name":"f"},{"type":"web_search"}]"#, "tools[1].type"),
            (r#""tools":[{"type":"mcp"}]"#, "tools[0].type"),
            (r#""Max_Output_Tokens":1"#, "Max_Output_Tokens"),
            (r#""max_output_tokens":1.5"#, "max_output_tokens"),
        ] {
            let said = refusal(Dialect::Responses, &with(fields)).expect(fields);
            assert!(said.contains(named), "{fields}: {said}");
        }
        for (input, named) in [
            (r#"[{"type":"item_reference","id":"x"}]"#, "item_reference"),
            (r#"[{"type":"item_\u0072eference","id":"x"}]"#, "item_reference"),
            (r#"[{"role":"user","content":[{"type":"input_image","file_id":"f"}]}]"#, "file_id"),
            (r#"[{"type":"additional_tools","role":"developer","tools":[{"type":"web_search"}]}]"#, "tools in input"),
            ("7", "input"),
            ("null", "input"),
        ] {
            let said = refusal(Dialect::Responses, &format!(r#"{{"input":{input}}}"#)).expect(input);
            assert!(said.contains(named), "{input}: {said}");
        }
        for usual in [
            r#""store":false,"background":false,"previous_response_id":null,"service_tier":"auto""#,
            r#""tools":[{"type":"function","name":"f","parameters":{"properties":{"file_id":{"type":"string"}}}}]"#,
            r#""max_output_tokens":null,"new_field":{"any":1}"#,
        ] {
            assert_eq!(refusal(Dialect::Responses, &with(usual)), None, "{usual}");
        }
    }

    #[test]
    fn the_same_holds_for_messages() {
        let refusal = |body: &str| {
            let checked = dialect_object(Dialect::Messages, body.as_bytes());
            let checked = checked.and_then(|object| check_caches(Dialect::Messages, &object));
            checked.err().map(|e| e.message().into_owned())
        };
        let with = |fields: &str| format!(r#"{{"max_tokens":9,"messages":[],{fields}}}"#);
        for (fields, named) in [
            (r#""tools":[{"type":"web_search_20250305","name":"web_search"}]"#, "tools[0].type"),
            (r#""tools":[{"type":"code_execution_20250825","name":"x"}]"#, "tools[0].type"),
            (r#""mcp_servers":[]"#, "mcp_servers"),
            (r#""container":"c""#, "container"),
            (r#""speed":"fast""#, "speed"),
            (r#""inference_geo":"us""#, "inference_geo"),
            (r#""context_management":{"edits":[{"type":"comp\u0061ct_20260112"}]}"#, "context_management"),
            (r#""system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"1h"}}]"#, "ttl"),
            (r#""cache_control":{"type":"ephemeral","ttl":"1h"}"#, "ttl"),
        ] {
            let said = refusal(&with(fields)).expect(fields);
            assert!(said.contains(named), "{fields}: {said}");
        }
        let file =
            r#"{"messages":[{"role":"user","content":[{"type":"image","source":{"type":"file","file_id":"f"}}]}]}"#;
        assert!(refusal(file).unwrap().contains("file_id"));
        for usual in [
            r#""tools":[{"name":"f","input_schema":{"properties":{"ttl":{}}}},{"type":"bash_20250124","name":"bash"}]"#,
            r#""system":[{"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"5m"}}],"container":null"#,
            r#""service_tier":"standard_only","context_management":{"edits":[{"type":"clear_tool_uses_20250919"}]}"#,
        ] {
            assert_eq!(refusal(&with(usual)), None, "{usual}");
        }
        let called = r#"{"messages":[{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"f","input":{"file_id":"x"}}]}]}"#;
        assert_eq!(refusal(called), None);
    }
}
