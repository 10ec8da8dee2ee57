//! The operator's API of what was spent and of what was done: the twin of `textgen usage` and `textgen audit`.

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::cursor::{cut_list, last_before_next_page};
use super::usage::{iso_date, range};
use super::{Answer, cursor};
use crate::accounts;
use crate::accounts::spend::{Spend, SpendBy, spending};
use crate::auth::Caller;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::operation::Group::Administration;
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, get, summary};
use crate::store::audit::{self, Entry, Filter};
use crate::store::{User, timestamp};

/// Sums or entries on a page, unless `limit` asks for fewer.
const PAGE: i64 = 1000;

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    let all = [
        get("/api/admin/usage", Authenticated(usage)).described(
            summary(
                Administration,
                "What all accounts spent, or one of them: by day, or the largest of each kind first",
            )
            .query::<UsageQuery>()
            .reply::<AllUsage>()
            .status(400, "A day, by, limit or after is invalid")
            .status(404, NO_ACCOUNT),
        ),
        get("/api/admin/audit", Authenticated(audit_log)).described(
            summary(Administration, "What administrators and commands have done, newest first")
                .query::<AuditQuery>()
                .reply::<AuditList>()
                .status(400, "limit or after is invalid"),
        ),
    ];
    all.into_iter().map(Operation::for_administrators).collect()
}

const NO_ACCOUNT: &str = "Account not found";

#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the query")]
struct UsageQuery {
    /// The first day (UTC), such as 2026-11-01; the first of the month by default.
    from: Option<String>,
    /// The last day; today by default.
    to: Option<String>,
    /// day, user, key or model; also route, of one account. day by default.
    by: Option<String>,
    /// Only the account with this e-mail address or id.
    user: Option<String>,
    /// 1 to 1000.
    limit: Option<i64>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// Of accounts, keys and models, those that spent most: a thousand at most.
#[derive(Serialize, JsonSchema)]
struct AllUsage {
    from: String,
    to: String,
    by: &'static str,
    /// What all charges of these days cost, in micro-dollars.
    cost_micros: i64,
    /// Everything charged before this time is included; null if that is everything.
    #[serde(serialize_with = "timestamp::serialize_zulu_option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    as_of: Option<OffsetDateTime>,
    usage: Vec<Sum>,
    /// The `after` of the next page.
    next: Option<String>,
}

/// Charges that have in common what was asked for.
#[derive(Serialize, JsonSchema)]
struct Sum {
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<String>,
    /// The account's e-mail address; missing if it was deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// The key's id; missing for charges without one, as in a browser.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_name: Option<String>,
    charges: i64,
    /// Cost, in micro-dollars.
    cost_micros: i64,
}

impl Sum {
    fn new(sum: Spend, by: SpendBy) -> Sum {
        let Spend { label, spender } = sum;
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let (day, route) = match by {
            SpendBy::Day => (some(label), None),
            SpendBy::Route => (None, some(label)),
            _ => (None, None),
        };
        let is_of_account = matches!(by, SpendBy::User | SpendBy::Key);
        Sum {
            day,
            route,
            model: some(spender.model),
            user_id: some(spender.user_id).filter(|_| is_of_account),
            user: some(spender.email).filter(|_| is_of_account),
            key: some(spender.key_id),
            key_name: some(spender.key_name),
            charges: spender.events,
            cost_micros: spender.cost.micros(),
        }
    }

    /// What it is found again by.
    fn id(sum: &Spend) -> String {
        let Spend { label, spender } = sum;
        format!("{label}{}{}{}", spender.user_id, spender.key_id, spender.model)
    }
}

/// What a request asks for: by what, and of whom.
pub(super) fn asked(call: &Call<'_>) -> Result<(SpendBy, Option<User>)> {
    let by = call.request.query("by").filter(|by| !by.is_empty());
    let by = by.map_or(Some(SpendBy::Day), |by| SpendBy::named(&by));
    let by = by.ok_or_else(|| Error::bad("by must be day, user, key, model or route"))?;
    let name = call.request.query("user").map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    let user = match name {
        Some(name) => Some(accounts::find(&mut call.app.db.session()?, &name)?.ok_or(Error::NotFound(NO_ACCOUNT))?),
        None => None,
    };
    Ok((by, user))
}

/// `GET /api/admin/usage`.
fn usage(call: &mut Call<'_>, _: &Caller) -> Answer {
    let (from, to) = range(call)?;
    let (by, user) = asked(call)?;
    let found = spending(&mut call.app.db.session()?, (from, to), by, user.as_ref())?;
    let mut sums: Vec<(String, Spend)> = found.sums.into_iter().map(|sum| (Sum::id(&sum), sum)).collect();
    let next = cut_list(call.request, PAGE, &mut sums, |(id, _)| id)?;
    let usage = sums.into_iter().map(|(_, sum)| Sum::new(sum, by)).collect();
    let (from, to, cost_micros, as_of) = (iso_date(from), iso_date(to), found.total.micros(), found.as_of);
    Ok(Response::json_reserved(200, &AllUsage { from, to, by: by.name(), cost_micros, as_of, usage, next })?)
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the query")]
struct AuditQuery {
    /// 1 to 1000.
    limit: Option<i64>,
    /// The `next` of the page before.
    after: Option<String>,
    /// Only what was done to the account with this id.
    user_id: Option<String>,
    /// Only what this administrator did, by e-mail address; or `command line`.
    actor: Option<String>,
    /// Only this, such as `suspend`.
    action: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct AuditList {
    entries: Vec<AuditEntry>,
    /// The `after` of the next page.
    next: Option<String>,
}

/// Something that was done.
#[derive(Serialize, JsonSchema)]
struct AuditEntry {
    id: i64,
    #[serde(serialize_with = "timestamp::serialize_zulu")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    at: OffsetDateTime,
    /// Who did it: an administrator's e-mail address at that time, or `command line`.
    actor: String,
    action: String,
    /// The account that it was done to; empty for something else.
    user_id: String,
    /// Its e-mail address at that time, or what else it was done to.
    target: String,
    detail: String,
}

impl From<Entry> for AuditEntry {
    fn from(entry: Entry) -> AuditEntry {
        let Entry { id, at, actor, action, user_id, user_email: target, detail } = entry;
        AuditEntry { id, at, actor, action, user_id, target, detail }
    }
}

/// `GET /api/admin/audit`.
fn audit_log(call: &mut Call<'_>, _: &Caller) -> Answer {
    let (limit, after) = cursor::asked(call.request, PAGE)?;
    let before = after.map(|text| text.parse().map_err(|_| Error::bad(cursor::NO_POSITION))).transpose()?;
    let text = |name| call.request.query(name).filter(|text| !text.is_empty());
    let (user_id, actor, action) = (text("user_id"), text("actor"), text("action"));
    let filter = Filter { user_id: user_id.as_deref(), actor: actor.as_deref(), action: action.as_deref() };
    let mut entries = audit::page(&mut call.app.db.session()?, filter, before, limit + 1)?;
    let next = last_before_next_page(&mut entries, limit).map(|last| last.id.to_string());
    let entries = entries.into_iter().map(AuditEntry::from).collect();
    Ok(Response::json_reserved(200, &AuditList { entries, next })?)
}
