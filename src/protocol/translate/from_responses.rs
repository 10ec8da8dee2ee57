//! A request in the Responses protocol, as a chat.

use serde_json::{Map, Value, json};

use super::conversation::{Conversation, picture_part, text_part};
use super::fields::{Fields, Refusal, parts};

/// Fields that a response repeats, with what stands there if the request does not say it.
const ECHOED: [(&str, &str); 15] = [
    ("background", "false"),
    ("instructions", "null"),
    ("max_output_tokens", "null"),
    ("metadata", "{}"),
    ("model", "null"),
    ("parallel_tool_calls", "true"),
    ("reasoning", r#"{"effort":null,"summary":null}"#),
    ("safety_identifier", "null"),
    ("temperature", "1.0"),
    ("text", r#"{"format":{"type":"text"}}"#),
    ("tool_choice", "\"auto\""),
    ("tools", "[]"),
    ("top_p", "1.0"),
    ("truncation", "\"disabled\""),
    ("user", "null"),
];

/// Fields that say nothing to a model: who asks, and how the server of another protocol may save work. `max_tool_calls`
/// limits tools that the server runs, of which there are none; `include` asks for what only those make, or what only a
/// server that stores nothing would hide.
const IGNORED: [&str; 14] = [
    "background",
    "client_metadata",
    "max_tool_calls",
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "previous_response_id",
    "conversation",
    "prompt",
    "safety_identifier",
    "service_tier",
    "store",
    "stream_options",
    "user",
];

/// What may be asked for in `include`, as it is not there.
const INCLUDED: [&str; 2] = ["reasoning.encrypted_content", "message.input_image.image_url"];

/// The chat, and the fields of the response that repeat those of the request, as JSON.
pub(super) fn chat(request: Value) -> Result<(Map<String, Value>, String), Refusal> {
    let mut fields = Fields::of("", request)?;
    let echo = echo(&fields);
    let mut chat = Map::new();
    fields.hand_over(&[("model", "model")], &mut chat);
    let mut conversation = Conversation::default();
    if let Some(instructions) = fields.text("instructions")? {
        conversation.system(&instructions);
    }
    match fields.needed("input")? {
        Value::String(text) => conversation.user(vec![text_part(&text)]),
        Value::Array(items) => {
            for (index, item) in items.into_iter().enumerate() {
                add_item(Fields::of(format!("input[{index}]"), item)?, &mut conversation)?;
            }
        }
        _ => return Err(Refusal("input must be a string or a list".to_owned())),
    }
    chat.insert("messages".to_owned(), conversation.finish().into());
    let same = ["stream", "temperature", "top_p", "parallel_tool_calls"].map(|name| (name, name));
    fields.hand_over(&same, &mut chat);
    fields.hand_over(&[("max_output_tokens", "max_tokens")], &mut chat);
    add_tools(&mut fields, &mut chat)?;
    if let Some(text) = fields.take("text") {
        add_text(Fields::of("text", text)?, &mut chat)?;
    }
    if let Some(reasoning) = fields.take("reasoning") {
        let mut reasoning = Fields::of("reasoning", reasoning)?;
        reasoning.hand_over(&[("effort", "reasoning_effort")], &mut chat);
        // The model's reasoning is shown as it is.
        reasoning.ignore(&["summary", "generate_summary"]);
        reasoning.end()?;
    }
    for (index, included) in fields.list("include")?.into_iter().enumerate() {
        if !included.as_str().is_some_and(|included| INCLUDED.contains(&included)) {
            return Err(fields.refuse(&format!("include[{index}]"), &included.to_string()));
        }
    }
    match fields.take("truncation") {
        Some(truncation) if truncation != "disabled" => {
            return Err(fields.refuse("truncation", &truncation.to_string()));
        }
        _ => {}
    }
    match fields.take("top_logprobs") {
        Some(number) if number != 0 => return Err(fields.refuse("top_logprobs", &number.to_string())),
        _ => {}
    }
    fields.ignore(&IGNORED);
    fields.end()?;
    Ok((chat, echo))
}

/// `"name":value,…`. It is kept for as long as the reply lasts, so it is not kept as values.
fn echo(fields: &Fields) -> String {
    let echoed = |(name, usual): &(&str, &str)| {
        let value = fields.get(name).map_or_else(|| (*usual).to_owned(), Value::to_string);
        format!("{name:?}:{value}")
    };
    ECHOED.iter().map(echoed).collect::<Vec<_>>().join(",")
}

fn add_item(mut item: Fields, to: &mut Conversation) -> Result<(), Refusal> {
    let kind = item.text("type")?.unwrap_or_else(|| "message".to_owned());
    item.ignore(&["id", "status"]);
    match kind.as_str() {
        "message" => add_message(&mut item, to)?,
        "reasoning" => {
            let texts = [item.list("content")?, item.list("summary")?];
            let shown = texts.into_iter().find(|texts| !texts.is_empty()).unwrap_or_default();
            let is_hidden = item.take("encrypted_content").is_some();
            if shown.is_empty() && is_hidden {
                return Err(item.refuse("encrypted_content", "the reasoning of another server"));
            }
            for (index, part) in shown.into_iter().enumerate() {
                let mut part = Fields::of(item.place(&format!("content[{index}]")), part)?;
                part.ignore(&["type"]);
                to.reasoning(&part.needed_text("text")?);
                part.end()?;
            }
        }
        "function_call" => {
            let (id, name) = (item.needed_text("call_id")?, item.needed_text("name")?);
            to.call(&id, &name, &item.needed_text("arguments")?);
        }
        "function_call_output" => {
            let id = item.needed_text("call_id")?;
            let output = item.needed("output")?;
            let (text, pictures) = result(&item.place("output"), output)?;
            to.result(&id, &text, pictures);
        }
        other => return Err(item.refuse("type", &format!("{other:?}"))),
    }
    item.end()
}

fn add_message(item: &mut Fields, to: &mut Conversation) -> Result<(), Refusal> {
    let role = item.needed_text("role")?;
    item.ignore(&["phase"]);
    let (content, place) = (item.needed("content")?, item.place("content"));
    match role.as_str() {
        "user" => to.user(translated_parts(&place, content)?),
        "system" | "developer" => {
            let texts = translated_parts(&place, content)?;
            let mut whole = Vec::new();
            for (index, part) in texts.iter().enumerate() {
                let text = part["text"].as_str();
                whole.push(text.ok_or_else(|| item.refuse(&format!("content[{index}]"), "what is no text"))?);
            }
            to.system(&whole.join("\n\n"));
        }
        "assistant" => {
            if to.has_text_or_calls() {
                to.end_assistant();
            }
            add_said(&place, content, to)?;
        }
        other => return Err(item.refuse("role", &format!("{other:?}"))),
    }
    Ok(())
}

/// What the model said before.
fn add_said(place: &str, content: Value, to: &mut Conversation) -> Result<(), Refusal> {
    for (index, part) in parts(place, content, "output_text")?.into_iter().enumerate() {
        let mut part = Fields::of(format!("{place}[{index}]"), part)?;
        match part.needed_text("type")?.as_str() {
            "output_text" | "input_text" => to.text(&part.needed_text("text")?),
            "refusal" => to.refusal(&part.needed_text("refusal")?),
            other => return Err(part.refuse("type", &format!("{other:?}"))),
        }
        part.ignore(&["annotations", "logprobs", "prompt_cache_breakpoint"]);
        part.end()?;
    }
    Ok(())
}

/// The parts of a message, or of what a tool has answered.
fn translated_parts(place: &str, content: Value) -> Result<Vec<Value>, Refusal> {
    let translated = |(index, value)| part(format!("{place}[{index}]"), value);
    parts(place, content, "input_text")?.into_iter().enumerate().map(translated).collect()
}

fn part(place: String, value: Value) -> Result<Value, Refusal> {
    let mut part = Fields::of(place, value)?;
    let translated = match part.needed_text("type")?.as_str() {
        "input_text" => text_part(&part.needed_text("text")?),
        "input_image" => {
            let (url, detail) = (part.needed_text("image_url")?, part.text("detail")?);
            picture_part(&url, detail.as_deref())
        }
        "input_audio" => json!({"type": "input_audio", "input_audio": part.needed("input_audio")?}),
        other => return Err(part.refuse("type", &format!("{other:?}"))),
    };
    part.ignore(&["prompt_cache_breakpoint"]);
    part.end()?;
    Ok(translated)
}

/// The text of what a tool has answered, and its pictures.
fn result(place: &str, output: Value) -> Result<(String, Vec<Value>), Refusal> {
    let (texts, others): (Vec<Value>, Vec<Value>) =
        translated_parts(place, output)?.into_iter().partition(|part| part["type"] == "text");
    let text = texts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n");
    Ok((text, others))
}

fn add_tools(fields: &mut Fields, chat: &mut Map<String, Value>) -> Result<(), Refusal> {
    let mut tools = Vec::new();
    for (index, tool) in fields.list("tools")?.into_iter().enumerate() {
        let mut tool = Fields::of(format!("tools[{index}]"), tool)?;
        match tool.needed_text("type")?.as_str() {
            "function" => {}
            other => return Err(tool.refuse("type", &format!("{other:?}"))),
        }
        let mut function = Map::new();
        tool.hand_over(&["name", "description", "parameters", "strict"].map(|name| (name, name)), &mut function);
        // A function is strict in this protocol unless it says otherwise, where its schema can be: and not in a chat.
        if !function.contains_key("strict") && function.get("parameters").is_some_and(is_strict) {
            function.insert("strict".to_owned(), true.into());
        }
        tool.end()?;
        tools.push(json!({"type": "function", "function": function}));
    }
    if !tools.is_empty() {
        chat.insert("tools".to_owned(), tools.into());
    }
    match fields.take("tool_choice") {
        None => {}
        Some(Value::String(choice)) if matches!(choice.as_str(), "auto" | "none" | "required") => {
            chat.insert("tool_choice".to_owned(), choice.into());
        }
        Some(choice) => {
            let mut choice = Fields::of("tool_choice", choice)?;
            match choice.needed_text("type")?.as_str() {
                "function" => {}
                other => return Err(choice.refuse("type", &format!("{other:?}"))),
            }
            let function = json!({"name": choice.needed_text("name")?});
            chat.insert("tool_choice".to_owned(), json!({"type": "function", "function": function}));
            choice.end()?;
        }
    }
    Ok(())
}

/// Whether a schema allows what a strict one must: each object says that it has all of its properties and no other ones.
fn is_strict(schema: &Value) -> bool {
    let Some(fields) = schema.as_object() else { return true };
    let is_of_objects = fields.get("type") == Some(&json!("object")) || fields.contains_key("properties");
    let is_closed = || {
        let required = fields.get("required").and_then(Value::as_array);
        let is_required = |name: &String| required.is_some_and(|names| names.iter().any(|n| n == name));
        let properties = fields.get("properties").and_then(Value::as_object);
        fields.get("additionalProperties") == Some(&json!(false))
            && properties.is_none_or(|properties| properties.keys().all(is_required))
    };
    let is_each_strict = |name: &str| match fields.get(name) {
        Some(Value::Object(named)) => named.values().all(is_strict),
        Some(Value::Array(list)) => list.iter().all(is_strict),
        _ => true,
    };
    (!is_of_objects || is_closed())
        && fields.get("items").is_none_or(is_strict)
        && ["properties", "anyOf", "$defs", "definitions"].into_iter().all(is_each_strict)
}

fn add_text(mut text: Fields, chat: &mut Map<String, Value>) -> Result<(), Refusal> {
    text.hand_over(&[("verbosity", "verbosity")], chat);
    if let Some(format) = text.take("format") {
        let mut format = Fields::of("text.format", format)?;
        let kind = format.needed_text("type")?;
        match kind.as_str() {
            "text" => {}
            "json_object" => drop(chat.insert("response_format".to_owned(), json!({ "type": kind }))),
            "json_schema" => {
                let mut schema = Map::new();
                format.hand_over(&["name", "description", "schema", "strict"].map(|name| (name, name)), &mut schema);
                chat.insert("response_format".to_owned(), json!({"type": kind, "json_schema": schema}));
            }
            other => return Err(format.refuse("type", &format!("{other:?}"))),
        }
        format.end()?;
    }
    text.end()
}
