//! API keys.

use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;

use super::{Answer, fields};
use crate::accounts::keys;
use crate::auth::{Caller, Secret};
use crate::call::Call;
use crate::db::Transaction;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::store::{ApiKey, api_keys, timestamp};

/// The most characters of a key's name.
const LONGEST_NAME: usize = 100;

/// The longest that a rotated key can keep working, in seconds: 30 days.
const LONGEST_GRACE: i64 = 30 * 86_400;

/// A new key, in the only reply that holds its secret.
#[derive(Serialize)]
struct NewKey<'a> {
    id: &'a str,
    name: &'a str,
    prefix: &'a str,
    secret: &'a str,
    #[serde(serialize_with = "timestamp::serialize_zulu")]
    created: OffsetDateTime,
    #[serde(serialize_with = "timestamp::serialize_zulu_option")]
    expires: Option<OffsetDateTime>,
}

/// `GET /api/keys`: the active keys, newest first.
pub(super) fn list(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let keys = api_keys::of_user(&mut call.app.db.session()?, &caller.user.id)?;
    Ok(Response::json(200, &json!({"keys": keys})))
}

/// `POST /api/keys` with `name` and optionally `expires`.
pub(super) fn create(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let name = checked_name(fields.text("name")?)?;
    let expires = fields.optional_text("expires")?.filter(|text| !text.is_empty()).map(expiry).transpose()?;
    let (key, secret) = create_for(call, &caller.user.id, name, expires)?;
    Ok(shown_once(&key, &secret))
}

/// Creates a key for a user.
pub(super) fn create_for(
    call: &Call<'_>,
    user_id: &str,
    name: &str,
    expires: Option<OffsetDateTime>,
) -> Result<(ApiKey, Secret)> {
    in_transaction(call, |db| keys::create(db, user_id, name, expires))
}

/// Runs `work` in a transaction: all of it is done, or nothing.
pub(super) fn in_transaction<T>(call: &Call<'_>, work: impl FnOnce(&mut Transaction<'_>) -> Result<T>) -> Result<T> {
    let mut session = call.app.db.session()?;
    let mut transaction = session.transaction()?;
    let outcome = work(&mut transaction)?;
    transaction.commit()?;
    Ok(outcome)
}

/// `POST /api/keys/rotate` with `id` and optionally `grace_seconds`, for which the old secret still works. Of several
/// concurrent rotations of one key, only the first succeeds; the others get a 404.
pub(super) fn rotate(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let (id, grace) = (fields.text("id")?, fields.optional_integer("grace_seconds")?.unwrap_or(0));
    let (key, secret) = rotate_for(call, &caller.user.id, id, grace)?;
    Ok(shown_once(&key, &secret))
}

/// Replaces a user's key with a new one.
pub(super) fn rotate_for(call: &Call<'_>, user_id: &str, id: &str, grace: i64) -> Result<(ApiKey, Secret)> {
    if !(0..=LONGEST_GRACE).contains(&grace) {
        return Err(Error::bad("grace_seconds must be from 0 to 2592000"));
    }
    let made = in_transaction(call, |db| keys::rotate(db, user_id, id, grace))?;
    call.app.cache.revoke(user_id);
    Ok(made)
}

/// `POST /api/keys/rename` with `id` and `name`.
pub(super) fn rename(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let (id, name) = (fields.text("id")?, fields.text("name")?);
    let name = rename_for(call, &caller.user.id, id, name)?;
    Ok(Response::json(200, &json!({"id": id, "name": name})))
}

/// Renames a user's key; returns the name as it is stored.
pub(super) fn rename_for<'n>(call: &Call<'_>, user_id: &str, id: &str, name: &'n str) -> Result<&'n str> {
    let name = checked_name(name)?;
    match api_keys::rename(&mut call.app.db.session()?, user_id, id, name)? {
        true => Ok(name),
        false => Err(Error::NotFound("Key not found")),
    }
}

/// `POST /api/keys/revoke` with `id`: the secret stops working, on every server.
pub(super) fn revoke(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let id = fields.text("id")?;
    revoke_for(call, &caller.user.id, id)?;
    Ok(Response::json(200, &json!({"id": id, "revoked": true})))
}

/// Revokes a user's key.
pub(super) fn revoke_for(call: &Call<'_>, user_id: &str, id: &str) -> Result<()> {
    in_transaction(call, |db| keys::revoke(db, user_id, id))?;
    call.app.cache.revoke(user_id);
    Ok(())
}

fn shown_once(key: &ApiKey, secret: &Secret) -> Response {
    let ApiKey { id, name, prefix, created, expires, .. } = key;
    Response::json(200, &NewKey { id, name, prefix, secret: secret.reveal(), created: *created, expires: *expires })
}

/// The name of a key without surrounding white space.
///
/// # Errors
/// It is empty or too long.
pub(super) fn checked_name(name: &str) -> Result<&str> {
    let name = name.trim();
    match name.chars().count() {
        0 => Err(Error::bad("The name must not be empty")),
        n if n > LONGEST_NAME => Err(Error::bad("The name must have at most 100 characters")),
        _ => Ok(name),
    }
}

fn expiry(text: &str) -> Result<OffsetDateTime> {
    let time = timestamp::parse(text).ok_or(Error::bad("expires must be a time such as 2027-01-31T12:00:00Z"))?;
    if time > OffsetDateTime::now_utc() { Ok(time) } else { Err(Error::bad("expires must be in the future")) }
}
