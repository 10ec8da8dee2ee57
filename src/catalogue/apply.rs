//! Stores a catalogue, and writes out the one that is stored.

use std::collections::{BTreeMap, HashMap};

use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use crate::db::{self, Executor, Session};
use crate::engine::Protocol;
use crate::hex;
use crate::money::format_price;
use crate::store::audit::{self, Actor};
use crate::store::catalogue::{self as store, CatalogueRows, ModelRow, ProviderRow, RouteRow, StoredKey};
use crate::store::prices::{self, DatedPrice, Price};
use crate::units::{ByUnit, Unit};

use super::entries::{CatalogueFile, KeyEntry, ModelEntry, ProviderEntry, RouteEntry};
use super::seal::Sealer;
use super::validate::{NewPrice, validate};

/// What [`apply`] has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// How many models there are now.
    pub models: usize,
    /// How many providers there are now.
    pub providers: usize,
    /// Whether anything but prices is another than before.
    pub changed: bool,
    /// How many prices are.
    pub prices: usize,
}

/// Why a catalogue was not stored; nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It is wrong; in words for the operator.
    #[error("{0}")]
    Invalid(String),
    /// It was made from a catalogue that is not the stored one any more.
    #[error(
        "the catalogue has changed since this page was opened; open it again in another tab, and repeat your changes"
    )]
    Outdated,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] db::Error),
}

/// Puts a file's catalogue in the place of the stored one, in one transaction. A price that is another than the one that
/// applies gets a new row, from now on or from the file's date; what was charged is never charged anew. With a `version`,
/// the stored catalogue must still be that one. `sealer` is asked for only if there is an API key to be sealed. A change
/// is recorded in the audit log.
///
/// # Errors
/// See [`ApplyError`].
pub fn apply(
    session: &mut Session,
    file: CatalogueFile,
    version: Option<&str>,
    sealer: impl FnOnce() -> Result<Sealer, String>,
    actor: Actor<'_>,
) -> Result<Applied, ApplyError> {
    let validated = validate(file).map_err(|problems| ApplyError::Invalid(problems.to_string()))?;
    let mut transaction = session.transaction()?;
    store::lock(&mut transaction)?;
    let stored = store::read(&mut transaction)?;
    if let Some(expected) = version {
        let current = exported(stored.clone(), &prices::all(&mut transaction)?).to_toml();
        if current.map(|file| self::version(&file)).as_deref() != Ok(expected) {
            return Err(ApplyError::Outdated);
        }
    }
    let mut providers = provider_rows(validated.providers, &stored.providers, sealer).map_err(ApplyError::Invalid)?;
    providers.sort_by(|a, b| a.name.cmp(&b.name));
    let (models, new_prices): (Vec<_>, Vec<_>) = validated.models.into_iter().unzip();
    let rows = CatalogueRows { providers, models };
    let changed = rows != stored;
    if changed {
        store::replace(&mut transaction, &rows)?;
    }
    let existing = prices::all(&mut transaction)?;
    let mut changed_prices = 0;
    for (model, new) in rows.models.iter().zip(new_prices) {
        changed_prices += usize::from(set_price(&mut transaction, &existing, &model.name, new)?);
    }
    if changed || changed_prices > 0 {
        let details =
            format!("{} models, {} providers, {changed_prices} new prices", rows.models.len(), rows.providers.len());
        audit::insert_for(&mut transaction, actor, "apply", "catalogue", &details)?;
    }
    transaction.commit()?;
    Ok(Applied { models: rows.models.len(), providers: rows.providers.len(), changed, prices: changed_prices })
}

/// Sets a model's price, unless the same one applies already. Whether it has.
pub(super) fn set_price(
    db: &mut impl Executor,
    existing: &[DatedPrice],
    model: &str,
    new: Option<NewPrice>,
) -> Result<bool, db::Error> {
    let Some(new) = new.filter(|new| !applies(existing, model, new)) else { return Ok(false) };
    prices::set(db, model, &ByUnit::from_fn(|unit| Some(new.price.0[unit])), new.from)?;
    Ok(true)
}

/// Whether the price that applies at the time from which a new one is to apply is the same.
fn applies(existing: &[DatedPrice], model: &str, new: &NewPrice) -> bool {
    let now = OffsetDateTime::now_utc();
    price_at(existing, model, new.from.map_or(now, |from| from.max(now))).is_some_and(|price| *price == new.price)
}

/// A model's own price at a time.
pub(super) fn price_at<'p>(prices: &'p [DatedPrice], model: &str, at: OffsetDateTime) -> Option<&'p Price> {
    let own = prices.iter().filter(|price| price.model == model && price.valid_from <= at);
    own.max_by_key(|price| price.valid_from).map(|price| &price.price)
}

fn provider_rows(
    providers: Vec<ProviderEntry>,
    stored: &[ProviderRow],
    sealer: impl FnOnce() -> Result<Sealer, String>,
) -> Result<Vec<ProviderRow>, String> {
    let has_literals = providers.iter().any(|provider| matches!(provider.api_key, KeyEntry::Literal(_)));
    let sealer = if has_literals { Some(sealer()?) } else { None };
    let stored: HashMap<&str, &ProviderRow> = stored.iter().map(|row| (row.name.as_str(), row)).collect();
    let row = |entry: ProviderEntry| {
        let stored = stored.get(entry.name.as_str()).copied();
        provider_row(entry, stored, sealer.as_ref())
    };
    providers.into_iter().map(row).collect()
}

