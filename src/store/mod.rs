//! The SQL, one file per table. Functions take an [`Executor`](crate::db::Executor): a session or a transaction.

pub mod api_keys;
pub mod audit;
pub mod books;
pub mod budgets;
pub mod catalogue;
pub mod checkouts;
pub mod checkup;
pub mod credits;
pub mod customer_changes;
pub mod deleted_documents;
pub mod directory;
pub mod document_totals;
pub mod document_versions;
pub mod documents;
pub mod events;
pub mod installation;
pub mod known_networks;
pub mod leases;
pub mod prices;
pub mod purchases;
pub mod rates;
pub mod refunds;
pub mod replies;
pub mod reporting;
mod row;
pub mod sessions;
pub mod stripe_events;
pub mod subscriptions;
pub mod timestamp;
pub mod usage;
pub mod users;

pub use api_keys::ApiKey;
pub use documents::Document;
pub use sessions::BrowserSession;
pub use users::User;
