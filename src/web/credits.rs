//! The API of credit: what an account has, and giving it to one.

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::cursor::Page;
use super::{Answer, fields, keys, record};
use crate::accounts::{self, budgets, credits};
use crate::auth::Caller;
use crate::call::Call;
use crate::error::{Error, NOT_AUTHENTICATED, Result};
use crate::http::Response;
use crate::http::request_fields::request_fields;
use crate::operation::Group;
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, get, post, summary};
use crate::store::credits::{Entry, Expiring, Kind, NewEntry, page};
use crate::store::{User, timestamp, users};

/// Entries on a page of the list, unless `limit` asks for fewer.
const PAGE: i64 = 1000;

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    vec![
        get("/api/credits", Authenticated(show)).described(
            summary(Group::Usage, "What is left of the account's credit, when it expires, and how it came about")
                .query::<ListCredits>()
                .reply::<Credits>()
                .status(400, "limit or after is invalid"),
        ),
        post("/api/admin/credits", Authenticated(add)).for_administrators().described(
            summary(Group::Administration, "Give credit to an account, or take it away")
                .fields::<AddCredit<'_>>()
                .reply::<AddedCredit>()
                .status(404, NO_ACCOUNT)
                .status(409, "Another change of credit has this id"),
        ),
        post("/api/admin/limits/lift", Authenticated(lift)).for_administrators().described(
            summary(Group::Administration, "Lift a budget for a time: spending is counted until then, but not limited")
                .fields::<LiftBudget<'_>>()
                .reply::<LiftedBudget<'_>>()
                .status(404, "There is no such account, key or budget"),
        ),
    ]
}

const NO_ACCOUNT: &str = "Account not found";

/// The parameters of the list.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the query")]
struct ListCredits {
    /// 1 to 1000.
    limit: Option<i64>,
    /// The `next` of the page before.
    after: Option<String>,
}

request_fields! {
    /// A change of an account's credit.
    struct AddCredit<'f> {
        /// The account's e-mail address or id.
        user: &'f str,
        /// How much, in micro-dollars (a millionth of a dollar). Below zero it takes credit away, at most what is
        /// neither spent nor set aside for requests that run.
        #[schemars(required)]
        amount_micros: Option<i64>,
        /// Why, for the account's owner to read; at most 300 characters.
        reason: &'f str,
        /// The same id twice changes the credit once.
        id: Option<&'f str>,
        /// When what is left of it expires; never by default.
        #[schemars(extend("format" = "date-time"))]
        expires: Option<&'f str>,
    }
}

request_fields! {
    /// Which budget is lifted.
    struct LiftBudget<'f> {
        /// The account's e-mail address or id.
        user: &'f str,
        /// The id of a key, whose budget it is; by default, that of the account.
        key: Option<&'f str>,
        /// When it limits again by itself; without a time, it does so now.
        #[schemars(extend("format" = "date-time"))]
        until: Option<&'f str>,
    }
}

#[derive(Serialize, JsonSchema)]
struct LiftedBudget<'a> {
    user: &'a str,
    key: Option<&'a str>,
    #[serde(serialize_with = "timestamp::serialize_zulu_option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    lifted_until: Option<OffsetDateTime>,
}

#[derive(Serialize, JsonSchema)]
struct Credits {
    /// What can be spent, in micro-dollars.
    balance_micros: i64,
    /// The same by when it expires, the first ones first. It is spent in this order.
    expiring: Vec<Expiring>,
    /// How it came about, newest first. What was spent is not listed.
    entries: Vec<Entry>,
    /// The `after` of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct AddedCredit {
    entry: Entry,
    /// Whether the entry was made now, and not before with the same id.
    is_new: bool,
    /// What the account can spend now, in micro-dollars.
    balance_micros: i64,
}

