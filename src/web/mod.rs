//! The web server, for people, who sign in with a cookie.

mod account;
mod assets;
mod attempt;
mod chart;
mod cursor;
mod documents;
mod keys;
mod model_calls;
mod pages;
mod sessions;
mod sign_in;
mod usage;

use crate::app::App;
use crate::call::{Call, Endpoint, Role, route};
use crate::error::{Error, Result, Shape};
use crate::http::{Method, Request, Response, Route};

/// Its routes, beside those that every server has.
pub fn routes() -> Vec<Route<Endpoint>> {
    let mut routes = vec![
        route(Method::POST, "/api/signup", sign_in::signup),
        route(Method::POST, "/api/login", sign_in::login),
        route(Method::POST, "/api/logout", sign_in::logout),
        route(Method::GET, "/logout", sign_in::logout_page),
        route(Method::POST, "/api/get-user", account::fresh_user),
        route(Method::POST, "/api/get-user/stripe-usage", account::fresh_user),
        route(Method::GET, "/api/subscription-status", account::subscription_status),
        route(Method::POST, "/api/change-password", account::change_password),
        route(Method::POST, "/api/delete-account", account::delete),
        route(Method::GET, "/api/sessions", sessions::list),
        route(Method::POST, "/api/sessions/revoke", sessions::revoke),
        route(Method::GET, "/api/keys", keys::list),
        route(Method::POST, "/api/keys", keys::create),
        route(Method::POST, "/api/keys/rename", keys::rename),
        route(Method::POST, "/api/keys/rotate", keys::rotate),
        route(Method::POST, "/api/keys/revoke", keys::revoke),
        route(Method::GET, "/api/usage", usage::usage),
    ];
    routes.extend(page_routes());
    routes.extend(
        [
            route(Method::GET, "/api/docs/list", documents::list),
            route(Method::GET, "/api/docs/get", documents::get),
            route(Method::POST, "/api/docs/save", documents::save),
            route(Method::POST, "/api/docs/autosave", documents::autosave),
            route(Method::POST, "/api/docs/delete", documents::delete),
            route(Method::POST, "/api/docs/publish", documents::publish),
            route(Method::POST, "/api/docs/restore", documents::restore),
        ]
        .map(|mut route| {
            route.handler.shape = Shape::Error;
            route
        }),
    );
    routes
}

fn page_routes() -> Vec<Route<Endpoint>> {
    use pages::{account, admin, admin_user, documents, editor, playground, reference, usage, welcome};
    assets::prepare();
    // The documentation must be available during an outage.
    let needs_no_database = [
        route(Method::GET, "/docs", reference::show),
        route(Method::GET, "/openapi.json", reference::openapi),
        route(Method::GET, "/assets/{name}", assets::serve),
    ]
    .map(|mut route| {
        route.handler.works_without_database = true;
        route
    });
    let mut routes = vec![
        route(Method::GET, "/", welcome::home),
        route(Method::GET, "/signup", welcome::signup),
        route(Method::GET, "/login", welcome::login),
        route(Method::GET, "/account", account::show),
        route(Method::POST, "/account/name", account::rename),
        route(Method::POST, "/account/keys", account::create_key),
        route(Method::POST, "/account/keys/rename", account::rename_key),
        route(Method::POST, "/account/keys/rotate", account::rotate_key),
        route(Method::POST, "/account/keys/revoke", account::revoke_key),
        route(Method::POST, "/account/sessions/revoke", account::end_sessions),
        route(Method::POST, "/account/password", account::change_password),
        route(Method::POST, "/account/delete", account::delete),
        route(Method::GET, "/documents", documents::list),
        route(Method::POST, "/documents", documents::create),
        route(Method::GET, "/documents/deleted", documents::deleted),
        route(Method::GET, "/documents/{id}", editor::show),
        route(Method::POST, "/documents/{id}", editor::save),
        route(Method::POST, "/documents/{id}/publish", editor::publish),
        route(Method::POST, "/documents/{id}/delete", documents::delete),
        route(Method::POST, "/documents/{id}/restore", documents::restore),
        route(Method::GET, "/public/{id}", editor::public),
        route(Method::GET, "/playground", playground::show),
        route(Method::POST, "/playground", playground::write_document),
        route(Method::POST, "/playground/ask", playground::ask),
        route(Method::GET, "/playground/cost", playground::cost),
        route(Method::GET, "/playground/speech", playground::speech),
        route(Method::POST, "/playground/speak", model_calls::speak),
        route(Method::GET, "/usage", usage::show),
        route(Method::GET, "/usage.csv", usage::download),
        route(Method::GET, "/admin", admin::overview),
        route(Method::GET, "/admin/users", admin::users),
        route(Method::GET, "/admin/usage", admin::usage),
        route(Method::GET, "/admin/audit", admin::audit),
        route(Method::GET, "/admin/users/{id}", admin_user::show),
        route(Method::POST, "/admin/users/{id}/suspend", admin_user::suspend),
        route(Method::POST, "/admin/users/{id}/restore", admin_user::restore),
        route(Method::POST, "/admin/users/{id}/sessions", admin_user::end_sessions),
        route(Method::POST, "/admin/users/{id}/keys", admin_user::revoke_key),
    ];
    routes.extend(needs_no_database);
    routes
}

/// The page for the error `e` if the client is a browser that opens a page, and otherwise `reply`.
pub(crate) fn as_page(app: &App, request: &mut Request, e: &Error, reply: Response, request_id: &str) -> Response {
    match pages::failure::wants_page(request) {
        true => pages::failure::failure(
            &mut Call::new(app, Role::Web, Shape::default(), request, Vec::new()),
            e,
            reply,
            request_id,
        ),
        false => reply,
    }
}

/// The result of a handler.
type Answer = Result<Response>;

/// Reads the fields of a small body. Handlers that need a caller authenticate first, so that the body of an anonymous
/// request is never read.
fn fields(call: &mut Call<'_>) -> Result<crate::http::form::Fields> {
    Ok(crate::http::form::Fields::read(call.request, crate::http::form::FORM_LIMIT)?)
}
