//! `/playground`: a page to try models. A script streams the reply; without scripts, a form gets all of it at once.

use askama::Template;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::failure::wants_page;
use super::new_key::NewKey;
use super::{Frame, Problem, page, show};
use crate::auth::Caller;
use crate::call::{Call, Role};
use crate::catalogue::Purpose;
use crate::error::{Error, Result};
use crate::gateway::body::form_fields;
use crate::gateway::speech::VOICES;
use crate::http::form::{FORM_LIMIT, Fields};
use crate::http::{Body, Response};
use crate::store::documents as store;
use crate::store::usage::lists;
use crate::store::{Document, User};
use crate::web::{Answer, documents, fields, model_calls};

/// Documents shown on the playground.
const SHOWN_DOCUMENTS: i64 = 20;

#[derive(Template)]
#[template(path = "playground.html")]
struct Playground {
    frame: Frame,
    user: User,
    documents: Vec<Document>,
    models: Vec<String>,
    is_configured: bool,
    inference: String,
    form: PromptForm,
    answer: Option<String>,
    cost: Option<String>,
    problem: Option<Problem>,
    new_key: Option<NewKey>,
}

impl Playground {
    /// The message for this field, if it is the one that was refused.
    fn problem_at(&self, field: &str) -> Option<&str> {
        self.problem.as_ref().filter(|problem| problem.field == field).map(|problem| problem.message.as_str())
    }

    /// What was said before, as the form carries it.
    fn history(&self) -> String {
        json!(self.form.history).to_string()
    }

    /// What was said before the answer that is shown.
    fn earlier(&self) -> &[Message] {
        let shown = if self.answer.is_some() { 2 } else { 0 };
        &self.form.history[..self.form.history.len().saturating_sub(shown)]
    }

    /// What was asked for the answer that is shown.
    fn asked(&self) -> Option<&str> {
        let at = self.form.history.len().checked_sub(2)?;
        self.answer.as_ref().and(self.form.history.get(at)).map(|message| message.content.as_str())
    }
}

#[derive(Template)]
#[template(path = "speech.html")]
struct Speech {
    frame: Frame,
    can_transcribe: bool,
    can_speak: bool,
    input: String,
    voice: String,
    problem: Option<Problem>,
}

