//! `/playground`: models to try. A script streams the answer; without one a form brings it whole.

use std::sync::Arc;

use askama::Template;
use serde_json::{Value, json};

use super::{Frame, Problem, page, show, signed_in_or_return};
use crate::auth::Caller;
use crate::blocking;
use crate::call::{Call, Role};
use crate::engine::{Ask, Body as EngineBody, Reply};
use crate::error::{Error, Result};
use crate::gateway::relay::{self, Route};
use crate::gateway::tally::Kind;
use crate::gateway::{Bill, LARGEST_REPLY, typed};
use crate::http::form::Fields;
use crate::http::{Body, Content, Response};
use crate::store::documents as store;
use crate::store::{Document, User, usage_lists};
use crate::usage::Units;
use crate::web::{Answer, documents, fields};

/// Documents shown on the playground.
const SHOWN: i64 = 20;

const CHAT: &str = "/v1/chat/completions";
const SPEECH: &str = "/v1/audio/speech";

#[derive(Template)]
#[template(path = "playground.html")]
struct Playground {
    frame: Frame,
    user: User,
    documents: Vec<Document>,
    models: Vec<String>,
    is_configured: bool,
    inference: String,
    asked: Asked,
    answer: Option<String>,
    cost: Option<String>,
    problem: Option<Problem>,
}

#[derive(Template)]
#[template(path = "speech.html")]
struct Speech {
    frame: Frame,
    hears: bool,
    speaks: bool,
}

/// What a person asks a model.
#[derive(Default)]
struct Asked {
    prompt: String,
    system: String,
    model: String,
    temperature: String,
    max_tokens: String,
}

impl Asked {
    fn read(fields: &Fields) -> Result<Asked> {
        let text = |name| Ok::<_, Error>(fields.optional_text(name)?.unwrap_or("").trim().to_owned());
        Ok(Asked {
            prompt: text("prompt")?,
            system: text("system")?,
            model: text("model")?,
            temperature: text("temperature")?,
            max_tokens: text("max_tokens")?,
        })
    }

    /// The call of the API that asks this.
    fn request(&self) -> Result<Value> {
        if self.prompt.is_empty() {
            return Err(Error::bad("Write a prompt first"));
        }
        let mut messages = vec![json!({"role": "user", "content": self.prompt})];
        if !self.system.is_empty() {
            messages.insert(0, json!({"role": "system", "content": self.system}));
        }
        let mut request = json!({"messages": messages});
        if !self.model.is_empty() {
            request["model"] = self.model.as_str().into();
        }
        if !self.temperature.is_empty() {
            let number: f64 = self.temperature.parse().map_err(|_| Error::bad("Temperature must be a number"))?;
            request["temperature"] = json!(number);
        }
        if !self.max_tokens.is_empty() {
            let number: u32 = self.max_tokens.parse().map_err(|_| Error::bad("The length must be a whole number"))?;
            request["max_tokens"] = json!(number);
        }
        Ok(request)
    }
}

/// `GET /playground`.
pub(in crate::web) fn show(call: &mut Call<'_>) -> Answer {
    let caller = signed_in_or_return!(call);
    render(call, &caller, Asked::default(), None, None)
}

fn render(call: &Call<'_>, caller: &Caller, asked: Asked, answer: Option<String>, problem: Option<Problem>) -> Answer {
    let engine = &call.app.engines.inference;
    let is_configured = engine.is_configured();
    // Before a connection is taken: a model server may let us wait.
    let models = if is_configured { engine.models().unwrap_or_default() } else { Arc::default() };
    let models = models.iter().filter_map(|model| model["id"].as_str().map(str::to_owned)).collect();
    let mut session = call.app.db.session()?;
    let documents = store::page(&mut session, &caller.user.id, None, SHOWN, false, i64::MAX)?;
    let cost = match &answer {
        Some(_) => usage_lists::newest(&mut session, &caller.user.id, "web", 1)?.pop(),
        None => None,
    };
    drop(session);
    let playground = Playground {
        frame: Frame::new(Some(caller), "playground"),
        user: caller.user.clone(),
        documents,
        models,
        is_configured,
        inference: super::program_address(call, Role::Inference),
        asked,
        answer,
        cost: cost.map(|charged| show::money(&charged.cost_micros)),
        problem,
    };
    page(playground.problem.as_ref().map_or(200, |problem| problem.status), &playground)
}

