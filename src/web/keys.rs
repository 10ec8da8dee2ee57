//! API keys.

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use super::key_fields::{BudgetFields, List, ScopeChange};
use super::{Answer, fields};
use crate::accounts::{budgets as key_budgets, keys};
use crate::auth::{Caller, Permission, Secret, Via};
use crate::call::Call;
use crate::db::{Executor, Transaction};
use crate::error::{Error, Result};
use crate::http::Response;
use crate::http::form::Fields;
use crate::http::request_fields::{Change, request_fields};
use crate::operation::Group::Keys;
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, get, post, summary};
use crate::store::api_keys::KeyScope;
use crate::store::budgets::{self, Budget, BudgetSpec};
use crate::store::{ApiKey, api_keys, timestamp};

/// The most characters of a key's name.
const LONGEST_NAME: usize = 100;

/// The longest that a rotated key can keep working, in seconds: 30 days.
const LONGEST_GRACE: i64 = 30 * 86_400;

/// Why a key cannot make or change keys.
const NOT_ALLOWED: &str = "A key with a budget or other limits cannot make or change keys, and no key can make one that works longer than itself";

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    const NO_KEY: &str = "No active key has this id";
    vec![
        get("/api/keys", Authenticated(list)).described(summary(Keys, "Active keys, newest first").reply::<KeyList>()),
        post("/api/keys", Authenticated(create)).described(
            summary(Keys, "Create a key")
                .fields::<CreateKey<'_>>()
                .reply::<NewKey<'_>>()
                .status(403, NOT_ALLOWED)
                .status(409, "The account has as many keys as it may have"),
        ),
        post("/api/keys/update", Authenticated(update)).described(
            summary(Keys, "Change a key; fields that are missing stay as they are")
                .fields::<UpdateKey<'_>>()
                .reply::<ShownKey>()
                .status(403, NOT_ALLOWED)
                .status(404, NO_KEY),
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
        /// The most that it may spend.
        budget: Option<BudgetFields>,
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

/// A key, with its budget.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct ShownKey {
    #[serde(flatten)]
    key: ApiKey,
    /// The most that it may spend, and what it has spent.
    budget: Option<Budget>,
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
    /// The most that it may spend, and what it has spent.
    budget: Option<&'a Budget>,
    /// The models that it may call; null for all.
    models: Option<&'a [String]>,
    /// What it may do: of `models`, `documents`, `account` and `admin`.
    permissions: &'a [String],
    /// The networks that it may be used from; null for all.
    addresses: Option<&'a [String]>,
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
    let keys = with_budgets(&mut session, &caller.user.id, keys)?;
    Ok(Response::json(200, &KeyList { keys }))
}

/// Adds the budgets of a user's keys.
fn with_budgets(db: &mut impl Executor, user_id: &str, keys: Vec<ApiKey>) -> Result<Vec<ShownKey>> {
    let has_any = keys.iter().any(|key| key.budget_id.is_some());
    let budgets = if has_any { budgets::of_user(db, user_id)? } else { Vec::new() };
    let shown = |key: ApiKey| {
        let budget = budgets.iter().find(|budget| Some(&budget.id) == key.budget_id.as_ref()).cloned();
        ShownKey { key, budget }
    };
    Ok(keys.into_iter().map(shown).collect())
}

fn with_budget(db: &mut impl Executor, user_id: &str, key: ApiKey) -> Result<ShownKey> {
    let shown = with_budgets(db, user_id, vec![key])?.pop();
    shown.ok_or_else(|| Error::Internal("a key was lost".to_owned()))
}

/// A limit that would not hold must not seem to: keys have no rates.
fn check_no_rate(fields: &Fields) -> Result<()> {
    if fields.has("rate") { Err(Error::bad("rate is not available: keys have no rate limits")) } else { Ok(()) }
}

/// `POST /api/keys` with `name` and optionally `expires`, `budget` and what the key is limited to.
fn create(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    check_no_rate(&fields)?;
    let CreateKey { name, expires, budget, models, permissions, addresses } = CreateKey::read(&fields)?;
    let scope = ScopeChange::new(caller, models, permissions, addresses)?;
    let name = checked_name(name)?;
    let expires = expires.filter(|text| !text.is_empty()).map(expiry).transpose()?;
    check_wideness(caller, expires)?;
    let (spec, user_id) = (budget.map(BudgetSpec::from), &caller.user.id);
    let (key, secret) = in_transaction(call, |db| {
        let (mut key, secret) = keys::create(db, user_id, name, expires)?;
        if !scope.is_none() {
            key = api_keys::set_scope(db, &key.id, &scope.apply(KeyScope::default()))?;
        }
        if spec.is_some() {
            key.budget_id = key_budgets::set_for_key(db, user_id, &key.id, spec.as_ref())?;
        }
        Ok((with_budget(db, user_id, key)?, secret))
    })?;
    Ok(shown_once(&key, &secret))
}

/// Creates a key for a caller, without a budget.
pub(super) fn create_for(
    call: &Call<'_>,
    caller: &Caller,
    name: &str,
    expires: Option<OffsetDateTime>,
) -> Result<(ApiKey, Secret)> {
    check_wideness(caller, expires)?;
    in_transaction(call, |db| keys::create(db, &caller.user.id, name, expires))
}

/// Checks that a caller may have a key that works until then: what a key makes is not more than it is itself.
///
/// # Errors
/// 403.
fn check_wideness(caller: &Caller, expires: Option<OffsetDateTime>) -> Result<()> {
    let Via::Key { expires: own, .. } = &caller.via else { return Ok(()) };
    let is_longer = own.is_some_and(|own| expires.is_none_or(|expires| expires > own));
    if is_longer || caller.budgets.key.is_some() || caller.scope.is_some() {
        Err(Error::Forbidden(NOT_ALLOWED))
    } else {
        Ok(())
    }
}

/// Checks that a key does not change or get another one, `id`, that is limited as `scope` says but may do what
/// administrators may.
///
/// # Errors
/// 403.
fn check_no_administrators(caller: &Caller, id: &str, scope: &KeyScope) -> Result<()> {
    let is_other = matches!(&caller.via, Via::Key { id: own, .. } if own != id);
    let is_administrators =
        scope.permissions.iter().flatten().any(|name| Permission::named(name) == Some(Permission::Admin));
    if is_other && is_administrators { Err(Error::Forbidden(NOT_ALLOWED)) } else { Ok(()) }
}

/// `POST /api/keys/update` with `id` and what is to be changed.
fn update(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let fields = fields(call)?;
    check_no_rate(&fields)?;
    let UpdateKey { id, name, expires, budget, models, permissions, addresses } = UpdateKey::read(&fields)?;
    let scope = ScopeChange::new(caller, models, permissions, addresses)?;
    let name = name.map(checked_name).transpose()?;
    let expires = match expires {
        Change::Set("") | Change::Clear => Change::Clear,
        Change::Set(text) => Change::Set(expiry(text)?),
        Change::Keep => Change::Keep,
    };
    let user_id = &caller.user.id;
    let shown = in_transaction(call, |db| {
        let mut key = keys::lock(db, user_id, id)?;
        let expires = expires.apply(key.expires);
        check_wideness(caller, expires)?;
        let name = name.unwrap_or(&key.name);
        api_keys::update(db, id, name, expires)?;
        let stored = api_keys::scope_of(db, id)?;
        check_no_administrators(caller, id, &stored)?;
        key = api_keys::set_scope(db, id, &scope.apply(stored))?;
        match budget {
            Change::Keep => {}
            Change::Clear => key.budget_id = key_budgets::set_for_key(db, user_id, id, None)?,
            Change::Set(fields) => key.budget_id = key_budgets::set_for_key(db, user_id, id, Some(&fields.into()))?,
        }
        with_budget(db, user_id, key)
    })?;
    call.app.cache.revoke(user_id);
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
    let key = with_budget(&mut call.app.db.session()?, &caller.user.id, key)?;
    Ok(shown_once(&key, &secret))
}

/// Replaces a caller's key with a new one. A key with limits gets no other key's secret by that.
pub(super) fn rotate_for(call: &Call<'_>, caller: &Caller, id: &str, grace: i64) -> Result<(ApiKey, Secret)> {
    let user_id = &caller.user.id;
    if !matches!(&caller.via, Via::Key { id: own, .. } if own == id) {
        check_wideness(caller, None)?;
    }
    if !(0..=LONGEST_GRACE).contains(&grace) {
        return Err(Error::bad("grace_seconds must be from 0 to 2592000"));
    }
    let made = in_transaction(call, |db| {
        let made = keys::rotate(db, user_id, id, grace)?;
        check_no_administrators(caller, id, &api_keys::scope_of(db, &made.0.id)?)?;
        Ok(made)
    })?;
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

fn shown_once(shown: &ShownKey, secret: &Secret) -> Response {
    let ShownKey { key, budget } = shown;
    Response::json(
        200,
        &NewKey {
            id: &key.id,
            name: &key.name,
            prefix: &key.prefix,
            secret: secret.reveal(),
            created: key.created,
            expires: key.expires,
            budget: budget.as_ref(),
            models: key.models.as_deref(),
            permissions: &key.permissions,
            addresses: key.addresses.as_deref(),
        },
    )
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
