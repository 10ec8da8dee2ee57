//! The web server: for people, who sign in with a cookie.

mod account;
mod documents;
mod keys;
mod pages;
mod sessions;
mod sign_in;
mod usage;

use crate::call::{Call, Endpoint, route};
use crate::error::{Result, Shape};
use crate::http::{Method, Response, Route};

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
        route(Post, "/api/keys/rotate", keys::rotate),
        route(Post, "/api/keys/revoke", keys::revoke),
        route(Get, "/api/usage", usage::usage),
        route(Get, "/", pages::home),
        route(Get, "/signup", pages::signup),
        route(Get, "/login", pages::login),
        route(Get, "/account", pages::account),
        route(Post, "/account/keys", pages::create_key),
        route(Get, "/playground", pages::playground),
        route(Post, "/playground", pages::write_document),
        route(Get, "/assets/style.css", pages::style),
    ];
    routes.extend(
        [
            route(Get, "/api/docs/list", documents::list),
            route(Get, "/api/docs/get", documents::get),
            route(Post, "/api/docs/save", documents::save),
            route(Post, "/api/docs/autosave", documents::autosave),
            route(Post, "/api/docs/delete", documents::delete),
            route(Post, "/api/docs/publish", documents::publish),
        ]
        .map(|mut route| {
            route.handler.shape = Shape::Error;
            route
        }),
    );
    routes
}

/// A handler that ends with JSON.
type Answer = Result<Response>;

/// Reads the fields of a small body; the caller is asked for first, so that a stranger's body is never read.
fn fields(call: &mut Call<'_>) -> Result<crate::http::form::Fields> {
    Ok(crate::http::form::Fields::read(call.request, crate::http::form::FORM_LIMIT)?)
}
