//! Prices.

use std::collections::HashMap;

use time::OffsetDateTime;

use crate::money::Cost;
use crate::store::prices::{DEFAULT, DatedPrice, HIGHEST, Price};
use crate::units::{Unit, Units};

const MILLION: i128 = 1_000_000;

/// The price list as it was last read.
#[derive(Clone, Debug, Default)]
pub struct Prices(HashMap<String, Vec<DatedPrice>>);

impl Prices {
    /// A price list with these rows of the table.
    pub fn new(rows: Vec<DatedPrice>) -> Prices {
        let mut models: HashMap<String, Vec<DatedPrice>> = HashMap::new();
        for row in rows {
            models.entry(row.model.clone()).or_default().push(row);
        }
        for prices in models.values_mut() {
            prices.sort_by_key(|price| price.valid_from);
        }
        if !models.contains_key(DEFAULT) {
            log::warn!("the price list has no row '{DEFAULT}': models without a price are free");
        }
        Prices(models)
    }

    /// The cost of these units of a model at this time.
    pub fn cost(&self, model: &str, units: &Units, at: OffsetDateTime) -> Cost {
        self.price(model, at).or_else(|| self.price(DEFAULT, at)).map_or(Cost::default(), |price| cost(price, units))
    }

    /// The price that is charged for the model at this time: its own or the default, or nothing.
    pub fn current(&self, model: &str, at: OffsetDateTime) -> Price {
        self.price(model, at).or_else(|| self.price(DEFAULT, at)).copied().unwrap_or_default()
    }

    /// The price of the model at this time, without the default: the newest that is valid.
    pub fn price(&self, model: &str, at: OffsetDateTime) -> Option<&Price> {
        let prices = self.0.get(model)?;
        prices.iter().rev().find(|price| price.valid_from <= at).map(|price| &price.price)
    }
}

/// The exact cost of these units.
pub fn cost(price: &Price, units: &Units) -> Cost {
    let units = units.clamped();
    let picos = units.iter().map(|(unit, &amount)| picos_each(price, unit) * i128::from(amount));
    Cost::from_picos(picos.sum())
}

/// The cost of one of this unit, in picodollars.
pub fn picos_each(price: &Price, unit: Unit) -> i128 {
    i128::from(price.0[unit].clamp(0, HIGHEST)) * (MILLION / i128::from(unit.price_divisor()))
}

/// As many of these units as cost at most `most` picodollars: what was made is left out first.
pub(super) fn affordable(price: &Price, units: &Units, most: i128) -> Units {
    let mut units = units.clamped();
    for unit in std::iter::once(Unit::CompletionTokens).chain(Unit::ALL) {
        let (excess, each) = (cost(price, &units).total_picos() - most, picos_each(price, unit));
        if excess > 0 && each > 0 {
            let surplus = i64::try_from((excess + each - 1) / each).unwrap_or(i64::MAX);
            units[unit] = (units[unit] - surplus).max(0);
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByUnit;

    #[test]
    fn a_charge_is_cut_where_it_cannot_be_paid() {
        let price = price([(Unit::PromptTokens, 150_000), (Unit::CompletionTokens, 600_000), (Unit::Requests, 1)]);
        let units = Units::of([(Unit::PromptTokens, 10), (Unit::CompletionTokens, 20), (Unit::Requests, 1)]);
        let all = cost(&price, &units).total_picos();
        assert_eq!((all, affordable(&price, &units, all)), (14_500_000, units));
        for most in [all - 1, all - 600_000, 3_000_000, 1_500_000, 700_000, 0] {
            let cut = affordable(&price, &units, most);
            let rest = cost(&price, &cut).total_picos();
            assert!(rest <= most && most - rest < 1_000_000, "{most}: {cut:?}");
        }
        assert_eq!(affordable(&price, &units, all - 1)[Unit::CompletionTokens], 19);
    }

    fn price<const N: usize>(prices: [(Unit, i64); N]) -> Price {
        Price(ByUnit::of(prices))
    }

    #[test]
    fn every_unit_has_its_price() {
        let price = price([
            (Unit::PromptTokens, 150_000),
            (Unit::CompletionTokens, 600_000),
            (Unit::EmbeddingTokens, 20_000),
            (Unit::AudioMillis, 50),
            (Unit::Characters, 15_000_000),
            (Unit::Requests, 7),
        ]);
        let cost = |unit, amount| cost(&price, &Units::of([(unit, amount)]));
        assert_eq!(cost(Unit::PromptTokens, 1_000_000), Cost::from(150_000));
        assert_eq!(cost(Unit::CompletionTokens, 2_000_000), Cost::from(1_200_000));
        assert_eq!(cost(Unit::EmbeddingTokens, 50), Cost::from(1));
        assert_eq!(cost(Unit::AudioMillis, 60_000), Cost::from(3000));
        assert_eq!(cost(Unit::Characters, 11), Cost::from(165));
        assert_eq!(cost(Unit::Requests, 2), Cost::from(14));
        let all = Units::of([(Unit::Characters, 11), (Unit::Requests, 2)]);
        assert_eq!(super::cost(&price, &all), Cost::from(165 + 14));
        assert_eq!(super::cost(&price, &Units::default()), Cost::default());
    }

    #[test]
    fn fractions_of_a_micro_dollar_are_kept() {
        let price = price([(Unit::EmbeddingTokens, 20_000), (Unit::AudioMillis, 50)]);
        assert_eq!(cost(&price, &Units::of([(Unit::EmbeddingTokens, 20)])), Cost::new(0, 400_000));
        assert_eq!(cost(&price, &Units::of([(Unit::AudioMillis, 30)])), Cost::new(1, 500_000));
    }

    #[test]
    fn nothing_overflows_and_nothing_is_paid_out() {
        let highest = Price(ByUnit::from_fn(|_| i64::MAX));
        assert_eq!(cost(&highest, &ByUnit::from_fn(|_| i64::MAX)), Cost::MAX);
        let negative = Units::of([(Unit::PromptTokens, -5), (Unit::Requests, i64::MIN)]);
        assert_eq!(cost(&highest, &negative), Cost::default());
    }

    #[test]
    fn the_newest_valid_price_of_the_model_or_else_the_defaults_applies() {
        let at = |seconds| OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(seconds);
        let row = |model: &str, seconds, micros| DatedPrice {
            model: model.to_owned(),
            valid_from: at(seconds),
            price: price([(Unit::Requests, micros)]),
        };
        let prices = Prices::new(vec![row("m", 20, 9), row(DEFAULT, 0, 3), row("m", 10, 5)]);
        let cost = |model, seconds| prices.cost(model, &Units::of([(Unit::Requests, 1)]), at(seconds)).micros();
        assert_eq!((cost("other", 15), cost("m", 5)), (3, 3));
        assert_eq!((cost("m", 10), cost("m", 19), cost("m", 20)), (5, 5, 9));
    }
}
