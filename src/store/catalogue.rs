//! Tables `providers`, `models`, `model_names` and `model_routes`: the catalogue. It is read as a whole, and replaced as a
//! whole or entry by entry.

use postgres::Row;

use crate::db::{Error, Executor};

/// The catalogue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogueRows {
    /// By name.
    pub providers: Vec<ProviderRow>,
    /// In the order of the file.
    pub models: Vec<ModelRow>,
}

/// A provider. Time-outs are in milliseconds; one that is `None` is the server's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderRow {
    /// Its name.
    pub name: String,
    /// The address to which paths such as `/chat/completions` are appended.
    pub base_url: String,
    /// Where its API key is.
    pub api_key: StoredKey,
    /// The names of its protocols.
    pub protocols: Vec<String>,
    /// Sent with each request; a value may be `env:NAME`.
    pub headers: Vec<(String, String)>,
    /// A file of certificates on each server.
    pub ca_file: Option<String>,
    /// For a connection.
    pub connect_timeout_ms: Option<i64>,
    /// To the head of the reply.
    pub first_byte_timeout_ms: Option<i64>,
    /// Between two pieces of the reply.
    pub idle_timeout_ms: Option<i64>,
    /// For the whole call.
    pub total_timeout_ms: Option<i64>,
    /// Most calls at once, for each server.
    pub max_concurrent: Option<i64>,
}

/// Where a provider's API key is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoredKey {
    /// It needs none.
    #[default]
    None,
    /// In this environment variable of each server.
    Variable(String),
    /// Here, encrypted.
    Sealed(Vec<u8>),
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelRow {
    /// Its own name.
    pub name: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// The most tokens that one reply may have.
    pub max_output_tokens: Option<i64>,
    /// Where it is served.
    pub routes: Vec<RouteRow>,
}

/// A way to a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRow {
    /// The provider's name.
    pub provider: String,
    /// The model's name there.
    pub upstream_model: String,
    /// Its share of the calls among routes of the same priority.
    pub weight: i64,
    /// Routes with a higher number are asked when all with a lower one fail.
    pub priority: i64,
}

/// Keeps other transactions from changing the catalogue until this one ends; readers go on.
///
/// # Errors
/// See [`Error`].
pub fn lock(db: &mut impl Executor) -> Result<(), Error> {
    db.execute("LOCK TABLE providers, models, model_names, model_routes IN SHARE ROW EXCLUSIVE MODE", &[]).map(drop)
}

/// All of it. To be read in one state, it is read by one statement.
///
/// # Errors
/// See [`Error`].
pub fn read(db: &mut impl Executor) -> Result<CatalogueRows, Error> {
    // One row for each provider, then for each model; a model's names and routes are arrays.
    const SQL: &str = "
        SELECT 0::bigint AS kind, 0::bigint AS position, name, base_url, api_key_variable, api_key_sealed, protocols,
            header_names, header_values, ca_file, connect_timeout_ms, first_byte_timeout_ms, idle_timeout_ms,
            total_timeout_ms, max_concurrent,
            NULL::bigint AS max_output_tokens, NULL::text[] AS aliases, NULL::text[] AS providers,
            NULL::text[] AS upstream_models, NULL::bigint[] AS weights, NULL::bigint[] AS priorities
        FROM providers
        UNION ALL
        SELECT 1, m.position, m.name, '', NULL, NULL, '{}', '{}', '{}', NULL, NULL, NULL, NULL, NULL, NULL,
            m.max_output_tokens,
            ARRAY(SELECT n.name FROM model_names n WHERE n.model = m.name AND n.is_alias ORDER BY n.position),
            r.providers, r.upstream_models, r.weights, r.priorities
        FROM models m
        LEFT JOIN LATERAL (
            SELECT array_agg(provider ORDER BY position) AS providers,
                array_agg(upstream_model ORDER BY position) AS upstream_models,
                array_agg(weight ORDER BY position) AS weights, array_agg(priority ORDER BY position) AS priorities
            FROM model_routes WHERE model = m.name) AS r ON true
        ORDER BY kind, position, name";
    let mut rows = CatalogueRows::default();
    for row in db.query(SQL, &[])? {
        match row.try_get::<_, i64>("kind")? {
            0 => rows.providers.push(provider(&row)?),
            _ => rows.models.push(model(&row)?),
        }
    }
    Ok(rows)
}

