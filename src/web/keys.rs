//! API keys.

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

pub(super) use super::key_fields::checked_name;
use super::key_fields::{BudgetFields, LimitFields, List, NewKey, RateFields, ShownKey, show, show_all};
use super::{Answer, fields};
use crate::accounts::limited_keys::{self, KeyChange};
use crate::accounts::{bounds, keys};
use crate::auth::{Caller, Secret};
use crate::call::Call;
use crate::db::Transaction;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::http::request_fields::{Change, request_fields};
use crate::operation::Group::Keys;
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, get, post, summary};
use crate::store::budgets::BudgetChange;
use crate::store::{ApiKey, api_keys};

/// The longest that a rotated key can keep working, in seconds: 30 days.
const LONGEST_GRACE: i64 = 30 * 86_400;

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    use bounds::BEYOND;
    const NO_KEY: &str = "No active key has this id";
    vec![
        get("/api/keys", Authenticated(list)).described(summary(Keys, "Active keys, newest first").reply::<KeyList>()),
        post("/api/keys", Authenticated(create)).described(
            summary(Keys, "Create a key")
                .fields::<CreateKey<'_>>()
                .reply::<NewKey>()
                .status(403, BEYOND)
                .status(409, "The account has as many keys as it may have"),
        ),
        post("/api/keys/update", Authenticated(update)).described(
            summary(Keys, "Change a key; fields that are missing stay as they are")
                .fields::<UpdateKey<'_>>()
                .reply::<ShownKey>()
                .status(403, BEYOND)
                .status(404, NO_KEY),
        ),
        post("/api/keys/rename", Authenticated(rename)).described(
            summary(Keys, "Rename a key").fields::<RenameKey<'_>>().reply::<RenamedKey<'_>>().status(404, NO_KEY),
        ),
        post("/api/keys/rotate", Authenticated(rotate)).described(
            summary(Keys, "Replace a key with a new one")
                .fields::<RotateKey<'_>>()
                .reply::<NewKey>()
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
        expires: Change<&'f str>,
        /// The most that it may spend.
        budget: Change<BudgetFields>,
        /// How much it may ask for in a minute, or at once; null for no limit.
        rate: Change<RateFields>,
        /// The models that it may call; all by default.
        models: Change<List>,
        /// What it may do: of `models`, `documents`, `account` and `admin`; all but the last by default.
        permissions: Change<List>,
        /// The addresses and networks that it may be used from; all by default.
        addresses: Change<List>,
    }
}

request_fields! {
    /// What the change of a key takes.
    struct UpdateKey<'f> {
        id: &'f str,
        /// At most 100 characters.
        name: Option<&'f str>,
        /// When it stops working; null for never.
        #[schemars(extend("format" = "date-time"))]
        expires: Change<&'f str>,
        /// The most that it may spend; null for no limit. What was spent in the current window counts.
        budget: Change<BudgetFields>,
        /// How much it may ask for in a minute, or at once; null for no limit.
        rate: Change<RateFields>,
        /// The models that it may call; null for all.
        models: Change<List>,
        /// What it may do: of `models`, `documents`, `account` and `admin`; null for all but the last.
        permissions: Change<List>,
        /// The addresses and networks that it may be used from; null for all.
        addresses: Change<List>,
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
    keys: Vec<ShownKey>,
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
    let mut session = call.app.db.session()?;
    let keys = api_keys::of_user(&mut session, &caller.user.id)?;
    let keys = show_all(&mut session, &caller.user.id, keys)?;
    Ok(Response::json_reserved(200, &KeyList { keys })?)
}

/// `POST /api/keys` with `name` and optionally `expires`, `budget` and what the key is limited to.
fn create(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let CreateKey { name, expires, budget, rate, models, permissions, addresses } = CreateKey::read(&fields)?;
    let change = LimitFields { expires, budget, rate, models, permissions, addresses }.check(caller, None)?;
    let (name, user_id) = (checked_name(name)?, &caller.user.id);
    let (key, secret) = in_transaction(call, |db| {
        let (key, secret) = limited_keys::create(db, Some(caller), user_id, name, change, most(call))?;
        Ok((show(db, user_id, key)?, secret))
    })?;
    Ok(Response::json(200, &NewKey::new(key, &secret)))
}

