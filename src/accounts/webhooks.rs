//! Changes of the operator's web-hook endpoints, recorded in the audit log: for the operator's API and the command line.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::db::{Executor, Transaction};
use crate::error::{Error, Result};
use crate::store::audit::{self, Actor};
use crate::store::webhooks::{self, Endpoint, MOST_ENDPOINTS};

/// Bytes of a secret, and its prefix as text.
const SECRET: (usize, &str) = (32, "whsec_");
/// The most characters of a description.
const LONGEST: usize = 200;
/// The most bytes of an address.
const LONGEST_URL: usize = 2048;

/// That an endpoint is not there.
pub const NO_ENDPOINT: &str = "There is no endpoint of this id";
/// That nothing can be tried again.
pub const NO_DELIVERY: &str = "There is no delivery of this id that has failed";

/// The kinds of events that there are.
pub const KINDS: [&str; 10] = [
    "account.restored",
    "account.suspended",
    "billing.difference",
    "billing.held",
    "billing.late",
    "billing.uncounted",
    "budget.threshold",
    "credit.low",
    "outbox.stuck",
    "webhook.test",
];

/// Adds an endpoint. Also returns the secret of its signatures as text, which cannot be read again.
///
/// # Errors
/// 400 for an address or a kind that cannot be, and for too many endpoints; those of the database.
pub fn add(
    db: &mut Transaction<'_>,
    actor: Actor<'_>,
    url: &str,
    kinds: &[String],
    description: &str,
) -> Result<(Endpoint, String)> {
    check_url(url)?;
    if let Some(unknown) = kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        return Err(Error::bad(format!("kinds: {unknown:?} is none of {}", KINDS.join(", "))));
    }
    if description.chars().count() > LONGEST {
        return Err(Error::bad("description must have at most 200 characters"));
    }
    let mut secret = vec![0; SECRET.0];
    getrandom::fill(&mut secret).map_err(|e| Error::Internal(e.to_string()))?;
    let id = super::new_id("we_")?;
    let made = webhooks::add(db, &id, url, &secret, kinds, description)?
        .ok_or_else(|| Error::bad(format!("There are {MOST_ENDPOINTS} endpoints already")))?;
    audit::insert_for(db, actor, "add webhook", &id, url)?;
    Ok((made, format!("{}{}", SECRET.1, BASE64.encode(&secret))))
}

/// Turns an endpoint off or on again.
///
/// # Errors
/// 404; those of the database.
pub fn set_disabled(db: &mut Transaction<'_>, actor: Actor<'_>, id: &str, is_disabled: bool) -> Result<Endpoint> {
    let changed = webhooks::set_disabled(db, id, is_disabled)?.ok_or(Error::NotFound(NO_ENDPOINT))?;
    audit::insert_for(db, actor, if is_disabled { "disable webhook" } else { "enable webhook" }, id, &changed.url)?;
    Ok(changed)
}

/// Removes an endpoint, with its deliveries.
///
/// # Errors
/// 404; those of the database.
pub fn remove(db: &mut Transaction<'_>, actor: Actor<'_>, id: &str) -> Result<()> {
    if !webhooks::remove(db, id)? {
        return Err(Error::NotFound(NO_ENDPOINT));
    }
    Ok(audit::insert_for(db, actor, "remove webhook", id, "")?)
}

/// Has a test sent to one endpoint alone.
///
/// # Errors
/// 404; those of the database.
pub fn test(db: &mut impl Executor, id: &str) -> Result<()> {
    if webhooks::test(db, id)? { Ok(()) } else { Err(Error::NotFound(NO_ENDPOINT)) }
}

/// Tries a delivery again now.
///
/// # Errors
/// 404; those of the database.
pub fn retry(db: &mut impl Executor, id: i64) -> Result<()> {
    if webhooks::retry(db, id)? { Ok(()) } else { Err(Error::NotFound(NO_DELIVERY)) }
}

/// Checks an address. Where it leads is looked at when it is called.
fn check_url(url: &str) -> Result<()> {
    let is_plain = url.len() <= LONGEST_URL && url.bytes().all(|b| b.is_ascii_graphic());
    let uri = url.parse::<http::Uri>().ok().filter(|_| is_plain).ok_or(Error::bad("url is not a valid address"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(Error::bad("url must start with https:// or http:// and name a host"));
    }
    match uri.authority() {
        Some(authority) if !authority.as_str().contains('@') => Ok(()),
        _ => Err(Error::bad("url must not hold a user name or a password")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        assert!(check_url("https://hooks.example.com/a?b=c").is_ok());
        let long = format!("https://a/{}", "x".repeat(3000));
        for bad in ["", "ftp://x/", "https://", "x", "https://a@b/", "https://a/ b", &long] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
    }
}
