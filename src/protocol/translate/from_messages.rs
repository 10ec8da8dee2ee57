//! A request in the Messages protocol, as a chat.

use serde_json::{Map, Value, json};

use super::conversation::{Conversation, picture_part, text_part};
use super::fields::{Fields, Refusal, parts};

/// Fields that say nothing to a model: who asks, at which price, and what may be kept in a cache.
const IGNORED: [&str; 6] = ["metadata", "service_tier", "cache_control", "speed", "diagnostics", "user_profile_id"];

/// The name of a schema, which a chat must give it.
const SCHEMA_NAME: &str = "output";

/// How much thinking is asked for, by the tokens that it may take.
const EFFORTS: [(u64, &str); 2] = [(4096, "low"), (16_384, "medium")];

/// What the reply is to be like.
#[derive(Clone, Debug, Default)]
pub(super) struct Style {
    /// The model, as the client calls it.
    pub(super) model: Value,
    /// Whether the model's thinking is shown.
    pub(super) shows_thinking: bool,
}

/// The chat, and what the reply is to be like.
pub(super) fn chat(request: Value) -> Result<(Map<String, Value>, Style), Refusal> {
    let mut fields = Fields::of("", request)?;
    let model = fields.get("model").cloned().unwrap_or_default();
    let mut style = Style { model, ..Style::default() };
    let mut chat = Map::new();
    fields.hand_over(&[("model", "model")], &mut chat);
    let mut conversation = Conversation::default();
    if let Some(system) = fields.take("system") {
        conversation.system(&texts("system", system)?.join("\n\n"));
    }
    let mut begun = None;
    for (index, message) in fields.list("messages")?.into_iter().enumerate() {
        let mut message = Fields::of(format!("messages[{index}]"), message)?;
        let role = message.needed_text("role")?;
        let (content, place) = (message.needed("content")?, message.place("content"));
        match role.as_str() {
            "user" => add_user(&place, content, &mut conversation)?,
            "assistant" => add_assistant(&place, content, &mut conversation)?,
            "system" => conversation.system(&texts(&place, content)?.join("\n\n")),
            other => return Err(message.refuse("role", &format!("{other:?}"))),
        }
        message.end()?;
        begun = (role == "assistant").then_some(index);
    }
    if let Some(last) = begun {
        // A chat would have the model answer to it.
        return Err(fields.refuse(&format!("messages[{last}]"), "the beginning of the answer"));
    }
    chat.insert("messages".to_owned(), conversation.finish().into());
    chat.insert("max_tokens".to_owned(), fields.needed("max_tokens")?);
    let same = ["stream", "temperature", "top_p", "top_k"].map(|name| (name, name));
    fields.hand_over(&same, &mut chat);
    let stop = fields.list("stop_sequences")?;
    if !stop.is_empty() {
        chat.insert("stop".to_owned(), stop.into());
    }
    add_tools(&mut fields, &mut chat)?;
    if let Some(thinking) = fields.take("thinking") {
        style.shows_thinking = add_thinking(Fields::of("thinking", thinking)?, &mut chat)?;
    }
    if let Some(config) = fields.take("output_config") {
        let mut config = Fields::of("output_config", config)?;
        config.hand_over(&[("effort", "reasoning_effort")], &mut chat);
        if let Some(format) = config.take("format") {
            add_format(Fields::of("output_config.format", format)?, &mut chat)?;
        }
        config.end()?;
    }
    if let Some(format) = fields.take("output_format") {
        add_format(Fields::of("output_format", format)?, &mut chat)?;
    }
    if let Some(management) = fields.take("context_management") {
        add_management(Fields::of("context_management", management)?)?;
    }
    fields.ignore(&IGNORED);
    fields.end()?;
    Ok((chat, style))
}

/// What may be cleared of a conversation to make it shorter. All of it is kept, so the model knows no less.
fn add_management(mut management: Fields) -> Result<(), Refusal> {
    for (index, edit) in management.list("edits")?.into_iter().enumerate() {
        let mut edit = Fields::of(format!("context_management.edits[{index}]"), edit)?;
        let kind = edit.needed_text("type")?;
        if !kind.starts_with("clear_thinking_") && !kind.starts_with("clear_tool_uses_") {
            return Err(edit.refuse("type", &format!("{kind:?}")));
        }
    }
    management.end()
}

/// The blocks of a message; a text is one block.
fn blocks(place: &str, content: Value) -> Result<Vec<Fields>, Refusal> {
    let block = |(index, block): (usize, Value)| {
        let mut block = Fields::of(format!("{place}[{index}]"), block)?;
        block.ignore(&["cache_control"]);
        Ok(block)
    };
    parts(place, content, "text")?.into_iter().enumerate().map(block).collect()
}

/// A text, or all of a list of texts.
fn texts(place: &str, content: Value) -> Result<Vec<String>, Refusal> {
    let text = |mut block: Fields| match block.needed_text("type")?.as_str() {
        "text" => text(block),
        other => Err(block.refuse("type", &format!("{other:?}"))),
    };
    blocks(place, content)?.into_iter().map(text).collect()
}

fn text(mut block: Fields) -> Result<String, Refusal> {
    let text = block.needed_text("text")?;
    // They say where a text is from, for people.
    block.ignore(&["citations"]);
    block.end()?;
    Ok(text)
}

fn picture(mut block: Fields) -> Result<Value, Refusal> {
    let mut source = Fields::of(block.place("source"), block.needed("source")?)?;
    let part = match source.needed_text("type")?.as_str() {
        "base64" => {
            let (kind, data) = (source.needed_text("media_type")?, source.needed_text("data")?);
            picture_part(&format!("data:{kind};base64,{data}"), None)
        }
        "url" => picture_part(&source.needed_text("url")?, None),
        other => return Err(source.refuse("type", &format!("{other:?}"))),
    };
    source.end()?;
    block.end()?;
    Ok(part)
}

