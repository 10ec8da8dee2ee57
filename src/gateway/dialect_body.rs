//! Checks the bodies of requests in the Responses and the Messages protocol: nothing in them may choose a price, make the
//! model server work at a cost that is in no usage numbers, or reach what is not the caller's own. What they may hold is in
//! the tables of [`allowed`].

use serde_json::value::RawValue;

use crate::error::{Error, Result};
use crate::http::object::Object;
use crate::protocol::allowed;
use crate::protocol::dialect::Dialect;
use crate::protocol::shape::{self, Found};

use super::body::charged_object;

/// A request in this protocol, and what was found in it.
///
/// # Errors
/// 400 for a body that is not valid, or with a field that is refused, which it names.
pub(super) fn dialect_object(dialect: Dialect, body: &[u8]) -> Result<(Object<'_>, Found)> {
    let mut object = charged_object(body)?;
    object.remove_nulls();
    let mut found = Found::default();
    for (name, value) in object.iter() {
        let rule = allowed::rule(dialect, name).ok_or_else(|| unknown(name))?;
        shape::check(name, rule, value, &mut found).map_err(Error::bad)?;
    }
    let field = dialect.prompt_field();
    match (dialect, object.get(field).map(RawValue::get)) {
        (_, Some(list)) if list.starts_with('[') => Ok((object, found)),
        (Dialect::Responses, Some(text)) if text.starts_with('"') => Ok((object, found)),
        (_, None) => Err(Error::bad(format!("{field} is required"))),
        (Dialect::Responses, Some(_)) => Err(Error::bad("input must be a string or a list")),
        (Dialect::Messages, Some(_)) => Err(Error::bad("messages must be a list")),
    }
}

/// Checks that a request in which this was found, and which is passed on, keeps nothing in a cache for longer than usual,
/// which would cost more.
///
/// # Errors
/// 400.
pub(super) fn check_caches(found: Found) -> Result<()> {
    match found.has_long_cache {
        true => Err(Error::bad("ttl must be the shortest one, such as 5m or 30m, or left out")),
        false => Ok(()),
    }
}

