//! The catalogue: the models that clients may name, who serves them, and what they cost.
//!
//! `entries` is the form in which people write it, a TOML file; `validate` checks that, `apply` stores it and writes it
//! out again, `edit` changes one entry, `priced` reads it with its prices, and `seal` encrypts providers' API keys in the
//! database. `snapshot` is the catalogue as a server uses it,
//! `servers` the models of the servers in the settings, whose `lists` are known. `models` holds what applies of the
//! two, and finds what requests name (`resolved`); `availability` and `providers` are what operators see of it, and `refresh` keeps it
//! up to date.

mod apply;
mod availability;
mod edit;
mod entries;
mod lists;
mod models;
mod priced;
mod providers;
mod refresh;
mod resolved;
mod seal;
mod servers;
mod snapshot;
mod validate;

pub use apply::{Applied, ApplyError, apply, export, version};
pub use availability::{Availability, ProviderState, ServerCounts};
pub use edit::{EntryChange, Outcome, change_model, change_provider};
pub use entries::{CatalogueFile, KeyEntry, ModelEntry, ProviderEntry, RouteEntry};
pub use models::Models;
pub use priced::{PricedCatalogue, PricedModel, UpcomingPrice};
pub use refresh::Refresher;
pub use resolved::ResolvedModel;
pub use seal::Sealer;
pub use servers::Purpose;
pub use snapshot::{Model, Snapshot, SnapshotContext, Unresolved};
pub use validate::{NewPrice, Problems, Validated, validate};

/// The channel of the triggers in `0018_catalogue.sql`.
pub const CHANNEL: &str = "textgen_catalogue";
