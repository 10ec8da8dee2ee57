//! `/admin/webhooks`: the endpoints that are told of events, and what became of it.

use askama::Template;

use super::admin_models::typed;
use super::{Frame, Problem, encoded, page, query_text, show};
use crate::accounts::webhooks::{self as changes, KINDS, NO_DELIVERY};
use crate::auth::Caller;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::http::form::Fields;
use crate::store::webhooks::{self, Endpoint, ListedDelivery};
use crate::web::cursor::last_before_next_page;
use crate::web::keys::in_transaction;
use crate::web::{Answer, actor, fields};

/// Deliveries on a page.
const PAGE: i64 = 50;

/// The notice for each `done` in the query.
const NOTICES: &[(&str, &str)] = &[
    ("off", "Nothing is sent to this endpoint any more."),
    ("on", "Events are sent to this endpoint again."),
    ("removed", "Endpoint removed."),
    ("test", "A test event is sent within a second or two."),
    ("retry", "It is tried again now."),
];

#[derive(Template)]
#[template(path = "admin_webhooks.html")]
struct Webhooks {
    frame: Frame,
    endpoints: Vec<Endpoint>,
    /// The endpoint whose deliveries are shown; empty for all.
    endpoint: String,
    deliveries: Vec<ListedDelivery>,
    first: String,
    next: Option<String>,
    is_first: bool,
    form: EndpointForm,
    /// What was just added, and the secret of its signatures.
    added: Option<(Endpoint, String)>,
    problem: Option<Problem>,
}

/// What was typed.
struct EndpointForm {
    url: String,
    description: String,
    /// Each kind, and whether it is chosen.
    kinds: Vec<(&'static str, bool)>,
}

impl EndpointForm {
    fn new(url: String, description: String, is_chosen: impl Fn(&str) -> bool) -> EndpointForm {
        // A test is asked for, and sent to whom it is asked for.
        let kinds = KINDS.into_iter().filter(|kind| *kind != "webhook.test");
        EndpointForm { url, description, kinds: kinds.map(|kind| (kind, is_chosen(kind))).collect() }
    }

    fn empty() -> EndpointForm {
        EndpointForm::new(String::new(), String::new(), |_| false)
    }

    fn typed(fields: &Fields) -> EndpointForm {
        let is_chosen = |kind: &str| !typed(fields, &format!("kind_{kind}")).is_empty();
        EndpointForm::new(typed(fields, "url"), typed(fields, "description"), is_chosen)
    }
}

/// `GET /admin/webhooks?endpoint=&before=`.
pub(in crate::web) fn list(call: &mut Call<'_>, caller: &Caller) -> Answer {
    render(call, caller, EndpointForm::empty(), None, None)
}

fn render(
    call: &Call<'_>,
    caller: &Caller,
    form: EndpointForm,
    added: Option<(Endpoint, String)>,
    problem: Option<Problem>,
) -> Answer {
    let (endpoint, before) = (query_text(call, "endpoint"), query_text(call, "before").parse().ok());
    let mut session = call.app.db.session()?;
    let endpoints = webhooks::endpoints(&mut session)?;
    let mut deliveries = webhooks::page(&mut session, Some(&endpoint), before, PAGE + 1)?;
    drop(session);
    let first = format!("/admin/webhooks?endpoint={}", encoded(&endpoint));
    let next = last_before_next_page(&mut deliveries, PAGE).map(|last| format!("{first}&before={}", last.id));
    let frame = Frame::new(Some(caller), "admin").with_notice(call, NOTICES);
    let is_first = before.is_none();
    let shown = Webhooks { frame, endpoints, endpoint, deliveries, first, next, is_first, form, added, problem };
    page(shown.problem.as_ref().map_or(200, |problem| problem.status), &shown)
}

/// `POST /admin/webhooks`: adds an endpoint. The page that comes back shows its secret.
pub(in crate::web) fn add(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let form = EndpointForm::typed(&fields(call)?);
    match add_for(call, caller, &form) {
        Ok(added) => render(call, caller, EndpointForm::empty(), Some(added), None),
        Err(e) => render(call, caller, form, None, Some(Problem::of("add", e)?)),
    }
}

fn add_for(call: &Call<'_>, caller: &Caller, form: &EndpointForm) -> Result<(Endpoint, String)> {
    let chosen = form.kinds.iter().filter(|(_, is_chosen)| *is_chosen);
    let kinds: Vec<String> = chosen.map(|(kind, _)| (*kind).to_owned()).collect();
    let address = call.client().to_string();
    in_transaction(call, |db| changes::add(db, actor(caller, &address), &form.url, &kinds, &form.description))
}

/// `POST /admin/webhooks/update` with the `id`, and `disabled`, which is empty to turn it on again.
pub(in crate::web) fn update(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let is_disabled = !typed(&fields, "disabled").is_empty();
    let address = call.client().to_string();
    in_transaction(call, |db| changes::set_disabled(db, actor(caller, &address), fields.text("id")?, is_disabled))?;
    Ok(Response::see_other(if is_disabled { "/admin/webhooks?done=off" } else { "/admin/webhooks?done=on" }))
}

/// `POST /admin/webhooks/remove` with the `id`.
pub(in crate::web) fn remove(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let address = call.client().to_string();
    in_transaction(call, |db| changes::remove(db, actor(caller, &address), fields.text("id")?))?;
    Ok(Response::see_other("/admin/webhooks?done=removed"))
}

/// `POST /admin/webhooks/test` with the `id`.
pub(in crate::web) fn test(call: &mut Call<'_>, _: &Caller) -> Answer {
    let fields = fields(call)?;
    changes::test(&mut call.app.db.session()?, fields.text("id")?)?;
    Ok(Response::see_other("/admin/webhooks?done=test"))
}

/// `POST /admin/webhooks/retry` with the `id` of a delivery.
pub(in crate::web) fn retry(call: &mut Call<'_>, _: &Caller) -> Answer {
    let fields = fields(call)?;
    let id = fields.text("id")?.parse().map_err(|_| Error::NotFound(NO_DELIVERY))?;
    changes::retry(&mut call.app.db.session()?, id)?;
    Ok(Response::see_other("/admin/webhooks?done=retry"))
}
