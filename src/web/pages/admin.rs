//! `/admin`: the pages for administrators.

use askama::Template;
use time::{Duration, OffsetDateTime};

use super::{Frame, encoded, page, query_text, show};
use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::{Availability, Purpose, ServerCounts};
use crate::store::audit::{self, Entry};
use crate::store::directory::{self, UserSummary};
use crate::store::events::{self, Event};
use crate::store::refunds::{self, Refund};
use crate::store::reporting::aside::{self, Stuck};
use crate::store::reporting::outbox::{self, Unsent};
use crate::store::reporting::sender::{self, Gap};
use crate::store::usage::days::{self, DayTotal};
use crate::web::Answer;
use crate::web::cursor::{self, last_before_next_page};

/// Accounts or audit entries on a page.
const PAGE: i64 = 50;

/// Days on the page of total usage.
const USAGE_DAYS: i64 = 30;

/// New accounts and audit entries on the overview.
const LATEST: i64 = 10;

#[derive(Template)]
#[template(path = "admin.html")]
struct Overview {
    frame: Frame,
    users: u64,
    newest: Vec<UserSummary>,
    entries: Vec<Entry>,
    parts: Vec<Part>,
    /// Usage that Stripe has refused.
    stuck: Vec<Stuck>,
    refunds: Vec<Refund>,
    alarms: Vec<Event>,
}

/// The status of one part of the system.
struct Part {
    name: &'static str,
    state: State,
    details: String,
}

/// Whether a part works.
#[derive(Clone, Copy)]
enum State {
    Up,
    Down,
    /// Nothing is set up, so nothing can fail.
    Unset,
}

impl State {
    const fn of(is_ok: bool) -> State {
        if is_ok { State::Up } else { State::Down }
    }
}

#[derive(Template)]
#[template(path = "admin_usage.html")]
struct TotalUsage {
    frame: Frame,
    chart: String,
    total: i64,
    estimated: i64,
    as_of: Option<OffsetDateTime>,
    days: Vec<DayTotal>,
}

#[derive(Template)]
#[template(path = "admin_users.html")]
struct Users {
    frame: Frame,
    query: String,
    users: Vec<UserSummary>,
    first: String,
    next: Option<String>,
    is_first: bool,
}

#[derive(Template)]
#[template(path = "admin_audit.html")]
struct Audit {
    frame: Frame,
    entries: Vec<Entry>,
    next: Option<String>,
    is_first: bool,
}

/// `GET /admin`.
pub(in crate::web) fn overview(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let mut session = call.app.db.session()?;
    let users = directory::estimate(&mut session)?;
    let newest = directory::newest(&mut session, None, LATEST)?;
    let entries = audit::page(&mut session, None, None, LATEST)?;
    let mut parts = parts(call);
    let (mut stuck, mut refunds) = (Vec::new(), Vec::new());
    if call.app.payments().is_ok() {
        refunds = refunds::open(&mut session, LATEST)?;
    }
    // Those of no account are the operator's.
    let alarms = events::newest(&mut session, "", LATEST)?;
    if call.app.config.stripe.reports_usage() {
        parts.push(billing(&outbox::unsent(&mut session)?, sender::held(&mut session)?));
        stuck = aside::list(&mut session, LATEST)?;
    }
    drop(session);
    page(
        200,
        &Overview {
            frame: Frame::new(Some(caller), "admin"),
            users: u64::try_from(users).unwrap_or(0),
            newest,
            entries,
            parts,
            stuck,
            refunds,
            alarms,
        },
    )
}

fn parts(call: &Call<'_>) -> Vec<Part> {
    let app = call.app;
    let (pool, meter, listening) = (app.db.pool_state(), app.meter.stats(), app.cache.is_subscribed());
    let aside = app.meter.aside().reason();
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
                "{} charges in {} bytes{}",
                meter.journal_charges,
                show::grouped(meter.journal_bytes),
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
fn billing(unsent: &Unsent, held: Option<Gap>) -> Part {
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

/// `GET /admin/usage`: the usage of all accounts in the last 30 days.
pub(in crate::web) fn usage(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let today = OffsetDateTime::now_utc().date();
    let days = (today - Duration::days(USAGE_DAYS - 1), today);
    let totals = days::between(&mut call.app.db.session()?, days)?;
    let costs: Vec<(&str, i64)> = totals.days.iter().map(|day| (day.day.as_str(), day.cost_micros)).collect();
    let chart = super::usage::cost_chart(days, &costs);
    let total = costs.iter().map(|(_, cost)| cost).sum();
    let estimated = totals.days.iter().map(|day| day.estimated).sum();
    let (frame, as_of) = (Frame::new(Some(caller), "admin"), totals.as_of);
    let days = totals.days.into_iter().rev().collect();
    page(200, &TotalUsage { frame, chart, total, estimated, as_of, days })
}

/// `GET /admin/users?q=&after=`.
pub(in crate::web) fn users(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let (query, after) = (query_text(call, "q"), query_text(call, "after"));
    let mut session = call.app.db.session()?;
    let mut users = match query.is_empty() {
        true => directory::newest(&mut session, cursor::parse(&after), PAGE + 1)?,
        false => directory::search(&mut session, &query, after.split_once('\u{1f}'), PAGE + 1)?,
    };
    drop(session);
    let first = format!("/admin/users?q={}", encoded(&query));
    let next = last_before_next_page(&mut users, PAGE).map(|last| {
        let after = match query.is_empty() {
            true => cursor::write(last.created, &last.id),
            // No name, address or id contains a unit separator.
            false => format!("{}\u{1f}{}", last.matched, last.id),
        };
        format!("{first}&after={}", encoded(&after))
    });
    let frame = Frame::new(Some(caller), "admin");
    page(200, &Users { frame, query, users, first, next, is_first: after.is_empty() })
}

/// `GET /admin/audit?before=`.
pub(in crate::web) fn audit(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let before = query_text(call, "before").parse().ok();
    let mut entries = audit::page(&mut call.app.db.session()?, None, before, PAGE + 1)?;
    let next = last_before_next_page(&mut entries, PAGE).map(|last| format!("/admin/audit?before={}", last.id));
    page(200, &Audit { frame: Frame::new(Some(caller), "admin"), entries, next, is_first: before.is_none() })
}
