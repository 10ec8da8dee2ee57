//! The web server, for people, who sign in with a cookie.

mod account;
mod admin_models;
mod admin_status;
mod admin_usage;
mod admin_users;
mod admin_webhooks;
mod assets;
mod attempt;
mod chart;
mod confirmation;
mod credits;
mod cursor;
mod device;
mod difference;
mod document_list;
mod document_search;
mod document_versions;
mod documents;
mod half_log_in;
mod key_fields;
mod keys;
mod model_calls;
mod new_session;
mod pages;
mod payments;
mod qr;
mod recovery;
mod sessions;
mod sign_in;
mod two_factor;
mod usage;
mod whole_documents;

use schemars::JsonSchema;
use serde::Serialize;

use crate::app::App;
use crate::auth::Caller;
use crate::call::{Call, Role};
use crate::db::Executor;
use crate::error::{Error, Result, Shape};
use crate::gateway::speech::SPEECH;
use crate::http::{Request, Response};
use crate::operation::Handler::{Authenticated, Optional, Public};
use crate::operation::{Group, Operation, get, post, summary};
use crate::store::User;
use crate::store::audit::{self, Actor};

/// Its operations, beside those that every server has.
pub fn operations() -> Vec<Operation> {
    let apis = [
        sign_in::operations(),
        account::operations(),
        recovery::operations(),
        keys::operations(),
        admin_users::operations(),
        admin_models::operations(),
        admin_usage::operations(),
        admin_status::operations(),
        admin_webhooks::operations(),
        sessions::operations(),
        two_factor::operations(),
        credits::operations(),
        payments::operations(),
    ];
    let documents =
        [document_list::operation()].into_iter().chain(documents::operations()).chain(document_versions::operations());
    let documents =
        documents.map(|operation| operation.errors(Shape::Error).unauthorized(documents::AUTHENTICATION_REQUIRED));
    let all = apis.into_iter().flatten().chain(documents).chain([usage::operation()]).chain(page_operations());
    all.map(|operation| operation.on(&[Role::Web])).collect()
}

