//! The fields of requests that make or change keys, and of the replies.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;

use crate::accounts::limited_keys::KeyChange;
use crate::accounts::rates::RateChange;
use crate::accounts::scopes;
use crate::app::App;
use crate::auth::{Caller, Secret, Via};
use crate::db::Executor;
use crate::error::{Error, Result};
use crate::http::form::{FieldError, Fields};
use crate::http::request_fields::{Change, FromField};
use crate::store::budgets::{self, Budget, BudgetChange, Window};
use crate::store::rates::{self, RateLimit};
use crate::store::{ApiKey, timestamp};

/// The most characters of a key's name.
const LONGEST_NAME: usize = 100;

/// The most that a key or an account may spend.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct BudgetFields {
    /// In micro-dollars (a millionth of a dollar), in each window.
    limit_micros: i64,
    /// When it begins anew: `day`, `week` (on Monday), `month` or `total`, which is never. If it is missing, it stays
    /// as it is; a new budget of a key is in total, that of an account for a month.
    #[schemars(with = "Option<String>")]
    window: Option<Window>,
    /// The IANA time zone of the windows. If it is missing, it stays as it is; `UTC` for a new budget.
    timezone: Option<String>,
}

impl FromField<'_> for Option<BudgetFields> {
    const IS_REQUIRED: bool = false;

    fn from_field(fields: &Fields, name: &'static str) -> std::result::Result<Option<BudgetFields>, FieldError> {
        fields.optional_object(name)
    }
}

impl From<BudgetFields> for BudgetChange {
    fn from(fields: BudgetFields) -> BudgetChange {
        let BudgetFields { limit_micros, window, timezone } = fields;
        BudgetChange { limit_micros, window, timezone }
    }
}

/// How much a key or an account may ask for, on all servers together. What is missing stays as it is; null for no limit.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct RateFields {
    /// The most requests in any minute.
    #[serde(default = "kept", deserialize_with = "given")]
    #[schemars(with = "Option<i64>")]
    requests_per_minute: Change<i64>,
    /// The most tokens, of prompts and replies, of the requests in any minute.
    #[serde(default = "kept", deserialize_with = "given")]
    #[schemars(with = "Option<i64>")]
    tokens_per_minute: Change<i64>,
    /// The most requests at once.
    #[serde(default = "kept", deserialize_with = "given")]
    #[schemars(with = "Option<i64>")]
    concurrent: Change<i64>,
}

/// A field that is missing.
fn kept() -> Change<i64> {
    Change::Keep
}

/// A field that is there, though it may be null.
fn given<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Change<i64>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map_or(Change::Clear, Change::Set))
}

impl FromField<'_> for Option<RateFields> {
    const IS_REQUIRED: bool = false;

    fn from_field(fields: &Fields, name: &'static str) -> std::result::Result<Option<RateFields>, FieldError> {
        fields.optional_object(name)
    }
}

impl From<RateFields> for RateChange {
    fn from(fields: RateFields) -> RateChange {
        let RateFields { requests_per_minute, tokens_per_minute, concurrent } = fields;
        RateChange { requests_per_minute, tokens_per_minute, concurrent }
    }
}

/// A list of texts; in a form, its JSON.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(super) struct List(pub(super) Vec<String>);

impl FromField<'_> for Option<List> {
    const IS_REQUIRED: bool = false;

    fn from_field(fields: &Fields, name: &'static str) -> std::result::Result<Option<List>, FieldError> {
        fields.optional_object(name)
    }
}

/// What a request says of a key's limits.
pub(super) struct LimitFields<'f> {
    pub(super) expires: Change<&'f str>,
    pub(super) budget: Change<BudgetFields>,
    pub(super) rate: Change<RateFields>,
    pub(super) models: Change<List>,
    pub(super) permissions: Change<List>,
    pub(super) addresses: Change<List>,
}

impl LimitFields<'_> {
    /// Checks what a caller has sent.
    ///
    /// # Errors
    /// 400, 403.
    pub(super) fn check(self, caller: &Caller, name: Option<&str>) -> Result<KeyChange> {
        let is_administrator = caller.user.is_admin && matches!(caller.via, Via::Session { .. });
        let name = name.map(checked_name).transpose()?.map(str::to_owned);
        Ok(KeyChange {
            name,
            expires: self.expires.try_map(expiry)?,
            budget: self.budget.try_map::<_, Error>(|fields| Ok(Some(fields.into())))?,
            rate: self.rate.try_map::<_, Error>(|fields| Ok(Some(fields.into())))?,
            models: self.models.try_map(|List(models)| scopes::models(models).map(Some))?,
            permissions: self.permissions.try_map(|List(names)| scopes::permissions(names, is_administrator))?,
            addresses: self.addresses.try_map(|List(addresses)| scopes::addresses(&addresses).map(Some))?,
        })
    }
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

/// When a key stops working; `None` for never.
fn expiry(text: &str) -> Result<Option<OffsetDateTime>> {
    if text.is_empty() {
        return Ok(None);
    }
    let time = timestamp::parse(text).ok_or(Error::bad("expires must be a time such as 2027-01-31T12:00:00Z"))?;
    if time > OffsetDateTime::now_utc() { Ok(Some(time)) } else { Err(Error::bad("expires must be in the future")) }
}

/// A key with its limits.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct ShownKey {
    #[serde(flatten)]
    key: ApiKey,
    /// The most that it may spend, and what it has spent.
    budget: Option<Budget>,
    /// How much it may ask for in a minute, or at once.
    rate: Option<RateLimit>,
}

impl ShownKey {
    /// Tells this process at once that the key's limits may have changed; others are notified.
    pub(super) fn limits_changed(&self, app: &App) {
        for id in self.key.budget_id.iter().chain(&self.key.rate_id) {
            app.meter.limits().notified(id);
        }
    }
}

/// A new key, in the only reply that holds its secret.
#[derive(Serialize, JsonSchema)]
pub(super) struct NewKey {
    #[serde(flatten)]
    key: ShownKey,
    /// Shown here and never again.
    secret: String,
}

impl NewKey {
    pub(super) fn new(key: ShownKey, secret: &Secret) -> NewKey {
        NewKey { key, secret: secret.reveal().to_owned() }
    }
}

/// Adds the budgets and rate limits of a user's keys.
///
/// # Errors
/// 503.
pub(super) fn show_all(db: &mut impl Executor, user_id: &str, keys: Vec<ApiKey>) -> Result<Vec<ShownKey>> {
    let has_any = keys.iter().any(|key| key.budget_id.is_some());
    let budgets = if has_any { budgets::of_user(db, user_id)? } else { Vec::new() };
    let has_any = keys.iter().any(|key| key.rate_id.is_some());
    let rates = if has_any { rates::of_user(db, user_id)? } else { Vec::new() };
    let shown = |key: ApiKey| {
        let budget = budgets.iter().find(|budget| Some(&budget.id) == key.budget_id.as_ref()).cloned();
        let rate = rates.iter().find(|rate| Some(&rate.id) == key.rate_id.as_ref()).cloned();
        ShownKey { key, budget, rate }
    };
    Ok(keys.into_iter().map(shown).collect())
}

/// Adds a key's budget and rate limits.
///
/// # Errors
/// 503.
pub(super) fn show(db: &mut impl Executor, user_id: &str, key: ApiKey) -> Result<ShownKey> {
    let shown = show_all(db, user_id, vec![key])?.pop();
    shown.ok_or_else(|| Error::Internal("a key was lost".to_owned()))
}
