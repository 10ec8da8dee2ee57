//! Streams, however they are cut, come out equal to the same reply in one piece.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{ReplyTranslator, to_chat};
use crate::http::sse;
use crate::protocol::dialect::Dialect;
use crate::protocol::usage::Totals;

const TOTALS: Totals = Totals { input: 100, cached: 60, cache_write: 10, output: 40, reasoning: 0 };

/// A call of a tool: whether the server gives it an id, and the pieces of its arguments.
type Call = (bool, Vec<String>);

/// A reply, in the pieces in which it is streamed.
#[derive(Clone, Debug)]
struct Reply {
    reasoning: Vec<String>,
    text: Vec<String>,
    refusal: Vec<String>,
    calls: Vec<Call>,
    finish: Option<&'static str>,
    has_usage: bool,
}

impl Reply {
    fn usage(&self) -> Value {
        let details = json!({"reasoning_tokens": 7});
        match self.has_usage {
            true => json!({"prompt_tokens": 100, "completion_tokens": 40, "completion_tokens_details": details}),
            false => Value::Null,
        }
    }

    fn id(call: &Call, index: usize) -> Value {
        if call.0 { json!(format!("own_{index}")) } else { Value::Null }
    }

    /// As a server sends it in one piece.
    fn whole(&self) -> Value {
        let some = |pieces: &[String]| if pieces.is_empty() { Value::Null } else { json!(pieces.concat()) };
        let calls = self.calls.iter().enumerate().map(|(index, call)| {
            json!({"id": Reply::id(call, index), "type": "function",
                "function": {"name": format!("tool_{index}"), "arguments": call.1.concat()}})
        });
        let message = json!({"role": "assistant", "reasoning_content": some(&self.reasoning), "content": some(&self.text),
            "refusal": some(&self.refusal), "tool_calls": calls.collect::<Vec<_>>()});
        json!({"choices": [{"index": 0, "message": message, "finish_reason": self.finish}], "usage": self.usage()})
    }

    /// As a server streams it.
    fn stream(&self) -> Vec<u8> {
        let mut deltas = vec![json!({"role": "assistant", "content": ""})];
        deltas.extend(self.reasoning.iter().map(|piece| json!({ "reasoning_content": piece })));
        deltas.extend(self.text.iter().map(|piece| json!({ "content": piece })));
        deltas.extend(self.refusal.iter().map(|piece| json!({ "refusal": piece })));
        for (index, call) in self.calls.iter().enumerate() {
            let function = json!({"name": format!("tool_{index}"), "arguments": ""});
            deltas.push(json!({"tool_calls": [{"index": index, "id": Reply::id(call, index), "function": function}]}));
            let more = |piece: &String| json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]});
            deltas.extend(call.1.iter().map(more));
        }
        let chunk =
            |delta: Value, finish: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
        let mut events: Vec<Value> = deltas.into_iter().map(|delta| chunk(delta, Value::Null)).collect();
        events.push(chunk(json!({}), json!(self.finish)));
        events.push(json!({"choices": [], "usage": self.usage()}));
        let mut bytes = b": a comment\n\n".to_vec();
        for event in events {
            bytes.extend_from_slice(format!("data: {event}\n\n").as_bytes());
        }
        bytes.extend_from_slice(b"data: [DONE]\n\n");
        bytes
    }
}

fn pieces(most: usize) -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[a-zA-Z \"\\\\\n{}äöü\u{1f600}]{1,8}", 0..most)
}

fn call() -> impl Strategy<Value = Call> {
    let value =
        prop_oneof![Just(json!({})), Just(json!({"a": "\"ä\\"})), Just(json!({"b": [1, {"c": null}], "a": 2.5}))];
    let arguments = (value, 1_usize..6).prop_map(|(value, size)| {
        let chars: Vec<char> = value.to_string().chars().collect();
        chars.chunks(size).map(|piece| piece.iter().collect()).collect()
    });
    (any::<bool>(), arguments)
}

fn reply() -> impl Strategy<Value = Reply> {
    let finish =
        prop::sample::select(vec![Some("stop"), Some("length"), Some("tool_calls"), Some("content_filter"), None]);
    let calls = prop::collection::vec(call(), 0..4);
    (pieces(4), pieces(5), pieces(2), calls, finish, any::<bool>()).prop_map(
        |(reasoning, text, refusal, calls, finish, has_usage)| Reply {
            reasoning,
            text,
            refusal,
            calls,
            finish,
            has_usage,
        },
    )
}

