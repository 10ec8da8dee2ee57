//! The providers of [`Models`], as operators see them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::availability::ProviderState;
use super::models::Models;
use crate::engine::Provider;
use crate::store::catalogue::CatalogueRows;

impl Models {
    /// The state of each provider by its name.
    pub fn providers(&self) -> BTreeMap<String, ProviderState> {
        let mut states: BTreeMap<String, ProviderState> = BTreeMap::new();
        self.each_provider(|name, provider| {
            let state = states.entry(name.to_owned()).or_default();
            match provider {
                Err(fault) => state.problem = Some(fault.to_owned()),
                Ok(provider) => {
                    state.problem = state.problem.take().or_else(|| provider.problem());
                    state.in_flight += provider.in_flight();
                    state.last_error = state.last_error.take().max(provider.last_error());
                }
            }
        });
        states
    }

    /// Each provider by its name, to be called, or why it is not used.
    pub fn handles(&self) -> BTreeMap<String, Result<Arc<Provider>, String>> {
        let mut handles = BTreeMap::new();
        self.each_provider(|name, provider| {
            handles.insert(name.to_owned(), provider.map(Arc::clone).map_err(str::to_owned));
        });
        handles
    }

    /// Takes a stored catalogue for a look at it, outside of a server.
    pub fn load(&self, rows: &CatalogueRows) {
        self.set_stored(rows);
    }
}
