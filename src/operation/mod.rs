//! Operations: what the servers can be asked, each declared once.
//!
//! An [`Operation`] joins a method and a path with the handler that answers, the servers that have it, who may call it,
//! and the shape of its errors. The handler's signature decides whether the caller is authenticated: one that takes a
//! [`Caller`] only ever runs with one. The router of each server and the OpenAPI document are built from the same list.

mod access;
mod description;
mod route;
mod router;

use crate::auth::Caller;
use crate::call::{Call, Role};
use crate::error::{NOT_AUTHENTICATED, Result, Shape};
use crate::http::{Method, Response};
use crate::telemetry::{RequestMetrics, Requests};

pub use access::LONGEST_NEXT;
pub use description::{Content, Description, Encoding, File, Group, SchemaOf, Status, summary};
use route::canonical;
pub use route::{Route, route};
pub use router::{Found, Router};

/// What answers a request, and what it must know of the caller.
#[derive(Clone, Copy)]
pub enum Handler {
    /// For anyone; no credential is looked at.
    Public(fn(&mut Call<'_>) -> Result<Response>),
    /// For anyone; gets the caller if the request has a valid credential.
    Optional(fn(&mut Call<'_>, Option<&Caller>) -> Result<Response>),
    /// For authenticated callers only.
    Authenticated(fn(&mut Call<'_>, &Caller) -> Result<Response>),
}

/// What a request without a valid credential gets from an [`Handler::Authenticated`] operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 401 with this message.
    Unauthorized(&'static str),
    /// 303 to the log-in page, which leads back: for pages.
    LogIn,
}

/// A method and a path, and everything the servers must know to serve it.
pub struct Operation {
    /// The method; `GET` also serves `HEAD`.
    pub method: Method,
    /// The path. A segment such as `{id}` matches any one segment that is not empty; a last one such as `{*name}`, all that
    /// follow.
    pub path: &'static str,
    /// What answers.
    pub handler: Handler,
    /// The servers that have it.
    pub servers: &'static [Role],
    /// The reply to those who are not authenticated, where the handler needs a caller.
    pub refusal: Refusal,
    /// Only for administrators who signed in with a browser; 403 for others.
    pub is_administrative: bool,
    /// The shape of its errors.
    pub errors: Shape,
    /// Whether it is served before the database was reached for the first time; otherwise it is refused with 503.
    pub works_without_database: bool,
    /// The path under which its charges are recorded.
    pub charged_as: &'static str,
    /// What the API reference says about it; nothing for pages and their forms.
    pub description: Option<Description>,
}

/// `GET path`.
pub fn get(path: &'static str, handler: Handler) -> Operation {
    operation(Method::GET, path, handler)
}

/// `POST path`.
pub fn post(path: &'static str, handler: Handler) -> Operation {
    operation(Method::POST, path, handler)
}

fn operation(method: Method, path: &'static str, handler: Handler) -> Operation {
    Operation {
        method,
        path,
        handler,
        servers: &[],
        refusal: Refusal::Unauthorized(NOT_AUTHENTICATED),
        is_administrative: false,
        errors: Shape::Detail,
        works_without_database: false,
        charged_as: path,
        description: None,
    }
}

impl Operation {
    /// The path as OpenAPI writes it, which has no `{*…}`.
    pub fn template(&self) -> String {
        self.path.replace("{*", "{")
    }

    /// Names the servers that have it.
    #[must_use]
    pub fn on(self, servers: &'static [Role]) -> Operation {
        Operation { servers, ..self }
    }

    /// Sets the shape of its errors; `{"detail": ...}` otherwise.
    #[must_use]
    pub fn errors(self, errors: Shape) -> Operation {
        Operation { errors, ..self }
    }

    /// Sets the message of its 401; [`NOT_AUTHENTICATED`] otherwise.
    #[must_use]
    pub fn unauthorized(self, message: &'static str) -> Operation {
        Operation { refusal: Refusal::Unauthorized(message), ..self }
    }

    /// Leads those who are not signed in to the log-in page.
    #[must_use]
    pub fn or_log_in(self) -> Operation {
        Operation { refusal: Refusal::LogIn, ..self }
    }

    /// Admits administrators only.
    #[must_use]
    pub fn for_administrators(self) -> Operation {
        Operation { is_administrative: true, ..self }
    }

    /// Serves it even before the database was reached.
    #[must_use]
    pub fn without_database(self) -> Operation {
        Operation { works_without_database: true, ..self }
    }

    /// Describes it in the API reference.
    #[must_use]
    pub fn described(self, description: Description) -> Operation {
        Operation { description: Some(description), ..self }
    }

    /// Records its charges under the path of another operation.
    #[must_use]
    pub fn charged_as(self, path: &'static str) -> Operation {
        Operation { charged_as: path, ..self }
    }
}

/// An operation of a server, and what is counted of its requests there.
pub struct Served {
    /// The operation.
    pub operation: &'static Operation,
    /// What is counted.
    pub metrics: &'static RequestMetrics,
}

/// The router of one server.
pub fn router(operations: &'static [Operation], role: Role, requests: &Requests) -> Router<Served> {
    let own = operations.iter().filter(|operation| operation.servers.contains(&role));
    Router::new(own.map(|operation| {
        let metrics = requests.of(role.name(), format!("{} {}", operation.method, operation.template()));
        (operation.method.clone(), operation.path, Served { operation, metrics })
    }))
}

/// The paths that clients of OpenAI's API call.
const OPENAI_PATHS: &str = "/v1/";

/// The shape of the error for a path or method that no operation has. Clients of OpenAI's API expect its errors there
/// too.
pub fn shape_of_unknown(path: &str) -> Shape {
    if canonical(path).path.starts_with(OPENAI_PATHS) { Shape::OpenAi } else { Shape::Detail }
}
