//! Everything that can end a request early. One table, [`Error::public`], gives the status, the code and the message of
//! each error; the reply in every shape is made from it.

mod conversions;
mod shape;

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::db;
use crate::http::Response;

pub use shape::{Conflicting, Shape};
use shape::{Detail, DetailBody, ErrorBody, MessagesBody, OpenAiBody, OpenAiError};

/// The result of a handler.
pub type Result<T> = std::result::Result<T, Error>;

/// The message of a 401 on most routes.
pub const NOT_AUTHENTICATED: &str = "Not authenticated";

/// The message of a 503 for something that will pass.
const TRY_AGAIN: &str = "Service temporarily unavailable, try again";

/// Why a request failed.
///
/// The reply shows what [`Error::public`] says; `Display` is for the log and also says what went wrong inside.
#[derive(Debug)]
pub enum Error {
    /// The request is wrong in a way that no other variant names; the text says how.
    BadRequest(Cow<'static, str>),
    /// Fields are missing or have the wrong type: one object for each, as FastAPI writes them.
    InvalidFields(Vec<Value>),
    /// A wrong password, or an e-mail address without an account: which of the two is not told.
    InvalidCredentials,
    /// The password is right, and a code of the account's second factor is wanted too.
    CodeRequired,
    /// A code of a second factor that is wrong, or was used.
    InvalidCode,
    /// Too much time has passed since the password was entered, or it is not known that it was.
    LogInExpired,
    /// The caller is an administrator without a second factor, which the settings demand.
    SecondFactorNeeded,
    /// An e-mail address that cannot be one.
    InvalidEmail,
    /// A password and its confirmation differ.
    PasswordMismatch,
    /// A new password has fewer characters than this.
    PasswordTooShort(usize),
    /// A new password has more characters than this.
    PasswordTooLong(usize),
    /// A new password is among the first that anybody would guess.
    PasswordTooCommon,
    /// No credential, or one that is not valid.
    Unauthorized(&'static str),
    /// The caller is known but not allowed to do this.
    Forbidden(&'static str),
    /// The account is suspended.
    AccountSuspended,
    /// The account's credit, or its budget or the key's, cannot pay for the request.
    BudgetExhausted,
    /// Another site's page made the browser send the request.
    CrossSite,
    /// The thing does not exist, or not for this caller.
    NotFound(&'static str),
    /// There is no model of this name, or none at all where the request names none.
    ModelNotFound(Option<String>),
    /// No route has this path.
    NoRoute,
    /// The path has a route, but not for this method; holds the value of `Allow`.
    MethodNotAllowed(String),
    /// The body did not arrive in time.
    RequestTimeout,
    /// The request conflicts with the current state.
    Conflict(&'static str, Conflicting),
    /// The account has as much as it may have; the text says of what.
    QuotaUsed(&'static str, Conflicting),
    /// The first request with this `Idempotency-Key` is still running.
    KeyInUse,
    /// The `Idempotency-Key` was used for another request.
    KeyReused,
    /// The request with this `Idempotency-Key` was charged, but its reply is not kept.
    ReplyNotKept,
    /// The body has more bytes than this.
    TooLarge(usize),
    /// Too many failed attempts; the next one is allowed after this time.
    TooManyAttempts(Duration),
    /// Too many accounts were created from the client's network; the next one is allowed after this time.
    TooManySignUps(Duration),
    /// The rate limits of the account or of the key do not admit the request now; it is after this time, if nobody else
    /// asks. `None` if it is more than a limit. The text says which.
    RateLimited(&'static str, Option<Duration>),
    /// The client closed the connection; nobody sees the reply.
    ClientLeft,
    /// The same, when a model server had got the request and had not replied yet.
    ClientLeftModel,
    /// A model server failed: 502 or 504. The text is for the client and does not say where the server is.
    Upstream(u16, &'static str),
    /// A model server rejected the request.
    Relayed(Box<Relayed>),
    /// No model server is configured for this; holds the name of the setting.
    NotConfigured(&'static str),
    /// Payments are not set up, or not for this; holds the name of the setting.
    PaymentsNotConfigured(&'static str),
    /// Mail is not set up.
    MailNotConfigured,
    /// A link was used, is too old, or was never given out.
    LinkInvalid,
    /// Stripe cannot be asked now; the text is for the log.
    PaymentsUnavailable(String),
    /// Too much to do right now.
    Busy,
    /// The account has as many requests waiting as it may have.
    TooManyWaiting,
    /// The database is not reachable (503), or a statement failed (500).
    Database(db::Error),
    /// A fault of ours; the text is for the log.
    Internal(String),
}

/// How a model server rejected a request.
#[derive(Debug)]
pub struct Relayed {
    /// Its status.
    pub status: u16,
    /// Its body, if it is an error in OpenAI's shape: `{"error": {...}}`.
    pub body: Option<Value>,
    /// Its message.
    pub message: String,
    /// Its `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
}

/// What a client is told about an error.
pub struct Public {
    /// The HTTP status.
    pub status: u16,
    /// A stable name for programs.
    pub code: &'static str,
    /// A sentence for people.
    pub message: Cow<'static, str>,
}

impl Error {
    /// 400 with this message.
    pub fn bad(message: impl Into<Cow<'static, str>>) -> Error {
        Error::BadRequest(message.into())
    }

    /// The status, the code and the message of every error.
    pub fn public(&self) -> Public {
        use Error as E;
        let (status, code, message): (u16, &'static str, Cow<'static, str>) = match self {
            E::BadRequest(text) => (400, "invalid_request", text.clone()),
            E::InvalidCredentials => (400, "invalid_credentials", "Invalid credentials".into()),
            E::CodeRequired => (401, "totp_required", "Code required".into()),
            E::InvalidCode => (401, "totp_invalid", "The code is incorrect or was used already".into()),
            E::LogInExpired => (401, "login_expired", "Your log-in took too long. Please log in again".into()),
            E::SecondFactorNeeded => (
                403,
                "two_factor_required",
                "Administrators must use two-factor authentication here. Turn it on at /account/two-factor".into(),
            ),
            E::InvalidEmail => (400, "invalid_email", "Enter a valid e-mail address".into()),
            E::PasswordMismatch => (400, "password_mismatch", "The passwords don't match".into()),
            E::PasswordTooShort(least) => {
                (400, "password_too_short", format!("The password must have at least {least} characters").into())
            }
            E::PasswordTooLong(most) => {
                (400, "password_too_long", format!("The password must have at most {most} characters").into())
            }
            E::PasswordTooCommon => {
                (400, "password_too_common", "This password is too easy to guess; try several words".into())
            }
            E::Unauthorized(text) => (401, "invalid_api_key", (*text).into()),
            E::Forbidden(text) => (403, "permission_denied", (*text).into()),
            E::BudgetExhausted => (
                402,
                "insufficient_quota",
                "The credit or the budget of this account or API key cannot pay for this request".into(),
            ),
            E::AccountSuspended => (403, "account_suspended", "This account is suspended".into()),
            E::CrossSite => (403, "cross_site_request", "Cross-site request refused".into()),
            E::NotFound(text) => (404, "not_found", (*text).into()),
            E::ModelNotFound(Some(name)) => (404, "model_not_found", format!("The model {name:?} does not exist").into()),
            E::ModelNotFound(None) => (404, "model_not_found", "There is no model for this".into()),
            E::NoRoute => (404, "not_found", "Not Found".into()),
            E::MethodNotAllowed(_) => (405, "method_not_allowed", "Method Not Allowed".into()),
            E::RequestTimeout => (408, "request_timeout", "The request did not arrive in time".into()),
            E::Conflict(text, _) => (409, "conflict", (*text).into()),
            E::QuotaUsed(text, _) => (403, "quota_exceeded", (*text).into()),
            E::KeyInUse => {
                (409, "idempotency_key_in_use", "A request with this Idempotency-Key is running, try again later".into())
            }
            E::ReplyNotKept => (
                409,
                "reply_not_kept",
                "The request with this Idempotency-Key was charged, but its reply was too large to be kept, or made room for newer ones".into(),
            ),
            E::KeyReused => {
                (422, "idempotency_key_reused", "This Idempotency-Key was used for another request".into())
            }
            E::TooLarge(most) => {
                (413, "request_too_large", format!("The body must not be larger than {most} bytes").into())
            }
            E::InvalidFields(issues) => (422, "invalid_fields", in_words(issues).into()),
            E::TooManyWaiting => (
                429,
                "rate_limit_exceeded",
                "This account has too many requests at once, try again when some are answered".into(),
            ),
            E::TooManyAttempts(_) => (429, "rate_limit_exceeded", "Too many attempts, try again later".into()),
            E::TooManySignUps(_) => (
                429,
                "rate_limit_exceeded",
                "Too many accounts were created from your network, try again later".into(),
            ),
            E::RateLimited(text, _) => (429, "rate_limit_exceeded", (*text).into()),
            E::ClientLeft | E::ClientLeftModel => (499, "client_closed_request", "The client closed the connection".into()),
            E::Upstream(status, text) => (*status, "model_server_failed", (*text).into()),
            E::Relayed(relayed) => (relayed.status, relayed.code(), relayed.message.clone().into()),
            E::NotConfigured(setting) => (
                503,
                "model_server_not_configured",
                format!("No model server is configured for this: {setting} is not set").into(),
            ),
            E::PaymentsNotConfigured(setting) => {
                (503, "payments_not_configured", format!("Payments are not set up here: {setting} is not set").into())
            }
            E::MailNotConfigured => (503, "mail_not_configured", "E-mail is not set up here: SMTP_URL is not set".into()),
            E::LinkInvalid => {
                (400, "link_invalid", "This link has expired or was already used. Please ask for a new one".into())
            }
            E::PaymentsUnavailable(_) => (503, "payments_unavailable", "Payments are not available, try again".into()),
            E::Busy => (503, "service_unavailable", TRY_AGAIN.into()),
            E::Database(e) if e.is_outage() => (503, "service_unavailable", TRY_AGAIN.into()),
            E::Database(_) | E::Internal(_) => (500, "internal_error", "Internal Server Error".into()),
        };
        Public { status, code, message }
    }

    /// The status of the reply.
    pub fn status(&self) -> u16 {
        self.public().status
    }

    /// The message for the client.
    pub fn message(&self) -> Cow<'static, str> {
        self.public().message
    }

    /// How many seconds the client should wait before it tries again.
    pub fn retry_after(&self) -> Option<u64> {
        match self {
            // Rounded up: whoever comes back after that must not be refused again.
            Error::TooManyAttempts(wait) | Error::TooManySignUps(wait) | Error::RateLimited(_, Some(wait)) => {
                Some((wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1))
            }
            Error::NotConfigured(_) | Error::PaymentsNotConfigured(_) | Error::MailNotConfigured => None,
            Error::Relayed(relayed) if relayed.retry_after.is_some() => relayed.retry_after,
            Error::KeyInUse | Error::TooManyWaiting => Some(1),
            _ if self.status() == 503 => Some(1),
            _ => None,
        }
    }

    /// Whether an operator should hear of it.
    pub fn is_fault(&self) -> bool {
        self.status() >= 500
    }

    /// The reply.
    pub fn reply(&self, shape: Shape) -> Response {
        let Public { status, code, message } = self.public();
        // What a client does next depends on it.
        let code = self.is_about_second_factor().then_some(code);
        let more = if let Error::Conflict(_, more) | Error::QuotaUsed(_, more) = self { Some(more) } else { None };
        let mut response = match (shape, self) {
            (Shape::OpenAi, Error::Relayed(relayed)) if relayed.body.is_some() => Response::json(status, &relayed.body),
            (Shape::OpenAi, _) => Response::json(status, &self.openai()),
            (Shape::Messages, Error::Relayed(relayed)) if relayed.is_of_messages() => {
                Response::json(status, &relayed.body)
            }
            (Shape::Messages, _) => Response::json(status, &self.messages()),
            (Shape::Detail, Error::InvalidFields(issues)) => {
                Response::json(status, &DetailBody { detail: Detail::Fields(issues), code, more })
            }
            (Shape::Detail, _) => Response::json(status, &DetailBody { detail: Detail::Message(&message), code, more }),
            (Shape::Error, _) => Response::json(status, &ErrorBody { error: &message, more }),
        };
        if let Some(seconds) = self.retry_after() {
            response = response.header("Retry-After", seconds.to_string());
        }
        if let Error::RateLimited(_, Some(wait)) = self {
            response = response.header("retry-after-ms", wait.as_micros().div_ceil(1000).to_string());
        }
        if matches!(self, Error::BudgetExhausted | Error::RateLimited(_, None)) {
            // OpenAI's clients would repeat it otherwise.
            response = response.header("x-should-retry", "false");
        }
        if let Error::MethodNotAllowed(allow) = self {
            response = response.header("Allow", allow.clone());
        }
        if matches!(self, Error::Unauthorized(_)) {
            response = response.header("WWW-Authenticate", "Bearer");
        }
        response
    }

    fn is_about_second_factor(&self) -> bool {
        matches!(self, Error::CodeRequired | Error::InvalidCode | Error::LogInExpired | Error::SecondFactorNeeded)
    }

    /// The body in OpenAI's shape.
    pub fn openai(&self) -> Value {
        let Public { status, code, message } = self.public();
        // As OpenAI does, a code is given only where programs act on one.
        let (kind, code) = match status {
            401 | 404 => ("invalid_request_error", Some(code)),
            402 => ("insufficient_quota", Some(code)),
            403 => ("permission_error", Some(code)),
            429 => ("rate_limit_error", Some(code)),
            500.. => ("server_error", None),
            _ => ("invalid_request_error", None),
        };
        let (message, param) = match self {
            // OpenAI's errors name one field.
            Error::InvalidFields(issues) => {
                (in_words(issues.get(..1).unwrap_or_default()).into(), field(issues.first()))
            }
            _ => (message, None),
        };
        json!(OpenAiBody { error: OpenAiError { message, r#type: kind, param, code } })
    }

    /// The body in the shape of the Messages protocol.
    pub fn messages(&self) -> Value {
        let Public { status, message, .. } = self.public();
        json!(MessagesBody::new(status, message))
    }
}

impl Relayed {
    /// Whether its body is an error of the Messages protocol.
    fn is_of_messages(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body["type"] == "error" && body["error"]["type"].is_string())
    }

    fn code(&self) -> &'static str {
        match self.status {
            401 => "invalid_api_key",
            404 => "not_found",
            429 => "rate_limit_exceeded",
            _ => "model_server_refused",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Database(e) => e.fmt(f),
            Error::Internal(why) | Error::PaymentsUnavailable(why) => f.write_str(why),
            Error::ModelNotFound(_) => f.write_str("the request names no model that there is"),
            // Its message may repeat what the client sent.
            Error::Relayed(relayed) => write!(f, "the model server answered {}", relayed.status),
            _ => f.write_str(&self.message()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        if let Error::Database(e) = self { Some(e) } else { None }
    }
}

/// Invalid fields as text: `email: Field required; password: Field required`.
fn in_words(issues: &[Value]) -> String {
    let one = |issue: &Value| {
        let message = issue["msg"].as_str().unwrap_or("Invalid").to_owned();
        field(Some(issue)).map_or(message.clone(), |field| format!("{field}: {message}"))
    };
    issues.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// The name of the field that is invalid.
fn field(issue: Option<&Value>) -> Option<&str> {
    issue?["loc"].as_array()?.last()?.as_str()
}

#[cfg(test)]
mod public_tests;
