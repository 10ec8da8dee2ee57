//! `/admin/users/{id}`: one account and the actions on it. Each action is recorded in the audit log, in the same
//! transaction.

use askama::Template;
use time::{Duration, OffsetDateTime};

use super::limits::{Limits, dollars};
use super::{Frame, Problem, Refused, page, segment, show, subscribe, typed};
use crate::accounts::scopes::{self, AccountScope};
use crate::accounts::{self, new_id, second_factor};
use crate::auth::Caller;
use crate::call::Call;
use crate::db::Transaction;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::http::form::Fields;
use crate::http::request_fields::Change;
use crate::store::audit::{self, Entry, Filter};
use crate::store::credits::NewEntry;
use crate::store::subscriptions::{self, Subscription};
use crate::store::usage::lists::{self, ChargedCall};
use crate::store::users::Status;
use crate::store::{ApiKey, BrowserSession, User, api_keys, sessions, timestamp, users};
use crate::web::{Answer, admin_users, credits, fields, keys, record};

/// Audit entries on the page.
const ENTRIES: i64 = 20;

/// Charged calls on the page.
const CALLS: i64 = 10;

/// The most characters of a reason; the rest is cut off.
const LONGEST_REASON: usize = 300;

/// The longest that this page lifts a limit, in hours: a year.
const MOST_HOURS: i64 = 8760;

/// The notice for each `done` in the query.
const NOTICES: &[(&str, &str)] = &[
    ("suspended", "Suspended. The account's keys and sessions no longer work."),
    ("restored", "Restored. The account's keys and sessions work again."),
    ("promoted", "This account is an administrator’s now."),
    ("demoted", "This account is no administrator’s any more."),
    ("sessions", "Signed out of all browsers."),
    ("two-factor", "Two-factor authentication turned off. The password alone logs in again."),
    ("key", "Key revoked."),
    ("lifted", "Limit lifted."),
    ("scope", "Models and addresses saved."),
    ("limited", "The limit applies again."),
    ("credit", "Credit changed."),
];

#[derive(Template)]
#[template(path = "admin_user.html")]
struct UserPage {
    frame: Frame,
    user: User,
    status: Status,
    keys: Vec<ApiKey>,
    limits: Limits,
    can_lift: bool,
    /// The id of the next change of credit: sending the form twice makes it once.
    credit_id: String,
    sessions: Vec<BrowserSession>,
    entries: Vec<Entry>,
    newest: Vec<ChargedCall>,
    is_self: bool,
    /// A link that was just made. It is shown once.
    link: Option<String>,
    subscription: Option<Subscription>,
    refused: Refused,
}

/// `GET /admin/users/{id}`.
pub(in crate::web) fn show(call: &mut Call<'_>, caller: &Caller) -> Answer {
    render(call, caller, None, None)
}

fn render(call: &Call<'_>, caller: &Caller, link: Option<String>, problem: Option<Problem>) -> Answer {
    let id = segment(call, 0)?;
    let mut session = call.app.db.session()?;
    let user = users::by_id(&mut session, &id)?.ok_or(Error::NotFound(NO_ACCOUNT))?;
    let keys = api_keys::of_user(&mut session, &id)?;
    let user_page = UserPage {
        frame: Frame::new(Some(caller), "admin").with_notice(call, NOTICES),
        status: users::status(&mut session, &id)?,
        limits: Limits::of(&mut session, &user, &keys)?,
        can_lift: true,
        credit_id: new_id("credit_")?,
        keys,
        sessions: sessions::of_user(&mut session, &id)?,
        entries: audit::page(&mut session, Filter { user_id: Some(&id), ..Filter::default() }, None, ENTRIES)?,
        newest: lists::newest(&mut session, &id, "", CALLS)?,
        is_self: caller.user.id == user.id,
        link,
        subscription: subscriptions::of_user(&mut session, &id)?,
        refused: Refused(problem),
        user,
    };
    drop(session);
    page(user_page.refused.status(), &user_page)
}

const NO_ACCOUNT: &str = "Account not found";

