//! Setting the rate limits of accounts and of keys.

use super::{keys, new_id};
use crate::db::Executor;
use crate::error::{Error, Result};
use crate::http::request_fields::Change;
use crate::limits::RATE_PREFIX;
use crate::store::rates::{self, RateLimit};
use crate::store::users;

/// The highest limit.
pub const HIGHEST: i64 = 1_000_000_000_000;

/// What rate limits become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateChange {
    /// The most requests in any minute.
    pub requests_per_minute: Change<i64>,
    /// The most tokens in any minute.
    pub tokens_per_minute: Change<i64>,
    /// The most requests at once.
    pub concurrent: Change<i64>,
}

impl RateChange {
    fn apply(self, current: RateLimit) -> Result<RateLimit> {
        let changed = RateLimit {
            id: current.id,
            requests_per_minute: self.requests_per_minute.apply(current.requests_per_minute),
            tokens_per_minute: self.tokens_per_minute.apply(current.tokens_per_minute),
            concurrent: self.concurrent.apply(current.concurrent),
        };
        let limits = [changed.requests_per_minute, changed.tokens_per_minute, changed.concurrent];
        match limits.iter().flatten().all(|limit| (1..=HIGHEST).contains(limit)) {
            true => Ok(changed),
            false => {
                Err(Error::bad("requests_per_minute, tokens_per_minute and concurrent must be from 1 to 1000000000000"))
            }
        }
    }
}

/// What becomes of limits.
enum Changed {
    /// They are these now.
    To(RateLimit),
    /// They are none. The argument is the id that they had.
    ToNone(Option<String>),
}

/// Sets or removes the rate limits of an account. To be called in a transaction. Returns what they are then.
///
/// # Errors
/// 400 for limits that are none, 401 if the account has just been deleted.
pub fn set_for_account(db: &mut impl Executor, user_id: &str, change: Option<RateChange>) -> Result<Option<RateLimit>> {
    keys::lock_account(db, user_id)?;
    let current = users::by_id(db, user_id)?.and_then(|user| user.rate_id);
    match set(db, user_id, current.clone(), change)? {
        Changed::To(limit) => {
            if current.as_ref() != Some(&limit.id) {
                rates::assign_to_user(db, user_id, Some(&limit.id))?;
            }
            Ok(Some(limit))
        }
        Changed::ToNone(had) => {
            if let Some(id) = had {
                rates::assign_to_user(db, user_id, None)?;
                rates::delete(db, &id)?;
            }
            Ok(None)
        }
    }
}

/// Sets or removes the rate limits of a working key. Returns their id. To be called in a transaction.
///
/// # Errors
/// 400 for limits that are none, 404 without such a key, 401 if the account has just been deleted.
pub fn set_for_key(
    db: &mut impl Executor,
    user_id: &str,
    key_id: &str,
    change: Option<RateChange>,
) -> Result<Option<String>> {
    let current = keys::lock(db, user_id, key_id)?.rate_id;
    match set(db, user_id, current, change)? {
        Changed::To(limit) => {
            rates::assign_to_key(db, user_id, key_id, Some(&limit.id))?;
            Ok(Some(limit.id))
        }
        Changed::ToNone(had) => {
            rates::assign_to_key(db, user_id, key_id, None)?;
            if let Some(id) = had
                && !rates::is_used(db, user_id, &id)?
            {
                rates::delete(db, &id)?;
            }
            Ok(None)
        }
    }
}

fn set(db: &mut impl Executor, user_id: &str, current: Option<String>, change: Option<RateChange>) -> Result<Changed> {
    let Some(change) = change else { return Ok(Changed::ToNone(current)) };
    let stored = match &current {
        Some(id) => rates::lock(db, id)?,
        None => None,
    };
    let none = |id| RateLimit { id, requests_per_minute: None, tokens_per_minute: None, concurrent: None };
    let is_new = stored.is_none();
    let before = match stored {
        Some(stored) => stored,
        None => none(new_id(RATE_PREFIX)?),
    };
    let changed = change.apply(before)?;
    if changed.is_none() {
        return Ok(Changed::ToNone(current));
    }
    match is_new {
        true => rates::insert(db, user_id, &changed)?,
        false => rates::update(db, &changed)?,
    }
    Ok(Changed::To(changed))
}

/// Each kind of limit, with what it counts.
pub fn named(rate: &RateLimit) -> [(Option<i64>, &'static str); 3] {
    [
        (rate.requests_per_minute, "requests a minute"),
        (rate.tokens_per_minute, "tokens a minute"),
        (rate.concurrent, "requests at once"),
    ]
}

/// The limits in words, for operators.
pub fn in_words(rate: &RateLimit) -> String {
    let limits = named(rate).into_iter().filter_map(|(limit, words)| Some(format!("{} {words}", limit?)));
    limits.collect::<Vec<String>>().join(", ")
}
