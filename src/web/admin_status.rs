//! The operator's API of the process that answers: how it is, and how much it logs. It works while the database is away, for
//! callers that are in the cache still.

use log::LevelFilter;
use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::pages::admin_parts::{self, Part};
use super::{Answer, fields};
use crate::auth::Caller;
use crate::call::Call;
use crate::error::Error;
use crate::http::Response;
use crate::http::request_fields::request_fields;
use crate::logging;
use crate::operation::Group::Administration;
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, get, post, summary};
use crate::store::timestamp;

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    let all = [
        get("/api/admin/status", Authenticated(status)).described(
            summary(Administration, "How this process and its providers are, also while the database is away")
                .reply::<Status>(),
        ),
        post("/api/admin/log", Authenticated(set_log_level)).described(
            summary(Administration, "Change how much this process logs, until it ends")
                .fields::<LogChange<'_>>()
                .reply::<LogLevel>()
                .status(400, "level is invalid"),
        ),
    ];
    all.into_iter().map(Operation::for_administrators).collect()
}

/// What a process knows of itself.
#[derive(Serialize, JsonSchema)]
struct Status {
    parts: Vec<Part>,
    providers: Vec<Provider>,
    journal: Journal,
    /// null if no usage is reported, or nothing is known of it yet.
    outbox: Option<Outbox>,
}

/// A model server.
#[derive(Serialize, JsonSchema)]
struct Provider {
    name: String,
    is_up: bool,
    /// What keeps it from being called.
    problem: Option<String>,
    /// Calls that it has not completed.
    in_flight: u32,
    /// How it failed last since the process started.
    last_error: Option<String>,
    #[serde(serialize_with = "timestamp::serialize_zulu_option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    last_error_at: Option<OffsetDateTime>,
}

/// Charges that the database does not have yet.
#[derive(Serialize, JsonSchema)]
struct Journal {
    charges: u64,
    bytes: u64,
    #[serde(serialize_with = "timestamp::serialize_zulu_option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    oldest: Option<OffsetDateTime>,
    has_room: bool,
}

/// Usage that was not sent to Stripe, of all processes.
#[derive(Serialize, JsonSchema)]
struct Outbox {
    waiting: i64,
    put_aside: i64,
    #[serde(serialize_with = "timestamp::serialize_zulu_option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    oldest: Option<OffsetDateTime>,
}

request_fields! {
    /// A change of the log.
    struct LogChange<'f> {
        /// `off`, `error`, `warn`, `info`, `debug` or `trace`.
        level: &'f str,
    }
}

/// How much is logged.
#[derive(Serialize, JsonSchema)]
struct LogLevel {
    level: String,
}

/// `GET /api/admin/status`.
fn status(call: &mut Call<'_>, _: &Caller) -> Answer {
    let app = call.app;
    let stats = app.meter.stats();
    let providers = app.models.providers().into_iter().map(|(name, state)| {
        let is_up = state.is_up();
        let (last_error_at, last_error) = state.last_error.unzip();
        Provider { name, is_up, problem: state.problem, in_flight: state.in_flight, last_error, last_error_at }
    });
    let status = Status {
        parts: admin_parts::parts(app),
        providers: providers.collect(),
        journal: Journal {
            charges: stats.journal_charges,
            bytes: stats.journal_bytes,
            oldest: stats.journal_oldest,
            has_room: stats.has_journal_room,
        },
        outbox: app.outbox.unsent().map(|unsent| Outbox {
            waiting: unsent.waiting,
            put_aside: unsent.put_aside,
            oldest: unsent.oldest,
        }),
    };
    Ok(Response::json(200, &status))
}

/// `POST /api/admin/log` with a `level`.
fn set_log_level(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let LogChange { level } = LogChange::read(&fields)?;
    let level: LevelFilter =
        level.parse().map_err(|_| Error::bad("level must be off, error, warn, info, debug or trace"))?;
    log::warn!("{} changes the log level", caller.user.email);
    logging::set_level(level);
    Ok(Response::json(200, &LogLevel { level: level.as_str().to_ascii_lowercase() }))
}