/// A message of the user: first what tools have answered, as a chat has it.
fn add_user(place: &str, content: Value, to: &mut Conversation) -> Result<(), Refusal> {
    let mut parts = Vec::new();
    let mut is_answer = false;
    for mut block in blocks(place, content)? {
        match block.needed_text("type")?.as_str() {
            "text" => parts.push(text_part(&text(block)?)),
            "image" => parts.push(picture(block)?),
            "tool_result" => {
                is_answer = true;
                add_result(block, to)?;
            }
            other => return Err(block.refuse("type", &format!("{other:?}"))),
        }
    }
    if !parts.is_empty() || !is_answer {
        to.user(parts);
    }
    Ok(())
}

fn add_result(mut block: Fields, to: &mut Conversation) -> Result<(), Refusal> {
    let id = block.needed_text("tool_use_id")?;
    let (mut said, mut pictures) = (Vec::new(), Vec::new());
    if let Some(content) = block.take("content") {
        for mut part in blocks(&block.place("content"), content)? {
            match part.needed_text("type")?.as_str() {
                "text" => said.push(text(part)?),
                "image" => pictures.push(picture(part)?),
                other => return Err(part.refuse("type", &format!("{other:?}"))),
            }
        }
    }
    let mut said = said.join("\n");
    if block.flag("is_error")? == Some(true) {
        // A chat has no other way to say it.
        said.insert_str(0, "Error: ");
    }
    to.result(&id, &said, pictures);
    block.end()
}

fn add_assistant(place: &str, content: Value, to: &mut Conversation) -> Result<(), Refusal> {
    to.end_assistant();
    for mut block in blocks(place, content)? {
        match block.needed_text("type")?.as_str() {
            "text" => to.text(&text(block)?),
            "thinking" => {
                to.reasoning(&block.needed_text("thinking")?);
                block.ignore(&["signature"]);
                block.end()?;
            }
            "tool_use" => {
                let (id, name) = (block.needed_text("id")?, block.needed_text("name")?);
                to.call(&id, &name, &block.needed("input")?.to_string());
                if block.get("caller").is_some_and(|caller| caller["type"] == "direct") {
                    block.ignore(&["caller"]);
                }
                block.end()?;
            }
            other => return Err(block.refuse("type", &format!("{other:?}"))),
        }
    }
    to.end_assistant();
    Ok(())
}

fn add_tools(fields: &mut Fields, chat: &mut Map<String, Value>) -> Result<(), Refusal> {
    let mut tools = Vec::new();
    for (index, tool) in fields.list("tools")?.into_iter().enumerate() {
        let mut tool = Fields::of(format!("tools[{index}]"), tool)?;
        match tool.text("type")?.as_deref() {
            None | Some("custom") => {}
            Some(other) => return Err(tool.refuse("type", &format!("{other:?}"))),
        }
        let mut function = Map::new();
        let names =
            [("name", "name"), ("description", "description"), ("input_schema", "parameters"), ("strict", "strict")];
        tool.hand_over(&names, &mut function);
        tool.ignore(&["cache_control", "eager_input_streaming"]);
        tool.end()?;
        tools.push(json!({"type": "function", "function": function}));
    }
    if !tools.is_empty() {
        chat.insert("tools".to_owned(), tools.into());
    }
    let Some(choice) = fields.take("tool_choice") else { return Ok(()) };
    let mut choice = Fields::of("tool_choice", choice)?;
    let translated = match choice.needed_text("type")?.as_str() {
        "auto" => json!("auto"),
        "none" => json!("none"),
        "any" => json!("required"),
        "tool" => json!({"type": "function", "function": {"name": choice.needed_text("name")?}}),
        other => return Err(choice.refuse("type", &format!("{other:?}"))),
    };
    chat.insert("tool_choice".to_owned(), translated);
    if let Some(is_disabled) = choice.flag("disable_parallel_tool_use")? {
        chat.insert("parallel_tool_calls".to_owned(), (!is_disabled).into());
    }
    choice.end()
}

/// Returns whether the thinking is shown.
fn add_thinking(mut thinking: Fields, chat: &mut Map<String, Value>) -> Result<bool, Refusal> {
    let is_shown = match thinking.needed_text("type")?.as_str() {
        "disabled" => false,
        "adaptive" => true,
        "enabled" => {
            let budget = thinking.needed("budget_tokens")?;
            let budget = budget.as_u64().ok_or_else(|| thinking.refuse("budget_tokens", &budget.to_string()))?;
            let effort = EFFORTS.iter().find(|(most, _)| budget <= *most).map_or("high", |(_, effort)| effort);
            chat.insert("reasoning_effort".to_owned(), effort.into());
            true
        }
        other => return Err(thinking.refuse("type", &format!("{other:?}"))),
    };
    let display = thinking.text("display")?;
    thinking.end()?;
    Ok(is_shown && display.as_deref() != Some("omitted"))
}

fn add_format(mut format: Fields, chat: &mut Map<String, Value>) -> Result<(), Refusal> {
    match format.needed_text("type")?.as_str() {
        "json_schema" => {}
        other => return Err(format.refuse("type", &format!("{other:?}"))),
    }
    let schema = json!({"name": SCHEMA_NAME, "schema": format.needed("schema")?, "strict": true});
    chat.insert("response_format".to_owned(), json!({"type": "json_schema", "json_schema": schema}));
    format.end()
}