/// Creates a key for a caller, without limits of its own but perhaps this budget.
pub(super) fn create_for(
    call: &Call<'_>,
    caller: &Caller,
    name: &str,
    expires: Option<OffsetDateTime>,
    budget: Option<BudgetChange>,
) -> Result<(ApiKey, Secret)> {
    let (expires, budget) = (expires.map_or(Change::Keep, Change::Set), budget.map_or(Change::Keep, Change::Set));
    let change = KeyChange { expires, budget, ..KeyChange::default() };
    in_transaction(call, |db| limited_keys::create(db, Some(caller), &caller.user.id, name, change, most(call)))
}

/// `POST /api/keys/update` with `id` and what is to be changed.
fn update(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let UpdateKey { id, name, expires, budget, rate, models, permissions, addresses } = UpdateKey::read(&fields)?;
    let change = LimitFields { expires, budget, rate, models, permissions, addresses }.check(caller, name)?;
    let user_id = &caller.user.id;
    let shown = in_transaction(call, |db| {
        let key = limited_keys::update(db, Some(caller), user_id, id, change)?;
        show(db, user_id, key)
    })?;
    call.app.cache.revoke(user_id);
    shown.limits_changed(call.app);
    Ok(Response::json(200, &shown))
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
    let (key, secret) = rotate_for(call, caller, id, grace_seconds.unwrap_or(0))?;
    let key = show(&mut call.app.db.session()?, &caller.user.id, key)?;
    Ok(Response::json(200, &NewKey::new(key, &secret)))
}

/// Replaces a caller's key with a new one. A key gets no secret by that which is more than itself.
pub(super) fn rotate_for(call: &Call<'_>, caller: &Caller, id: &str, grace: i64) -> Result<(ApiKey, Secret)> {
    let user_id = &caller.user.id;
    if !(0..=LONGEST_GRACE).contains(&grace) {
        return Err(Error::bad("grace_seconds must be from 0 to 2592000"));
    }
    let made = in_transaction(call, |db| {
        check_key(db, caller, id, |caller, key| match bounds::is_own(caller, key) {
            true => Ok(()),
            false => bounds::check(caller, key),
        })?;
        keys::rotate(db, user_id, id, grace, most(call))
    })?;
    call.app.cache.revoke(user_id);
    Ok(made)
}

/// The most keys of an account.
pub(super) fn most(call: &Call<'_>) -> i64 {
    call.app.config.quotas.keys_per_account
}

/// Checks a working key of the caller's, which is locked.
fn check_key(
    db: &mut Transaction<'_>,
    caller: &Caller,
    id: &str,
    check: impl FnOnce(&Caller, &ApiKey) -> Result<()>,
) -> Result<()> {
    check(caller, &keys::lock(db, &caller.user.id, id)?)
}

/// `POST /api/keys/rename` with `id` and `name`.
fn rename(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let RenameKey { id, name } = RenameKey::read(&fields)?;
    let name = rename_for(call, caller, id, name)?;
    Ok(Response::json(200, &RenamedKey { id, name }))
}

/// Renames a caller's key; returns the name as it is stored.
pub(super) fn rename_for<'n>(call: &Call<'_>, caller: &Caller, id: &str, name: &'n str) -> Result<&'n str> {
    let name = checked_name(name)?;
    in_transaction(call, |db| {
        check_key(db, caller, id, bounds::check)?;
        Ok(api_keys::rename(db, &caller.user.id, id, name)?)
    })?;
    Ok(name)
}

/// `POST /api/keys/revoke` with `id`: the secret stops working, on every server.
fn revoke(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    let RevokeKey { id } = RevokeKey::read(&fields)?;
    revoke_for(call, caller, id)?;
    Ok(Response::json(200, &RevokedKey { id, revoked: true }))
}

/// Revokes a caller's key.
pub(super) fn revoke_for(call: &Call<'_>, caller: &Caller, id: &str) -> Result<()> {
    let user_id = &caller.user.id;
    in_transaction(call, |db| {
        check_key(db, caller, id, bounds::check_end)?;
        keys::revoke(db, user_id, id)
    })?;
    call.app.cache.revoke(user_id);
    Ok(())
}
