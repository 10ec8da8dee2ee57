//! Amounts of money, exactly: sums of costs, and prices as people write them.

use std::ops::AddAssign;

/// Picodollars (10⁻¹² US$) in a micro-dollar.
const PICOS_PER_MICRO: i64 = 1_000_000;

/// What something costs: whole micro-dollars, and less than one more in picodollars. Nothing is rounded, so that sums of
/// many small costs are exact; replies and pages show the whole micro-dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cost {
    micros: i64,
    picos: i64,
}

impl Cost {
    /// The most that one charge can cost: a billion dollars, so that sums of charges stay far from overflowing.
    pub const MAX: Cost = Cost { micros: 1_000_000_000_000_000, picos: 0 };

    /// So many micro-dollars and picodollars; of these there may be more than a micro-dollar has.
    pub fn new(micros: i64, picos: i64) -> Cost {
        let (carried, picos) = (picos.div_euclid(PICOS_PER_MICRO), picos.rem_euclid(PICOS_PER_MICRO));
        Cost { micros: micros.saturating_add(carried), picos }
    }

    /// So many picodollars, at most [`Cost::MAX`]; less than none is none.
    pub fn from_picos(picos: i128) -> Cost {
        let picos = picos.max(0);
        let (micros, rest) = (picos / i128::from(PICOS_PER_MICRO), picos % i128::from(PICOS_PER_MICRO));
        match (i64::try_from(micros), i64::try_from(rest)) {
            (Ok(micros), Ok(picos)) => Cost { micros, picos }.min(Cost::MAX),
            _ => Cost::MAX,
        }
    }

    /// All of it in picodollars.
    pub fn total_picos(self) -> i128 {
        i128::from(self.micros) * i128::from(PICOS_PER_MICRO) + i128::from(self.picos)
    }

    /// Whole micro-dollars.
    pub fn micros(self) -> i64 {
        self.micros
    }

    /// What is left of a micro-dollar, in picodollars: 0 to 999,999.
    pub fn picos(self) -> i64 {
        self.picos
    }
}

/// Whole micro-dollars.
impl From<i64> for Cost {
    fn from(micros: i64) -> Cost {
        Cost::new(micros, 0)
    }
}

/// Saturating: a sum never wraps around.
impl AddAssign for Cost {
    fn add_assign(&mut self, more: Cost) {
        *self = Cost::new(self.micros.saturating_add(more.micros), self.picos + more.picos);
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), |mut sum, cost| {
            sum += cost;
            sum
        })
    }
}

/// The number that a price such as `0.15` is with so many digits behind the point: with 6, 150000.
///
/// # Errors
/// What is wrong with the text, in words for the operator: it is no decimal number, it has more digits behind the point,
/// or it is above `highest`.
pub fn parse_price(text: &str, digits: u32, highest: i64) -> Result<i64, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !is_number(whole) || !is_number(fraction) || text.ends_with('.') {
        return Err(format!("{text:?} is not a price such as \"0.15\", in US dollars"));
    }
    let fraction = fraction.trim_end_matches('0');
    let missing = u32::try_from(fraction.len()).ok().and_then(|given| digits.checked_sub(given));
    let missing = missing.ok_or_else(|| format!("{text} has more than {digits} digits behind the point"))?;
    let number = format!("{whole}{fraction}").parse::<i128>().ok().and_then(|n| n.checked_mul(10_i128.pow(missing)));
    let number = number.and_then(|number| i64::try_from(number).ok()).filter(|number| *number <= highest);
    number.ok_or_else(|| format!("{text} is higher than {}", format_price(highest, digits)))
}

/// Digits behind the point of an amount in dollars that is kept in micro-dollars.
pub const MICRO_DIGITS: u32 = 6;

/// The price that [`parse_price`] reads as this number, without zeros at its end.
pub fn format_price(number: i64, digits: u32) -> String {
    let scale = 10_i64.pow(digits);
    let fraction = format!("{:0width$}", number % scale, width = digits as usize);
    match fraction.trim_end_matches('0') {
        "" => (number / scale).to_string(),
        fraction => format!("{}.{fraction}", number / scale),
    }
}

/// Micro-dollars in dollars: exactly, with two digits behind the point or as many as it takes.
pub fn in_dollars(micros: i64) -> String {
    let (sign, size) = (if micros < 0 { "-" } else { "" }, micros.unsigned_abs());
    let fraction = format!("{:06}", size % 1_000_000);
    format!("{sign}{}.{:0<2}", size / 1_000_000, fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_exact() {
        let texts = [0, 1, -30, 1_500_000, 12_000_000, i64::MIN].map(in_dollars);
        assert_eq!(texts, ["0.00", "0.000001", "-0.00003", "1.50", "12.00", "-9223372036854.775808"]);
    }

    #[test]
    fn small_costs_add_up() {
        let sum: Cost = (0..1_000_000).map(|_| Cost::from_picos(400_000)).sum();
        assert_eq!((sum.micros(), sum.picos()), (400_000, 0));
        let mut cost = Cost::new(1, 999_999);
        cost += Cost::new(0, 2);
        assert_eq!((cost.micros(), cost.picos()), (3 - 1, 1));
        assert_eq!(Cost::new(7, 3_500_000), Cost::new(10, 500_000));
    }

    #[test]
    fn costs_have_limits() {
        assert_eq!(Cost::from_picos(i128::MAX), Cost::MAX);
        assert_eq!(Cost::from_picos(-1), Cost::default());
        let mut most = Cost::new(i64::MAX, 999_999);
        most += Cost::new(1, 1);
        assert_eq!(most.micros(), i64::MAX);
    }

    #[test]
    fn prices_are_exact() {
        let parse = |text, digits| super::parse_price(text, digits, 1_000_000_000_000);
        assert_eq!(parse("0.15", 6), Ok(150_000));
        assert_eq!(parse("0.1875", 6), Ok(187_500));
        assert_eq!(parse("0.000015", 12), Ok(15_000_000));
        assert_eq!(parse("0", 6), Ok(0));
        assert_eq!(parse("0.1500000000000", 6), Ok(150_000), "zeros at the end mean nothing");
        assert_eq!(parse("0000000000000000000000000000000001", 6), Ok(1_000_000));
        assert_eq!(parse("1000000", 6), Ok(1_000_000_000_000));
    }

    #[test]
    fn what_is_written_is_read_back() {
        for digits in [6, 12] {
            for number in [0, 1, 7, 10, 999_999, 1_000_000, 1_000_001, 150_000, 123_456_789_012, i64::MAX] {
                assert_eq!(parse_price(&format_price(number, digits), digits, i64::MAX), Ok(number));
            }
        }
    }

    #[test]
    fn refuses_what_is_no_exact_price() {
        for text in ["", ".", "1.", ".5", "-1", "+1", "1e3", "0,15", " 1", "1_000", "0x10", "1.2.3", "٣"] {
            assert!(parse_price(text, 6, i64::MAX).is_err(), "{text}");
        }
        assert!(parse_price("0.0000001", 6, i64::MAX).is_err(), "finer than can be kept");
        assert!(parse_price("1.000001", 6, 1_000_000).is_err(), "too high");
        assert!(parse_price(&"9".repeat(400), 6, i64::MAX).is_err());
    }
}
