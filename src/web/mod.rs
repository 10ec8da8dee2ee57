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
    use Method::{Get, Post};
    let mut routes = vec![
        route(Post, "/api/signup", sign_in::signup),
        route(Post, "/api/login", sign_in::login),
        route(Post, "/api/logout", sign_in::logout),
        route(Get, "/logout", sign_in::logout_page),
        route(Post, "/api/get-user", account::fresh_user),
        route(Post, "/api/get-user/stripe-usage", account::fresh_user),
        route(Get, "/api/subscription-status", account::subscription_status),
        route(Post, "/api/change-password", account::change_password),
        route(Post, "/api/delete-account", account::delete),
        route(Get, "/api/sessions", sessions::list),
        route(Post, "/api/sessions/revoke", sessions::revoke),
        route(Get, "/api/keys", keys::list),
        route(Post, "/api/keys", keys::create),
        route(Post, "/api/keys/rename", keys::rename),
        route(Post, "/api/keys/rotate", keys::rotate),
        route(Post, "/api/keys/revoke", keys::revoke),
        route(Get, "/api/usage", usage::usage),
    ];
    routes.extend(page_routes());
    routes.extend(
        [
            route(Get, "/api/docs/list", documents::list),
            route(Get, "/api/docs/get", documents::get),
            route(Post, "/api/docs/save", documents::save),
            route(Post, "/api/docs/autosave", documents::autosave),
            route(Post, "/api/docs/delete", documents::delete),
            route(Post, "/api/docs/publish", documents::publish),
            route(Post, "/api/docs/restore", documents::restore),
        ]
        .map(|mut route| {
            route.handler.shape = Shape::Error;
            route
        }),
    );
    routes
}

fn page_routes() -> Vec<Route<Endpoint>> {
    use Method::{Get, Post};
    use pages::{account, admin, admin_user, documents, editor, playground, reference, usage, welcome};
    assets::prepare();
    // The documentation must be available during an outage.
    let needs_no_database = [
        route(Get, "/docs", reference::show),
        route(Get, "/openapi.json", reference::openapi),
        route(Get, "/assets/{name}", assets::serve),
    ]
    .map(|mut route| {
        route.handler.works_without_database = true;
        route
    });
    let mut routes = vec![
        route(Get, "/", welcome::home),
        route(Get, "/signup", welcome::signup),
        route(Get, "/login", welcome::login),
        route(Get, "/account", account::show),
        route(Post, "/account/name", account::rename),
        route(Post, "/account/keys", account::create_key),
        route(Post, "/account/keys/rename", account::rename_key),
        route(Post, "/account/keys/rotate", account::rotate_key),
        route(Post, "/account/keys/revoke", account::revoke_key),
        route(Post, "/account/sessions/revoke", account::end_sessions),
        route(Post, "/account/password", account::change_password),
        route(Post, "/account/delete", account::delete),
        route(Get, "/documents", documents::list),
        route(Post, "/documents", documents::create),
        route(Get, "/documents/deleted", documents::deleted),
        route(Get, "/documents/{id}", editor::show),
        route(Post, "/documents/{id}", editor::save),
        route(Post, "/documents/{id}/publish", editor::publish),
        route(Post, "/documents/{id}/delete", documents::delete),
        route(Post, "/documents/{id}/restore", documents::restore),
        route(Get, "/public/{id}", editor::public),
        route(Get, "/playground", playground::show),
        route(Post, "/playground", playground::write_document),
        route(Post, "/playground/ask", playground::ask),
        route(Get, "/playground/cost", playground::cost),
        route(Get, "/playground/speech", playground::speech),
        route(Post, "/playground/speak", model_calls::speak),
        route(Get, "/usage", usage::show),
        route(Get, "/usage.csv", usage::download),
        route(Get, "/admin", admin::overview),
        route(Get, "/admin/users", admin::users),
        route(Get, "/admin/usage", admin::usage),
        route(Get, "/admin/audit", admin::audit),
        route(Get, "/admin/users/{id}", admin_user::show),
        route(Post, "/admin/users/{id}/suspend", admin_user::suspend),
        route(Post, "/admin/users/{id}/restore", admin_user::restore),
        route(Post, "/admin/users/{id}/sessions", admin_user::end_sessions),
        route(Post, "/admin/users/{id}/keys", admin_user::revoke_key),
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
