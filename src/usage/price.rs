//! What units cost.

use std::collections::HashMap;

use crate::store::prices::{DEFAULT, HIGHEST, Price};
use crate::units::Units;

const MILLION: i128 = 1_000_000;

/// The most that one charge can cost, in micro-dollars (a billion dollars), so that sums of charges stay far from
/// overflowing.
const MAX_COST: i128 = 1_000_000_000_000_000;

/// The price list as it was last read.
#[derive(Clone, Debug, Default)]
pub struct Prices {
    models: HashMap<String, Price>,
    default: Price,
}

impl Prices {
    /// From the rows of the table.
    pub fn new(rows: Vec<(String, Price)>) -> Prices {
        let models: HashMap<String, Price> = rows.into_iter().collect();
        let default = models.get(DEFAULT).copied();
        if default.is_none() {
            log::warn!("the price list has no row '{DEFAULT}': models without a price cost nothing");
        }
        Prices { models, default: default.unwrap_or_default() }
    }

    /// What these units of a model cost, in micro-dollars.
    pub fn cost(&self, model: &str, units: &Units) -> i64 {
        cost(self.models.get(model).unwrap_or(&self.default), units)
    }
}

/// What these units cost, in micro-dollars. Everything is added up exactly, in millionths of a micro-dollar, and only the
/// sum is rounded: half a micro-dollar and more goes up.
pub fn cost(price: &Price, units: &Units) -> i64 {
    let units = units.clamped();
    let millionths = units.iter().map(|(unit, &amount)| {
        let price = price.0[unit].clamp(0, HIGHEST);
        i128::from(price) * i128::from(amount) * (MILLION / i128::from(unit.price_divisor()))
    });
    let rounded = (millionths.sum::<i128>() + MILLION / 2) / MILLION;
    i64::try_from(rounded.min(MAX_COST)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{ByUnit, Unit};

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
        assert_eq!(cost(Unit::PromptTokens, 1_000_000), 150_000);
        assert_eq!(cost(Unit::CompletionTokens, 2_000_000), 1_200_000);
        assert_eq!(cost(Unit::EmbeddingTokens, 50), 1);
        assert_eq!(cost(Unit::AudioMillis, 60_000), 3000);
        assert_eq!(cost(Unit::Characters, 11), 165);
        assert_eq!(cost(Unit::Requests, 2), 14);
        let all = Units::of([(Unit::Characters, 11), (Unit::Requests, 2)]);
        assert_eq!((super::cost(&price, &all), super::cost(&price, &Units::default())), (165 + 14, 0));
    }

    #[test]
    fn halves_go_up_and_only_the_sum_is_rounded() {
        let text = price([(Unit::PromptTokens, 500_000), (Unit::CompletionTokens, 499_999)]);
        let units =
            |prompt, completion| Units::of([(Unit::PromptTokens, prompt), (Unit::CompletionTokens, completion)]);
        assert_eq!(cost(&text, &units(1, 0)), 1);
        assert_eq!(cost(&text, &units(0, 1)), 0);
        assert_eq!(cost(&text, &units(1, 1)), 1, "0.999999");
        assert_eq!(cost(&text, &units(3, 0)), 2, "1.5");
        assert_eq!(cost(&text, &units(0, 3)), 1, "1.499997");
        let audio = price([(Unit::AudioMillis, 50)]);
        let millis = |millis| Units::of([(Unit::AudioMillis, millis)]);
        assert_eq!((cost(&audio, &millis(10)), cost(&audio, &millis(9))), (1, 0));
    }

    #[test]
    fn nothing_overflows_and_nothing_is_paid_out() {
        let highest = Price(ByUnit::from_fn(|_| i64::MAX));
        assert_eq!(i128::from(cost(&highest, &ByUnit::from_fn(|_| i64::MAX))), MAX_COST);
        let negative = Units::of([(Unit::PromptTokens, -5), (Unit::Requests, i64::MIN)]);
        assert_eq!(cost(&highest, &negative), 0);
    }

    #[test]
    fn a_model_without_a_price_costs_the_default() {
        let per_request = |micros| price([(Unit::Requests, micros)]);
        let prices = Prices::new(vec![(DEFAULT.to_owned(), per_request(3)), ("m".to_owned(), per_request(5))]);
        let one = Units::of([(Unit::Requests, 1)]);
        assert_eq!((prices.cost("m", &one), prices.cost("other", &one)), (5, 3));
    }
}
