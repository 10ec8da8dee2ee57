//! What was charged for since the process started, by model: for operators, who find the exact sums in the ledger.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::money::Cost;
use crate::store::usage::charges::Event;
use crate::units::Units;

/// Most models that are told apart. Only those of the catalogue and of model servers' lists are charged for, so there are
/// more only if these change all the time.
const MAX_MODELS: usize = 1000;

/// Stands for all others.
const OTHERS: &str = "other";

/// What was charged for one model.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ModelTotal {
    /// What was used.
    pub units: Units,
    /// What it costs, in picodollars.
    pub picos: i128,
}

/// What was charged for, by model.
#[derive(Debug, Default)]
pub(super) struct Charged(Mutex<BTreeMap<String, ModelTotal>>);

impl Charged {
    /// These were charged. The lock is taken once for all of them.
    pub(super) fn add<'e>(&self, events: impl Iterator<Item = &'e Event>) {
        let mut totals = self.0.lock();
        for event in events {
            add(&mut totals, &event.model, &event.units, Cost::new(event.cost_micros, event.cost_picos));
            for part in &event.parts {
                add(&mut totals, &part.model, &part.units, Cost::new(part.cost_micros, part.cost_picos));
            }
        }
    }

    /// What was charged so far.
    pub(super) fn totals(&self) -> BTreeMap<String, ModelTotal> {
        self.0.lock().clone()
    }
}

fn add(totals: &mut BTreeMap<String, ModelTotal>, model: &str, units: &Units, cost: Cost) {
    let is_told_apart = totals.contains_key(model) || totals.len() < MAX_MODELS;
    let name = if is_told_apart { model } else { OTHERS };
    if !totals.contains_key(name) {
        totals.insert(name.to_owned(), ModelTotal::default());
    }
    if let Some(total) = totals.get_mut(name) {
        total.units += units;
        total.picos += cost.total_picos();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Unit;
    use crate::usage::record::tests::event;

    #[test]
    fn sums_are_kept_by_model_and_there_are_not_too_many() {
        let (charged, once) = (Charged::default(), event("x"));
        for n in 0..MAX_MODELS + 5 {
            let event = Event { model: format!("m{n}"), ..once.clone() };
            charged.add([&event, &event].into_iter());
        }
        let totals = charged.totals();
        assert_eq!((totals.len(), totals[OTHERS].picos), (MAX_MODELS + 1, 10 * once.cost().total_picos()));
        assert_eq!(totals["m0"].units[Unit::PromptTokens], 2 * once.units[Unit::PromptTokens]);
    }
}
