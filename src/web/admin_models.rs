//! The operator's API of the catalogue: the twin of `textgen models` and `textgen provider`. A change is recorded in the
//! audit log, in the same transaction; every server is notified of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::cursor::cut_list;
use super::keys::in_transaction;
use super::{Answer, actor};
use crate::auth::Caller;
use crate::call::Call;
use crate::catalogue::{
    EntryChange, Models, Outcome, PricedCatalogue, PricedModel, Sealer, UpcomingPrice, change_model, change_provider,
};
use crate::error::Result;
use crate::http::Response;
use crate::http::form::{FORM_LIMIT, Fields};
use crate::operation::Group::Administration;
use crate::operation::Handler::Authenticated;
use crate::operation::{Operation, get, post, summary};
use crate::store::catalogue::{ProviderRow, RouteRow, StoredKey};

/// Models or providers on a page of the list, unless `limit` asks for fewer.
const PAGE: i64 = 100;

/// The operations of this file.
pub(super) fn operations() -> Vec<Operation> {
    let all = [
        get("/api/admin/providers", Authenticated(list_providers)).described(
            summary(Administration, "Providers of the catalogue, by name")
                .query::<ListEntries>()
                .reply::<ProviderList>()
                .status(400, "limit or after is invalid"),
        ),
        post("/api/admin/providers", Authenticated(post_provider)).described(
            summary(Administration, "Create, change or remove a provider; fields that are missing stay as they are")
                .json::<ChangeProvider>()
                .reply::<ChangedProvider>()
                .status(400, INVALID)
                .status(404, "The provider to be removed does not exist"),
        ),
        get("/api/admin/models", Authenticated(list_models)).described(
            summary(Administration, "Models of the catalogue, in its order, with their prices")
                .query::<ListEntries>()
                .reply::<ModelList>()
                .status(400, "limit or after is invalid"),
        ),
        post("/api/admin/models", Authenticated(post_model)).described(
            summary(Administration, "Create, change or remove a model; fields that are missing stay as they are")
                .json::<ChangeModel>()
                .reply::<ChangedModel>()
                .status(400, INVALID)
                .status(404, "The model to be removed does not exist"),
        ),
    ];
    all.into_iter().map(Operation::for_administrators).collect()
}

const INVALID: &str = "A field is invalid; the message names it";

