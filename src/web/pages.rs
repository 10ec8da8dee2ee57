//! The pages: forms that work without a script.

use askama::Template;

use super::{Answer, documents, fields, keys, sign_in};
use crate::call::Call;
use crate::error::{Error, Result};
use crate::http::{Response, StatusCode};
use crate::store::documents as store;
use crate::store::{ApiKey, Document, User, api_keys};

/// Documents shown on the playground.
const SHOWN: i64 = 20;

#[derive(Template)]
#[template(path = "home.html")]
struct Home {
    signed_in: bool,
}

#[derive(Template)]
#[template(path = "signup.html")]
struct Signup {
    signed_in: bool,
    error: Option<String>,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "login.html")]
struct Login {
    signed_in: bool,
    error: Option<String>,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "account.html")]
struct Account {
    signed_in: bool,
    user: User,
    keys: Vec<ApiKey>,
    new_secret: Option<String>,
}

#[derive(Template)]
#[template(path = "playground.html")]
struct Playground {
    signed_in: bool,
    user: User,
    documents: Vec<Document>,
}

/// `GET /`.
pub(super) fn home(call: &mut Call<'_>) -> Answer {
    let signed_in = call.optional_caller()?.is_some();
    page(&Home { signed_in })
}

/// `GET /signup`.
pub(super) fn signup(call: &mut Call<'_>) -> Answer {
    page(&Signup { signed_in: false, error: call.request.query("error"), next: next(call) })
}

/// `GET /login`.
pub(super) fn login(call: &mut Call<'_>) -> Answer {
    page(&Login { signed_in: false, error: call.request.query("error"), next: next(call) })
}

/// The form of this page once more, with what went wrong, under that status: for now nothing else can be done.
pub(super) fn form_again(path: &str, e: &Error, next: Option<&str>) -> Answer {
    let (error, next) = (Some(e.public().into_owned()), next.map(str::to_owned));
    let mut response = match path {
        "/signup" => page(&Signup { signed_in: false, error, next })?,
        _ => page(&Login { signed_in: false, error, next })?,
    };
    response.status = StatusCode(e.status());
    Ok(match e.retry_after() {
        Some(seconds) => response.header("Retry-After", seconds.to_string()),
        None => response,
    })
}

fn next(call: &Call<'_>) -> Option<String> {
    call.request.query("next").filter(|next| sign_in::is_local(next))
}

/// `GET /account`.
pub(super) fn account(call: &mut Call<'_>) -> Answer {
    match call.optional_caller()? {
        Some(caller) => account_page(call, caller.user.clone(), None),
        None => Ok(Response::see_other("/login?next=/account")),
    }
}

/// `POST /account/keys`: makes a key and shows it, once.
pub(super) fn create_key(call: &mut Call<'_>) -> Answer {
    let caller = call.caller()?;
    let fields = fields(call)?;
    let (_, secret) = keys::make(call, &caller.user.id, keys::checked_name(fields.text("name")?)?, None)?;
    account_page(call, caller.user.clone(), Some(secret.reveal().to_owned()))
}

fn account_page(call: &Call<'_>, user: User, new_secret: Option<String>) -> Answer {
    let keys = api_keys::of_user(&mut call.app.db.session()?, &user.id)?;
    page(&Account { signed_in: true, user, keys, new_secret })
}

/// `GET /playground`.
pub(super) fn playground(call: &mut Call<'_>) -> Answer {
    let Some(caller) = call.optional_caller()? else {
        return Ok(Response::see_other("/login?next=/playground"));
    };
    let user = caller.user.clone();
    let documents = store::page(&mut call.app.db.session()?, &user.id, None, SHOWN, false, i64::MAX)?;
    page(&Playground { signed_in: true, user, documents })
}

/// `POST /playground`: writes a document.
pub(super) fn write_document(call: &mut Call<'_>) -> Answer {
    let caller = call.caller()?;
    let fields = fields(call)?;
    let title = documents::checked_title(fields.text("title")?)?;
    let content = documents::checked_content(fields.text("content")?)?;
    documents::insert(call, &caller.user.id, title, Some(content))?;
    Ok(Response::see_other("/playground"))
}

/// `GET /assets/style.css`.
pub(super) fn style(_: &mut Call<'_>) -> Answer {
    let style = include_bytes!("assets/style.css");
    Ok(Response::with_body(200, "text/css; charset=utf-8", &style[..]).header("Cache-Control", "public, max-age=3600"))
}

fn page(template: &impl Template) -> Result<Response> {
    let text = template.render().map_err(|e| Error::Internal(format!("a page cannot be made: {e}")))?;
    Ok(Response::html(StatusCode(200).0, text))
}
