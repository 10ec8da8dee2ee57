//! Getting in again and changing what lets somebody in: by a link that can be used once, or with a key. To be called in
//! transactions.

use serde_json::json;
use time::OffsetDateTime;

use crate::auth::{Digest, Secret};
use crate::db::{self, Executor, Transaction};
use crate::error::{Conflicting, Error, NOT_AUTHENTICATED, Result};
use crate::mail::{self, Kind, LINK_LIFETIME, Mail};
use crate::store::account_links::{self, Link, Purpose};
use crate::store::audit::{self, Actor};
use crate::store::{User, api_keys, sessions, users};

/// Why a link that was made for another address is of no use.
const TAKEN: &str = "Another account has this e-mail address";

/// Who or what changes an account.
pub struct Change<'a> {
    /// Who does it. For somebody who has a link, the account itself.
    pub actor: Actor<'a>,
    /// What tells the account's owner of it.
    pub mail: &'a Mail,
}

/// What ended with an old password.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ended {
    /// Sessions.
    pub sessions: u64,
    /// Keys.
    pub keys: u64,
}

/// A link that lets its holder set an account's password.
pub struct NewLink {
    /// The link, which is a secret.
    pub address: String,
    /// Until when it can be used.
    pub expires: OffsetDateTime,
}

/// Makes a link that lets its holder set an account's password, at the web server `site`, and records who made it.
///
/// # Errors
/// 401 if the account is gone; those of the database.
pub fn new_link(db: &mut Transaction<'_>, actor: Actor<'_>, user: &User, site: &str) -> Result<NewLink> {
    let token = Secret::new_link().map_err(super::no_randomness)?;
    let expires = OffsetDateTime::now_utc() + LINK_LIFETIME;
    if !account_links::insert(db, &token.digest().0, &user.id, Purpose::Password, "", expires)? {
        return Err(Error::Unauthorized(NOT_AUTHENTICATED));
    }
    audit::insert(db, actor, "create link", user, "")?;
    Ok(NewLink { address: format!("{site}{}?token={}", Kind::Reset.page(), token.reveal()), expires })
}

/// The account whose password a link lets its holder set, if it can still be used.
///
/// # Errors
/// 400 if it cannot.
pub fn account_of_link(db: &mut impl Executor, token: &str, purpose: Purpose) -> Result<(User, Link)> {
    let link = account_links::by_digest(db, &Digest::of(token).0)?.filter(|link| link.is_for(purpose));
    let link = link.ok_or(Error::LinkInvalid)?;
    let user = users::by_id(db, &link.user_id)?.ok_or(Error::LinkInvalid)?;
    Ok((user, link))
}

/// Uses a link of a user: of all who try, one succeeds. Ends all other links of the account.
fn consume(db: &mut Transaction<'_>, user_id: &str, token: &str, purpose: Purpose) -> Result<(User, Link)> {
    if !users::lock(db, user_id)? {
        return Err(Error::LinkInvalid);
    }
    let link = account_links::consume(db, &Digest::of(token).0)?;
    let link = link.filter(|link| link.user_id == user_id && link.is_for(purpose)).ok_or(Error::LinkInvalid)?;
    let user = users::by_id(db, user_id)?.ok_or(Error::LinkInvalid)?;
    mail::end_links(db, &user)?;
    Ok((user, link))
}

/// Sets the password of the account to which a link belongs, and ends its sessions; also its keys, if that is asked for.
///
/// # Errors
/// 400 if the link cannot be used any more.
pub fn reset(
    db: &mut Transaction<'_>,
    user_id: &str,
    token: &str,
    hash: &str,
    ends_keys: bool,
    (address, mail): (&str, &Mail),
) -> Result<(User, Ended)> {
    let (user, link) = consume(db, user_id, token, Purpose::Password)?;
    users::set_password_hash(db, &user.id, hash)?;
    if link.email == user.email {
        users::set_verified(db, &user.id)?;
    }
    let change = Change { actor: Actor { id: &user.id, name: &user.email, address }, mail };
    let ended = after_new_password(db, &user, None, ends_keys, &change, "reset password")?;
    Ok((user, ended))
}

