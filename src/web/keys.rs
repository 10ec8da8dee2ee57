//! API keys.

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::{Answer, fields};
use crate::accounts::keys;
use crate::auth::{Caller, Secret};
use crate::call::Call;
use crate::db::Transaction;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::http::form::request_fields;
use crate::operation::Group::Keys;
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, get, post, summary};
use crate::store::{ApiKey, api_keys, timestamp};

/// The most characters of a key's name.
const LONGEST_NAME: usize = 100;

/// The longest that a rotated key can keep working, in seconds: 30 days.
const LONGEST_GRACE: i64 = 30 * 86_400;

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    const NO_KEY: &str = "No active key has this id";
    vec![
        get("/api/keys", Authenticated(list)).described(summary(Keys, "Active keys, newest first").reply::<KeyList>()),
        post("/api/keys", Authenticated(create)).described(
            summary(Keys, "Create a key")
                .fields::<CreateKey<'_>>()
                .reply::<NewKey<'_>>()
                .status(409, "The account has as many keys as it may have"),
        ),
        post("/api/keys/rename", Authenticated(rename)).described(
            summary(Keys, "Rename a key").fields::<RenameKey<'_>>().reply::<RenamedKey<'_>>().status(404, NO_KEY),
        ),
        post("/api/keys/rotate", Authenticated(rotate)).described(
            summary(Keys, "Replace a key with a new one")
                .fields::<RotateKey<'_>>()
                .reply::<NewKey<'_>>()
                .status(404, "No active key has this id, or it was replaced already")
                .status(409, "The account has as many keys as it may have"),
        ),
        post("/api/keys/revoke", Authenticated(revoke)).described(
            summary(Keys, "Revoke a key, on every server at once")
                .fields::<RevokeKey<'_>>()
                .reply::<RevokedKey<'_>>()
                .status(404, NO_KEY),
        ),
    ]
}

request_fields! {
    /// What the creation of a key takes.
    struct CreateKey<'f> {
        /// At most 100 characters.
        name: &'f str,
        /// When it stops working.
        #[schemars(extend("format" = "date-time"))]
        expires: Option<&'f str>,
    }
}

request_fields! {
    /// What renaming a key takes.
    struct RenameKey<'f> {
        id: &'f str,
        /// At most 100 characters.
        name: &'f str,
    }
}

request_fields! {
    /// What the rotation of a key takes.
    struct RotateKey<'f> {
        id: &'f str,
        /// For how long the old secret keeps working, at most 30 days; 0 by default.
        grace_seconds: Option<i64>,
    }
}

request_fields! {
    /// What the revocation of a key takes.
    struct RevokeKey<'f> {
        id: &'f str,
    }
}

#[derive(Serialize, JsonSchema)]
struct KeyList {
    keys: Vec<ApiKey>,
}

/// A new key, in the only reply that holds its secret.
#[derive(Serialize, JsonSchema)]
struct NewKey<'a> {
    id: &'a str,
    name: &'a str,
    prefix: &'a str,
    /// Shown here and never again.
    secret: &'a str,
    #[serde(serialize_with = "timestamp::serialize_zulu")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    created: OffsetDateTime,
    #[serde(serialize_with = "timestamp::serialize_zulu_option")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    expires: Option<OffsetDateTime>,
}

#[derive(Serialize, JsonSchema)]
struct RenamedKey<'a> {
    id: &'a str,
    name: &'a str,
}

#[derive(Serialize, JsonSchema)]
struct RevokedKey<'a> {
    id: &'a str,
    /// Always true.
    revoked: bool,
}

/// `GET /api/keys`: the active keys, newest first.
fn list(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let keys = api_keys::of_user(&mut call.app.db.session()?, &caller.user.id)?;
    Ok(Response::json(200, &KeyList { keys }))
}

/// `POST /api/keys` with `name` and optionally `expires`.
fn create(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let CreateKey { name, expires } = CreateKey::read(&fields)?;
    let name = checked_name(name)?;
    let expires = expires.filter(|text| !text.is_empty()).map(expiry).transpose()?;
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
fn rotate(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let RotateKey { id, grace_seconds } = RotateKey::read(&fields)?;
    let (key, secret) = rotate_for(call, &caller.user.id, id, grace_seconds.unwrap_or(0))?;
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
fn rename(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let RenameKey { id, name } = RenameKey::read(&fields)?;
    let name = rename_for(call, &caller.user.id, id, name)?;
    Ok(Response::json(200, &RenamedKey { id, name }))
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
fn revoke(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let RevokeKey { id } = RevokeKey::read(&fields)?;
    revoke_for(call, &caller.user.id, id)?;
    Ok(Response::json(200, &RevokedKey { id, revoked: true }))
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
