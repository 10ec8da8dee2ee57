//! Bodies as the API reference describes them. What a model server takes and sends is passed on, with fields that are not
//! described here too.
#![expect(dead_code, reason = "only the schemas of these types are used")]

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::operation::File;

/// A text or a list of texts.
#[derive(JsonSchema)]
#[schemars(untagged, inline)]
enum OneOrMany {
    One(String),
    Many(Vec<Value>),
}

/// A conversation in an example.
fn hello() -> Value {
    json!([{"role": "user", "content": "Hello"}])
}

/// A chat, in OpenAI's protocol.
#[derive(JsonSchema)]
pub(super) struct Chat {
    /// Each with role and content.
    #[schemars(example = hello())]
    messages: Vec<Map<String, Value>>,
    model: Option<String>,
    max_tokens: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    stop: Option<OneOrMany>,
    /// Reply with server-sent events, of which the last is `data: [DONE]`.
    stream: Option<bool>,
    stream_options: Option<Map<String, Value>>,
}

/// A conversation, in OpenAI's Responses protocol. Nothing is stored, so `previous_response_id`, `conversation`, `prompt`,
/// `background` and `"store": true` are refused, and so is every field of which it is not known here what it would cost.
#[derive(JsonSchema)]
pub(super) struct ResponsesRequest {
    /// A text, or the items of the conversation.
    input: OneOrMany,
    model: Option<String>,
    instructions: Option<String>,
    max_output_tokens: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    /// Functions that the client runs.
    tools: Option<Vec<Map<String, Value>>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    /// The format of the reply.
    text: Option<Map<String, Value>>,
    reasoning: Option<Map<String, Value>>,
    /// Only false.
    store: Option<bool>,
    /// Reply with server-sent events, of which the last is `response.completed`, `response.incomplete` or
    /// `response.failed`.
    stream: Option<bool>,
}

/// What a model replies, in OpenAI's Responses protocol.
#[derive(JsonSchema)]
#[schemars(example = json!({
    "id": "resp_…", "object": "response", "status": "completed", "model": "demo",
    "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hello!"}]}],
    "usage": {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
}))]
#[schemars(rename = "Response")]
pub(super) struct ModelResponse {}

/// A conversation, in the Messages protocol. A field of which it is not known here what it would cost is refused.
#[derive(JsonSchema)]
pub(super) struct MessagesRequest {
    /// Each with role and content.
    #[schemars(example = hello())]
    messages: Vec<Map<String, Value>>,
    model: Option<String>,
    max_tokens: i64,
    /// A text, or a list of them.
    system: Option<OneOrMany>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    stop_sequences: Option<Vec<String>>,
    /// Tools that the client runs.
    tools: Option<Vec<Map<String, Value>>>,
    tool_choice: Option<Map<String, Value>>,
    thinking: Option<Map<String, Value>>,
    output_config: Option<Map<String, Value>>,
    metadata: Option<Map<String, Value>>,
    /// Reply with server-sent events, of which the last is `message_stop`.
    stream: Option<bool>,
}

/// A conversation whose tokens are to be counted, in the Messages protocol.
#[derive(JsonSchema)]
pub(super) struct MessagesCount {
    /// Each with role and content.
    #[schemars(example = hello())]
    messages: Vec<Map<String, Value>>,
    model: Option<String>,
    /// A text, or a list of them.
    system: Option<OneOrMany>,
    tools: Option<Vec<Map<String, Value>>>,
}

/// How long a conversation is.
#[derive(JsonSchema)]
pub(super) struct TokenCount {
    /// The model server's own count if it has one, else an estimate that is meant not to be below the truth.
    input_tokens: i64,
}

/// What a model replies, in the Messages protocol.
#[derive(JsonSchema)]
#[schemars(example = json!({
    "id": "msg_…", "type": "message", "role": "assistant", "model": "demo",
    "content": [{"type": "text", "text": "Hello!"}], "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 2}
}))]
pub(super) struct Message {}

/// A text to continue, in OpenAI's protocol.
#[derive(JsonSchema)]
pub(super) struct Prompt {
    /// A text, or a list of them.
    prompt: OneOrMany,
    model: Option<String>,
    /// Default: 100.
    max_tokens: Option<i64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    stop: Option<OneOrMany>,
    stream: Option<bool>,
}

/// Texts to embed, in OpenAI's protocol.
#[derive(JsonSchema)]
pub(super) struct EmbeddingInput {
    /// A text, or a list of at most 2048 of them.
    input: OneOrMany,
    model: Option<String>,
    encoding_format: Option<String>,
}

/// What a model server replies to a chat, in OpenAI's protocol.
#[derive(JsonSchema)]
#[schemars(example = json!({
    "id": "chatcmpl-…", "object": "chat.completion", "created": 1_795_341_705, "model": "demo",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
}))]
pub(super) struct ChatCompletion {}

