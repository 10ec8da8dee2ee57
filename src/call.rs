//! One request on its way through a handler.

use std::net::IpAddr;
use std::sync::Arc;

use crate::app::App;
use crate::auth::{Caller, Kind, client, is_renewal_due};
use crate::error::{Error, NOT_AUTHENTICATED, Result, Shape};
use crate::http::{Method, Request, Response, Route, cookie};

/// What answers a request.
pub type Handler = fn(&mut Call<'_>) -> Result<Response>;

/// A handler, and how it names its errors.
#[derive(Clone, Copy)]
pub struct Endpoint {
    /// What runs.
    pub handler: Handler,
    /// The key of its errors.
    pub shape: Shape,
    /// Whether it has an answer before the database was first reached; others get 503.
    pub works_without_database: bool,
}

/// A line of a route table.
pub const fn route(method: Method, path: &'static str, handler: Handler) -> Route<Endpoint> {
    Route { method, path, handler: Endpoint { handler, shape: Shape::Detail, works_without_database: false } }
}

/// One of the three servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// For people: cookies.
    Web,
    /// For programs: models.
    Inference,
    /// For programs: speech.
    Audio,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 3] = [Role::Web, Role::Inference, Role::Audio];

    /// Its name on the command line and in the log.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Web => "web",
            Role::Inference => "inference",
            Role::Audio => "audio",
        }
    }
}

/// A request, and what is known around it.
pub struct Call<'a> {
    /// What the servers share.
    pub app: &'a App,
    /// The server it came to.
    pub role: Role,
    /// The request.
    pub request: &'a mut Request,
    /// The path's segments that stood for `{…}`, still percent-encoded.
    pub segments: Vec<String>,
    /// How the route names its errors.
    pub shape: Shape,
    /// The session cookie's new value, where the reply is to carry it.
    pub renewed_cookie: Option<String>,
    caller: Option<Arc<Caller>>,
}

impl<'a> Call<'a> {
    /// A call of `role`'s server, on a route that names its errors like this.
    pub fn new(app: &'a App, role: Role, shape: Shape, request: &'a mut Request, segments: Vec<String>) -> Call<'a> {
        Call { app, role, request, segments, shape, renewed_cookie: None, caller: None }
    }

    /// Who calls.
    ///
    /// # Errors
    /// 401 without a valid credential, 403 for a cookie sent by another site's page, 503 while it cannot be known.
    pub fn caller(&mut self) -> Result<Arc<Caller>> {
        self.caller_or(NOT_AUTHENTICATED)
    }

    /// [`Call::caller`] with other words for the 401.
    ///
    /// # Errors
    /// As [`Call::caller`].
    pub fn caller_or(&mut self, refusal: &'static str) -> Result<Arc<Caller>> {
        self.optional_caller()?.ok_or(Error::Unauthorized(refusal))
    }

    /// Who calls, if a valid credential was sent: the cookie (web server only), the `secret` header, or what follows
    /// the scheme of `Authorization`, whichever is valid first.
    ///
    /// # Errors
    /// 403 for a cookie sent by another site's page, 503 while it cannot be known.
    pub fn optional_caller(&mut self) -> Result<Option<Arc<Caller>>> {
        if self.caller.is_none() {
            self.caller = self.authenticate()?;
        }
        Ok(self.caller.clone())
    }

    /// The id of the caller's account, once it was asked for.
    pub fn user_id(&self) -> Option<String> {
        self.caller.as_ref().map(|caller| caller.user.id.clone())
    }

    fn authenticate(&mut self) -> Result<Option<Arc<Caller>>> {
        let mut refused = None;
        if self.role == Role::Web
            && let Some(token) = cookie::read(self.request, cookie::SESSION)
            && let Some(caller) = self.app.resolver.resolve(Kind::Session, token)?
        {
            match self.check_same_site() {
                Ok(()) => {
                    self.renewed_cookie = self.renewal(token, &caller);
                    return Ok(Some(caller));
                }
                Err(e) => refused = Some(e),
            }
        }
        for secret in [self.request.header("secret"), self.bearer()].into_iter().flatten() {
            if let Some(caller) = self.app.resolver.resolve(Kind::Key, secret.trim())? {
                return Ok(Some(caller));
            }
        }
        refused.map_or(Ok(None), Err)
    }

    /// Whether any credential was sent, valid or not.
    pub fn has_credential(&self) -> bool {
        let cookie = self.role == Role::Web && cookie::read(self.request, cookie::SESSION).is_some();
        cookie || self.request.header("secret").is_some() || self.bearer().is_some()
    }

    /// Older clients send the secret under any scheme.
    fn bearer(&self) -> Option<&str> {
        self.request.header("authorization")?.split_once(' ').map(|(_, secret)| secret)
    }

    fn renewal(&self, token: &str, caller: &Caller) -> Option<String> {
        match &caller.via {
            crate::auth::Via::Session { renewed, .. } if is_renewal_due(*renewed, time::OffsetDateTime::now_utc()) => {
                Some(cookie::session(token, self.app.config.is_https()))
            }
            _ => None,
        }
    }

    /// Refuses an unsafe request that another site's page made a browser send. Browsers say so in `Sec-Fetch-Site`
    /// (Fetch Metadata) or `Origin`; what says neither is no browser's and carries no cookie by itself.
    ///
    /// # Errors
    /// 403.
    pub fn check_same_site(&self) -> Result<()> {
        if matches!(*self.request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(());
        }
        let own = match (self.request.header("sec-fetch-site"), self.request.header("origin")) {
            (Some("same-origin" | "none"), _) | (None, None) => true,
            (_, Some(origin)) => self.is_own_origin(origin),
            (Some(_), None) => false,
        };
        if own { Ok(()) } else { Err(Error::CrossSite) }
    }

    fn is_own_origin(&self, origin: &str) -> bool {
        let config = &self.app.config;
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        (origin == config.public_url && !origin.is_empty())
            || config.cors_origins.iter().any(|allowed| allowed == origin)
            || authority.is_some_and(|authority| self.request.header("host") == Some(authority))
    }

    /// Whether the client is a script that wants JSON, not a form that wants a page.
    pub fn wants_json(&self) -> bool {
        let has = |name, text: &str| self.request.header(name).is_some_and(|v| v.to_ascii_lowercase().contains(text));
        has("accept", "application/json")
            || has("x-requested-with", "xmlhttprequest")
            || self.request.media_type() == "application/json"
    }

    /// The address of the client, behind trusted proxies.
    pub fn client(&self) -> IpAddr {
        client::address(self.request, &self.app.config.trusted_proxies)
    }
}
