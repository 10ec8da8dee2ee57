//! OpenAI's routes from speech to text.

use serde_json::json;

use crate::call::Call;
use crate::error::{Error, Result};
use crate::gateway::events::Relay;
use crate::gateway::hear::{self, Hearing, TRANSCRIBE, TRANSLATE};
use crate::gateway::relay::INVALID_API_KEY;
use crate::gateway::tally::{Kind, Tally};
use crate::gateway::transcript::{Clock, Transcript};
use crate::gateway::upload::{Fields, Outbound, Upload};
use crate::gateway::{Bill, checked_model, marked, typed};
use crate::http::{Content, Response, sse};

/// The fields that are not passed on as they come.
const HELD: [&str; 2] = ["model", "response_format"];

/// `POST /v1/audio/transcriptions`.
pub(super) fn transcribe(call: &mut Call<'_>) -> Result<Response> {
    answer(call, TRANSCRIBE)
}

/// `POST /v1/audio/translations`.
pub(super) fn translate(call: &mut Call<'_>) -> Result<Response> {
    answer(call, TRANSLATE)
}

/// What the fields say. The length of the recording is only in the fullest format, so that is what the server is asked
/// for, and the client's is made of it here.
struct Wish {
    model: String,
    format: String,
    /// The server is asked for the client's format itself: a stream, or what only some models write.
    is_direct: bool,
}

impl Wish {
    fn new(fields: &Fields, default_model: &dyn Fn() -> String) -> Result<Wish> {
        let get = |name: &str| fields.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
        let model = checked_model(get("model").filter(|m| !m.is_empty()).map_or_else(default_model, str::to_owned))?;
        let format = get("response_format").unwrap_or("json").to_owned();
        let known = matches!(format.as_str(), "json" | "text" | "srt" | "vtt" | "verbose_json");
        let is_stream = get("stream").is_some_and(|stream| stream.eq_ignore_ascii_case("true") || stream == "1");
        // These models know no other format than JSON, and count tokens.
        let is_limited = model.starts_with("gpt-");
        Ok(Wish { model, format, is_direct: !known || is_stream || is_limited })
    }

    fn asked_format(&self) -> &str {
        if self.is_direct { &self.format } else { "verbose_json" }
    }
}

fn answer(call: &mut Call<'_>, path: &'static str) -> Result<Response> {
    let mut bill = Bill::open(call, path, INVALID_API_KEY)?;
    let engine = &call.app.engines.transcribe;
    engine.check()?;
    let is_small = call.request.body.is_buffered();
    let (mut upload, before) = Upload::open(call.request, "file")?;
    let file_name = before.file_name.ok_or(Error::bad("file is required"))?;
    let is_held = |name: &str| HELD.contains(&name);
    let (held, passed): (Fields, Fields) = before.fields.into_iter().partition(|(name, _)| is_held(name));
    let mut wish = None;
    let decide = |behind: Fields| {
        let all: Fields = passed.iter().chain(&held).chain(&behind).cloned().collect();
        let decided = wish.insert(Wish::new(&all, &|| engine.default_model())?);
        let mut last: Fields = behind.into_iter().filter(|(name, _)| !is_held(name)).collect();
        last.push(("model".to_owned(), decided.model.clone()));
        last.push(("response_format".to_owned(), decided.asked_format().to_owned()));
        Ok(last)
    };
    let outbound = Outbound::new(&mut upload, Some(&mut bill), &file_name, &passed, Box::new(decide))?;
    let hearing = hear::send(engine, path, outbound, is_small)?;
    let wish = wish.ok_or(Error::Upstream(502, "The model server answered before the upload was over"))?;
    reply(hearing, bill, wish)
}

fn reply(mut hearing: Hearing, bill: Bill, wish: Wish) -> Result<Response> {
    if hearing.reply.media_type == sse::MEDIA_TYPE {
        let tally = Tally::new(Kind::Known(hear::units(hearing.millis)), 0);
        return Ok(Relay { reply: hearing.reply, bill, model: wish.model, tally, hides_usage: false }.response());
    }
    let (bytes, transcript, millis) = hearing.finish()?;
    if !wish.is_direct && transcript.is_none() {
        return Err(Error::Upstream(502, "The model server answered with something else than JSON"));
    }
    let (is_demo, as_it_came) = (hearing.reply.is_demo, wish.is_direct || wish.format == "verbose_json");
    let response = if let Some(transcript) = transcript.filter(|_| !as_it_came) {
        marked(formatted(&transcript, &wish.format, millis), is_demo)
    } else {
        let mut response = typed(&hearing.reply);
        response.content = Content::Bytes(bytes.into());
        response
    };
    bill.charged(response, &wish.model, hear::units(millis), hearing.reply.latency_micros())
}

fn formatted(transcript: &Transcript, format: &str, millis: i64) -> Response {
    let plain = |text: String| Response::with_body(200, "text/plain; charset=utf-8", text.into_bytes());
    match format {
        "text" => plain(format!("{}\n", transcript.text.trim())),
        "srt" => plain(transcript.subtitles(Clock::Srt, millis)),
        "vtt" => {
            Response::with_body(200, "text/vtt; charset=utf-8", transcript.subtitles(Clock::Vtt, millis).into_bytes())
        }
        _ => Response::json(200, &json!({"text": transcript.text})),
    }
}