/// What a model server replies, in OpenAI's protocol.
#[derive(JsonSchema)]
#[schemars(example = json!({
    "id": "cmpl-…", "object": "text_completion", "created": 1_795_341_705, "model": "demo",
    "choices": [{"index": 0, "text": " there", "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
}))]
pub(super) struct Completion {}

/// Vectors, in OpenAI's protocol.
#[derive(JsonSchema)]
#[schemars(example = json!({
    "object": "list", "model": "demo", "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -0.2]}],
    "usage": {"prompt_tokens": 1, "total_tokens": 1}
}))]
pub(super) struct Embeddings {}

/// What to draw, in OpenAI's protocol.
#[derive(JsonSchema)]
pub(super) struct ImagePrompt {
    prompt: String,
    model: Option<String>,
    /// 1 to 10 images; default: 1.
    n: Option<i64>,
    /// Such as `1024x1024`.
    size: Option<String>,
    /// `url` or `b64_json`, for models that have both.
    response_format: Option<String>,
}

/// Images to change, in OpenAI's protocol.
#[derive(JsonSchema)]
pub(super) struct ImageEdit {
    /// A PNG, JPEG or WebP; several as `image[]`. With all else at most 50 MiB.
    image: File,
    /// Where it is transparent, the first image is drawn anew.
    mask: Option<File>,
    prompt: String,
    model: Option<String>,
    /// 1 to 10 images; default: 1.
    n: Option<i64>,
    /// Such as `1024x1024`.
    size: Option<String>,
}

/// Images, in OpenAI's protocol.
#[derive(JsonSchema)]
#[schemars(example = json!({"created": 1_795_341_705, "data": [{"b64_json": "…"}]}))]
pub(super) struct Images {}

/// Documents to put in order.
#[derive(JsonSchema)]
pub(super) struct RerankInput {
    query: String,
    /// 1 to 10,000 texts, or objects with a `text`.
    documents: Vec<String>,
    model: Option<String>,
    /// How many results are returned; default: all.
    top_n: Option<i64>,
}

/// The documents' positions in the request, most relevant first.
#[derive(JsonSchema)]
#[schemars(example = json!({"results": [{"index": 0, "relevance_score": 0.9}]}))]
pub(super) struct Ranking {}

/// Texts to judge, in OpenAI's protocol.
#[derive(JsonSchema)]
pub(super) struct ModerationInput {
    /// A text, or a list of texts or of parts.
    input: OneOrMany,
    model: Option<String>,
}

/// Judgements, in OpenAI's protocol.
#[derive(JsonSchema)]
#[schemars(example = json!({
    "results": [{"flagged": false, "categories": {"violence": false}, "category_scores": {"violence": 0.01}}]
}))]
pub(super) struct Moderation {}

/// A model, in OpenAI's protocol.
#[derive(JsonSchema)]
#[schemars(example = json!({"id": "demo", "object": "model", "created": 0, "owned_by": "textgen"}))]
pub(super) struct Model {}

/// Models, in OpenAI's protocol.
#[derive(Serialize, JsonSchema)]
pub(super) struct ModelList {
    object: String,
    #[schemars(with = "Vec<Model>")]
    data: Vec<Value>,
}

/// A text to continue.
#[derive(JsonSchema)]
pub(super) struct Generate {
    text: String,
    /// 1 to 128.
    number_of_results: Option<i64>,
    /// In tokens; default: 100.
    max_length: Option<i64>,
    min_length: Option<i64>,
    max_sentences: Option<i64>,
    min_probability: Option<f64>,
    /// A text, or a list of them.
    stop_sequences: Option<OneOrMany>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    temperature: Option<f64>,
    repetition_penalty: Option<f64>,
    seed: Option<i64>,
    model: Option<String>,
    system_message: Option<String>,
    enable_thinking: Option<bool>,
}

/// A completion of a text.
#[derive(Serialize, JsonSchema)]
pub(super) struct Generated {
    generated_text: String,
    /// The stop sequence, `max_sentences`, `max_length` or `stop`.
    stop_reason: String,
    thinking_content: Option<String>,
}

/// A text to turn into a vector.
#[derive(JsonSchema)]
pub(super) struct FeatureInput {
    text: String,
    /// Default: 256; null for all.
    num_features: Option<i64>,
}

/// A text to summarize.
#[derive(JsonSchema)]
pub(super) struct Summarize {
    text: String,
    /// In tokens.
    max_length: Option<i64>,
}

/// A summary.
#[derive(Serialize, JsonSchema)]
pub(super) struct Summary {
    generated_text: String,
}