/// `GET /api/credits?limit=&after=`.
fn show(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let asked = Page::of(call.request, PAGE)?;
    let mut session = call.app.db.session()?;
    // From the database and not the cache: credit may just have been added.
    let user = users::by_id(&mut session, &caller.user.id)?.ok_or(Error::Unauthorized(NOT_AUTHENTICATED))?;
    let balance = credits::balance(&mut session, user.balance_id.as_deref())?;
    let mut entries = page(&mut session, &user.id, asked.after(), asked.limit + 1)?;
    drop(session);
    let next = asked.cut(&mut entries, false, |last| (last.created, &last.id));
    let (balance_micros, expiring) = (balance.balance_micros, balance.expiring);
    Ok(Response::json_reserved(200, &Credits { balance_micros, expiring, entries, next })?)
}

/// `POST /api/admin/credits` with `user`, `amount_micros` and `reason`, and optionally `id` and `expires`.
fn add(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let AddCredit { user, amount_micros, reason, id, expires } = AddCredit::read(&fields)?;
    let expires = expires.filter(|text| !text.is_empty()).map(|text| time_of("expires", text)).transpose()?;
    let user = accounts::find(&mut call.app.db.session()?, user)?.ok_or(Error::NotFound(NO_ACCOUNT))?;
    let amount_micros = amount_micros.ok_or(Error::bad("amount_micros is required"))?;
    let new = NewEntry { id: id.unwrap_or_default(), kind: kind_of(amount_micros), amount_micros, expires, reason };
    let added = add_for(call, caller, &user, &new)?;
    let mut session = call.app.db.session()?;
    let balance_id = users::by_id(&mut session, &user.id)?.and_then(|user| user.balance_id);
    if let Some(id) = &balance_id {
        // Other processes hear of it; this one need not wait for that.
        call.app.meter.limits().notified(id);
    }
    let balance = credits::balance(&mut session, balance_id.as_deref())?;
    drop(session);
    let credits::Added { entry, is_new } = added;
    Ok(Response::json(200, &AddedCredit { entry, is_new, balance_micros: balance.balance_micros }))
}

/// What an operator's change of credit is.
pub(super) fn kind_of(amount_micros: i64) -> Kind {
    if amount_micros < 0 { Kind::Correction } else { Kind::Grant }
}

/// Changes an account's credit, and records it in the audit log.
///
/// # Errors
/// As [`credits::add`].
pub(super) fn add_for(call: &Call<'_>, caller: &Caller, user: &User, new: &NewEntry<'_>) -> Result<credits::Added> {
    let added = credits::add_now(&call.app.db, &user.id, new, |db, added| {
        record(call, caller, db, "credit", user, &credits::in_words(&added.entry))
    })?;
    call.app.cache.revoke(&user.id);
    Ok(added)
}

/// `POST /api/admin/limits/lift` with `user`, and optionally `key` and `until`.
fn lift(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let LiftBudget { user, key, until } = LiftBudget::read(&fields)?;
    let until = until.filter(|text| !text.is_empty()).map(|text| time_of("until", text)).transpose()?;
    let user = accounts::find(&mut call.app.db.session()?, user)?.ok_or(Error::NotFound(NO_ACCOUNT))?;
    lift_for(call, caller, &user, key, until)?;
    Ok(Response::json(200, &LiftedBudget { user: &user.id, key, lifted_until: until }))
}

/// Lifts a budget, and records it in the audit log.
///
/// # Errors
/// As [`budgets::lift`].
pub(super) fn lift_for(
    call: &Call<'_>,
    caller: &Caller,
    user: &User,
    key: Option<&str>,
    until: Option<OffsetDateTime>,
) -> Result<()> {
    let budget_id = keys::in_transaction(call, |db| {
        let id = budgets::lift(db, &user.id, key, until)?;
        record(call, caller, db, "lift limit", user, &budgets::lift_in_words(key, until))?;
        Ok(id)
    })?;
    // Other processes hear of it; this one need not wait for that.
    call.app.meter.limits().notified(&budget_id);
    Ok(())
}

fn time_of(name: &str, text: &str) -> Result<OffsetDateTime> {
    timestamp::parse(text).ok_or_else(|| Error::bad(format!("{name} must be a time such as 2027-01-01T00:00:00Z")))
}
