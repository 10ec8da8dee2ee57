//! `/admin`: the pages for administrators.

use std::collections::BTreeMap;

use askama::Template;

use super::admin_parts::{self, Part, State};
use super::{Frame, encoded, page, query_text, show};
use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::ProviderState;
use crate::error::Result;
use crate::store::audit::{self, Entry, Filter};
use crate::store::directory::{self, Listed, UserSummary};
use crate::store::events::{self, Event};
use crate::store::refunds::{self, Refund};
use crate::store::reporting::aside::{self, Stuck};
use crate::store::reporting::outbox;
use crate::store::reporting::sender;
use crate::web::Answer;
use crate::web::cursor::{self, last_before_next_page};

/// Accounts or audit entries on a page.
const PAGE: i64 = 50;

/// New accounts and audit entries on the overview.
const LATEST: i64 = 10;

#[derive(Template)]
#[template(path = "admin.html")]
struct Overview {
    frame: Frame,
    /// `None` while the database cannot be asked.
    stored: Option<Stored>,
    parts: Vec<Part>,
    providers: BTreeMap<String, ProviderState>,
}

/// What is in the database.
struct Stored {
    users: u64,
    newest: Vec<UserSummary>,
    entries: Vec<Entry>,
    /// Usage that Stripe has refused.
    stuck: Vec<Stuck>,
    refunds: Vec<Refund>,
    alarms: Vec<Event>,
    billing: Option<Part>,
}

#[derive(Template)]
#[template(path = "admin_users.html")]
struct Users {
    frame: Frame,
    query: String,
    /// The only accounts that are listed, if not all.
    status: String,
    users: Vec<UserSummary>,
    first: String,
    next: Option<String>,
    is_first: bool,
}

#[derive(Template)]
#[template(path = "admin_audit.html")]
struct Audit {
    frame: Frame,
    /// The only actor and action that are listed, if not all.
    actor: String,
    action: String,
    entries: Vec<Entry>,
    first: String,
    next: Option<String>,
    is_first: bool,
}

/// `GET /admin`. It is needed most while the database is away: then it shows what this process knows, to administrators who
/// are in the cache of callers still (`AUTH_GRACE`).
pub(in crate::web) fn overview(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let stored = match Stored::read(call) {
        Ok(stored) => Some(stored),
        Err(e) if e.status() == 503 => None,
        Err(e) => return Err(e),
    };
    let mut parts = admin_parts::parts(call.app);
    let mut stored = stored;
    parts.extend(stored.as_mut().and_then(|stored| stored.billing.take()));
    let (frame, providers) = (Frame::new(Some(caller), "admin"), call.app.models.providers());
    page(200, &Overview { frame, stored, parts, providers })
}

impl Stored {
    fn read(call: &Call<'_>) -> Result<Stored> {
        let app = call.app;
        let mut session = app.db.session()?;
        let has_payments = app.payments().is_ok();
        let reports_usage = app.config.stripe.reports_usage();
        Ok(Stored {
            users: u64::try_from(directory::estimate(&mut session)?).unwrap_or(0),
            newest: directory::newest(&mut session, Listed::All, None, LATEST)?,
            entries: audit::page(&mut session, Filter::default(), None, LATEST)?,
            refunds: if has_payments { refunds::open(&mut session, LATEST)? } else { Vec::new() },
            // Those of no account are the operator's.
            alarms: events::newest(&mut session, "", LATEST)?,
            billing: match reports_usage {
                true => Some(admin_parts::billing(&outbox::unsent(&mut session)?, sender::held(&mut session)?)),
                false => None,
            },
            stuck: if reports_usage { aside::list(&mut session, LATEST)? } else { Vec::new() },
        })
    }
}

/// `GET /admin/users?q=&after=`.
pub(in crate::web) fn users(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let (query, after, status) = (query_text(call, "q"), query_text(call, "after"), query_text(call, "status"));
    let listed = Listed::named(&status).unwrap_or_default();
    let mut session = call.app.db.session()?;
    let mut users = match query.is_empty() {
        true => directory::newest(&mut session, listed, cursor::parse(&after), PAGE + 1)?,
        false => directory::search(&mut session, &query, after.split_once('\u{1f}'), PAGE + 1)?,
    };
    drop(session);
    let first = format!("/admin/users?q={}&status={}", encoded(&query), encoded(&status));
    let next = last_before_next_page(&mut users, PAGE).map(|last| {
        let after = match query.is_empty() {
            true => cursor::write(last.created, &last.id),
            // No name, address or id contains a unit separator.
            false => format!("{}\u{1f}{}", last.matched, last.id),
        };
        format!("{first}&after={}", encoded(&after))
    });
    let frame = Frame::new(Some(caller), "admin");
    page(200, &Users { frame, query, status, users, first, next, is_first: after.is_empty() })
}

/// `GET /admin/audit?actor=&action=&before=`.
pub(in crate::web) fn audit(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let before = query_text(call, "before").parse().ok();
    let (actor, action) = (query_text(call, "actor"), query_text(call, "action"));
    let some = |text: &'_ String| Some(text.clone()).filter(|text| !text.is_empty());
    let (of_actor, of_action) = (some(&actor), some(&action));
    let filter = Filter { actor: of_actor.as_deref(), action: of_action.as_deref(), ..Filter::default() };
    let mut entries = audit::page(&mut call.app.db.session()?, filter, before, PAGE + 1)?;
    let first = format!("/admin/audit?actor={}&action={}", encoded(&actor), encoded(&action));
    let next = last_before_next_page(&mut entries, PAGE).map(|last| format!("{first}&before={}", last.id));
    let frame = Frame::new(Some(caller), "admin");
    page(200, &Audit { frame, actor, action, entries, first, next, is_first: before.is_none() })
}
