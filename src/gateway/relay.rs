//! OpenAI's JSON routes: the request goes on as it came, but for what is missing in it, and so does the reply.

use crate::call::Call;
use crate::engine::{Ask, Body, Engine};
use crate::error::{Error, Result};
use crate::http::object::Object;
use crate::http::{Content, Response};

use super::events::{self, Relay};
use super::tally::{Kind, Piece, Tally, estimate};
use super::{Bill, LARGEST_JSON, LARGEST_REPLY, checked_model, typed};

/// What a request without a valid secret is told here.
pub const INVALID_API_KEY: &str = "Incorrect API key provided";

/// A route that is passed on.
pub struct Route {
    /// Its path, as it is charged.
    pub path: &'static str,
    /// The engine's path.
    pub to: &'static str,
    /// What its replies are charged as.
    pub kind: Kind,
    /// The field that the prompt is in.
    pub prompt: &'static str,
}

/// Answers a request of such a route. `prepare` may look at the fields and fill in what is missing.
///
/// # Errors
/// Whatever is wrong: see [`Error`].
pub fn answer(
    call: &mut Call<'_>,
    engine: &Engine,
    route: Route,
    prepare: impl FnOnce(&mut Object<'_>) -> Result<()>,
) -> Result<Response> {
    let mut bill = Bill::open(call, route.path, INVALID_API_KEY)?;
    engine.check()?;
    let bytes = call.request.body.into_bytes(LARGEST_JSON)?;
    bill.note(&bytes);
    let mut object = Object::parse(&bytes).map_err(Error::bad)?;
    prepare(&mut object)?;
    let model = model(engine, &mut object)?;
    let wants_stream = matches!(route.kind, Kind::Text) && object.read::<bool>("stream") == Some(true);
    let hides_usage = wants_stream && ask_for_usage(&mut object);
    let prompt = object.get(route.prompt).map_or(0, estimate);
    let tally = Tally::new(route.kind, prompt);
    let sent = object.to_bytes();
    let ask = Ask { path: route.to, media_type: "application/json", body: Body::Bytes(&sent) };
    let mut reply = engine.wait(|| engine.send(ask).and_then(crate::engine::Reply::successful))??;
    if events::is_stream(&reply)? {
        return Ok(Relay { reply, bill, model, tally, hides_usage }.response());
    }
    let bytes = engine.wait(|| reply.read_all(LARGEST_REPLY))??;
    let units = count(tally, &bytes)?.units();
    let mut response = typed(&reply);
    response.content = Content::Bytes(bytes.into());
    bill.charged(response, &model, units, reply.latency_micros())
}

fn count(mut tally: Tally, bytes: &[u8]) -> Result<Tally> {
    match serde_json::from_slice::<Piece<'_>>(bytes) {
        Ok(piece) => tally.count(&piece),
        // It may have parts that are not known here, but it must be JSON.
        Err(e) if e.classify() == serde_json::error::Category::Data => tally.count_unknown(),
        Err(_) => return Err(Error::Upstream(502, "The model server answered with something else than JSON")),
    }
    Ok(tally)
}

/// The model that is asked for, filled in where none is.
fn model(engine: &Engine, object: &mut Object<'_>) -> Result<String> {
    if !object.has("model") {
        object.set("model", &engine.default_model());
    }
    checked_model(object.read("model").ok_or(Error::bad("model must be a string"))?)
}

/// Has the usage numbers sent with a stream; true when the client did not ask for them itself.
fn ask_for_usage(object: &mut Object<'_>) -> bool {
    let mut options = object.read::<serde_json::Map<String, serde_json::Value>>("stream_options").unwrap_or_default();
    if options.get("include_usage") == Some(&true.into()) {
        return false;
    }
    options.insert("include_usage".to_owned(), true.into());
    object.set("stream_options", &options);
    true
}