fn translator(dialect: Dialect, stream: bool) -> ReplyTranslator {
    let request = match dialect {
        Dialect::Responses => {
            json!({"model": "m", "input": "x", "stream": stream, "tools": [], "metadata": {"k": "v"}})
        }
        Dialect::Messages => {
            json!({"model": "m", "max_tokens": 5, "stream": stream, "thinking": {"type": "adaptive"},
                "messages": [{"role": "user", "content": "x"}]})
        }
    };
    to_chat(dialect, request, "id", 5).unwrap().reply
}

fn whole(dialect: Dialect, reply: &Reply) -> Value {
    let mut translator = translator(dialect, false);
    let json = reply.whole().to_string();
    translator.add_whole(&serde_json::from_str(&json).unwrap()).unwrap();
    serde_json::from_slice(&translator.end(TOTALS, false)).unwrap()
}

/// The events that a stream becomes, if it comes in pieces of so many bytes.
fn stream(dialect: Dialect, bytes: &[u8], piece: usize) -> Vec<u8> {
    let (mut translator, mut out) = (translator(dialect, true), Vec::new());
    let mut events = sse::Events::default();
    for piece in bytes.chunks(piece) {
        events.push(piece).unwrap();
        while let Some(event) = events.take() {
            match sse::data(event) {
                Some(data) if &*data == b"[DONE]" => out.extend(translator.end(TOTALS, false)),
                Some(data) => translator.add(&serde_json::from_slice(&data).unwrap(), &mut out).unwrap(),
                None => {}
            }
        }
    }
    out
}

/// Checks that a stream that breaks off after any byte has become the beginning of what all of it becomes.
fn assert_cut_anywhere(dialect: Dialect, bytes: &[u8], uncut: &[u8]) {
    let (mut translator, mut out) = (translator(dialect, true), Vec::new());
    let mut events = sse::Events::default();
    for byte in bytes {
        events.push(&[*byte]).unwrap();
        let before = out.len();
        while let Some(event) = events.take() {
            match sse::data(event) {
                Some(data) if &*data == b"[DONE]" => out.extend(translator.end(TOTALS, false)),
                Some(data) => translator.add(&serde_json::from_slice(&data).unwrap(), &mut out).unwrap(),
                None => {}
            }
        }
        assert_eq!(uncut.get(before..out.len()), Some(&out[before..]));
        assert!(out.is_empty() || out.ends_with(b"\n\n"), "only whole events");
    }
    assert_eq!(out.len(), uncut.len());
}

/// The data of events, whose names are the types in it.
fn events(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).unwrap();
    let event = |event: &str| {
        let (name, data) = event.strip_prefix("event: ").unwrap().split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["type"], name);
        data
    };
    text.split_terminator("\n\n").map(event).collect()
}

fn push(text: &mut Value, more: &Value) {
    *text = json!(format!("{}{}", text.as_str().unwrap(), more.as_str().unwrap()));
}

/// A message, put together as clients do.
fn assembled_message(events: &[Value]) -> Value {
    let mut message = events[0]["message"].clone();
    let (mut open, mut arguments) = (None, Value::Null);
    for event in &events[1..] {
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!(
                    (open, event["index"].as_u64().unwrap()),
                    (None, message["content"].as_array().unwrap().len() as u64)
                );
                open = event["index"].as_u64();
                message["content"].as_array_mut().unwrap().push(event["content_block"].clone());
                arguments = json!("");
            }
            "content_block_delta" => {
                assert_eq!(event["index"].as_u64(), open);
                let block = message["content"].as_array_mut().unwrap().last_mut().unwrap();
                let delta = &event["delta"];
                match delta["type"].as_str().unwrap() {
                    "text_delta" => push(&mut block["text"], &delta["text"]),
                    "thinking_delta" => push(&mut block["thinking"], &delta["thinking"]),
                    "input_json_delta" => push(&mut arguments, &delta["partial_json"]),
                    other => panic!("{other}"),
                }
            }
            "content_block_stop" => {
                assert_eq!(event["index"].as_u64(), open.take());
                let block = message["content"].as_array_mut().unwrap().last_mut().unwrap();
                if block["type"] == "tool_use" {
                    block["input"] = serde_json::from_str(arguments.as_str().unwrap()).unwrap();
                }
            }
            "message_delta" => {
                for name in ["stop_reason", "stop_sequence"] {
                    message[name] = event["delta"][name].clone();
                }
                message["usage"] = event["usage"].clone();
            }
            "message_stop" => assert_eq!(open, None),
            other => panic!("{other}"),
        }
    }
    assert_eq!(events.last().unwrap()["type"], "message_stop");
    message
}

