//! Vectors: OpenAI's route, and the older system's.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::Call;
use crate::engine::{Ask, Body};
use crate::error::{Error, Result};
use crate::gateway::relay::{self, Route};
use crate::gateway::tally::{Kind, Piece, Tally};
use crate::gateway::{Bill, INVALID_SECRET, LARGEST_REPLY, checked_model, marked};
use crate::http::Response;
use crate::http::form::{FORM_LIMIT, Fields};

const PATH: &str = "/v1/embeddings";

/// Numbers of a vector that are returned when nothing is said.
const USUAL_FEATURES: usize = 256;

/// `POST /v1/embeddings`.
pub(super) fn embed(call: &mut Call<'_>) -> Result<Response> {
    let route = Route { path: PATH, to: PATH, kind: Kind::Embeddings, prompt: "input" };
    let app = call.app;
    relay::answer(call, &app.engines.embeddings, route, |object| match object.has("input") {
        true => Ok(()),
        false => Err(Error::bad("input is required")),
    })
}

/// `POST /api/v1/feature-extraction`: the first `num_features` numbers of a text's vector, or all for `null`.
pub(super) fn features(call: &mut Call<'_>) -> Result<Response> {
    let mut bill = Bill::open(call, "/api/v1/feature-extraction", INVALID_SECRET)?;
    let engine = &call.app.engines.embeddings;
    engine.check()?;
    let bytes = call.request.body.into_bytes(FORM_LIMIT)?;
    bill.note(&bytes);
    let fields = Fields::parse_json(&bytes)?;
    let text = fields.text("text")?;
    let wanted = match fields.optional_integer("num_features")? {
        Some(n) => usize::try_from(n).map_err(|_| Error::bad("num_features must not be negative"))?,
        None if fields.has("num_features") => usize::MAX,
        None => USUAL_FEATURES,
    };
    let model = checked_model(engine.default_model())?;
    let sent = json!({"model": model, "input": text, "encoding_format": "float"}).to_string();
    let ask = Ask { path: PATH, media_type: "application/json", body: Body::Bytes(sent.as_bytes()) };
    let (bytes, latency, is_demo) = engine.wait(|| {
        let mut reply = engine.send(ask)?.successful()?;
        let bytes = reply.read_all(LARGEST_REPLY)?;
        Ok::<_, Error>((bytes, reply.latency_micros(), reply.is_demo))
    })??;
    let vector = vector(&bytes).ok_or(Error::Upstream(502, "The model server answered without a vector"))?;
    let mut tally = Tally::new(Kind::Embeddings, text.len().div_ceil(4));
    if let Ok(piece) = serde_json::from_slice::<Piece<'_>>(&bytes) {
        tally.count(&piece);
    }
    let response = marked(Response::json(200, &vector.get(..wanted).unwrap_or(&vector)), is_demo);
    bill.charged(response, &model, tally.units(), latency)
}

fn vector(bytes: &[u8]) -> Option<Vec<Value>> {
    #[derive(Deserialize)]
    struct List {
        data: Vec<Item>,
    }
    #[derive(Deserialize)]
    struct Item {
        embedding: Vec<Value>,
    }
    let list: List = serde_json::from_slice(bytes).ok()?;
    list.data.into_iter().next().map(|item| item.embedding)
}