fn page_operations() -> Vec<Operation> {
    use pages::{
        account, admin, admin_catalogue, admin_models, admin_provider, admin_usage, admin_user, admin_webhooks,
    };
    use pages::{documents, editor, playground, recovery, reference, subscribe, two_factor, usage, versions, welcome};
    assets::prepare();
    vec![
        // The documentation must be available during an outage.
        get("/docs", Optional(reference::show)).without_database(),
        get("/openapi.json", Public(reference::openapi))
            .without_database()
            .described(summary(Group::Health, "This document").reply::<reference::OpenApi>()),
        get("/assets/{name}", Public(assets::serve)).without_database(),
        get("/", Optional(welcome::home)),
        get("/signup", Public(welcome::signup)),
        get("/login", Public(welcome::login)),
        get("/login/code", Public(welcome::login_code)),
        get("/forgot-password", Optional(recovery::forgot)),
        post("/forgot-password", Optional(recovery::ask_for_reset)),
        get("/reset-password", Optional(recovery::reset)),
        post("/reset-password", Optional(recovery::choose)),
        get("/confirm-email", Optional(recovery::confirm)),
        post("/confirm-email", Optional(recovery::confirm_now)),
        get("/set-password", Optional(recovery::first)),
        post("/set-password", Optional(recovery::set_first)),
        get("/account", Authenticated(account::show)).or_log_in(),
        get("/subscribe", Optional(subscribe::show)),
        post("/account/name", Authenticated(account::rename)),
        post("/account/keys", Authenticated(account::create_key)),
        post("/account/keys/rename", Authenticated(account::rename_key)),
        post("/account/keys/rotate", Authenticated(account::rotate_key)),
        post("/account/keys/revoke", Authenticated(account::revoke_key)),
        post("/account/sessions/revoke", Authenticated(account::end_sessions)),
        post("/account/password", Authenticated(account::change_password)),
        post("/account/email", Authenticated(account::change_email)),
        post("/account/email/verify", Authenticated(account::verify_email)),
        post("/account/delete", Authenticated(account::delete)),
        get("/account/two-factor", Authenticated(two_factor::show)).or_log_in(),
        post("/account/two-factor/begin", Authenticated(two_factor::begin)),
        post("/account/two-factor/confirm", Authenticated(two_factor::confirm)),
        post("/account/two-factor/codes", Authenticated(two_factor::renew_codes)),
        post("/account/two-factor/disable", Authenticated(two_factor::disable)),
        get("/documents", Authenticated(documents::list)).or_log_in(),
        post("/documents", Authenticated(documents::create)),
        get("/documents/deleted", Authenticated(documents::deleted)).or_log_in(),
        get("/documents/{id}", Authenticated(editor::show)).or_log_in(),
        post("/documents/{id}", Optional(editor::save)),
        get("/documents/{id}/text", Authenticated(versions::download)).or_log_in(),
        get("/documents/{id}/versions", Authenticated(versions::list)).or_log_in(),
        get("/documents/{id}/versions/{version}", Authenticated(versions::show_one)).or_log_in(),
        post("/documents/{id}/versions/{version}", Authenticated(versions::revert)),
        post("/documents/{id}/difference", Authenticated(versions::difference)),
        post("/documents/{id}/publish", Authenticated(editor::publish)),
        post("/documents/{id}/delete", Authenticated(documents::delete)),
        post("/documents/{id}/restore", Authenticated(documents::restore)),
        get("/public/{id}", Optional(editor::public)),
        get("/playground", Authenticated(playground::show)).or_log_in(),
        post("/playground", Authenticated(playground::write_document)),
        post("/playground/ask", Authenticated(playground::ask)).charged_as(model_calls::CHAT),
        get("/playground/cost", Authenticated(playground::cost)),
        get("/playground/speech", Authenticated(playground::speech)).or_log_in(),
        post("/playground/speak", Authenticated(playground::speak)).charged_as(SPEECH),
        get("/usage", Authenticated(usage::show)).or_log_in(),
        get("/usage.csv", Authenticated(usage::download)).or_log_in(),
        get("/admin", Authenticated(admin::overview)).or_log_in().for_administrators(),
        get("/admin/users", Authenticated(admin::users)).or_log_in().for_administrators(),
        get("/admin/usage", Authenticated(admin_usage::show)).or_log_in().for_administrators(),
        get("/admin/usage.csv", Authenticated(admin_usage::download)).or_log_in().for_administrators(),
        get("/admin/audit", Authenticated(admin::audit)).or_log_in().for_administrators(),
        get("/admin/models", Authenticated(admin_models::list)).or_log_in().for_administrators(),
        get("/admin/models/edit", Authenticated(admin_models::edit)).or_log_in().for_administrators(),
        post("/admin/models/edit", Authenticated(admin_models::save)).for_administrators(),
        post("/admin/models/remove", Authenticated(admin_models::remove)).for_administrators(),
        get("/admin/models/file", Authenticated(admin_catalogue::show)).or_log_in().for_administrators(),
        post("/admin/models/file", Authenticated(admin_catalogue::apply)).for_administrators(),
        get("/admin/providers/edit", Authenticated(admin_provider::edit)).or_log_in().for_administrators(),
        post("/admin/providers/edit", Authenticated(admin_provider::save)).for_administrators(),
        post("/admin/providers/remove", Authenticated(admin_provider::remove)).for_administrators(),
        get("/admin/webhooks", Authenticated(admin_webhooks::list)).or_log_in().for_administrators(),
        post("/admin/webhooks", Authenticated(admin_webhooks::add)).for_administrators(),
        post("/admin/webhooks/update", Authenticated(admin_webhooks::update)).for_administrators(),
        post("/admin/webhooks/remove", Authenticated(admin_webhooks::remove)).for_administrators(),
        post("/admin/webhooks/test", Authenticated(admin_webhooks::test)).for_administrators(),
        post("/admin/webhooks/retry", Authenticated(admin_webhooks::retry)).for_administrators(),
        get("/admin/users/{id}", Authenticated(admin_user::show)).or_log_in().for_administrators(),
        post("/admin/users/{id}/suspend", Authenticated(admin_user::suspend)).for_administrators(),
        post("/admin/users/{id}/restore", Authenticated(admin_user::restore)).for_administrators(),
        post("/admin/users/{id}/promote", Authenticated(admin_user::promote)).for_administrators(),
        post("/admin/users/{id}/demote", Authenticated(admin_user::demote)).for_administrators(),
        post("/admin/users/{id}/two-factor", Authenticated(admin_user::turn_off_two_factor)).for_administrators(),
        post("/admin/users/{id}/sessions", Authenticated(admin_user::end_sessions)).for_administrators(),
        post("/admin/users/{id}/keys", Authenticated(admin_user::revoke_key)).for_administrators(),
        post("/admin/users/{id}/scope", Authenticated(admin_user::set_scope)).for_administrators(),
        post("/admin/users/{id}/limits/lift", Authenticated(admin_user::lift_limit)).for_administrators(),
        post("/admin/users/{id}/link", Authenticated(admin_user::make_link)).for_administrators(),
        post("/admin/users/{id}/credit", Authenticated(admin_user::change_credit)).for_administrators(),
    ]
}

pub(crate) use pages::page_policy;

/// The page for the error `e` if the client is a browser that opens a page, and otherwise `reply`.
pub(crate) fn as_page(app: &App, request: &mut Request, e: &Error, reply: Response, request_id: &str) -> Response {
    match pages::failure::wants_page(request) {
        true => pages::failure::failure(&mut Call::new(app, Role::Web, request), e, reply, request_id),
        false => reply,
    }
}

/// The result of a handler.
type Answer = Result<Response>;

/// A reply that only says that something was done.
#[derive(Serialize, JsonSchema)]
struct Message {
    message: &'static str,
}

/// Records in the audit log what an administrator does to an account. To be called in the transaction that does it.
fn record(
    call: &Call<'_>,
    caller: &Caller,
    db: &mut impl Executor,
    action: &str,
    user: &User,
    details: &str,
) -> Result<()> {
    let address = call.client().to_string();
    Ok(audit::insert(db, actor(caller, &address), action, user, details)?)
}

/// An administrator, for the audit log.
fn actor<'a>(caller: &'a Caller, address: &'a str) -> Actor<'a> {
    Actor { id: &caller.user.id, name: &caller.user.email, address }
}

/// Reads the fields of a small body. The caller was authenticated before, so the body of an anonymous request is never
/// read where a caller is needed.
fn fields(call: &mut Call<'_>) -> Result<crate::http::form::Fields> {
    let fields = crate::http::form::Fields::read(call.request, crate::http::form::FORM_LIMIT)?;
    // Others need not do without the rest while this waits for its turn, as at hashing.
    crate::memory_budget::shrink_to(fields.held());
    Ok(fields)
}
