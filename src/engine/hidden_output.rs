//! How much of what they make models do not show: providers count their reasoning, and many keep it to themselves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;

/// Most models that are remembered.
const MAX_MODELS: usize = 1000;

/// The most that the models of a provider are known to have hidden in one reply.
#[derive(Debug, Default)]
pub(super) struct HiddenOutput {
    /// Spares a provider that never tells what was used the lock.
    is_any: AtomicBool,
    /// Tokens by model.
    by_model: Mutex<HashMap<String, i64>>,
}

impl HiddenOutput {
    /// Tokens; `None` if nothing is known of the model.
    pub(super) fn most(&self, model: &str) -> Option<i64> {
        if !self.is_any.load(Relaxed) {
            return None;
        }
        self.by_model.lock().get(model).copied()
    }

    /// Notes that a model has hidden so many tokens in a reply.
    pub(super) fn note(&self, model: &str, tokens: i64) {
        if self.most(model).is_some_and(|most| tokens <= most) {
            return;
        }
        let mut by_model = self.by_model.lock();
        if by_model.len() >= MAX_MODELS && !by_model.contains_key(model) {
            by_model.clear();
        }
        let most = by_model.entry(model.to_owned()).or_default();
        *most = tokens.max(*most);
        self.is_any.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_of_each_model_is_remembered_and_not_too_many_models() {
        let hidden = HiddenOutput::default();
        for (model, tokens) in [("a", 0), ("a", 7), ("b", 2), ("a", 3)] {
            hidden.note(model, tokens);
        }
        hidden.note("c", 0);
        assert_eq!(["a", "b", "c", "d"].map(|model| hidden.most(model)), [Some(7), Some(2), Some(0), None]);
        for n in 0..3 * MAX_MODELS {
            hidden.note(&n.to_string(), 1);
        }
        assert!(hidden.by_model.lock().len() <= MAX_MODELS);
    }
}