/// The parameters of a list.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the query")]
struct ListEntries {
    /// 1 to 100.
    limit: Option<i64>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// What the change of a model takes. A field that is null gets its default.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the body, which is read by `catalogue::EntryChange`")]
struct ChangeModel {
    /// What clients write, exactly.
    name: String,
    /// Removes the model. No other field may be there then.
    remove: Option<bool>,
    /// What clients may write as well.
    aliases: Option<Vec<String>>,
    /// The most tokens that one reply may have; unlimited by default.
    max_output_tokens: Option<i64>,
    /// All of its price, as decimal texts in US dollars: `input`, `cached_input`, `cache_write`, `output` and
    /// `embedding` per million tokens; `audio_second`, `character`, `image` and `request` each.
    price: Option<BTreeMap<String, String>>,
    /// From when on that price applies; from now on by default.
    #[schemars(extend("format" = "date-time"))]
    price_from: Option<String>,
    /// All of its routes. A new model needs one.
    route: Option<Vec<ChangeRoute>>,
}

/// A way to a model.
#[derive(JsonSchema)]
#[schemars(inline)]
#[expect(dead_code, reason = "describes the body")]
struct ChangeRoute {
    /// The provider's name.
    provider: String,
    /// The model's name there; the same by default.
    model: Option<String>,
    /// Its share of the calls among routes of the same priority; 1 by default.
    weight: Option<i64>,
    /// Routes with a higher number are asked when all with a lower one fail; 0 by default.
    priority: Option<i64>,
}

/// What the change of a provider takes. A field that is null gets its default.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the body, which is read by `catalogue::EntryChange`")]
struct ChangeProvider {
    /// Its name in routes and in the log.
    name: String,
    /// Removes the provider, to which no route may lead. No other field may be there then.
    remove: Option<bool>,
    /// Its address, to which `/chat/completions` is appended. A new provider needs one.
    base_url: Option<String>,
    /// `env:NAME`, the environment variable on each server that holds its API key, or the key itself, which is stored
    /// encrypted and never shown. None by default.
    api_key: Option<String>,
    /// Of `chat`, `responses`, `messages`, `embeddings` and `audio`; all by default.
    protocols: Option<Vec<String>>,
    /// Sent with each request. A value `env:NAME` is read from the environment of each server.
    headers: Option<BTreeMap<String, String>>,
    /// A file with the certificates (PEM) that its own is checked against, on each server.
    ca_file: Option<String>,
    /// Milliseconds for a connection. The defaults of the time-outs are settings of each server.
    connect_timeout_ms: Option<i64>,
    /// Milliseconds to the head of the reply.
    first_byte_timeout_ms: Option<i64>,
    /// Milliseconds between two pieces of the reply.
    idle_timeout_ms: Option<i64>,
    /// Milliseconds for the whole call, unless its reply is a stream.
    total_timeout_ms: Option<i64>,
    /// Most calls at once, for each server; unlimited by default.
    max_concurrent: Option<i64>,
}

#[derive(Serialize, JsonSchema)]
struct ModelList {
    models: Vec<ShownModel>,
    /// What a model costs that has no price of its own.
    default_price: BTreeMap<String, String>,
    /// The `after` of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A model as operators see it.
#[derive(Serialize, JsonSchema)]
struct ShownModel {
    /// What clients write, exactly.
    name: String,
    /// What clients may write as well.
    aliases: Vec<String>,
    /// The most tokens that one reply may have.
    max_output_tokens: Option<i64>,
    /// What it costs now, in US dollars; null if it has no price of its own.
    price: Option<BTreeMap<String, String>>,
    /// What it will cost, the first ones first.
    upcoming_prices: Vec<UpcomingPrice>,
    /// Where it is served.
    route: Vec<ShownRoute>,
}

/// A way to a model.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
struct ShownRoute {
    provider: String,
    /// The model's name there.
    model: String,
    weight: i64,
    priority: i64,
}

#[derive(Serialize, JsonSchema)]
struct ProviderList {
    providers: Vec<ShownProvider>,
    /// The `after` of the next page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A provider as operators see it.
#[derive(Serialize, JsonSchema)]
struct ShownProvider {
    name: String,
    base_url: String,
    /// `env:NAME`, or `sealed` for one that is stored encrypted.
    api_key: Option<String>,
    protocols: Vec<String>,
    headers: BTreeMap<String, String>,
    ca_file: Option<String>,
    connect_timeout_ms: Option<i64>,
    first_byte_timeout_ms: Option<i64>,
    idle_timeout_ms: Option<i64>,
    total_timeout_ms: Option<i64>,
    max_concurrent: Option<i64>,
    /// What keeps this server from calling it now. Only in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct ChangedModel {
    outcome: Outcome,
    /// The model as it is now; null if it was removed.
    model: Option<ShownModel>,
}

#[derive(Serialize, JsonSchema)]
struct ChangedProvider {
    outcome: Outcome,
    /// The provider as it is now; null if it was removed.
    provider: Option<ShownProvider>,
}

impl From<PricedModel> for ShownModel {
    fn from(PricedModel { model, price, upcoming }: PricedModel) -> ShownModel {
        let route = |route: RouteRow| ShownRoute {
            provider: route.provider,
            model: route.upstream_model,
            weight: route.weight,
            priority: route.priority,
        };
        ShownModel {
            name: model.name,
            aliases: model.aliases,
            max_output_tokens: model.max_output_tokens,
            price,
            upcoming_prices: upcoming,
            route: model.routes.into_iter().map(route).collect(),
        }
    }
}

impl ShownProvider {
    fn new(row: ProviderRow, problem: Option<String>) -> ShownProvider {
        ShownProvider {
            name: row.name,
            base_url: row.base_url,
            api_key: key_in_words(&row.api_key),
            protocols: row.protocols,
            headers: row.headers.into_iter().collect(),
            ca_file: row.ca_file,
            connect_timeout_ms: row.connect_timeout_ms,
            first_byte_timeout_ms: row.first_byte_timeout_ms,
            idle_timeout_ms: row.idle_timeout_ms,
            total_timeout_ms: row.total_timeout_ms,
            max_concurrent: row.max_concurrent,
            problem,
        }
    }
}

/// Where a provider's API key is, without showing it.
pub(super) fn key_in_words(key: &StoredKey) -> Option<String> {
    match key {
        StoredKey::None => None,
        StoredKey::Variable(name) => Some(format!("env:{name}")),
        StoredKey::Sealed(_) => Some("sealed".to_owned()),
    }
}

/// `GET /api/admin/models?limit=&after=`.
fn list_models(call: &mut Call<'_>, _: &Caller) -> Answer {
    let PricedCatalogue { mut models, default_price, .. } = PricedCatalogue::read(&mut call.app.db.session()?)?;
    let next = cut_list(call.request, PAGE, &mut models, |priced| &priced.model.name)?;
    let models = models.into_iter().map(ShownModel::from).collect();
    Ok(Response::json_reserved(200, &ModelList { models, default_price, next })?)
}

/// `GET /api/admin/providers?limit=&after=`.
fn list_providers(call: &mut Call<'_>, _: &Caller) -> Answer {
    let mut providers = PricedCatalogue::read(&mut call.app.db.session()?)?.providers;
    let next = cut_list(call.request, PAGE, &mut providers, |row| &row.name)?;
    let models: &Models = &call.app.models;
    let shown = |row: ProviderRow| {
        let problem = models.problem_of(&row.name);
        ShownProvider::new(row, problem)
    };
    let providers = providers.into_iter().map(shown).collect();
    Ok(Response::json_reserved(200, &ProviderList { providers, next })?)
}

/// `POST /api/admin/models`.
fn post_model(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let change = change_of(call)?;
    let outcome = change_model_for(call, caller, &change)?;
    let models = PricedCatalogue::read(&mut call.app.db.session()?)?.models;
    let model = models.into_iter().find(|priced| priced.model.name == change.name());
    let model = model.filter(|_| outcome != Outcome::Removed).map(ShownModel::from);
    Ok(Response::json(200, &ChangedModel { outcome, model }))
}

/// `POST /api/admin/providers`.
fn post_provider(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let change = change_of(call)?;
    let outcome = change_provider_for(call, caller, &change)?;
    let providers = PricedCatalogue::read(&mut call.app.db.session()?)?.providers;
    let provider = providers.into_iter().find(|row| row.name == change.name());
    let provider = provider.filter(|_| outcome != Outcome::Removed).map(|row| ShownProvider::new(row, None));
    Ok(Response::json(200, &ChangedProvider { outcome, provider }))
}

fn change_of(call: &mut Call<'_>) -> Result<EntryChange> {
    EntryChange::new(Fields::read_json(call.request, FORM_LIMIT)?.into_object())
}

/// Changes a model for an administrator.
///
/// # Errors
/// As [`change_model`].
pub(super) fn change_model_for(call: &Call<'_>, caller: &Caller, change: &EntryChange) -> Result<Outcome> {
    let address = call.client().to_string();
    in_transaction(call, |db| change_model(db, change, actor(caller, &address)))
}

/// Changes a provider for an administrator.
///
/// # Errors
/// As [`change_provider`].
pub(super) fn change_provider_for(call: &Call<'_>, caller: &Caller, change: &EntryChange) -> Result<Outcome> {
    let address = call.client().to_string();
    let sealer = || Sealer::new(call.app.config.encryption_key.as_ref());
    in_transaction(call, |db| change_provider(db, change, sealer, actor(caller, &address)))
}
