//! Attempts at a password or a code, which are limited.

use super::device;
use crate::auth::throttle;
use crate::blocking::network_of;
use crate::call::Call;
use crate::db;
use crate::error::Result;
use crate::store::known_networks;

/// Starts an attempt at the password of the account `email`.
///
/// # Errors
/// 429 after too many failed attempts; 503 while too many attempts are being checked.
pub(super) fn start<'a>(call: &Call<'a>, email: &str) -> Result<throttle::Attempt<'a>> {
    let is_known =
        || -> Result<bool> { Ok(known_networks::is_known(&mut call.app.db.session()?, email, &network(call))?) };
    let device = device::known(call, email)?;
    Ok(call.app.throttle.attempt(email, call.client(), device, is_known)??)
}

/// As [`start`], by a client that is signed in to the account: strangers cannot lock it out.
///
/// # Errors
/// As [`start`].
pub(super) fn confirm<'a>(call: &Call<'a>, email: &str) -> Result<throttle::Attempt<'a>> {
    Ok(call.app.throttle.confirmation(email)?)
}

/// Starts an attempt at a code of the account's second factor, by a client that has entered the password or is signed in.
///
/// # Errors
/// As [`start`].
pub(super) fn code<'a>(call: &Call<'a>, email: &str) -> Result<throttle::Attempt<'a>> {
    let is_known = || -> Result<bool> {
        if device::known(call, email)?.is_some() {
            return Ok(true);
        }
        Ok(known_networks::is_known(&mut call.app.db.session()?, email, &network(call))?)
    };
    Ok(call.app.throttle.code(email, is_known)??)
}

/// Remembers that the owner of the account signed in from the client's network. Returns whether it is the first time.
pub(super) fn remember_network(call: &Call<'_>, db: &mut impl db::Executor, user_id: &str) -> Result<bool> {
    Ok(known_networks::record(db, user_id, &network(call))?)
}

fn network(call: &Call<'_>) -> String {
    network_of(call.client()).to_string()
}