fn provider(row: &Row) -> Result<ProviderRow, Error> {
    let (variable, sealed) = (row.try_get("api_key_variable")?, row.try_get("api_key_sealed")?);
    let names: Vec<String> = row.try_get("header_names")?;
    let values: Vec<String> = row.try_get("header_values")?;
    Ok(ProviderRow {
        name: row.try_get("name")?,
        base_url: row.try_get("base_url")?,
        api_key: match (variable, sealed) {
            (Some(variable), _) => StoredKey::Variable(variable),
            (None, Some(sealed)) => StoredKey::Sealed(sealed),
            (None, None) => StoredKey::None,
        },
        protocols: row.try_get("protocols")?,
        headers: names.into_iter().zip(values).collect(),
        ca_file: row.try_get("ca_file")?,
        connect_timeout_ms: row.try_get("connect_timeout_ms")?,
        first_byte_timeout_ms: row.try_get("first_byte_timeout_ms")?,
        idle_timeout_ms: row.try_get("idle_timeout_ms")?,
        total_timeout_ms: row.try_get("total_timeout_ms")?,
        max_concurrent: row.try_get("max_concurrent")?,
    })
}

fn model(row: &Row) -> Result<ModelRow, Error> {
    let texts = |column| Ok::<_, Error>(row.try_get::<_, Option<Vec<String>>>(column)?.unwrap_or_default());
    let numbers = |column| Ok::<_, Error>(row.try_get::<_, Option<Vec<i64>>>(column)?.unwrap_or_default());
    let routes = texts("providers")?.into_iter().zip(texts("upstream_models")?);
    let order = numbers("weights")?.into_iter().zip(numbers("priorities")?);
    let route =
        |((provider, upstream_model), (weight, priority))| RouteRow { provider, upstream_model, weight, priority };
    Ok(ModelRow {
        name: row.try_get("name")?,
        aliases: texts("aliases")?,
        max_output_tokens: row.try_get("max_output_tokens")?,
        routes: routes.zip(order).map(route).collect(),
    })
}

/// Puts this catalogue in the place of the one that is stored. To be called in a transaction, after [`lock`].
///
/// # Errors
/// See [`Error`].
pub fn replace(db: &mut impl Executor, rows: &CatalogueRows) -> Result<(), Error> {
    // Names and routes go with their models.
    db.execute("DELETE FROM models", &[])?;
    db.execute("DELETE FROM providers", &[])?;
    for provider in &rows.providers {
        put_provider(db, provider)?;
    }
    for (position, model) in (0_i64..).zip(&rows.models) {
        insert_model(db, position, model)?;
    }
    Ok(())
}

