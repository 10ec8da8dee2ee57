//! The secrets a person gives to programs.

use serde::Serialize;
use serde_json::json;
use time::OffsetDateTime;

use super::{Answer, fields};
use crate::accounts::keys;
use crate::auth::Secret;
use crate::call::Call;
use crate::db::Transaction;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::store::{ApiKey, api_keys, timestamp};

/// Most characters of a key's name.
const LONGEST_NAME: usize = 100;

/// The longest a rotated key may go on working: 30 days.
const LONGEST_GRACE: i64 = 30 * 86_400;

/// A key right after it was made: the only reply that holds its secret.
#[derive(Serialize)]
struct Made<'a> {
    id: &'a str,
    name: &'a str,
    prefix: &'a str,
    secret: &'a str,
    #[serde(serialize_with = "timestamp::serialize_zulu")]
    created: OffsetDateTime,
    #[serde(serialize_with = "timestamp::serialize_zulu_option")]
    expires: Option<OffsetDateTime>,
}

/// `GET /api/keys`: those that work, newest first.
pub(super) fn list(call: &mut Call<'_>) -> Answer {
    let caller = call.caller()?;
    let keys = api_keys::of_user(&mut call.app.db.session()?, &caller.user.id)?;
    Ok(Response::json(200, &json!({"keys": keys})))
}

/// `POST /api/keys` with `name` and perhaps `expires`.
pub(super) fn create(call: &mut Call<'_>) -> Answer {
    let caller = call.caller()?;
    let fields = fields(call)?;
    let name = checked_name(fields.text("name")?)?;
    let expires = fields.optional_text("expires")?.filter(|text| !text.is_empty()).map(expiry).transpose()?;
    let (key, secret) = make(call, &caller.user.id, name, expires)?;
    Ok(shown_once(&key, &secret))
}

/// Makes a key for a person.
pub(super) fn make(
    call: &Call<'_>,
    user_id: &str,
    name: &str,
    expires: Option<OffsetDateTime>,
) -> Result<(ApiKey, Secret)> {
    in_transaction(call, |db| keys::create(db, user_id, name, expires))
}

/// Does all of some work or none of it.
pub(super) fn in_transaction<T>(call: &Call<'_>, work: impl FnOnce(&mut Transaction<'_>) -> Result<T>) -> Result<T> {
    let mut session = call.app.db.session()?;
    let mut transaction = session.transaction()?;
    let done = work(&mut transaction)?;
    transaction.commit()?;
    Ok(done)
}

/// `POST /api/keys/rotate` with `id` and perhaps `grace_seconds`, in which the old secret still works. Of several
/// rotations of one key at once, one is made; the others are told so.
pub(super) fn rotate(call: &mut Call<'_>) -> Answer {
    let caller = call.caller()?;
    let fields = fields(call)?;
    let (id, grace) = (fields.text("id")?, fields.optional_integer("grace_seconds")?.unwrap_or(0));
    let (key, secret) = replace(call, &caller.user.id, id, grace)?;
    Ok(shown_once(&key, &secret))
}

/// Puts a new key in the place of a person's old one.
pub(super) fn replace(call: &Call<'_>, user_id: &str, id: &str, grace: i64) -> Result<(ApiKey, Secret)> {
    if !(0..=LONGEST_GRACE).contains(&grace) {
        return Err(Error::bad("grace_seconds must be from 0 to 2592000"));
    }
    let made = in_transaction(call, |db| keys::rotate(db, user_id, id, grace))?;
    call.app.cache.revoke(user_id);
    Ok(made)
}

/// `POST /api/keys/rename` with `id` and `name`.
pub(super) fn rename(call: &mut Call<'_>) -> Answer {
    let caller = call.caller()?;
    let fields = fields(call)?;
    let (id, name) = (fields.text("id")?, fields.text("name")?);
    let name = call_otherwise(call, &caller.user.id, id, name)?;
    Ok(Response::json(200, &json!({"id": id, "name": name})))
}

/// Gives a person's key another name; the name as it is kept.
pub(super) fn call_otherwise<'n>(call: &Call<'_>, user_id: &str, id: &str, name: &'n str) -> Result<&'n str> {
    let name = checked_name(name)?;
    match api_keys::rename(&mut call.app.db.session()?, user_id, id, name)? {
        true => Ok(name),
        false => Err(Error::NotFound("Key not found")),
    }
}

/// `POST /api/keys/revoke` with `id`: the secret stops working, here and everywhere.
pub(super) fn revoke(call: &mut Call<'_>) -> Answer {
    let caller = call.caller()?;
    let fields = fields(call)?;
    let id = fields.text("id")?;
    end(call, &caller.user.id, id)?;
    Ok(Response::json(200, &json!({"id": id, "revoked": true})))
}

/// Ends a person's key.
pub(super) fn end(call: &Call<'_>, user_id: &str, id: &str) -> Result<()> {
    in_transaction(call, |db| keys::revoke(db, user_id, id))?;
    call.app.cache.revoke(user_id);
    Ok(())
}

fn shown_once(key: &ApiKey, secret: &Secret) -> Response {
    let ApiKey { id, name, prefix, created, expires, .. } = key;
    Response::json(200, &Made { id, name, prefix, secret: secret.reveal(), created: *created, expires: *expires })
}

pub(super) fn checked_name(name: &str) -> Result<&str> {
    let name = name.trim();
    match name.chars().count() {
        0 => Err(Error::bad("The name must not be empty")),
        n if n > LONGEST_NAME => Err(Error::bad("The name must have at most 100 characters")),
        _ => Ok(name),
    }
}

pub(super) fn expiry(text: &str) -> Result<OffsetDateTime> {
    let time = timestamp::parse(text).ok_or(Error::bad("expires must be a time such as 2027-01-31T12:00:00Z"))?;
    if time > OffsetDateTime::now_utc() { Ok(time) } else { Err(Error::bad("expires must lie in the future")) }
}
