//! `/playground`: a page to try models. A script streams the reply; without scripts, a form gets all of it at once.

use askama::Template;
use serde_json::{Value, json};

use super::{Frame, Problem, page, show};
use crate::auth::Caller;
use crate::call::{Call, Role};
use crate::catalogue::Purpose;
use crate::error::{Error, Result};
use crate::gateway::body::form_fields;
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
}

#[derive(Template)]
#[template(path = "speech.html")]
struct Speech {
    frame: Frame,
    can_transcribe: bool,
    can_speak: bool,
}

/// The fields of the form.
#[derive(Default)]
struct PromptForm {
    prompt: String,
    system: String,
    model: String,
    temperature: String,
    max_tokens: String,
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
        })
    }

    /// The chat request of the API.
    fn request(&self) -> Result<Value> {
        if self.prompt.is_empty() {
            return Err(Error::bad("Enter a prompt"));
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
            let number: u32 = self.max_tokens.parse().map_err(|_| Error::bad("Max tokens must be a whole number"))?;
            request["max_tokens"] = json!(number);
        }
        Ok(request)
    }
}

/// `GET /playground`.
pub(in crate::web) fn show(call: &mut Call<'_>, caller: &Caller) -> Answer {
    render(call, caller, PromptForm::default(), None, None)
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
    let mut models = call.app.models.names(Purpose::Text).unwrap_or_default();
    models.retain(|name| caller.may_call(name));
    let mut session = call.app.db.session()?;
    let documents = store::page_of_titles(&mut session, &caller.user.id, None, SHOWN_DOCUMENTS)?;
    let cost = match &answer {
        Some(_) => lists::newest(&mut session, &caller.user.id, "web", 1)?.pop(),
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
        form,
        answer,
        cost: cost.map(|charged| show::money(&charged.cost)),
        problem,
    };
    page(playground.problem.as_ref().map_or(200, |problem| problem.status), &playground)
}

/// `POST /playground/ask`: the reply as a page, for browsers without scripts.
pub(in crate::web) fn ask(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let body = call.request.body.into_bytes(FORM_LIMIT)?;
    let form = PromptForm::read(&form_fields(call.request, &body)?)?;
    let answer = form.request().and_then(|request| model_calls::chat(call, caller, &request));
    if call.is_postponed() {
        call.request.body = Body::from_bytes(body);
        return Err(Error::Busy);
    }
    match answer {
        Ok(text) => render(call, caller, form, Some(text), None),
        Err(e) if matches!(e.status(), 502..=504) => render(call, caller, form, None, Some(Problem::shown("ask", &e))),
        Err(e) => render(call, caller, form, None, Some(Problem::of("ask", e)?)),
    }
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
    let has = |purpose| call.app.models.check(purpose).is_ok();
    let frame = Frame::new(Some(caller), "playground");
    let (can_transcribe, can_speak) = (has(Purpose::Transcription), has(Purpose::Speech));
    page(200, &Speech { frame, can_transcribe, can_speak })
}