fn unknown(name: &str) -> Error {
    Error::bad(format!("The field {} is not supported: what it would cost is not known here", shape::shown(name)))
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
            (r#""context_management":[{"type":"compaction","compact_threshold":9}]"#, "context_management"),
            (r#""multi_agent":{"enabled":true}"#, "multi_agent"),
            (r#""multi_agent":true"#, "multi_agent"),
            (r#""previous_input_messages":[{"role":"user","content":"long"}]"#, "previous_input_messages"),
            (r#""Store":true"#, "Store"),
            (r#""seed":[1]"#, "seed"),
            (r#""reasoning":{"effort":"high","mode":"pro"}"#, "reasoning.mode"),
            (r#""reasoning":[]"#, "reasoning"),
            (r#""tools":[{"name":"f"}]"#, "tools[0]"),
        ] {
            let said = refusal(Dialect::Responses, &with(fields)).expect(fields);
            assert!(said.contains(named), "{fields}: {said}");
        }
        for (input, named) in [
            (r#"[{"type":"item_reference","id":"x"}]"#, "item_reference"),
            (r#"[{"type":"item_\u0072eference","id":"x"}]"#, "item_reference"),
            (r#"[{"role":"user","content":[{"type":"input_image","file_id":"f"}]}]"#, "file_id"),
            (r#"[{"id":"msg_1"}]"#, "input[0] must have a type or a role"),
            (r#"[{"role":"user","content":"x"},{"type":"compaction_trigger"}]"#, "compaction_trigger"),
            (r#"[{"type":"mcp_approval_response","approval_request_id":"x","approve":true}]"#, "input[0]"),
            (r#"[{"type":"additional_tools","role":"developer","tools":[{"type":"web_search"}]}]"#, "additional_tools"),
            (r#"[{"role":"developer","content":"x","tools":[{"type":"web_search"}]}]"#, "input[0].tools"),
            (r#"[{"role":"user","content":[{"type":"input_image","File_ID":"f"}]}]"#, "input[0].content[0].File_ID"),
            (r#"[{"role":"user","content":[{"type":"input_text","text":"x","new":{}}]}]"#, "input[0].content[0].new"),
            (r#"[{"role":"user","content":[{"text":"x"}]}]"#, "input[0].content[0]"),
            ("7", "input"),
            ("null", "input"),
        ] {
            let said = refusal(Dialect::Responses, &format!(r#"{{"input":{input}}}"#)).expect(input);
            assert!(said.contains(named), "{input}: {said}");
        }
        for usual in [
            r#""store":false,"background":false,"previous_response_id":null,"service_tier":"auto""#,
            r#""tools":[{"type":"function","name":"f","parameters":{"properties":{"file_id":{"type":"string"}}}}]"#,
            r#""max_output_tokens":null,"new_field":null,"metadata":{"any":"1"},"top_k":5,"stop":["a"]"#,
            r#""reasoning":{"effort":"high","summary":null},"text":{"format":{"type":"text"},"verbosity":"low"}"#,
        ] {
            assert_eq!(refusal(Dialect::Responses, &with(usual)), None, "{usual}");
        }
        // As OpenAI's libraries and Codex send what a model has said.
        let items = r#"[{"type":"message","role":"assistant","id":"m","status":"completed","phase":null,"content":
            [{"type":"output_text","text":"x","annotations":[{"type":"url_citation"}],"logprobs":[]}]},
            {"type":"reasoning","id":"r","summary":[{"type":"summary_text","text":"x"}],"encrypted_content":"x","content":null},
            {"type":"function_call","call_id":"c","name":"f","arguments":"{}","status":"completed"},
            {"type":"function_call_output","call_id":"c","output":[{"type":"input_image","image_url":"https://a","file_id":null}]},
            {"type":"custom_tool_call","call_id":"d","name":"g","input":"x"},
            {"type":"local_shell_call","call_id":"e","status":"completed","action":{"type":"exec","command":["ls"],"env":{"A":"b"}}},
            {"role":"user","content":[{"type":"input_file","filename":"a.pdf","file_data":"data:application/pdf;base64,AAAA"}]}]"#;
        let body = format!(r#"{{"input":{items}}}"#);
        let (_, found) = dialect_object(Dialect::Responses, body.as_bytes()).unwrap_or_else(|e| panic!("{e:?}"));
        assert!(found.has_document && !found.has_long_cache);
    }

    #[test]
    fn the_same_holds_for_messages() {
        let refusal = |body: &str| {
            let checked = dialect_object(Dialect::Messages, body.as_bytes());
            let checked = checked.and_then(|(_, found)| check_caches(found));
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
            (r#""cache_control":{"type":"ephemeral","TTL":"1h"}"#, "ttl"),
            (r#""compaction":{"type":"auto"}"#, "compaction"),
            (
                r#""context_management":{"edits":[{"type":"clear_tool_uses_20250919"},{}]}"#,
                "context_management.edits[1]",
            ),
            (r#""tools":[{"type":"bash_code_execution","name":"x"}]"#, "tools[0].type"),
            (r#""tools":[{"Type":"web_search_20250305","name":"x"}]"#, "tools[0].Type"),
            (r#""fallbacks":["dearer"]"#, "fallbacks"),
            (r#""n":1"#, "n is not supported"),
        ] {
            let said = refusal(&with(fields)).expect(fields);
            assert!(said.contains(named), "{fields}: {said}");
        }
        let blocks = |block: &str| refusal(&format!(r#"{{"messages":[{{"role":"user","content":[{block}]}}]}}"#));
        for (block, named) in [
            (r#"{"type":"tool_addition","definition":{"type":"web_search_20250305","name":"x"}}"#, "tool_addition"),
            (r#"{"type":"text","text":"x","definition":{"type":"web_search_20250305"}}"#, "definition"),
            (r#"{"type":"server_tool_use","id":"x","name":"web_search","input":{}}"#, "server_tool_use"),
            (r#"{"type":"container_upload","file_id":"f"}"#, "container_upload"),
            (
                r#"{"type":"tool_result","tool_use_id":"x","content":[{"type":"compaction","content":"x"}]}"#,
                "compaction",
            ),
            (
                r#"{"type":"tool_use","id":"1","name":"f","input":{},"caller":{"type":"code_execution_20250825"}}"#,
                "caller",
            ),
        ] {
            assert!(blocks(block).expect(block).contains(named), "{block}");
        }
        let usual = r#"{"type":"thinking","thinking":"x","signature":"y"},{"type":"tool_result","tool_use_id":"x","is_error":true,
            "content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral"}},{"type":"tool_reference","tool_name":"f"}]},
            {"type":"document","title":"t","citations":{"enabled":true},"source":{"type":"text","media_type":"text/plain","data":"x"}},
            {"type":"search_result","source":"https://a","title":"t","content":[{"type":"text","text":"x"}]}"#;
        assert_eq!(blocks(usual), None);
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
