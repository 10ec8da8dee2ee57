//! What units cost.

use std::collections::HashMap;

use super::Units;
use super::event::MOST_UNITS;
use crate::store::prices::{DEFAULT, HIGHEST, Price};

const MILLION: i128 = 1_000_000;

/// The most one charge may cost, in micro-dollars (a billion dollars), so that no sum of charges ever overflows.
const DEAREST: i128 = 1_000_000_000_000_000;

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

/// What these units cost, in micro-dollars. Everything is added up exactly, in millionths of a micro-dollar, and the
/// sum is rounded once: half a micro-dollar and more goes up.
pub fn cost(price: &Price, units: &Units) -> i64 {
    let times = |price: i64, units: i64| i128::from(price.clamp(0, HIGHEST)) * i128::from(units.clamp(0, MOST_UNITS));
    let millionths = times(price.prompt_per_million, units.prompt_tokens)
        + times(price.completion_per_million, units.completion_tokens)
        + times(price.embedding_per_million, units.embedding_tokens)
        + times(price.characters_per_million, units.characters)
        + times(price.audio_per_second, units.audio_millis) * 1000
        + times(price.per_request, units.requests) * MILLION;
    let rounded = (millionths + MILLION / 2) / MILLION;
    i64::try_from(rounded.min(DEAREST)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price = Price {
        prompt_per_million: 150_000,
        completion_per_million: 600_000,
        embedding_per_million: 20_000,
        audio_per_second: 50,
        characters_per_million: 15_000_000,
        per_request: 7,
    };

    #[test]
    fn every_unit_has_its_price() {
        let units = Units { prompt_tokens: 1_000_000, ..Units::default() };
        assert_eq!(cost(&PRICE, &units), 150_000);
        let units = Units { completion_tokens: 2_000_000, ..Units::default() };
        assert_eq!(cost(&PRICE, &units), 1_200_000);
        let units = Units { embedding_tokens: 50, ..Units::default() };
        assert_eq!(cost(&PRICE, &units), 1);
        let units = Units { audio_millis: 60_000, ..Units::default() };
        assert_eq!(cost(&PRICE, &units), 3000);
        let units = Units { characters: 11, requests: 2, ..Units::default() };
        assert_eq!(cost(&PRICE, &units), 165 + 14);
    }

    #[test]
    fn halves_go_up_and_only_the_sum_is_rounded() {
        let price = Price { prompt_per_million: 500_000, completion_per_million: 499_999, ..Price::default() };
        let units = |prompt_tokens, completion_tokens| Units { prompt_tokens, completion_tokens, ..Units::default() };
        assert_eq!(cost(&price, &units(1, 0)), 1);
        assert_eq!(cost(&price, &units(0, 1)), 0);
        assert_eq!(cost(&price, &units(1, 1)), 1, "0.999999");
        assert_eq!(cost(&price, &units(3, 0)), 2, "1.5");
        assert_eq!(cost(&price, &units(0, 3)), 1, "1.499997");
        let price = Price { audio_per_second: 50, ..Price::default() };
        let audio = |audio_millis| Units { audio_millis, ..Units::default() };
        assert_eq!((cost(&price, &audio(10)), cost(&price, &audio(9))), (1, 0));
    }

    #[test]
    fn nothing_overflows_and_nothing_is_paid_out() {
        let dearest = Price { prompt_per_million: i64::MAX, per_request: i64::MAX, ..Price::default() };
        let units = Units { prompt_tokens: i64::MAX, requests: i64::MAX, ..Units::default() };
        assert_eq!(i128::from(cost(&dearest, &units)), DEAREST);
        let negative = Units { prompt_tokens: -5, requests: i64::MIN, ..Units::default() };
        assert_eq!(cost(&dearest, &negative), 0);
        assert_eq!(cost(&PRICE, &Units::default()), 0);
    }

    #[test]
    fn a_model_without_a_price_costs_the_default() {
        let price = |per_request| Price { per_request, ..Price::default() };
        let prices = Prices::new(vec![(DEFAULT.to_owned(), price(3)), ("m".to_owned(), price(5))]);
        let one = Units { requests: 1, ..Units::default() };
        assert_eq!((prices.cost("m", &one), prices.cost("other", &one)), (5, 3));
    }
}
