//! Opens sessions: what every log-in ends with.

use time::{Duration, OffsetDateTime};

use super::{attempt, device};
use crate::accounts::{new_id, new_session_token, second_factor};
use crate::auth::Secret;
use crate::call::Call;
use crate::db;
use crate::error::{Error, Result};
use crate::http::cookie;
use crate::mail;
use crate::store::{User, sessions, users};

/// How many characters of `User-Agent` are stored.
const USER_AGENT_LENGTH: usize = 200;

/// What became of a log-in whose password is right.
pub(super) enum Opened {
    /// A session, whose token this is.
    Session(Secret),
    /// None yet: the account has a second factor, and no code was given.
    CodeWanted,
    /// None: the password hash that was checked is no longer the account's. The password was changed (which ended all
    /// sessions, so none may begin with the old one), another log-in renewed the hash, or the account is gone.
    Changed,
}

/// Opens a session of an account whose password was checked against `hash`, which becomes `new_hash` if there is one. A
/// `code` is looked at only if the account has a second factor.
///
/// # Errors
/// 401 for a wrong code, 429 after too many, 403 for a suspended account.
pub(super) fn open(
    call: &Call<'_>,
    user: &User,
    hash: &str,
    new_hash: Option<&str>,
    code: Option<&str>,
) -> Result<Opened> {
    let attempt = code.map(|_| attempt::code(call, &user.email)).transpose()?;
    let opened = try_open(call, user, hash, new_hash, code);
    if let (Err(Error::InvalidCode), Some(attempt)) = (&opened, attempt) {
        attempt.failed();
    }
    opened
}

fn try_open(call: &Call<'_>, user: &User, hash: &str, new_hash: Option<&str>, code: Option<&str>) -> Result<Opened> {
    let token = new_session_token()?;
    let is_known_device = device::known(call, &user.email)?.is_some();
    let mut session = call.app.db.session()?;
    let mut transaction = session.transaction()?;
    if !users::lock_with_hash(&mut transaction, &user.id, hash)? {
        return Ok(Opened::Changed);
    }
    if users::is_suspended(&mut transaction, &user.id)? {
        return Err(Error::AccountSuspended);
    }
    if let Some(new_hash) = new_hash {
        users::replace_password_hash(&mut transaction, &user.id, hash, new_hash)?;
    }
    match second_factor::check(&mut transaction, &call.app.seeds, &user.id, code) {
        Ok(()) => {}
        Err(Error::CodeRequired) => {
            transaction.commit()?;
            return Ok(Opened::CodeWanted);
        }
        Err(e) => return Err(e),
    }
    let begun = insert(call, &mut transaction, &user.id, &token)?;
    if begun.is_new_network && !is_known_device {
        call.app.mail.queue(&mut transaction, mail::Kind::NewDevice, user, &device::in_words(call))?;
    }
    transaction.commit()?;
    if begun.has_ended_others {
        call.app.cache.revoke(&user.id);
    }
    Ok(Opened::Session(token))
}

/// A session that was added.
pub(super) struct Begun {
    /// Whether others have ended for it.
    has_ended_others: bool,
    /// Whether it is the first one from the client's network.
    is_new_network: bool,
}

/// Adds a session. The account is locked.
///
/// # Errors
/// Those of the database.
pub(super) fn insert(call: &Call<'_>, db: &mut impl db::Executor, user_id: &str, token: &Secret) -> Result<Begun> {
    let user_agent = call.request.header("user-agent").unwrap_or("");
    let user_agent: String = user_agent.chars().filter(|c| !c.is_control()).take(USER_AGENT_LENGTH).collect();
    let new = sessions::NewSession {
        id: &new_id("ses_")?,
        user_id,
        digest: &token.digest().0,
        expires: OffsetDateTime::now_utc() + Duration::days(cookie::SESSION_DAYS),
        address: &call.client().to_string(),
        user_agent: &user_agent,
    };
    sessions::insert(db, &new)?;
    let ended = sessions::delete_beyond(db, user_id, new.id, call.app.config.quotas.sessions_per_account)?;
    Ok(Begun { has_ended_others: ended > 0, is_new_network: attempt::remember_network(call, db, user_id)? })
}
