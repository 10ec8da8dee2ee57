//! The catalogue: the models that clients may name, who serves them, and what they cost.
//!
//! `entries` is the form in which people write it, a TOML file; `validate` checks that, `apply` stores it and writes it out
//! again, and `seal` encrypts providers' API keys in the database. `snapshot` is the catalogue as a server uses it.

mod apply;
mod entries;
mod seal;
mod snapshot;
mod validate;

pub use apply::{Applied, ApplyError, apply, export};
pub use entries::{CatalogueFile, KeyEntry, ModelEntry, ProviderEntry, RouteEntry};
pub use seal::Sealer;
pub use snapshot::{Model, Snapshot, SnapshotContext, Unresolved};
pub use validate::{NewPrice, Problems, Validated, validate};

/// The channel of the triggers in `0018_catalogue.sql`.
pub const CHANNEL: &str = "textgen_catalogue";
