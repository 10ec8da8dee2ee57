//! What keys are limited to: the checks of what clients ask for.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::auth::Permission;
use crate::error::{Error, Result};

/// Most items of each list.
const MAX_ITEMS: usize = 100;

/// Most bytes of a model's name.
const MAX_MODEL_NAME: usize = 200;

/// The permissions of a key that has no restrictions.
const DEFAULT: [&str; 3] = ["models", "documents", "account"];

/// The models that a key may call.
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

/// The networks that a key may be used from, in their usual form.
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