/// Stores a provider, in the place of the one of its name if there is one. To be called in a transaction, after [`lock`].
///
/// # Errors
/// See [`Error`].
pub fn put_provider(db: &mut impl Executor, provider: &ProviderRow) -> Result<(), Error> {
    const SQL: &str =
        "INSERT INTO providers (name, base_url, api_key_variable, api_key_sealed, protocols, header_names,
            header_values, ca_file, connect_timeout_ms, first_byte_timeout_ms, idle_timeout_ms, total_timeout_ms,
            max_concurrent)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        ON CONFLICT (name) DO UPDATE SET base_url = excluded.base_url, api_key_variable = excluded.api_key_variable,
            api_key_sealed = excluded.api_key_sealed, protocols = excluded.protocols,
            header_names = excluded.header_names, header_values = excluded.header_values, ca_file = excluded.ca_file,
            connect_timeout_ms = excluded.connect_timeout_ms, first_byte_timeout_ms = excluded.first_byte_timeout_ms,
            idle_timeout_ms = excluded.idle_timeout_ms, total_timeout_ms = excluded.total_timeout_ms,
            max_concurrent = excluded.max_concurrent";
    let (variable, sealed) = match &provider.api_key {
        StoredKey::None => (None, None),
        StoredKey::Variable(name) => (Some(name.clone()), None),
        StoredKey::Sealed(bytes) => (None, Some(bytes.clone())),
    };
    let (names, values): (Vec<String>, Vec<String>) = provider.headers.iter().cloned().unzip();
    db.execute(
        SQL,
        &[
            &provider.name,
            &provider.base_url,
            &variable,
            &sealed,
            &provider.protocols,
            &names,
            &values,
            &provider.ca_file,
            &provider.connect_timeout_ms,
            &provider.first_byte_timeout_ms,
            &provider.idle_timeout_ms,
            &provider.total_timeout_ms,
            &provider.max_concurrent,
        ],
    )
    .map(drop)
}

/// Removes a provider, to which no route may lead any more. To be called in a transaction, after [`lock`].
///
/// # Errors
/// See [`Error`].
pub fn remove_provider(db: &mut impl Executor, name: &str) -> Result<(), Error> {
    db.execute("DELETE FROM providers WHERE name = $1", &[&name]).map(drop)
}

/// Stores a model, in the place of the one of its name, or behind all others if there is none. To be called in a
/// transaction, after [`lock`].
///
/// # Errors
/// See [`Error`].
pub fn put_model(db: &mut impl Executor, model: &ModelRow) -> Result<(), Error> {
    let removed = db.query("DELETE FROM models WHERE name = $1 RETURNING position", &[&model.name])?;
    let position = match removed.first() {
        Some(row) => row.try_get(0)?,
        None => db.query_one("SELECT coalesce(max(position) + 1, 0) FROM models", &[])?.try_get(0)?,
    };
    insert_model(db, position, model)
}

/// Removes a model with its names and routes. To be called in a transaction, after [`lock`].
///
/// # Errors
/// See [`Error`].
pub fn remove_model(db: &mut impl Executor, name: &str) -> Result<(), Error> {
    db.execute("DELETE FROM models WHERE name = $1", &[&name]).map(drop)
}

fn insert_model(db: &mut impl Executor, position: i64, model: &ModelRow) -> Result<(), Error> {
    const MODEL: &str = "INSERT INTO models (name, position, max_output_tokens) VALUES ($1, $2, $3)";
    const NAMES: &str = "INSERT INTO model_names (name, model, position, is_alias)
        SELECT name, $1, position, position > 1 FROM unnest($2) WITH ORDINALITY AS names (name, position)";
    const ROUTES: &str = "INSERT INTO model_routes (model, position, provider, upstream_model, weight, priority)
        SELECT $1, position, provider, upstream_model, weight, priority
        FROM unnest($2, $3, $4, $5) WITH ORDINALITY AS r (provider, upstream_model, weight, priority, position)";
    db.execute(MODEL, &[&model.name, &position, &model.max_output_tokens])?;
    let names: Vec<&str> = std::iter::once(&model.name).chain(&model.aliases).map(String::as_str).collect();
    db.execute(NAMES, &[&model.name, &names])?;
    let providers: Vec<&str> = model.routes.iter().map(|route| route.provider.as_str()).collect();
    let upstream_models: Vec<&str> = model.routes.iter().map(|route| route.upstream_model.as_str()).collect();
    let weights: Vec<i64> = model.routes.iter().map(|route| route.weight).collect();
    let priorities: Vec<i64> = model.routes.iter().map(|route| route.priority).collect();
    db.execute(ROUTES, &[&model.name, &providers, &upstream_models, &weights, &priorities]).map(drop)
}
