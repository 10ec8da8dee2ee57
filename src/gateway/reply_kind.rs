//! What kind of a reply a model server has sent.

use crate::engine::Reply;
use crate::error::{Error, Result};
use crate::http::sse;

/// Whether a reply is a stream of events; if not, it is JSON.
///
/// # Errors
/// 502 for a reply that is neither.
pub fn is_event_stream(reply: &Reply) -> Result<bool> {
    match reply.media_type.as_str() {
        sse::MEDIA_TYPE => Ok(true),
        "application/json" => Ok(false),
        other => {
            log::warn!("a model server replied with the media type {other:?}");
            Err(not_json())
        }
    }
}

/// 502: a model server sent an error as if it were a reply. Its words are for the log only, as they may tell of the
/// server.
pub fn disguised_failure(message: &str) -> Error {
    log::warn!("a model server sent an error as a reply: {message}");
    Error::Upstream(502, "The model server failed")
}

/// 502: a model server's reply is not JSON, as it should be.
pub fn not_json() -> Error {
    Error::Upstream(502, "The model server's reply is not JSON")
}