/// The output of a response, put together from its deltas, and the response of its last event.
fn assembled_response(events: &[Value]) -> (Value, Value) {
    let mut output: Vec<Value> = Vec::new();
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number);
        let (item, part) = (event["output_index"].as_u64(), event["content_index"].as_u64());
        let kind = event["type"].as_str().unwrap();
        let item = item.and_then(|item| usize::try_from(item).ok());
        match (kind, item) {
            ("response.output_item.added", Some(index)) => {
                assert_eq!((index, &event["item"]["status"]), (output.len(), &json!("in_progress")));
                output.push(event["item"].clone());
            }
            ("response.output_item.done", Some(index)) => {
                let mut done = event["item"].clone();
                done["status"] = json!("in_progress");
                assert_eq!(done, output[index], "what was added piece by piece");
                output[index] = event["item"].clone();
            }
            ("response.content_part.added", Some(index)) => {
                let parts = output[index]["content"].as_array_mut().unwrap();
                assert_eq!(part, Some(parts.len() as u64));
                parts.push(event["part"].clone());
            }
            ("response.function_call_arguments.delta", Some(index)) => {
                push(&mut output[index]["arguments"], &event["delta"]);
            }
            ("response.function_call_arguments.done", Some(index)) => {
                assert_eq!(event["arguments"], output[index]["arguments"]);
            }
            (_, Some(index)) => {
                assert_eq!(event["item_id"], output[index]["id"]);
                let part = usize::try_from(part.unwrap()).unwrap();
                let part = &mut output[index]["content"][part];
                let field = if part["type"] == "refusal" { "refusal" } else { "text" };
                match kind {
                    "response.output_text.delta" | "response.reasoning_text.delta" | "response.refusal.delta" => {
                        push(&mut part[field], &event["delta"]);
                    }
                    "response.content_part.done" => assert_eq!(event["part"], *part),
                    _ => assert_eq!(event[field], part[field]),
                }
            }
            (_, None) => assert!(event["response"]["id"] == "resp_id", "{event}"),
        }
    }
    (output.into(), events.last().unwrap()["response"].clone())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn streams_however_they_are_cut_are_the_reply_in_one_piece(reply in reply()) {
        let bytes = reply.stream();
        for dialect in [Dialect::Responses, Dialect::Messages] {
            let uncut = stream(dialect, &bytes, bytes.len());
            assert_cut_anywhere(dialect, &bytes, &uncut);
            for piece in [2, 3, 5, 64, 1000] {
                prop_assert!(stream(dialect, &bytes, piece) == uncut, "{dialect:?} in pieces of {piece}");
            }
            let (whole, events) = (whole(dialect, &reply), events(&uncut));
            match dialect {
                Dialect::Messages => prop_assert_eq!(assembled_message(&events), whole),
                Dialect::Responses => {
                    let (output, last) = assembled_response(&events);
                    prop_assert_eq!(&output, &last["output"]);
                    prop_assert_eq!(last, whole);
                }
            }
        }
    }
}

#[test]
fn replies_are_told_as_the_protocols_have_it() {
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let reply = Reply {
        reasoning: text(&["Hm."]),
        text: text(&["Let me ", "look."]),
        refusal: Vec::new(),
        calls: vec![(true, text(&["{\"at\"", ":1}"])), (false, text(&["{}"]))],
        finish: Some("stop"),
        has_usage: true,
    };
    let response = whole(Dialect::Responses, &reply);
    let expected = json!([
        {"id": "rs_id_0", "type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}],
            "status": "completed"},
        {"id": "msg_id_1", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": "Let me look.", "annotations": [], "logprobs": []}]},
        {"id": "fc_id_2", "type": "function_call", "call_id": "own_0", "name": "tool_0", "arguments": "{\"at\":1}",
            "status": "completed"},
        {"id": "fc_id_3", "type": "function_call", "call_id": "call_id_2", "name": "tool_1", "arguments": "{}",
            "status": "completed"},
    ]);
    assert_eq!(response["output"], expected);
    let usage = json!({"input_tokens": 100, "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
        "output_tokens": 40, "output_tokens_details": {"reasoning_tokens": 7}, "total_tokens": 140});
    let fields =
        json!([response["id"], response["status"], response["usage"], response["store"], response["metadata"]]);
    assert_eq!(fields, json!(["resp_id", "completed", usage, false, {"k": "v"}]));

    let message = whole(Dialect::Messages, &reply);
    let expected = json!({"id": "msg_id", "type": "message", "role": "assistant", "model": "m",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": ""},
            {"type": "text", "text": "Let me look."},
            {"type": "tool_use", "id": "own_0", "name": "tool_0", "input": {"at": 1}},
            {"type": "tool_use", "id": "call_id_2", "name": "tool_1", "input": {}}],
        "stop_reason": "tool_use", "stop_sequence": null,
        "usage": {"input_tokens": 30, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 60, "output_tokens": 40}});
    assert_eq!(message, expected);
}

