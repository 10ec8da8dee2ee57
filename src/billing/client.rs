//! Requests to Stripe.

use std::fmt;
use std::io::{self, Read};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::{HeaderValue, Method, Request, Response, header};
use ureq::{Agent, AsSendBody};

use super::failure::Failure;
use super::form::Form;
use crate::config::StripeConfig;
use crate::version;

/// The version of Stripe's API, whose shapes this crate reads and writes.
pub const VERSION: &str = "2025-09-30.clover";

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request may take, the reply included.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How long an idle connection is kept.
const IDLE_TIME: Duration = Duration::from_secs(5);
/// Maximum size of a reply, in bytes.
const MAX_REPLY: u64 = 1 << 20;
/// Objects in a page of a list: Stripe gives 100 at most, and a page must fit into [`MAX_REPLY`].
const PAGE: u32 = 50;
/// Pages of a list that are read at most.
const MAX_PAGES: u32 = 10_000;

/// A Stripe account, seen through its API. Clones share connections.
#[derive(Clone)]
pub struct Stripe {
    agent: Agent,
    base_url: String,
    authorization: HeaderValue,
}

/// Leaves out the key.
impl fmt::Debug for Stripe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stripe").field("base_url", &self.base_url).finish_non_exhaustive()
    }
}

/// A page of a list.
#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
    #[serde(default)]
    has_more: bool,
}

impl Stripe {
    /// The account of the settings; `None` without `STRIPE_SECRET_KEY`.
    pub fn of(config: &StripeConfig) -> Option<Stripe> {
        Stripe::new(config.stripe_secret_key.as_deref()?, &config.stripe_api_url, TIMEOUT)
    }

    /// The account of a secret key at an address; `None` if the key cannot stand in a header. `timeout` is for a whole
    /// request.
    pub fn new(secret_key: &str, base_url: &str, timeout: Duration) -> Option<Stripe> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {secret_key}")).ok()?;
        authorization.set_sensitive(true);
        let config = Agent::config_builder()
            .timeout_connect(Some(CONNECT_TIMEOUT.min(timeout)))
            .timeout_global(Some(timeout))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_age(IDLE_TIME)
            .user_agent(version::USER_AGENT)
            .build();
        Some(Stripe { agent: Agent::new_with_config(config), base_url: base_url.to_owned(), authorization })
    }

    /// Reads an object, by a path such as `/v1/customers/cus_1`.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn get<T: DeserializeOwned>(&self, path: &str, query: &Form) -> Result<T, Failure> {
        let path = if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.encoded()) };
        self.send(Method::GET, &path, None, ())
    }

    /// Creates or changes an object. Stripe carries out requests with the same key once within 24 hours, and repeats its
    /// answer. The key may have 255 characters.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn post<T: DeserializeOwned>(&self, path: &str, form: &Form, idempotency_key: &str) -> Result<T, Failure> {
        self.send(Method::POST, path, Some(idempotency_key), &*form.encoded())
    }

    /// Deletes or cancels an object.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.send(Method::DELETE, path, None, ())
    }

    /// Reads a list page by page, and gives each object to `each` until that returns false.
    ///
    /// # Errors
    /// See [`Failure`]; [`Failure::Malformed`] also for a list of more than a million objects.
    pub fn list<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &Form,
        mut each: impl FnMut(T) -> bool,
    ) -> Result<(), Failure> {
        let mut after: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let query = query.clone().with("limit", PAGE).with_some("starting_after", after.as_ref());
            let page: Page<Value> = self.get(path, &query)?;
            let last = page.data.last().and_then(|object| object["id"].as_str()).map(str::to_owned);
            for object in page.data {
                let object = serde_json::from_value(object).map_err(|e| Failure::Malformed(e.to_string()))?;
                if !each(object) {
                    return Ok(());
                }
            }
            if !page.has_more {
                return Ok(());
            }
            after = Some(last.ok_or_else(|| Failure::Malformed("a page of a list ends without an id".to_owned()))?);
        }
        Err(Failure::Malformed("a list does not end".to_owned()))
    }

    fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        idempotency_key: Option<&str>,
        body: impl AsSendBody + Copy,
    ) -> Result<T, Failure> {
        let request = || {
            let mut request = Request::builder()
                .method(method.clone())
                .uri(format!("{}{path}", self.base_url))
                .header(header::AUTHORIZATION, self.authorization.clone())
                .header("Stripe-Version", VERSION);
            if let Some(key) = idempotency_key {
                request = request
                    .header("Idempotency-Key", key)
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            }
            self.agent.run(request.body(body)?)
        };
        // A kept connection may have ended by now. That is safe to try again: Stripe knows the key.
        match request() {
            Err(e) if is_disconnect(&e) => match parsed(request()) {
                // The repeat was not carried out, but the first request may have been.
                Err(failure) if idempotency_key.is_some() && !failure.tells_of_earlier() => {
                    Err(Failure::Unanswered(format!("{e}; the repeat: {failure}")))
                }
                result => result,
            },
            reply => parsed(reply),
        }
    }
}

/// What a reply holds.
fn parsed<T: DeserializeOwned>(reply: Result<Response<ureq::Body>, ureq::Error>) -> Result<T, Failure> {
    let reply = reply.map_err(|e| Failure::Unanswered(e.to_string()))?;
    let (status, retry_after) = (reply.status(), retry_after(&reply));
    let body = read(reply)?;
    if !status.is_success() {
        return Err(Failure::of_reply(status.as_u16(), &body, retry_after));
    }
    serde_json::from_slice(&body).map_err(|e| Failure::Malformed(e.to_string()))
}

fn read(reply: Response<ureq::Body>) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    let mut reader = reply.into_body().into_reader().take(MAX_REPLY + 1);
    reader.read_to_end(&mut body).map_err(|e| Failure::Unanswered(e.to_string()))?;
    match body.len() as u64 > MAX_REPLY {
        true => Err(Failure::Malformed("it is too long".to_owned())),
        false => Ok(body),
    }
}

/// The seconds of `Retry-After`.
fn retry_after(reply: &Response<ureq::Body>) -> Option<Duration> {
    reply.headers().get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// Whether the connection ended, as one that was kept idle may.
fn is_disconnect(e: &ureq::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(e, ureq::Error::Io(e)
        if matches!(e.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_shown_nowhere() {
        let stripe = Stripe::new("sk_hunter2", "http://127.0.0.1:1", TIMEOUT).unwrap();
        assert!(!format!("{stripe:?} {:?}", stripe.authorization).contains("hunter2"));
        let failure = stripe.get::<Value>("/v1/customers/cus_1", &Form::new()).unwrap_err();
        assert!(!format!("{failure} {failure:?}").contains("hunter2"));
        assert!(failure.may_pass() && failure.is_outcome_unknown(), "{failure:?}");
        assert!(Stripe::new("a\nb", "http://127.0.0.1:1", TIMEOUT).is_none());
    }
}
