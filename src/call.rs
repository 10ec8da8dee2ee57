//! A request on its way through a handler.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::app::App;
use crate::auth::{Caller, Kind, Via, client, is_renewal_due};
use crate::blocking;
use crate::config::ANY_ORIGIN;
use crate::error::{Error, Result, Shape};
use crate::http::{Method, Postponed, Request, StartWaiting, cookie};
use crate::limits::RateIds;
use crate::memory_budget;
use crate::traces;

/// The headers that hold the secret of a key: that of older clients, the one of the Messages protocol, and Azure's.
const SECRET_HEADERS: [&str; 3] = ["secret", "x-api-key", "api-key"];

/// One of the three servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// For people, who sign in with a cookie.
    Web,
    /// For programs, which call text models with a secret.
    Inference,
    /// For programs, which call speech models with a secret.
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

/// A request, and what a handler needs to answer it.
pub struct Call<'a> {
    /// What the servers share.
    pub app: &'a App,
    /// The server that received it.
    pub role: Role,
    /// The request.
    pub request: &'a mut Request,
    /// The path's segments that matched `{…}`, still percent-encoded.
    pub segments: Vec<String>,
    /// The model, where the path names it as a deployment, as clients of Azure's service do.
    pub deployment: Option<String>,
    /// The shape of the operation's errors.
    pub shape: Shape,
    /// The path under which the operation's charges are recorded.
    pub charged_as: &'static str,
    /// The token of the session, if the reply is to set its cookie again.
    pub renewed_session: Option<String>,
    /// What its handler has begun, if the request was postponed before. It is dropped before the reply is sent.
    pub begun: Option<Box<dyn Any + Send>>,
    /// Set if the handler has [postponed](Call::postpone) the request.
    pub postponed: Option<StartWaiting>,
    caller: Option<Arc<Caller>>,
}

impl<'a> Call<'a> {
    /// A request to `role`'s server.
    pub fn new(app: &'a App, role: Role, request: &'a mut Request) -> Call<'a> {
        let (segments, shape, charged_as) = (Vec::new(), Shape::default(), "");
        Call {
            app,
            role,
            request,
            segments,
            deployment: None,
            shape,
            charged_as,
            renewed_session: None,
            begun: None,
            postponed: None,
            caller: None,
        }
    }

    /// Postpones the request: its handler must end at once with the returned error, which is not sent, and is called
    /// again once the notifier that `start` gets was called, or after a time-out. No thread waits meanwhile. What the
    /// handler has `begun` is then in [`Call::begun`]. Only for requests whose body is in memory, and was not read yet;
    /// a handler that has read it must put it back.
    pub fn postpone(&mut self, begun: Box<dyn Any + Send>, start: StartWaiting) -> Error {
        self.request.postponed = Some(Postponed { since: Instant::now(), begun, unanswered: None });
        self.postponed = Some(start);
        Error::Busy
    }

    /// Whether the request is postponed, so that the handler must end.
    pub fn is_postponed(&self) -> bool {
        self.postponed.is_some()
    }

    /// The caller, if the request has a valid credential: the session cookie (web server only), a header such as `secret`
    /// or `x-api-key`, or what follows the scheme of `Authorization`; the first of these that is valid.
    ///
    /// # Errors
    /// 403 for a cookie with a request that another site's page sent, 503 while the credential cannot be checked, 429
    /// for an upload if the account has too many.
    pub fn authenticate(&mut self) -> Result<Option<Arc<Caller>>> {
        if self.caller.is_none() {
            self.caller = self.find_caller()?;
            if let Some(caller) = &self.caller {
                blocking::identify(caller.party)?;
                memory_budget::identify(caller.party);
            }
        }
        Ok(self.caller.clone())
    }

    /// The rate limits of the caller, once authenticated, if there are any.
    pub fn rates(&self) -> Option<&RateIds> {
        self.caller.as_ref().map(|caller| &caller.rates).filter(|rates| !rates.is_empty())
    }

    /// The id of the caller's account, once authenticated.
    pub fn user_id(&self) -> Option<String> {
        self.caller.as_ref().map(|caller| caller.user.id.clone())
    }

    fn find_caller(&mut self) -> Result<Option<Arc<Caller>>> {
        let span = traces::span("authenticate");
        let _within = span.as_ref().map(traces::Span::enter);
        let mut refused = None;
        if let Some((token, caller)) = self.find_session()? {
            let renewed = is_session_renewed(&caller).then(|| token.to_owned());
            match self.check_same_site() {
                Ok(()) => {
                    self.renewed_session = renewed;
                    return Ok(Some(caller));
                }
                Err(e) => refused = Some(e),
            }
        }
        for secret in self.secrets() {
            if let Some(caller) = self.app.resolver.resolve(Kind::Key, secret.trim())? {
                return Ok(Some(caller));
            }
        }
        refused.map_or(Ok(None), Err)
    }

    /// The first session token that is valid.
    fn find_session(&self) -> Result<Option<(&str, Arc<Caller>)>> {
        for token in self.session_tokens() {
            if let Some(caller) = self.app.resolver.resolve(Kind::Session, token)? {
                return Ok(Some((token, caller)));
            }
        }
        Ok(None)
    }

    /// Whether the request has a credential, valid or not.
    pub fn has_credential(&self) -> bool {
        self.session_tokens().next().is_some() || self.secrets().next().is_some()
    }

    /// The secrets of keys that the request has.
    fn secrets(&self) -> impl Iterator<Item = &str> {
        let headers = SECRET_HEADERS.into_iter().map(|name| self.request.header(name));
        headers.chain([self.bearer()]).flatten()
    }

    /// The secret in `Authorization`. Older clients send it with any scheme, or none.
    fn bearer(&self) -> Option<&str> {
        let value = self.request.header("authorization")?;
        Some(value.split_once(' ').map_or(value, |(_, secret)| secret))
    }

    /// The tokens of the session cookie, which only the web server accepts.
    fn session_tokens(&self) -> impl Iterator<Item = &str> {
        (self.role == Role::Web).then(|| cookie::sessions(self.request)).into_iter().flatten()
    }

    /// Refuses an unsafe request that a browser sent on behalf of another site's page. Browsers tell by
    /// `Sec-Fetch-Site` (Fetch Metadata) or `Origin`; a client that sends neither is not a browser, and adds no cookie
    /// on its own.
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
            || config.cors_origins.iter().any(|allowed| allowed == origin && origin != ANY_ORIGIN)
            || authority.is_some_and(|authority| self.request.header("host") == Some(authority))
    }

    /// Whether the client is a script that expects JSON, rather than a form that expects a page: browsers say that they
    /// accept one.
    pub fn wants_json(&self) -> bool {
        let has = |name, text: &str| self.request.header(name).is_some_and(|v| v.to_ascii_lowercase().contains(text));
        !has("accept", "text/html")
            || has("accept", "application/json")
            || has("x-requested-with", "xmlhttprequest")
            || self.request.media_type() == "application/json"
    }

    /// The client's address, as told by trusted proxies.
    pub fn client(&self) -> IpAddr {
        client::address(self.request, &self.app.config.trusted_proxies)
    }
}

/// Whether the caller's session cookie is to be sent again.
fn is_session_renewed(caller: &Caller) -> bool {
    match &caller.via {
        Via::Session { renewed, .. } => is_renewal_due(*renewed, time::OffsetDateTime::now_utc()),
        Via::Key { .. } => false,
    }
}
