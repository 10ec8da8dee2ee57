//! Setting the budgets of accounts and of keys.

use super::{keys, new_id};
use crate::db::{self, Executor};
use crate::error::{Error, Result};
use crate::money::Cost;
use crate::store::budgets::{self, BudgetSpec};
use crate::store::users;

/// Sets or removes the budget of an account. What was spent in the current window counts. To be called in a transaction.
///
/// # Errors
/// 400 for a budget that is none, 401 if the account has just been deleted.
pub fn set_for_account(db: &mut impl Executor, user_id: &str, spec: Option<&BudgetSpec>) -> Result<()> {
    keys::lock_account(db, user_id)?;
    let current = users::by_id(db, user_id)?.and_then(|user| user.budget_id);
    match (current, spec) {
        (None, None) => {}
        (Some(id), Some(spec)) => update(db, &id, user_id, spec, false)?,
        (None, Some(spec)) => {
            let id = insert(db, user_id, spec)?;
            budgets::assign_to_user(db, user_id, Some(&id))?;
            budgets::count_anew(db, &id, user_id, false)?;
        }
        (Some(id), None) => {
            budgets::assign_to_user(db, user_id, None)?;
            budgets::delete(db, &id)?;
        }
    }
    Ok(())
}

/// Sets or removes the budget of a working key. Returns its id. To be called in a transaction.
///
/// # Errors
/// 400 for a budget that is none, 404 without such a key, 401 if the account has just been deleted.
pub fn set_for_key(
    db: &mut impl Executor,
    user_id: &str,
    key_id: &str,
    spec: Option<&BudgetSpec>,
) -> Result<Option<String>> {
    let key = keys::lock(db, user_id, key_id)?;
    Ok(match (key.budget_id, spec) {
        (None, None) => None,
        (Some(id), Some(spec)) => {
            update(db, &id, user_id, spec, true)?;
            Some(id)
        }
        (None, Some(spec)) => {
            let id = insert(db, user_id, spec)?;
            budgets::assign_to_key(db, user_id, key_id, &id)?;
            budgets::count_anew(db, &id, user_id, true)?;
            Some(id)
        }
        (Some(id), None) => {
            budgets::take_from_keys(db, user_id, &id)?;
            budgets::delete(db, &id)?;
            None
        }
    })
}

fn insert(db: &mut impl Executor, user_id: &str, spec: &BudgetSpec) -> Result<String> {
    check(db, spec)?;
    let id = new_id("budget_")?;
    budgets::insert(db, &id, user_id, spec)?;
    Ok(id)
}

fn update(db: &mut impl Executor, id: &str, user_id: &str, spec: &BudgetSpec, of_keys: bool) -> Result<()> {
    check(db, spec)?;
    if budgets::update(db, id, spec)? {
        budgets::count_anew(db, id, user_id, of_keys)?;
    }
    Ok(())
}

fn check(db: &mut impl Executor, spec: &BudgetSpec) -> Result<()> {
    if !(0..=Cost::MAX.micros()).contains(&spec.limit_micros) {
        return Err(Error::bad("limit_micros must be from 0 to 1000000000000000"));
    }
    let unknown = || Error::bad("timezone must be an IANA time zone, such as Europe/Berlin");
    let zone = &spec.timezone;
    // PostgreSQL also knows abbreviations, and zones such as `X+3` that are made up.
    let is_name = zone.len() <= 64 && zone.bytes().all(|b| b.is_ascii_alphanumeric() || b"_+-/".contains(&b));
    if !is_name || !(zone == "UTC" || zone.contains('/')) {
        return Err(unknown());
    }
    match budgets::check_timezone(db, zone) {
        Err(db::Error::Value(_)) => Err(unknown()),
        other => Ok(other?),
    }
}
