//! What operators are told of the models for a purpose, and of providers.

use time::OffsetDateTime;

/// Which models there are for a purpose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Availability {
    /// The stored catalogue was not read yet.
    Unknown,
    /// There is no catalogue, and no setting names a server.
    NotConfigured,
    /// So many models of the stored catalogue.
    Catalogue {
        /// Their number; there may be none.
        models: usize,
    },
    /// The models of the servers that the settings name.
    Servers(ServerCounts),
}

/// What is known of the servers for a purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerCounts {
    /// How many models they list, as far as that is known.
    pub models: usize,
    /// How many servers were not asked for their lists yet.
    pub pending: usize,
    /// How many have none, and are called all the same.
    pub without_list: usize,
    /// Those that did not answer as they should, and in what way.
    pub problems: Vec<(String, &'static str)>,
}

/// A provider as this process sees it now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderState {
    /// What keeps it from being called, if anything does: it is left out after a failure, or not set up as it should be.
    pub problem: Option<String>,
    /// Calls in flight.
    pub in_flight: u32,
    /// When it failed last since this process started, and how.
    pub last_error: Option<(OffsetDateTime, String)>,
}

impl ProviderState {
    /// Whether it can be called.
    pub fn is_up(&self) -> bool {
        self.problem.is_none()
    }
}
