//! The stored catalogue with its prices, as operators see it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use time::OffsetDateTime;

use crate::db::{self, Executor};
use crate::store::catalogue::{self as store, ModelRow, ProviderRow};
use crate::store::prices::{self, DEFAULT, DatedPrice};
use crate::store::timestamp;

use super::apply::{price_at, price_entry};

/// The stored catalogue with its prices.
pub struct PricedCatalogue {
    /// By name.
    pub providers: Vec<ProviderRow>,
    /// In the catalogue's order.
    pub models: Vec<PricedModel>,
    /// What a model costs that has no price of its own.
    pub default_price: BTreeMap<String, String>,
}

/// A model with its price.
pub struct PricedModel {
    /// The model.
    pub model: ModelRow,
    /// What it costs now, as in the file; `None` if it has no price of its own.
    pub price: Option<BTreeMap<String, String>>,
    /// What it will cost, the first ones first.
    pub upcoming: Vec<UpcomingPrice>,
}

/// A price that applies later.
#[derive(Clone, Serialize, JsonSchema)]
#[schemars(inline)]
pub struct UpcomingPrice {
    /// From when on.
    #[serde(serialize_with = "timestamp::serialize_zulu")]
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub from: OffsetDateTime,
    /// The price.
    pub price: BTreeMap<String, String>,
}

impl PricedCatalogue {
    /// Reads it.
    ///
    /// # Errors
    /// See [`db::Error`].
    pub fn read(db: &mut impl Executor) -> Result<PricedCatalogue, db::Error> {
        let rows = store::read(db)?;
        let prices = prices::all(db)?;
        let now = OffsetDateTime::now_utc();
        let by_model = by_model(&prices);
        let of = |model: &str| by_model.get(model).copied().unwrap_or_default();
        let priced = |model: ModelRow| {
            let own = of(&model.name);
            let upcoming = own.iter().filter(|price| price.valid_from > now);
            let upcoming =
                upcoming.map(|dated| UpcomingPrice { from: dated.valid_from, price: price_entry(&dated.price) });
            PricedModel { price: price_at(own, &model.name, now).map(price_entry), upcoming: upcoming.collect(), model }
        };
        Ok(PricedCatalogue {
            providers: rows.providers,
            models: rows.models.into_iter().map(priced).collect(),
            default_price: price_at(of(DEFAULT), DEFAULT, now).map(price_entry).unwrap_or_default(),
        })
    }
}

/// The prices of each model. They are sorted by model.
fn by_model(prices: &[DatedPrice]) -> BTreeMap<&str, &[DatedPrice]> {
    let of_one = prices.chunk_by(|a, b| a.model == b.model);
    of_one.filter_map(|own| Some((own.first()?.model.as_str(), own))).collect()
}
