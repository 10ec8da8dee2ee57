//! `/admin`: for those who look after the others.

use std::sync::Arc;

use askama::Template;

use super::{Frame, asked, encoded, page, show};
use crate::auth::{Caller, Via};
use crate::call::Call;
use crate::error::{Error, Result};
use crate::store::audit::{self, Entry};
use crate::store::directory::{self, Listed};
use crate::web::Answer;
use crate::web::documents::{cursor, micros};

/// Accounts, or entries of the audit, on a page.
const PAGE: i64 = 50;

/// Entries of the audit on the first page.
const LATEST: i64 = 10;

#[derive(Template)]
#[template(path = "admin.html")]
struct Overview {
    frame: Frame,
    users: u64,
    newest: Vec<Listed>,
    entries: Vec<Entry>,
    parts: Vec<Part>,
}

/// A part of this process or around it, and how it does.
struct Part {
    name: &'static str,
    is_well: bool,
    words: String,
}

#[derive(Template)]
#[template(path = "admin_users.html")]
struct Users {
    frame: Frame,
    query: String,
    users: Vec<Listed>,
    next: Option<String>,
    is_first: bool,
}

#[derive(Template)]
#[template(path = "admin_audit.html")]
struct Audit {
    frame: Frame,
    entries: Vec<Entry>,
    next: Option<i64>,
    is_first: bool,
}

/// Someone who looks after others, and came with a browser: a key is for programs, whoever's it is.
///
/// # Errors
/// 403 for anybody else.
pub(super) fn administrator(caller: Arc<Caller>) -> Result<Arc<Caller>> {
    match caller.user.is_admin && matches!(caller.via, Via::Session { .. }) {
        true => Ok(caller),
        false => Err(Error::Forbidden("Only those who look after textgen may see this page")),
    }
}

/// Goes on if an administrator is signed in.
macro_rules! administrator_or_return {
    ($call:expr) => {
        match $crate::web::pages::signed_in($call)? {
            Ok(caller) => $crate::web::pages::admin::administrator(caller)?,
            Err(elsewhere) => return Ok(elsewhere),
        }
    };
}
pub(super) use administrator_or_return;

/// `GET /admin`.
pub(in crate::web) fn overview(call: &mut Call<'_>) -> Answer {
    let caller = administrator_or_return!(call);
    let mut session = call.app.db.session()?;
    let users = directory::estimate(&mut session)?;
    let newest = directory::newest(&mut session, None, LATEST)?;
    let entries = audit::page(&mut session, None, None, LATEST)?;
    drop(session);
    page(
        200,
        &Overview {
            frame: Frame::new(Some(&caller), "admin"),
            users: u64::try_from(users).unwrap_or(0),
            newest,
            entries,
            parts: parts(call),
        },
    )
}

fn parts(call: &Call<'_>) -> Vec<Part> {
    let app = call.app;
    let pool = app.db.pool_state();
    let listening = app.cache.is_listening();
    vec![
        Part { name: "Version", is_well: true, words: env!("CARGO_PKG_VERSION").to_owned() },
        Part {
            name: "Database",
            is_well: app.db.check_reachable().is_ok(),
            words: app.db.check_reachable().map_or_else(|e| e.to_string(), |()| "reachable".to_owned()),
        },
        Part {
            name: "Connections",
            is_well: pool.idle > 0 || pool.made < pool.most,
            words: format!("{} made of {}, {} idle, {} requests wait", pool.made, pool.most, pool.idle, pool.waiting),
        },
        Part {
            name: "Revocations",
            is_well: listening,
            words: if listening { "heard at once" } else { "not heard: every caller is looked up" }.to_owned(),
        },
    ]
}

/// `GET /admin/users?q=&after=`.
pub(in crate::web) fn users(call: &mut Call<'_>) -> Answer {
    let caller = administrator_or_return!(call);
    let (query, after) = (asked(call, "q"), asked(call, "after"));
    let mut session = call.app.db.session()?;
    let mut users = match query.is_empty() {
        true => directory::newest(&mut session, cursor(&after), PAGE + 1)?,
        false => directory::search(&mut session, &query, after.split_once('\u{1f}'), PAGE + 1)?,
    };
    drop(session);
    let more = users.len() > usize::try_from(PAGE).unwrap_or(usize::MAX);
    users.truncate(usize::try_from(PAGE).unwrap_or(usize::MAX));
    let next = users.last().filter(|_| more).map(|last| {
        let after = match query.is_empty() {
            true => format!("{}_{}", micros(last.created), last.id),
            // A unit separator stands in no name, address or id.
            false => format!("{}\u{1f}{}", last.found, last.id),
        };
        format!("/admin/users?q={}&after={}", encoded(&query), encoded(&after))
    });
    let frame = Frame::new(Some(&caller), "admin");
    page(200, &Users { frame, query, users, next, is_first: after.is_empty() })
}

/// `GET /admin/audit?before=`.
pub(in crate::web) fn audit(call: &mut Call<'_>) -> Answer {
    let caller = administrator_or_return!(call);
    let before = asked(call, "before").parse().ok();
    let mut entries = audit::page(&mut call.app.db.session()?, None, before, PAGE + 1)?;
    let more = entries.len() > usize::try_from(PAGE).unwrap_or(usize::MAX);
    entries.truncate(usize::try_from(PAGE).unwrap_or(usize::MAX));
    let next = entries.last().filter(|_| more).map(|last| last.id);
    page(200, &Audit { frame: Frame::new(Some(&caller), "admin"), entries, next, is_first: before.is_none() })
}