/// What is stored for a provider that has been checked, in the place of the row of its name. A literal key needs the
/// `sealer`.
pub(super) fn provider_row(
    entry: ProviderEntry,
    stored: Option<&ProviderRow>,
    sealer: Option<&Sealer>,
) -> Result<ProviderRow, String> {
    let api_key = stored_key(&entry, stored, sealer).map_err(|e| format!("provider {:?}: api_key: {e}", entry.name))?;
    let usual = || Protocol::USUAL.map(|protocol| protocol.name().to_owned()).to_vec();
    Ok(ProviderRow {
        api_key,
        name: entry.name,
        base_url: entry.base_url,
        protocols: entry.protocols.unwrap_or_else(usual),
        headers: entry.headers.into_iter().collect(),
        ca_file: entry.ca_file,
        connect_timeout_ms: entry.connect_timeout_ms,
        first_byte_timeout_ms: entry.first_byte_timeout_ms,
        idle_timeout_ms: entry.idle_timeout_ms,
        total_timeout_ms: entry.total_timeout_ms,
        max_concurrent: entry.max_concurrent,
    })
}

fn stored_key(entry: &ProviderEntry, row: Option<&ProviderRow>, sealer: Option<&Sealer>) -> Result<StoredKey, String> {
    match (&entry.api_key, row.map(|row| &row.api_key), sealer) {
        (KeyEntry::None, ..) => Ok(StoredKey::None),
        (KeyEntry::Variable(name), ..) => Ok(StoredKey::Variable(name.clone())),
        // Whoever does not know the key must not be able to have it sent to a server of their own.
        (KeyEntry::Stored, Some(StoredKey::Sealed(_)), _) if row.is_some_and(|row| row.base_url != entry.base_url) => {
            Err("base_url is another one than that for which the key was given, so give the key again".to_owned())
        }
        (KeyEntry::Stored, Some(StoredKey::Sealed(sealed)), _) => Ok(StoredKey::Sealed(sealed.clone())),
        (KeyEntry::Stored, ..) => {
            Err("it says \"sealed\", but no key is stored for a provider of this name".to_owned())
        }
        (KeyEntry::Literal(key), stored, Some(sealer)) => {
            // The same key is not sealed anew, as that would look like a change.
            if let Some(StoredKey::Sealed(sealed)) = stored
                && sealer.open(&entry.name, sealed).is_ok_and(|known| known == *key)
            {
                return Ok(StoredKey::Sealed(sealed.clone()));
            }
            sealer.seal(&entry.name, key).map(StoredKey::Sealed)
        }
        (KeyEntry::Literal(_), _, None) => Err("it cannot be sealed".to_owned()),
    }
}

/// The stored catalogue as a file, with the prices that apply now. API keys are shown as `sealed`. To apply it changes
/// nothing.
///
/// # Errors
/// See [`db::Error`].
pub fn export(session: &mut Session) -> Result<CatalogueFile, db::Error> {
    let mut transaction = session.transaction()?;
    let rows = store::read(&mut transaction)?;
    let prices = prices::all(&mut transaction)?;
    Ok(exported(rows, &prices))
}

/// What the catalogue that was exported as this text is recognised by.
pub fn version(exported: &str) -> String {
    hex::encode(&Sha256::digest(exported))
}

fn exported(rows: CatalogueRows, prices: &[DatedPrice]) -> CatalogueFile {
    let now = OffsetDateTime::now_utc();
    let models = rows.models.into_iter().map(|model| {
        let price = price_at(prices, &model.name, now).map(price_entry);
        ModelEntry { price, ..model_entry(model) }
    });
    let model = models.collect();
    CatalogueFile { provider: rows.providers.into_iter().map(provider_entry).collect(), model }
}

/// A stored model as an entry of the file, without its price.
pub(super) fn model_entry(model: ModelRow) -> ModelEntry {
    let route = |route: RouteRow| RouteEntry {
        model: Some(route.upstream_model).filter(|name| *name != model.name),
        provider: route.provider,
        weight: route.weight,
        priority: route.priority,
    };
    ModelEntry {
        price: None,
        price_from: None,
        route: model.routes.into_iter().map(route).collect(),
        name: model.name,
        aliases: model.aliases,
        max_output_tokens: model.max_output_tokens,
    }
}

/// A stored provider as an entry of the file; a sealed key as `sealed`.
pub(super) fn provider_entry(row: ProviderRow) -> ProviderEntry {
    ProviderEntry {
        name: row.name,
        base_url: row.base_url,
        api_key: match row.api_key {
            StoredKey::None => KeyEntry::None,
            StoredKey::Variable(name) => KeyEntry::Variable(name),
            StoredKey::Sealed(_) => KeyEntry::Stored,
        },
        protocols: Some(row.protocols),
        ca_file: row.ca_file,
        connect_timeout_ms: row.connect_timeout_ms,
        first_byte_timeout_ms: row.first_byte_timeout_ms,
        idle_timeout_ms: row.idle_timeout_ms,
        total_timeout_ms: row.total_timeout_ms,
        max_concurrent: row.max_concurrent,
        headers: row.headers.into_iter().collect(),
    }
}

/// Every unit whose price is not what the file means by leaving it out.
pub(super) fn price_entry(price: &Price) -> BTreeMap<String, String> {
    let implied = |unit: Unit| unit.price_fallback().map_or(0, |fallback| price.0[fallback]);
    let shown = price.0.iter().filter(|(unit, number)| **number != implied(*unit));
    shown
        .map(|(unit, number)| (unit.catalogue_price().to_owned(), format_price(*number, unit.catalogue_digits())))
        .collect()
}