/// What was said in a conversation, by the `user` or the `assistant`.
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Message {
    role: Speaker,
    content: String,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Speaker {
    User,
    Assistant,
}

impl Message {
    fn by(role: Speaker, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }
}

/// The fields of the form.
#[derive(Default)]
struct PromptForm {
    prompt: String,
    system: String,
    model: String,
    temperature: String,
    max_tokens: String,
    history: Vec<Message>,
}

impl PromptForm {
    fn read(fields: &Fields) -> Result<PromptForm> {
        let text = |name| Ok::<_, Error>(fields.optional_text(name)?.unwrap_or("").trim().to_owned());
        Ok(PromptForm {
            prompt: text("prompt")?,
            system: text("system")?,
            model: text("model")?,
            temperature: text("temperature")?,
            max_tokens: text("max_tokens")?,
            history: match fields.optional_text("history")?.filter(|text| !text.is_empty()) {
                Some(text) => serde_json::from_str(text).map_err(|_| Error::bad("The conversation can't be read"))?,
                None => Vec::new(),
            },
        })
    }

    /// The chat request of the API. `field` becomes the name of the one that an error is about.
    fn request(&self, field: &mut &'static str) -> Result<Value> {
        if self.prompt.is_empty() {
            return Err(Error::bad("Enter a prompt"));
        }
        let system = (!self.system.is_empty()).then(|| json!({"role": "system", "content": self.system}));
        let earlier = self.history.iter().map(|message| json!(message));
        let prompt = json!({"role": "user", "content": self.prompt});
        let messages: Vec<Value> = system.into_iter().chain(earlier).chain([prompt]).collect();
        let mut request = json!({"messages": messages});
        if !self.model.is_empty() {
            request["model"] = self.model.as_str().into();
        }
        if !self.temperature.is_empty() {
            *field = "temperature";
            let number: f64 = self.temperature.parse().map_err(|_| Error::bad("Temperature must be a number"))?;
            request["temperature"] = json!(number);
        }
        if !self.max_tokens.is_empty() {
            *field = "max_tokens";
            let number: u32 = self.max_tokens.parse().map_err(|_| Error::bad("Max tokens must be a whole number"))?;
            request["max_tokens"] = json!(number);
        }
        *field = "prompt";
        Ok(request)
    }
}

/// `GET /playground`.
pub(in crate::web) fn show(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let shown = render(call, caller, PromptForm::default(), None, None)?;
    Ok(NewKey::forget(call, shown, "/playground"))
}

fn render(
    call: &Call<'_>,
    caller: &Caller,
    form: PromptForm,
    answer: Option<String>,
    problem: Option<Problem>,
) -> Answer {
    let is_configured = call.app.models.check(Purpose::Text).is_ok();
    // Before a connection is taken, as a model server may respond slowly.
    let models = NewKey::models(call, caller);
    let mut session = call.app.db.session()?;
    let documents = store::page_of_titles(&mut session, &caller.user.id, None, SHOWN_DOCUMENTS)?;
    let cost = match &answer {
        Some(_) => lists::newest(&mut session, &caller.user.id, "web", 1)?.pop(),
        None => None,
    };
    let new_key = NewKey::from_cookie(call, &mut session, caller, &models)?;
    drop(session);
    let playground = Playground {
        frame: Frame::new(Some(caller), "playground"),
        user: caller.user.clone(),
        documents,
        models,
        is_configured,
        inference: super::program_address(call, Role::Inference),
        form,
        answer,
        cost: cost.map(|charged| show::money(&charged.cost)),
        problem,
        new_key,
    };
    page(playground.problem.as_ref().map_or(200, |problem| problem.status), &playground)
}

/// `POST /playground/ask`: the reply as a page, for browsers without scripts.
pub(in crate::web) fn ask(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let body = call.request.body.into_bytes(FORM_LIMIT)?;
    let mut form = PromptForm::read(&form_fields(call.request, &body)?)?;
    let mut field = "prompt";
    let answer = form.request(&mut field).and_then(|request| model_calls::chat(call, caller, &request));
    if call.is_postponed() {
        call.request.body = Body::from_bytes(body);
        return Err(Error::Busy);
    }
    let problem = match answer {
        Ok(text) => {
            form.history.push(Message::by(Speaker::User, &form.prompt));
            form.history.push(Message::by(Speaker::Assistant, &text));
            form.prompt.clear();
            return render(call, caller, form, Some(text), None);
        }
        Err(e) if matches!(e.status(), 502..=504) => Problem::shown("ask", &e),
        Err(e) => Problem::of("ask", e)?,
    };
    render(call, caller, form, None, Some(problem.with(field, "", Vec::new())))
}

/// `POST /playground`: creates a document.
pub(in crate::web) fn write_document(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let title = documents::checked_title(fields.text("title")?)?;
    let content = documents::checked_content(fields.text("content")?)?;
    documents::insert(call, &caller.user.id, title, Some(content))?;
    Ok(Response::see_other("/playground"))
}

/// `GET /playground/cost`: what this user's last call through the web server cost.
pub(in crate::web) fn cost(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let newest = lists::newest(&mut call.app.db.session()?, &caller.user.id, "web", 1)?;
    let cost = newest.first().map(|charged| (show::money(&charged.cost), charged.units.tokens()));
    Ok(Response::json(200, &json!({"cost": cost.as_ref().map(|c| &c.0), "tokens": cost.as_ref().map(|c| c.1)})))
}

/// `GET /playground/speech`: the tab for speech.
pub(in crate::web) fn speech(call: &mut Call<'_>, caller: &Caller) -> Answer {
    render_speech(call, caller, String::new(), String::new(), None)
}

fn render_speech(call: &Call<'_>, caller: &Caller, input: String, voice: String, problem: Option<Problem>) -> Answer {
    let has = |purpose| call.app.models.check(purpose).is_ok();
    let frame = Frame::new(Some(caller), "playground");
    let (can_transcribe, can_speak) = (has(Purpose::Transcription), has(Purpose::Speech));
    let status = problem.as_ref().map_or(200, |problem| problem.status);
    page(status, &Speech { frame, can_transcribe, can_speak, input, voice, problem })
}

/// `POST /playground/speak` with `input` and optionally `voice`: the audio. A browser without scripts saves it as a file,
/// as the policy of pages lets it play none by itself, and gets the form again if it fails.
pub(in crate::web) fn speak(call: &mut Call<'_>, caller: &Caller) -> Answer {
    if !wants_page(call.request) {
        return model_calls::speak(call, caller, "inline; filename=\"speech.wav\"");
    }
    let body = call.request.body.into_bytes(FORM_LIMIT)?;
    let fields = form_fields(call.request, &body)?;
    let text = |name| Ok::<_, Error>(fields.optional_text(name)?.unwrap_or("").to_owned());
    let (input, voice) = (text("input")?, text("voice")?);
    drop(fields);
    call.request.body = Body::from_bytes(body);
    let spoken = model_calls::speak(call, caller, "attachment; filename=\"speech.wav\"");
    let problem = match spoken {
        Err(e) if !call.is_postponed() && matches!(e.status(), 502..=504) => Problem::shown("speak", &e),
        Err(e) if !call.is_postponed() => Problem::of("speak", e)?,
        other => return other,
    };
    render_speech(call, caller, input, voice, Some(problem))
}
