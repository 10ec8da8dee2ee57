//! Requests: the same conversation is the same chat, and what a chat cannot say is refused by its place.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::to_chat;
use crate::protocol::dialect::Dialect;

fn chat(dialect: Dialect, request: &Value) -> Value {
    let translated = to_chat(dialect, request.clone(), "x", 0);
    translated.unwrap_or_else(|e| panic!("{request}: {e}")).chat.into()
}

fn refusal(dialect: Dialect, request: &Value) -> String {
    match to_chat(dialect, request.clone(), "x", 0) {
        Ok(translated) => panic!("{request} became {:?}", translated.chat),
        Err(e) => e.to_string(),
    }
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"zebra": {"type": "string"}, "at": {"type": "integer"}}})
}

/// A conversation with everything that all three protocols have.
fn as_chat() -> Value {
    let call = |id: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": "look", "arguments": arguments}});
    json!({
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief.\n\nBe kind."},
            {"role": "user", "content": [
                {"type": "text", "text": "What is on it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
            {"role": "assistant", "content": "Let me look.", "reasoning_content": "Hm, two places.",
                "tool_calls": [call("c1", r#"{"zebra":"z","at":1}"#), call("c2", r#"{"at":2}"#)]},
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
            {"role": "tool", "tool_call_id": "c2", "content": "a dog\nasleep"},
            {"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "https://example.com/dog.png"}},
                {"type": "text", "text": "And now?"}]},
            {"role": "assistant", "content": "Still asleep."},
            {"role": "user", "content": "Thanks. As JSON?"},
        ],
        "max_tokens": 50, "temperature": 0.5, "top_p": 0.9, "stream": true, "parallel_tool_calls": false,
        "tools": [{"type": "function", "function": {"name": "look", "description": "Looks", "parameters": schema()}}],
        "tool_choice": "required",
        "response_format": {"type": "json_schema", "json_schema": {"name": "output", "schema": schema(), "strict": true}},
        "reasoning_effort": "low",
    })
}

fn as_response() -> Value {
    json!({
        "model": "m",
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": "Be kind."},
            {"type": "message", "role": "user", "content": [
                {"type": "input_text", "text": "What is on it?"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [],
                "content": [{"type": "reasoning_text", "text": "Hm, "}, {"type": "reasoning_text", "text": "two places."}]},
            {"type": "message", "role": "assistant", "id": "msg_1", "status": "completed",
                "content": [{"type": "output_text", "text": "Let me look.", "annotations": []}]},
            {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "look", "arguments": r#"{"zebra":"z","at":1}"#},
            {"type": "function_call", "call_id": "c2", "name": "look", "arguments": r#"{"at":2}"#, "status": "completed"},
            {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
            {"type": "function_call_output", "call_id": "c2", "output": [
                {"type": "input_text", "text": "a dog"},
                {"type": "input_image", "image_url": "https://example.com/dog.png"},
                {"type": "input_text", "text": "asleep"}]},
            {"role": "user", "content": "And now?"},
            {"role": "assistant", "content": "Still asleep."},
            {"role": "user", "content": [{"type": "input_text", "text": "Thanks. As JSON?"}]},
        ],
        "max_output_tokens": 50, "temperature": 0.5, "top_p": 0.9, "stream": true, "parallel_tool_calls": false,
        "tools": [{"type": "function", "name": "look", "description": "Looks", "parameters": schema(), "strict": null}],
        "tool_choice": "required",
        "text": {"format": {"type": "json_schema", "name": "output", "schema": schema(), "strict": true}},
        "reasoning": {"effort": "low", "summary": "auto"},
        "store": false, "include": ["reasoning.encrypted_content"], "metadata": {"a": "b"}, "user": "u",
        "prompt_cache_key": "k", "truncation": "disabled", "previous_response_id": null,
    })
}

fn as_message() -> Value {
    let ephemeral = json!({"type": "ephemeral"});
    json!({
        "model": "m",
        "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind.", "cache_control": ephemeral}],
        "messages": [
            {"role": "user", "content": [
                {"type": "text", "text": "What is on it?"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm, two places.", "signature": ""},
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "c1", "name": "look", "input": {"zebra": "z", "at": 1}},
                {"type": "tool_use", "id": "c2", "name": "look", "input": {"at": 2}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "a cat"},
                {"type": "tool_result", "tool_use_id": "c2", "is_error": false, "content": [
                    {"type": "text", "text": "a dog"},
                    {"type": "image", "source": {"type": "url", "url": "https://example.com/dog.png"}},
                    {"type": "text", "text": "asleep"}]},
                {"type": "text", "text": "And now?"}]},
            {"role": "assistant", "content": "Still asleep."},
            {"role": "user", "content": "Thanks. As JSON?"},
        ],
        "max_tokens": 50, "temperature": 0.5, "top_p": 0.9, "stream": true,
        "tools": [{"name": "look", "description": "Looks", "input_schema": schema(), "cache_control": ephemeral}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true},
        "output_config": {"format": {"type": "json_schema", "schema": schema()}, "effort": "low"},
        "metadata": {"user_id": "u"}, "service_tier": "auto",
    })
}

#[test]
fn the_same_conversation_is_the_same_chat() {
    assert_eq!(chat(Dialect::Responses, &as_response()), as_chat());
    assert_eq!(chat(Dialect::Messages, &as_message()), as_chat());
    // The order of properties, in which a model writes them.
    let text = chat(Dialect::Messages, &as_message()).to_string();
    assert!(text.contains(r#"{\"zebra\":\"z\",\"at\":1}"#), "{text}");
}

#[test]
fn short_forms_are_chats_too() {
    let hello = json!([{"role": "user", "content": "Hello"}]);
    assert_eq!(chat(Dialect::Responses, &json!({"input": "Hello"}))["messages"], hello);
    let message = json!({"max_tokens": 5, "messages": hello, "stop_sequences": ["a"], "top_k": 3});
    let expected = json!({"messages": hello, "max_tokens": 5, "top_k": 3, "stop": ["a"]});
    assert_eq!(chat(Dialect::Messages, &message), expected);
    let thinking = |thinking: Value| {
        let request = json!({"max_tokens": 5, "messages": hello, "thinking": thinking});
        chat(Dialect::Messages, &request)["reasoning_effort"].clone()
    };
    assert_eq!(thinking(json!({"type": "enabled", "budget_tokens": 1024})), "low");
    assert_eq!(thinking(json!({"type": "enabled", "budget_tokens": 16_384})), "medium");
    assert_eq!(thinking(json!({"type": "enabled", "budget_tokens": 50_000})), "high");
    assert_eq!(thinking(json!({"type": "adaptive"})), Value::Null);
    let edits = json!({"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]});
    let request = json!({"max_tokens": 5, "messages": hello, "context_management": edits});
    assert_eq!(chat(Dialect::Messages, &request), json!({"messages": hello, "max_tokens": 5}));
    let failed = json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "is_error": true, "content": "no"}]});
    let request = json!({"max_tokens": 5, "messages": [failed]});
    let expected = json!([{"role": "tool", "tool_call_id": "c", "content": "Error: no"}]);
    assert_eq!(chat(Dialect::Messages, &request)["messages"], expected);
}

#[test]
fn what_a_chat_cannot_say_is_refused_by_its_place() {
    let with = |base: &Value, fields: Value| {
        let mut request = base.clone();
        request.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        request
    };
    let base = json!({"input": "Hello"});
    for (fields, named) in [
        (json!({"new_field": 1}), "new_field"),
        (json!({"truncation": "auto"}), "truncation"),
        (json!({"top_logprobs": 3}), "top_logprobs"),
        (json!({"include": ["message.output_text.logprobs"]}), "include[0]"),
        (json!({"context_management": [{"type": "compaction"}]}), "context_management"),
        (json!({"tools": [{"type": "custom", "name": "c"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function", "name": "f", "defer_loading": true}]}), "tools[0].defer_loading"),
        (json!({"tool_choice": {"type": "allowed_tools", "tools": []}}), "tool_choice.type"),
        (json!({"reasoning": {"effort": "low", "context": "all"}}), "reasoning.context"),
        (json!({"text": {"format": {"type": "grammar"}}}), "text.format.type"),
        (json!({"input": null}), "input"),
        (json!({"input": [7]}), "input[0]"),
        (json!({"input": [{"type": "computer_call", "call_id": "c"}]}), "input[0].type"),
        (
            json!({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}),
            "input[0].encrypted_content",
        ),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_file", "file_data": "x"}]}]}),
            "input[0].content[0].type",
        ),
        (json!({"input": [{"role": "tool", "content": "x"}]}), "input[0].role"),
        (json!({"input": [{"role": "user"}]}), "input[0].content"),
        (json!({"input": [{"role": "user", "content": "x", "colour": "red"}]}), "input[0].colour"),
        (json!({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}), "input[0].call_id"),
    ] {
        let said = refusal(Dialect::Responses, &with(&base, fields.clone()));
        assert!(said.starts_with(named), "{fields}: {said}");
    }
    let base = json!({"max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]});
    let block = |block: Value| json!({"messages": [{"role": "user", "content": [block]}]});
    for (fields, named) in [
        (json!({"new_field": 1}), "new_field"),
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"context_management": {"edits": [{"type": "compact_20260112"}]}}), "context_management.edits[0].type"),
        (json!({"tools": [{"type": "bash_20250124", "name": "bash"}]}), "tools[0].type"),
        (json!({"tools": [{"name": "f", "input_schema": {}, "input_examples": []}]}), "tools[0].input_examples"),
        (json!({"thinking": {"type": "enabled"}}), "thinking.budget_tokens"),
        (json!({"output_config": {"task_budget": 5}}), "output_config.task_budget"),
        (json!({"system": [{"type": "image"}]}), "system[0].type"),
        (block(json!({"type": "document", "source": {}})), "messages[0].content[0].type"),
        (block(json!({"type": "image", "source": {"type": "content"}})), "messages[0].content[0].source.type"),
        (block(json!({"type": "tool_result"})), "messages[0].content[0].tool_use_id"),
        (block(json!({"text": "x"})), "messages[0].content[0].type"),
        (
            json!({"messages": [{"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]}]}),
            "messages[0].content[0].type",
        ),
    ] {
        let said = refusal(Dialect::Messages, &with(&base, fields.clone()));
        assert!(said.starts_with(named), "{fields}: {said}");
    }
    let long = refusal(Dialect::Responses, &json!({"input": "x", "y".repeat(5000): 1}));
    assert!(long.len() < 300, "{long}");
}

#[test]
fn the_beginning_of_an_answer_is_refused_where_it_would_be_another_turn() {
    let asked = json!({"role": "user", "content": "Hello"});
    let begun = json!({"role": "assistant", "content": "Good"});
    let request = json!({"max_tokens": 5, "messages": [asked, begun]});
    assert!(refusal(Dialect::Messages, &request).starts_with("messages[1]"));
    // In the other protocol the model answers to it.
    assert_eq!(chat(Dialect::Responses, &json!({"input": [asked, begun]}))["messages"], json!([asked, begun]));
}

#[test]
fn functions_are_strict_where_they_can_be_and_do_not_say_otherwise() {
    let strict = |parameters: Value, said: Value| {
        let tools = json!([{"type": "function", "name": "f", "parameters": parameters, "strict": said}]);
        chat(Dialect::Responses, &json!({"input": "x", "tools": tools}))["tools"][0]["function"]["strict"].clone()
    };
    let closed = |within: Value| json!({"type": "object", "properties": {"a": within}, "required": ["a"], "additionalProperties": false});
    assert_eq!(strict(closed(json!({"type": "string"})), Value::Null), true);
    assert_eq!(strict(closed(json!({"type": "string"})), json!(false)), false);
    assert_eq!(strict(schema(), json!(true)), true);
    assert_eq!(strict(schema(), Value::Null), Value::Null);
    assert_eq!(strict(closed(json!({"type": "array", "items": schema()})), Value::Null), Value::Null);
    assert_eq!(strict(closed(json!({"anyOf": [{"type": "null"}, closed(json!({}))]})), Value::Null), true);
}

/// Replaces the value at a place, counted in the order in which values stand in this one.
fn replace(value: &mut Value, place: &mut usize, with: &Value) -> bool {
    if *place == 0 {
        *value = with.clone();
        return true;
    }
    *place -= 1;
    match value {
        Value::Array(list) => list.iter_mut().any(|value| replace(value, place, with)),
        Value::Object(object) => object.values_mut().any(|value| replace(value, place, with)),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_is_sent_is_a_chat_or_refused_by_name(place in 0_usize..160, with in 0_usize..9, is_response in any::<bool>()) {
        let odd = [json!(null), json!(true), json!(-1.5), json!(""), json!("text"), json!([]), json!({}), json!([{}]),
            json!({"type": "function"})];
        let (dialect, mut request) = match is_response {
            true => (Dialect::Responses, as_response()),
            false => (Dialect::Messages, as_message()),
        };
        replace(&mut request, &mut { place }, &odd[with]);
        match to_chat(dialect, request, "x", 0) {
            Ok(translated) => prop_assert!(translated.chat["messages"].is_array()),
            Err(refusal) => prop_assert!(!refusal.0.is_empty()),
        }
    }
}
