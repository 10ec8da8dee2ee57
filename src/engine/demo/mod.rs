//! The demo engine: answers every call of the protocol, always the same to the same, without any model, so that the
//! whole way of a request can be tried and measured on a bare machine.

mod dialects;
mod speech;
mod text;
mod vectors;
mod whole;

use std::io::{self, Cursor, Read};
use std::time::Instant;

use serde_json::{Value, json};

use crate::error::Result;

use super::reply::Reply;
use super::request::{Body, COUNT_TOKENS, UpstreamRequest, Variant};

/// The name of its only model.
pub const MODEL: &str = "demo";

/// Answers a call.
///
/// # Errors
/// Its body cannot be read.
pub(super) fn answer(request: UpstreamRequest<'_>) -> Result<Reply> {
    let began = Instant::now();
    let made = match (request.path, request.body) {
        ("/v1/images/edits", Body::Form(_)) => whole::draw(&Value::Null),
        (_, Body::Form(form)) => speech::transcribe(request.media_type, &mut form.to_bytes(&Variant::default()))?,
        (_, Body::Stream(form)) => speech::transcribe(request.media_type, form)?,
        (path, Body::Json(object)) => match serde_json::from_slice(&object.to_bytes()) {
            Ok(request) => by_path(path, &request),
            Err(e) => DemoReply::error(400, &format!("The body is not valid JSON: {e}")),
        },
    };
    Ok(Reply {
        status: made.status,
        media_type: made.media_type.to_owned(),
        content_type: made.media_type.to_owned(),
        is_demo: true,
        retry_after: None,
        began,
        body: made.body,
        in_flight: None,
        deadline: None,
        awaits_first_piece: false,
        first_piece: None,
        idle: std::time::Duration::MAX,
        request_id: None,
    })
}

fn by_path(path: &str, request: &Value) -> DemoReply {
    match path {
        "/v1/chat/completions" => text::chat(request),
        "/v1/completions" => text::complete(request),
        "/v1/responses" => dialects::respond(request),
        "/v1/messages" => dialects::message(request),
        COUNT_TOKENS => dialects::count(request),
        "/v1/embeddings" => vectors::embed(request),
        "/v1/audio/speech" => speech::speak(request),
        "/v1/images/generations" => whole::draw(request),
        "/v1/rerank" => whole::rank(request),
        "/v1/moderations" => whole::moderate(request),
        _ => DemoReply::error(404, "The demo engine does not know this path"),
    }
}

/// Its list of models, as other providers send theirs.
pub(super) fn models() -> String {
    json!({"data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "textgen"}]}).to_string()
}

/// What it answers.
struct DemoReply {
    status: u16,
    media_type: &'static str,
    body: Box<dyn Read + Send>,
}

impl DemoReply {
    fn json(status: u16, value: &Value) -> DemoReply {
        DemoReply::bytes(status, "application/json", value.to_string().into_bytes())
    }

    fn error(status: u16, text: &str) -> DemoReply {
        DemoReply::json(
            status,
            &json!({"error": {"message": text, "type": "invalid_request_error", "param": null, "code": null}}),
        )
    }

    fn bytes(status: u16, media_type: &'static str, bytes: Vec<u8>) -> DemoReply {
        DemoReply { status, media_type, body: Box::new(Cursor::new(bytes)) }
    }

    /// Events that have the type of their data as a name.
    fn named_events(events: &[Value]) -> DemoReply {
        let name = |event: &Value| event["type"].as_str().unwrap_or_default().to_owned();
        DemoReply::events(events.iter().map(|event| format!("event: {}\ndata: {event}\n\n", name(event))).collect())
    }

    fn data_events(events: &[String]) -> DemoReply {
        DemoReply::events(events.iter().map(|event| format!("data: {event}\n\n")).collect())
    }

    fn events(events: Vec<String>) -> DemoReply {
        DemoReply {
            status: 200,
            media_type: crate::http::sse::MEDIA_TYPE,
            body: Box::new(EventBody { events: events.into_iter(), sent: 0 }),
        }
    }
}

/// Gives one event a read, as a model server does, or a part of one that is longer than what is read at a time.
struct EventBody {
    events: std::vec::IntoIter<String>,
    /// Bytes of the next event that were read.
    sent: usize,
}

impl Read for EventBody {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some(event) = self.events.as_slice().first() else { return Ok(0) };
        let rest = event.as_bytes().get(self.sent..).unwrap_or_default();
        let length = rest.len().min(out.len());
        out[..length].copy_from_slice(&rest[..length]);
        self.sent += length;
        if length == rest.len() {
            self.events.next();
            self.sent = 0;
        }
        Ok(length)
    }
}
