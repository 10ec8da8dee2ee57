//! The fields of keys that say what a key is limited to.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::accounts::scopes;
use crate::auth::{Caller, Via};
use crate::error::Result;
use crate::http::form::{FieldError, Fields};
use crate::http::request_fields::{Change, FromField};
use crate::store::api_keys::KeyScope;
use crate::store::budgets::{BudgetSpec, Window};

/// The most that a key may spend.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(inline)]
pub(super) struct BudgetFields {
    /// In micro-dollars (a millionth of a dollar), in each window.
    limit_micros: i64,
    /// When it begins anew: `day`, `week` (on Monday), `month`, or by default `total`, which is never.
    #[schemars(with = "Option<String>")]
    window: Option<Window>,
    /// The IANA time zone of the windows, by default `UTC`.
    timezone: Option<String>,
}

impl FromField<'_> for Option<BudgetFields> {
    const IS_REQUIRED: bool = false;

    fn from_field(fields: &Fields, name: &'static str) -> std::result::Result<Option<BudgetFields>, FieldError> {
        fields.optional_object(name)
    }
}

impl From<BudgetFields> for BudgetSpec {
    fn from(fields: BudgetFields) -> BudgetSpec {
        BudgetSpec {
            limit_micros: fields.limit_micros,
            window: fields.window.unwrap_or(Window::Total),
            timezone: fields.timezone.unwrap_or_else(|| "UTC".to_owned()),
        }
    }
}

/// A list of texts; in a form, its JSON.
#[derive(Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub(super) struct List(Vec<String>);

impl FromField<'_> for Option<List> {
    const IS_REQUIRED: bool = false;

    fn from_field(fields: &Fields, name: &'static str) -> std::result::Result<Option<List>, FieldError> {
        fields.optional_object(name)
    }
}

/// What a request says of a key's scope, checked.
pub(super) struct ScopeChange {
    models: Change<Vec<String>>,
    permissions: Change<Vec<String>>,
    addresses: Change<Vec<String>>,
}

impl ScopeChange {
    /// Checks the fields that a caller has sent.
    ///
    /// # Errors
    /// 400, 403.
    pub(super) fn new(
        caller: &Caller,
        models: Change<List>,
        permissions: Change<List>,
        addresses: Change<List>,
    ) -> Result<ScopeChange> {
        let is_administrator = caller.user.is_admin && matches!(caller.via, Via::Session { .. });
        Ok(ScopeChange {
            models: models.try_map(|List(models)| scopes::models(models).map(Some))?,
            permissions: permissions.try_map(|List(names)| scopes::permissions(names, is_administrator))?,
            addresses: addresses.try_map(|List(addresses)| scopes::addresses(&addresses).map(Some))?,
        })
    }

    /// Whether nothing is to be changed.
    pub(super) fn is_none(&self) -> bool {
        [&self.models, &self.permissions, &self.addresses].iter().all(|change| matches!(change, Change::Keep))
    }

    /// What the key is limited to after the change.
    pub(super) fn apply(self, scope: KeyScope) -> KeyScope {
        KeyScope {
            models: self.models.apply(scope.models),
            permissions: self.permissions.apply(scope.permissions),
            addresses: self.addresses.apply(scope.addresses),
        }
    }
}