/// `POST /playground/ask`: the answer as a page, for browsers without a script.
pub(in crate::web) fn ask(call: &mut Call<'_>) -> Answer {
    let caller = call.caller()?;
    let asked = Asked::read(&fields(call)?)?;
    let answered = asked.request().and_then(|request| answer(call, &request));
    match answered {
        Ok(text) => render(call, &caller, asked, Some(text), None),
        Err(e) if matches!(e.status(), 502..=504) => {
            let problem = Problem { form: "ask", status: e.status(), words: e.public().into_owned() };
            render(call, &caller, asked, None, Some(problem))
        }
        Err(e) => render(call, &caller, asked, None, Some(Problem::of("ask", e)?)),
    }
}

fn answer(call: &mut Call<'_>, request: &Value) -> Result<String> {
    call.request.body = Body::from_bytes(request.to_string().into_bytes());
    let app = call.app;
    let route = Route { path: CHAT, to: CHAT, kind: Kind::Text, prompt: "messages" };
    let response = relay::answer(call, &app.engines.inference, route, |_| Ok(()))?;
    let response = blocking::block_in_place(|| response.wait())?;
    if response.status.0 != 200 {
        return Err(Error::Busy);
    }
    let Content::Bytes(bytes) = &response.content else {
        return Err(Error::Upstream(502, "The model server answered in a way that cannot be shown"));
    };
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    Ok(value["choices"][0]["message"]["content"].as_str().unwrap_or("").to_owned())
}

/// `POST /playground`: writes a document.
pub(in crate::web) fn write_document(call: &mut Call<'_>) -> Answer {
    let caller = call.caller()?;
    let fields = fields(call)?;
    let title = documents::checked_title(fields.text("title")?)?;
    let content = documents::checked_content(fields.text("content")?)?;
    documents::insert(call, &caller.user.id, title, Some(content))?;
    Ok(Response::see_other("/playground"))
}

/// `GET /playground/cost`: what the last call of this person's browsers cost.
pub(in crate::web) fn cost(call: &mut Call<'_>) -> Answer {
    let caller = call.caller()?;
    let newest = usage_lists::newest(&mut call.app.db.session()?, &caller.user.id, "web", 1)?;
    let cost = newest.first().map(|charged| (show::money(&charged.cost_micros), charged.tokens));
    Ok(Response::json(200, &json!({"cost": cost.as_ref().map(|c| &c.0), "tokens": cost.as_ref().map(|c| c.1)})))
}

/// `GET /playground/speech`: the second tab.
pub(in crate::web) fn speech(call: &mut Call<'_>) -> Answer {
    let caller = signed_in_or_return!(call);
    let engines = &call.app.engines;
    let frame = Frame::new(Some(&caller), "playground");
    let (hears, speaks) = (engines.transcribe.is_configured(), engines.speech.is_configured());
    page(200, &Speech { frame, hears, speaks })
}

/// `POST /playground/speak` with `input` and perhaps `voice`: the sound.
pub(in crate::web) fn speak(call: &mut Call<'_>) -> Answer {
    let bill = Bill::open(call, SPEECH, crate::error::NOT_AUTHENTICATED)?;
    let engine = &call.app.engines.speech;
    engine.check()?;
    let fields = fields(call)?;
    let (input, voice) = (fields.text("input")?.trim(), fields.optional_text("voice")?.unwrap_or("").trim());
    if input.is_empty() {
        return Err(Error::bad("Write what is to be said first"));
    }
    let model = engine.default_model();
    let voice = if voice.is_empty() { "af" } else { voice };
    let sent = json!({"model": model, "input": input, "voice": voice, "response_format": "wav"}).to_string();
    let ask = Ask { path: SPEECH, media_type: "application/json", body: EngineBody::Bytes(sent.as_bytes()) };
    let (sound, reply) = blocking::block_in_place(|| {
        let mut reply = engine.send(ask).and_then(Reply::successful)?;
        let sound = reply.read_all(LARGEST_REPLY)?;
        Ok::<_, Error>((sound, reply))
    })??;
    let characters = i64::try_from(input.chars().count()).unwrap_or(i64::MAX);
    let mut response = typed(&reply).header("Content-Disposition", "inline; filename=\"speech.wav\"");
    response.content = Content::Bytes(sound.into());
    bill.charged(response, &model, Units { characters, requests: 1, ..Units::default() }, reply.latency_micros())
}