/// A form of this page: the one of the path's last segments, and the fields that are shown again with what was entered.
type Form = (&'static str, &'static [&'static str]);

/// The forms that are about the account as a whole and ask for nothing: what is wrong is shown at the top.
const PLAIN: Form = ("", &[]);

/// Handles a form on the account in the path: leads to its page with the `done` that `work` returns, or shows the page again
/// with what is wrong. `work` gets the place for the name of the field that it looks at.
fn handle(
    call: &mut Call<'_>,
    caller: &Caller,
    (form, kept): Form,
    work: impl FnOnce(&Call<'_>, &str, &Fields, &mut &'static str) -> Result<&'static str>,
) -> Answer {
    let fields = fields(call)?;
    let id = segment(call, 0)?;
    let mut field = "";
    match work(call, &id, &fields, &mut field) {
        Ok(done) => Ok(Response::see_other(format!("/admin/users/{id}?done={done}"))),
        Err(e) => {
            let problem = Problem::of(form, e)?.with(field, "", typed(&fields, kept));
            render(call, caller, None, Some(problem))
        }
    }
}

/// As [`handle`]: does `work` on the account and records it in the audit log, in one transaction. `work` returns the details
/// for the log.
fn act(
    call: &mut Call<'_>,
    caller: &Caller,
    form: Form,
    (done, action): (&'static str, &str),
    work: impl FnOnce(&mut Transaction<'_>, &User, &Fields, &mut &'static str) -> Result<String>,
) -> Answer {
    handle(call, caller, form, |call, id, fields, field| {
        keys::in_transaction(call, |db| {
            let user = users::by_id(db, id)?.ok_or(Error::NotFound(NO_ACCOUNT))?;
            let details = work(db, &user, fields, field)?;
            record(call, caller, db, action, &user, &details)
        })?;
        call.app.cache.revoke(id);
        Ok(done)
    })
}

/// A reason as it is recorded.
fn reason(fields: &Fields) -> Result<String> {
    Ok(fields.optional_text("reason")?.unwrap_or("").trim().chars().take(LONGEST_REASON).collect())
}

/// `POST /admin/users/{id}/suspend` with a `reason`.
pub(in crate::web) fn suspend(call: &mut Call<'_>, caller: &Caller) -> Answer {
    act(call, caller, ("suspend", &["reason"]), ("suspended", "suspend"), |db, user, fields, _| {
        if caller.user.id == user.id {
            return Err(Error::bad("You cannot suspend your own account"));
        }
        users::set_suspended(db, &user.id, true)?;
        reason(fields)
    })
}

/// `POST /admin/users/{id}/restore`.
pub(in crate::web) fn restore(call: &mut Call<'_>, caller: &Caller) -> Answer {
    act(call, caller, PLAIN, ("restored", "restore"), |db, user, _, _| {
        users::set_suspended(db, &user.id, false)?;
        Ok(String::new())
    })
}

/// `POST /admin/users/{id}/promote`: makes it an administrator's.
pub(in crate::web) fn promote(call: &mut Call<'_>, caller: &Caller) -> Answer {
    act(call, caller, PLAIN, ("promoted", "promote"), |db, user, _, _| {
        accounts::set_admin(db, user, true)?;
        Ok(String::new())
    })
}

/// `POST /admin/users/{id}/demote`.
pub(in crate::web) fn demote(call: &mut Call<'_>, caller: &Caller) -> Answer {
    act(call, caller, PLAIN, ("demoted", "demote"), |db, user, _, _| {
        accounts::set_admin(db, user, false)?;
        Ok(String::new())
    })
}

/// `POST /admin/users/{id}/sessions`: ends all sessions.
pub(in crate::web) fn end_sessions(call: &mut Call<'_>, caller: &Caller) -> Answer {
    act(call, caller, PLAIN, ("sessions", "end sessions"), |db, user, _, _| {
        Ok(format!("{} ended", sessions::delete_others(db, &user.id, "")?))
    })
}

/// `POST /admin/users/{id}/two-factor`, with a `reason`, turns two-factor authentication off, for whoever has lost what it
/// takes.
pub(in crate::web) fn turn_off_two_factor(call: &mut Call<'_>, caller: &Caller) -> Answer {
    act(call, caller, PLAIN, ("two-factor", "turn off two-factor"), |db, user, fields, _| {
        second_factor::turn_off(db, &user.id)?;
        reason(fields)
    })
}

/// `POST /admin/users/{id}/keys` revokes the key `id`.
pub(in crate::web) fn revoke_key(call: &mut Call<'_>, caller: &Caller) -> Answer {
    act(call, caller, PLAIN, ("key", "revoke key"), |db, user, fields, _| {
        let id = fields.text("id")?;
        crate::accounts::keys::revoke(db, &user.id, id)?;
        Ok(id.to_owned())
    })
}

/// `POST /admin/users/{id}/scope`: the account is limited to these `models` and `addresses`.
pub(in crate::web) fn set_scope(call: &mut Call<'_>, caller: &Caller) -> Answer {
    act(call, caller, ("scope", &["models", "addresses"]), ("scope", "limit"), |db, user, fields, field| {
        let models = edited(fields.optional_text("models")?, user.models.as_deref());
        let addresses = edited(fields.optional_text("addresses")?, user.addresses.as_deref());
        *field = "models";
        let mut details = scopes::set_for_account(db, &user.id, AccountScope { models, addresses: Change::Keep })?;
        *field = "addresses";
        details.extend(scopes::set_for_account(db, &user.id, AccountScope { models: Change::Keep, addresses })?);
        Ok(details.join("; "))
    })
}

/// What a form says of a list: its items, separated by commas. An empty one is no limit; one that was not edited stays,
/// also where it permits nothing.
fn edited(text: Option<&str>, current: Option<&[String]>) -> Change<Vec<String>> {
    let Some(text) = text else { return Change::Keep };
    let items: Vec<String> =
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect();
    match items.is_empty() {
        _ if items == current.unwrap_or_default() => Change::Keep,
        true => Change::Clear,
        false => Change::Set(items),
    }
}

fn user_of(call: &Call<'_>, id: &str) -> Result<User> {
    users::by_id(&mut call.app.db.session()?, id)?.ok_or(Error::NotFound(NO_ACCOUNT))
}

/// `POST /admin/users/{id}/limits/lift`: the budget of the account, or of a `key`, does not limit for so many `hours`.
pub(in crate::web) fn lift_limit(call: &mut Call<'_>, caller: &Caller) -> Answer {
    handle(call, caller, PLAIN, |call, id, fields, _| {
        let user = user_of(call, id)?;
        let key = fields.optional_text("key")?.filter(|id| !id.is_empty());
        let hours = fields.optional_integer("hours")?.filter(|hours| (0..=MOST_HOURS).contains(hours));
        let hours = hours.ok_or(Error::bad("hours must be from 0 to 8760"))?;
        let until = (hours > 0).then(|| OffsetDateTime::now_utc() + Duration::hours(hours));
        credits::lift_for(call, caller, &user, key, until)?;
        Ok(if hours > 0 { "lifted" } else { "limited" })
    })
}

/// `POST /admin/users/{id}/link`: makes a link with which the account's password can be set, and shows it.
pub(in crate::web) fn make_link(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let user = user_of(call, &segment(call, 0)?)?;
    let link = admin_users::link_for(call, caller, &user)?;
    render(call, caller, Some(link.address), None)
}

/// `POST /admin/users/{id}/credit`: adds an `amount` in US$, or withdraws it.
pub(in crate::web) fn change_credit(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let form: Form = ("credit", &["action", "amount", "reason", "expires"]);
    handle(call, caller, form, |call, id, fields, field| {
        let user = user_of(call, id)?;
        *field = "amount";
        let amount = dollars(fields.text("amount")?).map_err(Error::bad)?;
        let amount_micros = if fields.optional_text("action")? == Some("withdraw") { -amount } else { amount };
        *field = "expires";
        let expires = fields.optional_text("expires")?.filter(|text| !text.is_empty());
        let expires = expires
            .map(|day| timestamp::parse(&format!("{day}T00:00:00Z")).ok_or(Error::bad("Expires must be a day")))
            .transpose()?;
        if expires.is_some_and(|time| time <= OffsetDateTime::now_utc()) {
            return Err(Error::bad("Expires must be in the future"));
        }
        let new = NewEntry {
            id: fields.optional_text("id")?.unwrap_or_default(),
            kind: credits::kind_of(amount_micros),
            amount_micros,
            expires,
            reason: fields.optional_text("reason")?.unwrap_or_default(),
        };
        *field = if new.reason.trim().is_empty() { "reason" } else { "amount" };
        credits::add_for(call, caller, &user, &new)?;
        Ok("credit")
    })
}
