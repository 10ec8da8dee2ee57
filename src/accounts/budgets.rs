//! Setting the budgets of accounts and of keys.

use time::OffsetDateTime;

use super::{keys, new_id};
use crate::db::Executor;
use crate::error::{Error, Result};
use crate::money::{Cost, in_dollars};
use crate::store::budgets::{self, BudgetChange, BudgetSpec, Window};
use crate::store::{timestamp, users};

/// Sets or removes the budget of an account. A new one is for a month. What was spent in the current window counts. To
/// be called in a transaction. Returns what the budget is then.
///
/// # Errors
/// 400 for a budget that is none, 401 if the account has just been deleted.
pub fn set_for_account(
    db: &mut impl Executor,
    user_id: &str,
    change: Option<BudgetChange>,
) -> Result<Option<BudgetSpec>> {
    keys::lock_account(db, user_id)?;
    let current = users::by_id(db, user_id)?.and_then(|user| user.budget_id);
    Ok(match (current, change) {
        (None, None) => None,
        (Some(id), Some(change)) => Some(update(db, &id, user_id, change, false)?),
        (None, Some(change)) => {
            let spec = change.apply(None, Window::Month);
            let id = insert(db, user_id, &spec)?;
            budgets::assign_to_user(db, user_id, Some(&id))?;
            budgets::count_anew(db, &id, user_id, false)?;
            Some(spec)
        }
        (Some(id), None) => {
            budgets::assign_to_user(db, user_id, None)?;
            budgets::delete(db, &id)?;
            None
        }
    })
}

/// Sets or removes the budget of a working key. A new one is in total. Returns its id. To be called in a transaction.
///
/// # Errors
/// 400 for a budget that is none, 404 without such a key, 401 if the account has just been deleted.
pub fn set_for_key(
    db: &mut impl Executor,
    user_id: &str,
    key_id: &str,
    change: Option<BudgetChange>,
) -> Result<Option<String>> {
    let key = keys::lock(db, user_id, key_id)?;
    Ok(match (key.budget_id, change) {
        (None, None) => None,
        (Some(id), Some(change)) => {
            update(db, &id, user_id, change, true)?;
            Some(id)
        }
        (None, Some(change)) => {
            let id = insert(db, user_id, &change.apply(None, Window::Total))?;
            budgets::assign_to_key(db, user_id, key_id, &id)?;
            budgets::count_anew(db, &id, user_id, true)?;
            Some(id)
        }
        (Some(id), None) => {
            if budgets::take_from_key(db, user_id, key_id, &id)? {
                budgets::delete(db, &id)?;
            }
            None
        }
    })
}

/// Lifts the budget of an account, or of one of its working keys, until a time: spending is counted until then, but not
/// limited. `None` ends that. Returns the budget's id. To be called in a transaction.
///
/// # Errors
/// 400 for a time that has passed, 404 without such a budget, 401 if the account has just been deleted.
pub fn lift(
    db: &mut impl Executor,
    user_id: &str,
    key_id: Option<&str>,
    until: Option<OffsetDateTime>,
) -> Result<String> {
    if until.is_some_and(|until| until <= OffsetDateTime::now_utc() || until.year() > 9999) {
        return Err(Error::bad("until must be in the future"));
    }
    let key = key_id.map(|key_id| keys::lock(db, user_id, key_id)).transpose()?;
    if key.is_none() {
        keys::lock_account(db, user_id)?;
    }
    let of_account = users::by_id(db, user_id)?.and_then(|user| user.budget_id);
    let id = key.map_or(of_account, |key| key.budget_id);
    let id = id.ok_or(Error::NotFound("There is no budget to lift"))?;
    budgets::lift(db, &id, until)?;
    Ok(id)
}

/// A budget in words, for operators.
pub fn in_words(budget: &BudgetSpec) -> String {
    format!("US$ {}, {}, {}", in_dollars(budget.limit_micros), budget.window.name(), budget.timezone)
}

fn insert(db: &mut impl Executor, user_id: &str, spec: &BudgetSpec) -> Result<String> {
    check(db, spec)?;
    let id = new_id("budget_")?;
    budgets::insert(db, &id, user_id, spec)?;
    Ok(id)
}

fn update(db: &mut impl Executor, id: &str, user_id: &str, change: BudgetChange, of_keys: bool) -> Result<BudgetSpec> {
    let current = budgets::lock(db, id)?;
    let spec = change.apply(current.clone(), Window::Total);
    check(db, &spec)?;
    budgets::update(db, id, &spec)?;
    if current.is_some_and(|current| (current.window, current.timezone) != (spec.window, spec.timezone.clone())) {
        budgets::count_anew(db, id, user_id, of_keys)?;
    }
    Ok(spec)
}

fn check(db: &mut impl Executor, spec: &BudgetSpec) -> Result<()> {
    if !(0..=Cost::MAX.micros()).contains(&spec.limit_micros) {
        return Err(Error::bad("limit_micros must be from 0 to 1000000000000000"));
    }
    let zone = &spec.timezone;
    let is_name = zone.len() <= 64
        && zone.starts_with(|first: char| first.is_ascii_uppercase())
        && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-/".contains(&b));
    match zone == "UTC" || (is_name && budgets::is_timezone(db, zone)?) {
        true => Ok(()),
        false => Err(Error::bad("timezone must be an IANA time zone, such as Europe/Berlin")),
    }
}

/// A lift for the audit log.
pub fn lift_in_words(key_id: Option<&str>, until: Option<OffsetDateTime>) -> String {
    let whose = key_id.map_or_else(|| "the account".to_owned(), |id| format!("key {id}"));
    match until {
        Some(until) => format!("the budget of {whose} does not limit until {}", timestamp::zulu(until)),
        None => format!("the budget of {whose} limits again"),
    }
}