#[test]
fn thinking_that_is_not_shown_keeps_the_client_waiting() {
    let request =
        json!({"model": "m", "max_tokens": 5, "stream": true, "messages": [{"role": "user", "content": "x"}]});
    let (mut translator, mut out) = (to_chat(Dialect::Messages, request, "id", 5).unwrap().reply, Vec::new());
    for _ in 0..40 {
        let chunk = r#"{"choices":[{"index":0,"delta":{"reasoning_content":"Hm "}}]}"#;
        translator.add(&serde_json::from_str(chunk).unwrap(), &mut out).unwrap();
    }
    out.extend(translator.end(TOTALS, false));
    let kinds: Vec<String> = events(&out).iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["message_start", "ping", "ping", "ping", "message_delta", "message_stop"]);
}

#[test]
fn odd_replies_are_told_or_refused() {
    let tell = |dialect, chunks: &[Value]| {
        let (mut translator, mut out) = (translator(dialect, false), Vec::new());
        for chunk in chunks {
            let json = chunk.to_string();
            translator.add(&serde_json::from_str(&json).unwrap(), &mut out)?;
        }
        assert!(out.is_empty(), "no events");
        Ok::<Value, super::Untranslatable>(serde_json::from_slice(&translator.end(TOTALS, false)).unwrap())
    };
    let delta = |delta: Value| json!({"choices": [{"index": 0, "delta": delta}]});
    let call = |index: u64, arguments: Value| {
        delta(json!({"tool_calls": [{"index": index, "id": "c", "function": {"name": "f", "arguments": arguments}}]}))
    };
    let mixed = [call(0, json!("{")), call(1, json!("{}")), call(0, json!("}"))];
    assert!(tell(Dialect::Messages, &mixed).is_err() && tell(Dialect::Responses, &mixed).is_err());
    let named = |id: &str| {
        let call = json!({"index": 0, "id": id, "function": {"name": "f", "arguments": "{}"}});
        delta(json!({ "tool_calls": [call] }))
    };
    let same = tell(Dialect::Messages, &[named("one"), named("two"), named("two")]).unwrap();
    assert_eq!(same["content"].as_array().map(Vec::len), Some(2), "by their ids: {same}");
    let bare = json!({"index": 0, "function": {"name": "f", "arguments": "{}"}});
    let message = json!({"choices": [{"index": 0, "message": {"tool_calls": [bare, bare]}}]});
    assert_eq!(tell(Dialect::Responses, &[message]).unwrap()["output"].as_array().map(Vec::len), Some(2));
    let object = tell(Dialect::Messages, &[call(0, json!({"a": 1}))]).unwrap();
    assert_eq!(object["content"][0]["input"], json!({"a": 1}));
    let broken = tell(Dialect::Messages, &[call(0, json!("{\"a\""))]).unwrap();
    assert_eq!(broken["content"][0]["input"], json!({"arguments": "{\"a\""}));
    let ended = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "END"}]});
    let stopped = tell(Dialect::Messages, &[delta(json!({"content": "x"})), ended.clone()]).unwrap();
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!("END")));
    let nothing = tell(Dialect::Responses, &[ended]).unwrap();
    assert_eq!((&nothing["output"], &nothing["status"]), (&json!([]), &json!("completed")));
    let long = delta(json!({"content": "x".repeat(9 * 1024 * 1024)}));
    assert!(
        tell(Dialect::Responses, std::slice::from_ref(&long)).is_ok()
            && tell(Dialect::Responses, &[long.clone(), long]).is_err()
    );
}
