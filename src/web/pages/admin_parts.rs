//! The parts of a process and whether they work, for `/admin` and the operator's API.

use schemars::JsonSchema;
use serde::Serialize;
use time::{Duration, OffsetDateTime};

use super::show;
use crate::app::App;
use crate::catalogue::{Availability, Purpose, ServerCounts};
use crate::store::reporting::sender::Gap;
use crate::store::unsent::Unsent;

/// The status of one part of the system.
#[derive(Serialize, JsonSchema)]
pub(in crate::web) struct Part {
    pub(super) name: &'static str,
    pub(super) state: State,
    /// For people.
    pub(super) details: String,
}

/// Whether a part works.
#[derive(Clone, Copy, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(in crate::web) enum State {
    /// It works.
    Up,
    /// It does not.
    Down,
    /// Nothing is set up, so nothing can fail.
    Unset,
}

impl State {
    const fn of(is_ok: bool) -> State {
        if is_ok { State::Up } else { State::Down }
    }
}

/// All of them, as this process knows them now. Nothing is waited for.
pub(in crate::web) fn parts(app: &App) -> Vec<Part> {
    let (pool, meter, listening) = (app.db.pool_state(), app.meter.stats(), app.cache.is_subscribed());
    let (aside, oldest) = (app.meter.aside().reason(), meter.journal_oldest);
    let part = |name, is_ok, details: String| Part { name, state: State::of(is_ok), details };
    let reached = app.db.check_reachable();
    let mut parts = vec![
        part("Database", reached.is_ok(), reached.map_or_else(|e| e.to_string(), |()| "reachable".to_owned())),
        part(
            "Connections",
            pool.idle > 0 || pool.made < pool.most,
            format!("{} of {} open, {} idle, {} waiting", pool.made, pool.most, pool.idle, pool.waiting),
        ),
        part(
            "Revocations",
            listening,
            if listening { "listening" } else { "not listening: each request looks up its caller" }.to_owned(),
        ),
        part(
            "Charges",
            meter.is_database_available,
            format!(
                "{} committed in {} transactions, {} waiting",
                show::grouped(meter.committed),
                show::grouped(meter.commits),
                meter.waiting
            ),
        ),
        part(
            "Journal",
            meter.has_journal_room && meter.journal_charges == 0 && aside.is_none(),
            format!(
                "{} charges in {} bytes{}{}",
                meter.journal_charges,
                show::grouped(meter.journal_bytes),
                oldest.map_or_else(String::new, |oldest| format!(", the oldest of {}", show::to_the_second(&oldest))),
                aside.map_or_else(String::new, |reason| format!("; {reason}"))
            ),
        ),
    ];
    for (name, purpose) in [
        ("Text models", Purpose::Text),
        ("Embedding models", Purpose::Embeddings),
        ("Transcription models", Purpose::Transcription),
        ("Speech models", Purpose::Speech),
        ("Image models", Purpose::Images),
        ("Reranking models", Purpose::Rerank),
        ("Moderation models", Purpose::Moderations),
    ] {
        let (state, details) = models(app.models.availability(purpose));
        parts.push(Part { name, state, details });
    }
    parts
}

/// How usage is reported to Stripe.
pub(super) fn billing(unsent: &Unsent, held: Option<Gap>) -> Part {
    let is_late = unsent.oldest.is_some_and(|oldest| OffsetDateTime::now_utc() - oldest > Duration::hours(3));
    let mut details = format!("{} rows of usage wait to be sent", unsent.waiting);
    if unsent.put_aside > 0 {
        details += &format!(", {} put aside", unsent.put_aside);
    }
    if let Some(gap) = &held {
        details += &format!("; {}", gap.in_words());
    }
    let is_ok = !is_late && unsent.put_aside == 0 && held.is_none();
    Part { name: "Billing", state: State::of(is_ok), details }
}

/// Whether the models are as they should be, and what there is to say of them.
fn models(availability: Availability) -> (State, String) {
    match availability {
        Availability::Unknown => (State::Down, "the catalogue could not be read yet: routes return 503".to_owned()),
        Availability::NotConfigured => (State::Unset, "routes return 503".to_owned()),
        Availability::Catalogue { models: 0 } => (State::Unset, "none in the catalogue: routes return 404".to_owned()),
        Availability::Catalogue { models } => (State::Up, format!("{models} models")),
        Availability::Servers(ServerCounts { models, pending, without_list, problems }) => {
            let mut details = format!("{models} models");
            for (count, words) in [(without_list, "servers without a list"), (pending, "servers not asked yet")] {
                if count > 0 {
                    details += &format!(", {count} {words}");
                }
            }
            for (server, problem) in &problems {
                details += &format!("; {server}: {problem}");
            }
            (State::of(problems.is_empty() && models + without_list > 0), details)
        }
    }
}
