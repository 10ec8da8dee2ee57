//! What keys and accounts are limited to: the checks of what clients ask for, and the limits of accounts.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::auth::Permission;
use crate::db::Executor;
use crate::error::{Error, Result};
use crate::http::request_fields::Change;
use crate::store::users;

/// Most items of each list.
const MAX_ITEMS: usize = 100;

/// Most bytes of a model's name.
const MAX_MODEL_NAME: usize = 200;

/// The permissions of a key that has no restrictions.
const DEFAULT: [&str; 3] = ["models", "documents", "account"];

/// What an account becomes limited to, with each of its keys and sessions.
pub struct AccountScope {
    /// The models that it may call.
    pub models: Change<Vec<String>>,
    /// The networks that it may be used from.
    pub addresses: Change<Vec<String>>,
}

/// The models that a key or an account may call.
///
/// # Errors
/// 400.
pub fn models(models: Vec<String>) -> Result<Vec<String>> {
    let is_name = |name: &String| (1..=MAX_MODEL_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
    match models.len() <= MAX_ITEMS && models.iter().all(is_name) {
        true => Ok(models),
        false => Err(Error::bad("models must be a list of at most 100 names")),
    }
}

/// What a key may do; `None` for the default. Only administrators can make a key for administration.
///
/// # Errors
/// 400, 403.
pub fn permissions(names: Vec<String>, is_administrator: bool) -> Result<Option<Vec<String>>> {
    let known: Option<Vec<Permission>> = names.iter().map(|name| Permission::named(name)).collect();
    let Some(known) = known.filter(|known| known.len() <= MAX_ITEMS) else {
        return Err(Error::bad("permissions must be a list of models, documents, account and admin"));
    };
    if known.contains(&Permission::Admin) && !is_administrator {
        return Err(Error::Forbidden("Only administrators can make a key for administration"));
    }
    let is_default = names.len() == DEFAULT.len() && DEFAULT.iter().all(|name| names.iter().any(|given| given == name));
    Ok(if is_default { None } else { Some(names) })
}

/// The networks that a key or an account may be used from, in their usual form.
///
/// # Errors
/// 400.
pub fn addresses(addresses: &[String]) -> Result<Vec<String>> {
    let network = |text: &String| {
        let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
        Some(network.trunc().to_string())
    };
    let networks: Option<Vec<String>> = addresses.iter().map(network).collect();
    networks
        .filter(|networks| networks.len() <= MAX_ITEMS)
        .ok_or(Error::bad("addresses must be a list of at most 100 addresses and networks, such as 10.0.0.0/8"))
}

/// Limits an account. Returns in words what has changed.
///
/// # Errors
/// 400, 503.
pub fn set_for_account(db: &mut impl Executor, user_id: &str, change: AccountScope) -> Result<Vec<String>> {
    let AccountScope { models, addresses } = change;
    let models = models.try_map(|names| self::models(names).map(Some))?;
    let addresses = addresses.try_map(|networks| self::addresses(&networks).map(Some))?;
    let mut details = Vec::new();
    if models != Change::Keep {
        let models = models.apply(None);
        users::set_models(db, user_id, &models)?;
        details.push(in_words("models", models.as_deref()));
    }
    if addresses != Change::Keep {
        let addresses = addresses.apply(None);
        users::set_addresses(db, user_id, &addresses)?;
        details.push(in_words("addresses", addresses.as_deref()));
    }
    Ok(details)
}

fn in_words(what: &str, list: Option<&[String]>) -> String {
    match list {
        None => format!("all {what}"),
        Some([]) => format!("no {what}"),
        Some(list) => format!("{what} {}", list.join(", ")),
    }
}
