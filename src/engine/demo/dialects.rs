//! The demo engine in the Responses and the Messages protocol.

use serde_json::{Value, json};

use super::DemoReply;
use super::text::{Wish, now, text_of};

/// Answers in the Responses protocol.
pub(super) fn respond(request: &Value) -> DemoReply {
    let prompt = match &request["input"] {
        Value::String(text) => text.clone(),
        Value::Array(items) => last_of_user(items),
        _ => return DemoReply::error(400, "input is required"),
    };
    let wish = Wish::new(request, prompt);
    let text = wish.text();
    let message = |status: &str, content: Value| json!({"id": "msg_demo", "type": "message", "role": "assistant", "status": status, "content": content});
    let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
    let (status, details) = match wish.is_cut() {
        true => ("incomplete", json!({"reason": "max_output_tokens"})),
        false => ("completed", Value::Null),
    };
    let response = |status: &str, output: Value, usage: Value| {
        json!({"id": "resp_demo", "object": "response", "created_at": now(), "status": status, "error": null,
            "incomplete_details": if status == "incomplete" { details.clone() } else { Value::Null },
            "instructions": request["instructions"], "max_output_tokens": request["max_output_tokens"], "metadata": {},
            "model": wish.model(), "output": output, "parallel_tool_calls": true, "previous_response_id": null,
            "store": false, "temperature": 1.0, "text": {"format": {"type": "text"}}, "tool_choice": "auto",
            "tools": [], "top_p": 1.0, "truncation": "disabled", "usage": usage})
    };
    let (input, output) = wish.used();
    let usage = json!({"input_tokens": input, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": input + output});
    let whole = response(status, json!([message(status, json!([part(&text)]))]), usage);
    if request["stream"] != true {
        return DemoReply::json(200, &whole);
    }
    let begun = response("in_progress", json!([]), Value::Null);
    let place = json!({"item_id": "msg_demo", "output_index": 0, "content_index": 0, "logprobs": []});
    let at_place = |kind: &str, name: &str, value: Value| {
        let mut event = place.clone();
        (event["type"], event[name]) = (json!(kind), value);
        event
    };
    let mut events = vec![
        json!({"type": "response.created", "response": begun}),
        json!({"type": "response.in_progress", "response": begun}),
        json!({"type": "response.output_item.added", "output_index": 0, "item": message("in_progress", json!([]))}),
        at_place("response.content_part.added", "part", part("")),
    ];
    events.extend(wish.words().iter().map(|word| at_place("response.output_text.delta", "delta", json!(word))));
    events.extend([
        at_place("response.output_text.done", "text", json!(text)),
        at_place("response.content_part.done", "part", part(&text)),
        json!({"type": "response.output_item.done", "output_index": 0, "item": whole["output"][0]}),
        json!({"type": format!("response.{status}"), "response": whole}),
    ]);
    for (number, event) in events.iter_mut().enumerate() {
        event["sequence_number"] = json!(number);
    }
    DemoReply::named_events(&events)
}

/// Answers in the Messages protocol.
pub(super) fn message(request: &Value) -> DemoReply {
    let Some(messages) = request["messages"].as_array() else {
        return DemoReply::error(400, "messages is required");
    };
    let wish = Wish::new(request, last_of_user(messages));
    let stop_reason = if wish.is_cut() { "max_tokens" } else { "end_turn" };
    let (input, output) = wish.used();
    let usage = |output: u64| {
        json!({"input_tokens": input, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
            "output_tokens": output})
    };
    let whole = |content: Value, stop_reason: Value, output: u64| {
        json!({"id": "msg_demo", "type": "message", "role": "assistant", "model": wish.model(), "content": content,
            "stop_reason": stop_reason, "stop_sequence": null, "usage": usage(output)})
    };
    if request["stream"] != true {
        let content = json!([{"type": "text", "text": wish.text()}]);
        return DemoReply::json(200, &whole(content, json!(stop_reason), output));
    }
    let delta = |word: &String| json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}});
    let mut events = vec![
        json!({"type": "message_start", "message": whole(json!([]), Value::Null, 0)}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "ping"}),
    ];
    events.extend(wish.words().iter().map(delta));
    events.extend([
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": stop_reason, "stop_sequence": null},
            "usage": usage(output)}),
        json!({"type": "message_stop"}),
    ]);
    DemoReply::named_events(&events)
}

/// Counts the words of a message.
pub(super) fn count(request: &Value) -> DemoReply {
    match request["messages"].as_array() {
        Some(messages) => {
            let (input, _) = Wish::new(request, last_of_user(messages)).used();
            DemoReply::json(200, &json!({ "input_tokens": input }))
        }
        None => DemoReply::error(400, "messages is required"),
    }
}

fn last_of_user(messages: &[Value]) -> String {
    let last = messages.iter().rev().find(|message| message["role"] == "user").or(messages.last());
    last.map_or_else(String::new, |message| text_of(&message["content"]))
}
