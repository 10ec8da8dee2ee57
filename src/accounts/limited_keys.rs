//! Making and changing keys with their limits, for their owners and for operators.

use time::OffsetDateTime;

use super::rates::{self, RateChange};
use super::{bounds, budgets, keys};
use crate::auth::{Caller, Secret, Via};
use crate::db::Executor;
use crate::error::Result;
use crate::http::request_fields::Change;
use crate::store::api_keys::KeyScope;
use crate::store::budgets::BudgetChange;
use crate::store::{ApiKey, api_keys};

/// What a key becomes.
pub struct KeyChange {
    /// Its name.
    pub name: Option<String>,
    /// When it stops working.
    pub expires: Change<OffsetDateTime>,
    /// The most that it may spend.
    pub budget: Change<BudgetChange>,
    /// How much it may ask for in a minute, or at once.
    pub rate: Change<RateChange>,
    /// The models that it may call.
    pub models: Change<Vec<String>>,
    /// What it may do.
    pub permissions: Change<Vec<String>>,
    /// The networks that it may be used from.
    pub addresses: Change<Vec<String>>,
}

impl Default for KeyChange {
    /// Nothing is changed.
    fn default() -> KeyChange {
        KeyChange {
            name: None,
            expires: Change::Keep,
            budget: Change::Keep,
            rate: Change::Keep,
            models: Change::Keep,
            permissions: Change::Keep,
            addresses: Change::Keep,
        }
    }
}

impl KeyChange {
    fn apply_to_scope(&self, current: KeyScope) -> KeyScope {
        KeyScope {
            models: self.models.clone().apply(current.models),
            permissions: self.permissions.clone().apply(current.permissions),
            addresses: self.addresses.clone().apply(current.addresses),
        }
    }

    fn changes_scope(&self) -> bool {
        [&self.models, &self.permissions, &self.addresses].iter().any(|change| **change != Change::Keep)
    }
}

/// Makes a key of an account that may have `most`. One that a key makes has its limits, unless it is given narrower ones;
/// `author` is `None` for an operator. To be called in a transaction.
///
/// # Errors
/// 403 if the key would be more than its author; those of [`keys::create`].
pub fn create(
    db: &mut impl Executor,
    author: Option<&Caller>,
    user_id: &str,
    name: &str,
    change: KeyChange,
    most: i64,
) -> Result<(ApiKey, Secret)> {
    let own = match author.map(|author| (&author.via, author)) {
        Some((Via::Key { id, expires }, author)) => Some((id, *expires, author)),
        _ => None,
    };
    let expires = change.expires.apply(own.and_then(|(_, expires, _)| expires));
    let (mut key, secret) = keys::create(db, user_id, name, expires, most)?;
    if let Some((own, _, author)) = own
        && bounds::has_limits(author)
    {
        key = api_keys::inherit(db, own, &key.id)?;
    }
    if change.changes_scope() {
        let scope = change.apply_to_scope(api_keys::scope_of(db, &key.id)?);
        key = api_keys::set_scope(db, &key.id, &scope)?;
    }
    key.budget_id = set_budget(db, author, user_id, &key, change.budget)?;
    key.rate_id = set_rate(db, author, user_id, &key, change.rate)?;
    if let Some(author) = author {
        bounds::check(author, &key)?;
    }
    Ok((key, secret))
}

/// Changes a working key. To be called in a transaction; then tell the cache.
///
/// # Errors
/// 403 if the key is more than its author or would become so, 404 without such a key, 401 if the account has just been
/// deleted, 400 for limits that are none.
pub fn update(
    db: &mut impl Executor,
    author: Option<&Caller>,
    user_id: &str,
    id: &str,
    change: KeyChange,
) -> Result<ApiKey> {
    let mut key = keys::lock(db, user_id, id)?;
    if let Some(author) = author {
        bounds::check(author, &key)?;
    }
    let scope = change.apply_to_scope(api_keys::scope_of(db, id)?);
    let name = change.name.as_deref().unwrap_or(&key.name);
    api_keys::update(db, id, name, change.expires.apply(key.expires))?;
    key = api_keys::set_scope(db, id, &scope)?;
    key.budget_id = set_budget(db, author, user_id, &key, change.budget)?;
    key.rate_id = set_rate(db, author, user_id, &key, change.rate)?;
    if let Some(author) = author {
        bounds::check(author, &key)?;
    }
    Ok(key)
}

fn set_budget(
    db: &mut impl Executor,
    author: Option<&Caller>,
    user_id: &str,
    key: &ApiKey,
    change: Change<BudgetChange>,
) -> Result<Option<String>> {
    if change == Change::Keep {
        return Ok(key.budget_id.clone());
    }
    author.map_or(Ok(()), bounds::check_sets_budgets)?;
    budgets::set_for_key(db, user_id, &key.id, change.apply(None))
}

fn set_rate(
    db: &mut impl Executor,
    author: Option<&Caller>,
    user_id: &str,
    key: &ApiKey,
    change: Change<RateChange>,
) -> Result<Option<String>> {
    if change == Change::Keep {
        return Ok(key.rate_id.clone());
    }
    author.map_or(Ok(()), bounds::check_sets_rates)?;
    rates::set_for_key(db, user_id, &key.id, change.apply(None))
}