/// Why an account gets no first password.
pub fn has_password() -> Error {
    Error::Conflict("The account has a password already", Conflicting::default())
}

/// Sets the first password of an account that has none.
///
/// # Errors
/// 409 if it has one.
pub fn set_first(db: &mut Transaction<'_>, user: &User, hash: &str, change: &Change<'_>) -> Result<()> {
    if !users::set_first_password_hash(db, &user.id, hash)? {
        return Err(has_password());
    }
    after_new_password(db, user, None, false, change, "set first password").map(drop)
}

/// Sets the password of an account, whatever it was.
///
/// # Errors
/// 401 if the account is gone.
pub fn set(db: &mut Transaction<'_>, user: &User, hash: &str, ends_keys: bool, change: &Change<'_>) -> Result<Ended> {
    if !users::set_password_hash(db, &user.id, hash)? {
        return Err(Error::Unauthorized(NOT_AUTHENTICATED));
    }
    after_new_password(db, user, None, ends_keys, change, "set password")
}

/// What follows a new password, which was just set: other sessions than `kept` end, and links, and keys if that is asked for;
/// it is recorded, and the owner is told.
///
/// # Errors
/// Those of the database.
pub fn after_new_password(
    db: &mut Transaction<'_>,
    user: &User,
    kept: Option<&str>,
    ends_keys: bool,
    change: &Change<'_>,
    action: &str,
) -> Result<Ended> {
    let keys = if ends_keys { api_keys::revoke_all(db, &user.id)? } else { 0 };
    if keys > 0 {
        users::set_secret_prefix(db, &user.id, "")?;
    }
    let sessions = sessions::delete_others(db, &user.id, kept.unwrap_or(""))?;
    mail::end_links(db, user)?;
    audit::insert(db, change.actor, action, user, &format!("{sessions} sessions and {keys} keys ended"))?;
    change.mail.queue(db, Kind::PasswordChanged, user, &json!({}))?;
    Ok(Ended { sessions, keys })
}

/// What a confirmed address was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// That of the account.
    Own,
    /// A new one, which the account has now.
    New,
}

/// Uses a link that confirms an address. Returns the account as it was before.
///
/// # Errors
/// 400 if the link cannot be used any more, 409 if another account has the address by now.
pub fn confirm_email(db: &mut Transaction<'_>, token: &str, address: &str, mail: &Mail) -> Result<(User, Confirmed)> {
    let found = account_links::by_digest(db, &Digest::of(token).0)?.ok_or(Error::LinkInvalid)?;
    if found.is_for(Purpose::Verify) {
        if !users::lock(db, &found.user_id)? {
            return Err(Error::LinkInvalid);
        }
        let link = account_links::consume(db, &Digest::of(token).0)?.ok_or(Error::LinkInvalid)?;
        let user =
            users::by_id(db, &link.user_id)?.filter(|user| user.email == link.email).ok_or(Error::LinkInvalid)?;
        users::set_verified(db, &user.id)?;
        return Ok((user, Confirmed::Own));
    }
    let (user, link) = consume(db, &found.user_id, token, Purpose::Email)?;
    match users::set_email(db, &user.id, &link.email) {
        Err(db::Error::Unique(name)) if name == users::EMAIL_KEY => {
            return Err(Error::Conflict(TAKEN, Conflicting::default()));
        }
        done => done?,
    }
    let actor = Actor { id: &user.id, name: &user.email, address };
    audit::insert(db, actor, "change e-mail", &user, &format!("to {}", link.email))?;
    let details = json!({"old": user.email, "new": link.email});
    for recipient in [&user.email, &link.email] {
        mail.queue_to(db, Kind::EmailChanged, &user.id, recipient, &details)?;
    }
    Ok((user, Confirmed::New))
}
