//! What a provider has refused before, so that it is not sent again.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::request::Extensions;

/// After this time, a provider is asked once more: it may have been updated.
pub(super) const CONFIRMED: Duration = Duration::from_secs(3600);
/// The same, where it is not known whether the provider would have answered without.
pub(super) const SUSPECTED: Duration = Duration::from_secs(300);
/// Most models that are remembered.
const MAX_MODELS: usize = 1000;

/// The extensions that a provider refuses, by model.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// Spares the usual provider, which refuses nothing, the lock.
    is_any: AtomicBool,
    by_model: Mutex<HashMap<String, (Extensions, Instant)>>,
    /// Whether the provider has answered a request for usage with each piece: it is not that which it refuses then.
    accepts_continuous_usage: AtomicBool,
    /// The models for which it has answered a request for `verbose_json`.
    accept_verbose_json: Mutex<HashSet<String>>,
}

impl Refused {
    /// What is refused for the model that `model` names.
    pub(super) fn get<M: AsRef<str>>(&self, model: impl FnOnce() -> M, now: Instant) -> Extensions {
        if !self.is_any.load(Relaxed) {
            return Extensions::default();
        }
        let by_model = self.by_model.lock();
        let known = by_model.get(model().as_ref()).filter(|(_, until)| now < *until);
        known.map(|(extensions, _)| *extensions).unwrap_or_default()
    }

    /// Whether it is known that the provider does not refuse to be asked for usage with each piece.
    pub(super) fn accepts_continuous_usage(&self) -> bool {
        self.accepts_continuous_usage.load(Relaxed)
    }

    /// Whether it is known that the provider does not refuse `verbose_json` for a model.
    pub(super) fn accepts_verbose_json(&self, model: &str) -> bool {
        self.accept_verbose_json.lock().contains(model)
    }

    /// Notes what the provider has answered with success for the model that `model` names.
    pub(super) fn accepted<M: AsRef<str>>(&self, model: impl FnOnce() -> M, extensions: Extensions) {
        if extensions.continuous_usage && !self.accepts_continuous_usage() {
            self.accepts_continuous_usage.store(true, Relaxed);
        }
        if extensions.verbose_json {
            let (model, mut models) = (model(), self.accept_verbose_json.lock());
            if !models.contains(model.as_ref()) && models.len() < MAX_MODELS {
                models.insert(model.as_ref().to_owned());
            }
        }
    }

    /// Remembers until that time what is refused for a model.
    pub(super) fn insert(&self, model: &str, extensions: Extensions, until: Instant) {
        let mut by_model = self.by_model.lock();
        if by_model.len() >= MAX_MODELS && !by_model.contains_key(model) {
            by_model.clear();
        }
        by_model.insert(model.to_owned(), (extensions, until));
        self.is_any.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered_for_its_model_and_a_while() {
        let (refused, now) = (Refused::default(), Instant::now());
        let extensions = Extensions { stream_options: true, ..Extensions::default() };
        refused.insert("a", extensions, now + CONFIRMED);
        assert_eq!(refused.get(|| "a", now), extensions);
        assert_eq!(refused.get(|| "b", now), Extensions::default());
        assert_eq!(refused.get(|| "a", now + CONFIRMED), Extensions::default());
        let accepted = Extensions { verbose_json: true, ..Extensions::default() };
        refused.accepted(|| "a", extensions);
        refused.accepted(|| "b", accepted);
        assert_eq!(["a", "b"].map(|model| refused.accepts_verbose_json(model)), [false, true]);
        for n in 0..3 * MAX_MODELS {
            refused.insert(&n.to_string(), extensions, now + SUSPECTED);
            refused.accepted(|| n.to_string(), accepted);
        }
        assert!(refused.by_model.lock().len() <= MAX_MODELS);
        assert!(refused.accept_verbose_json.lock().len() <= MAX_MODELS);
    }
}
