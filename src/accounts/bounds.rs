//! What a key is that another key makes or changes: never more than the latter is itself.

use crate::auth::{Caller, Permission, Via};
use crate::error::{Error, Result};
use crate::store::ApiKey;
use crate::store::api_keys::KeyScope;

/// Why a key cannot make or change another one.
pub const BEYOND: &str = "A key cannot make or change one that works longer, or may do or spend more, than itself";

/// Why a key cannot set a budget.
const SHARED_BUDGET: &str = "Keys that a key with a budget makes share that budget and have none of their own";

/// Why a key cannot set rate limits.
const SHARED_RATE: &str = "Keys that a key with rate limits makes share those limits and have none of their own";

/// Checks that a key is not more than the caller, as it is or as it would become.
///
/// # Errors
/// 403.
pub fn check(caller: &Caller, key: &ApiKey) -> Result<()> {
    if covers(caller, key) { Ok(()) } else { Err(Error::Forbidden(BEYOND)) }
}

/// Checks that the caller may take the secret away from a key: its own, one that is not more than itself, or any if the
/// caller has no limits.
///
/// # Errors
/// 403.
pub fn check_end(caller: &Caller, key: &ApiKey) -> Result<()> {
    let is_limited = match &caller.via {
        Via::Key { expires, .. } => expires.is_some() || has_limits(caller),
        Via::Session { .. } => false,
    };
    if !is_limited || is_own(caller, key) { Ok(()) } else { check(caller, key) }
}

/// Whether the caller's key has limits that those which it makes have too.
pub fn has_limits(caller: &Caller) -> bool {
    caller.budgets.key.is_some() || caller.rates.key.is_some() || caller.scope.is_some()
}

/// Checks that the caller may set the budgets of keys. One whose own budget limits what its keys spend together may not.
///
/// # Errors
/// 403.
pub fn check_sets_budgets(caller: &Caller) -> Result<()> {
    if caller.budgets.key.is_some() { Err(Error::Forbidden(SHARED_BUDGET)) } else { Ok(()) }
}

/// The same of rate limits.
///
/// # Errors
/// 403.
pub fn check_sets_rates(caller: &Caller) -> Result<()> {
    if caller.rates.key.is_some() { Err(Error::Forbidden(SHARED_RATE)) } else { Ok(()) }
}

/// Whether the key is the one that the caller uses.
pub fn is_own(caller: &Caller, key: &ApiKey) -> bool {
    matches!(&caller.via, Via::Key { id, .. } if *id == key.id)
}

fn covers(caller: &Caller, key: &ApiKey) -> bool {
    let Via::Key { expires, .. } = &caller.via else { return true };
    let is_administrators = key.permissions.iter().any(|name| Permission::named(name) == Some(Permission::Admin));
    let is_longer = expires.is_some_and(|own| key.expires.is_none_or(|expires| expires > own));
    let spends_more = caller.budgets.key.as_deref().is_some_and(|own| key.budget_id.as_deref() != Some(own));
    let asks_more = caller.rates.key.as_deref().is_some_and(|own| key.rate_id.as_deref() != Some(own));
    let scope = KeyScope {
        models: key.models.clone(),
        permissions: Some(key.permissions.clone()),
        addresses: key.addresses.clone(),
    };
    let is_wider = caller.scope.as_ref().is_some_and(|own| !own.includes(scope));
    !(is_longer || spends_more || asks_more || is_wider || (is_administrators && !is_own(caller, key)))
}
