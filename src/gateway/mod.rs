//! What the inference, audio and web servers share to serve charged requests: the request goes to a model server, its
//! reply to the client, and a charge to the meter before the last byte of the reply is sent.
//!
//! Every charged handler runs inside `charged`, which reads the body (`body` parses it), and charges for the outcome
//! (`charging`, `reply_stream`). `model` finds the model that a request names, before any work. `idempotency` claims
//! the key of a request, and `kept` keeps its reply for repetitions. `proxy` passes OpenAI's JSON routes through and
//! `event_stream` their streams, read by `live_reply`; `whole_reply` those for images, reranking and moderation, with the uploads that `image_form` reads; `completion` asks a chat model for text with stop conditions;
//! `speech` synthesizes; `upload`, `forward`, `transcription` send recordings, and `transcript` formats the result.
//! `dialect` answers in the Responses and the Messages protocol, whose requests `dialect_body` checks, and `count_tokens`
//! says how long one is; `reply_format` writes replies in the client's protocol, and `reply_kind` tells replies apart.
//! `unread_reply` charges for those that there was no memory for.
//! `usage_counter` counts the tokens of replies; `stream_usage` has streams bring their numbers, and `estimate` counts
//! tokens that no server reports, in what `prompt_parts` finds of a prompt. `worst_case` sets aside what a call may cost,
//! where a budget limits that: `bound` tells what the model reads at the most, and `output_limit` holds it to what it may
//! make.

pub mod audio_duration;
pub mod body;
mod bound;
mod caller_check;
pub mod charged;
mod charging;
pub mod completion;
pub mod count_tokens;
pub mod dialect;
mod dialect_body;
pub mod digest;
pub mod estimate;
pub mod event_stream;
pub mod file_label;
pub mod forward;
mod idempotency;
pub mod image_form;
mod kept;
mod live_reply;
pub mod model;
pub mod output_limit;
mod prompt_parts;
pub mod proxy;
pub mod reply_format;
pub mod reply_kind;
pub mod reply_stream;
mod request_rate;
mod sentences;
pub mod speech;
pub mod stream_usage;
pub mod transcript;
pub mod transcription;
pub mod unread_reply;
pub mod upload;
pub mod usage_counter;
pub mod whole_reply;
pub mod worst_case;

use crate::engine::{DEMO_HEADER, Reply};
use crate::http::Response;

/// Most bytes of a JSON body; large because images travel in it.
pub const MAX_JSON_BODY: usize = 32 * 1024 * 1024;

/// Most bytes of a recording.
pub const MAX_RECORDING: u64 = 100 * 1024 * 1024;

/// Most bytes of a model server's reply that is buffered.
pub const MAX_REPLY: usize = 64 * 1024 * 1024;

/// The message of a 401 on the older routes.
pub const INVALID_SECRET: &str = "Invalid Secret, please use the secret found in /account also subscribe at \
    https://text-generator.io/subscribe first, also make sure there is an up to date credit card saved in your account";

/// The message of a 401 on OpenAI's routes.
pub const INVALID_API_KEY: &str = "Incorrect API key provided";

/// Adds the header that tells clients that the reply comes from the demo engine, if it does.
#[must_use]
pub fn mark_demo(response: Response, is_demo: bool) -> Response {
    if is_demo { response.header(DEMO_HEADER.0, DEMO_HEADER.1) } else { response }
}

/// A 200 without a body yet, with the `Content-Type` of a model server's reply; `application/octet-stream` if that is
/// missing or is no valid header value.
pub fn response_typed_as(reply: &Reply) -> Response {
    let is_valid = !reply.content_type.is_empty() && !reply.content_type.bytes().any(|b| b.is_ascii_control());
    let content_type = if is_valid { reply.content_type.clone() } else { "application/octet-stream".to_owned() };
    mark_demo(Response::new(200).header("Content-Type", content_type), reply.is_demo)
}
