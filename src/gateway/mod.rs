//! What the inference and the audio server share: a request goes to an engine, its reply to the client, and a charge to
//! the meter before the reply's last byte leaves.
//!
//! `bill` makes the charge, `tally` counts what there is to charge; `relay` passes OpenAI's JSON routes on, `events`
//! their streams; `prompt` asks a model for text that is cut where it should be; `upload`, `sniff` and `hear` send
//! recordings, `transcript` writes down what was heard.

pub mod bill;
pub mod events;
pub mod hear;
pub mod prompt;
pub mod relay;
pub mod sniff;
pub mod tally;
pub mod transcript;
pub mod upload;

use crate::engine::{MARK, Reply};
use crate::error::{Error, Result};
use crate::http::Response;

pub use bill::Bill;

/// Most bytes of a JSON body: pictures travel in it.
pub const LARGEST_JSON: usize = 8 * 1024 * 1024;

/// Most bytes of a recording.
pub const LARGEST_AUDIO: u64 = 100 * 1024 * 1024;

/// Most bytes of a reply that is taken into memory.
pub const LARGEST_REPLY: usize = 64 * 1024 * 1024;

/// Most bytes of a model's name.
const LONGEST_MODEL: usize = 200;

/// What a request without a valid secret is told.
pub const INVALID_SECRET: &str = "Invalid Secret, please use the secret found in /account also subscribe at \
    https://text-generator.io/subscribe first, also make sure there is an up to date credit card saved in your account";

/// Says in the reply that the demo engine made it.
#[must_use]
pub fn marked(response: Response, is_demo: bool) -> Response {
    if is_demo { response.header(MARK.0, MARK.1) } else { response }
}

/// A reply of the engine's own type; types that are no header's value become unknown bytes.
pub fn typed(reply: &Reply) -> Response {
    let sane = !reply.content_type.is_empty() && !reply.content_type.bytes().any(|b| b.is_ascii_control());
    let content_type = if sane { reply.content_type.clone() } else { "application/octet-stream".to_owned() };
    marked(Response::new(200).header("Content-Type", content_type), reply.is_demo)
}

/// A model's name that can be kept in the ledger.
///
/// # Errors
/// 400.
pub fn checked_model(model: String) -> Result<String> {
    match (1..=LONGEST_MODEL).contains(&model.len()) && !model.chars().any(char::is_control) {
        true => Ok(model),
        false => Err(Error::bad("model must be a name of at most 200 bytes")),
    }
}
