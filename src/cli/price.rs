//! `textgen price`.

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Subcommand};

use time::OffsetDateTime;

use super::{Failure, database};
use crate::config::Config;
use crate::money::{MICRO_DIGITS, format_price, parse_price};
use crate::store::prices::{self, DatedPrice, PriceChange};
use crate::store::timestamp;
use crate::units::{ByUnit, Unit};

/// The highest price, in micro-dollars: 10,000 dollars.
const HIGHEST: i64 = 10_000_000_000;

/// What to do with prices.
#[derive(Subcommand)]
pub enum PriceCommand {
    /// List the price of each model, in US dollars
    List,
    /// Change a model's price, in US dollars; what is not named stays, for a new model as `default` has it. Servers follow at
    /// once
    Set(SetArguments),
}

/// A price to be set.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct SetArguments {
    /// The model's name; `default` is the price of every model that has none
    model: String,
    /// From when on the price applies, such as 2027-01-01T00:00:00Z; by default from now on
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<OffsetDateTime>,
    #[command(flatten)]
    prices: PriceFlags,
}

/// A flag for the price of each unit.
struct PriceFlags(PriceChange);

impl Args for PriceFlags {
    fn augment_args(command: Command) -> Command {
        command.args(Unit::ALL.map(|unit| {
            Arg::new(unit.price_flag())
                .long(unit.price_flag())
                .help(unit.price_description())
                .value_name("DOLLARS")
                .value_parser(dollars)
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        PriceFlags::augment_args(command)
    }
}

impl FromArgMatches for PriceFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<PriceFlags, clap::Error> {
        Ok(PriceFlags(ByUnit::from_fn(|unit| matches.get_one(unit.price_flag()).copied())))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = PriceFlags::from_arg_matches(matches)?;
        Ok(())
    }
}

pub(super) fn run(command: &PriceCommand, config: &Config) -> Result<String, Failure> {
    match command {
        PriceCommand::List => {
            let rows = prices::all(&mut database(config)?.session()?)?;
            let now = OffsetDateTime::now_utc();
            // Of each model, the price that applies and those to come.
            let is_past =
                |n: usize| rows.get(n + 1).is_some_and(|next| next.model == rows[n].model && next.valid_from <= now);
            Ok(table(rows.iter().enumerate().filter(|(n, _)| !is_past(*n)).map(|(_, row)| row)))
        }
        PriceCommand::Set(arguments) => set(arguments, config),
    }
}

fn set(arguments: &SetArguments, config: &Config) -> Result<String, Failure> {
    let SetArguments { model, from, prices: PriceFlags(change) } = arguments;
    if model.trim() != model || model.is_empty() || model.len() > 200 {
        return Err(Failure("the model's name must have 1 to 200 bytes and no space around it".to_owned()));
    }
    if change.values().iter().all(Option::is_none) {
        return Err(Failure("no price was given, such as --prompt 0.15".to_owned()));
    }
    if from.is_some_and(|from| from < OffsetDateTime::now_utc()) {
        return Err(Failure("--from must not be in the past: past charges never change".to_owned()));
    }
    let price = prices::set(&mut database(config)?.session()?, model, change, *from)?;
    Ok(table([&price].into_iter()))
}

/// A price in micro-dollars, written in dollars. One so high that somebody must have meant micro-dollars is refused.
fn dollars(text: &str) -> Result<i64, String> {
    parse_price(text, MICRO_DIGITS, HIGHEST).map_err(|e| format!("{e}; prices are in US dollars, such as 0.15"))
}

fn time(text: &str) -> Result<OffsetDateTime, String> {
    timestamp::parse_zoned(text).ok_or_else(|| "a time such as 2027-01-01T00:00:00Z is expected".to_owned())
}

fn table<'p>(rows: impl Iterator<Item = &'p DatedPrice>) -> String {
    let line = |model: &str, prices: [String; Unit::COUNT], from: &str| {
        let prices = prices.map(|price| format!(" {price:>13}")).concat();
        format!("{model:<32}{prices} {from}\n")
    };
    let mut text = line("MODEL", Unit::ALL.map(|unit| unit.price_heading().to_owned()), "FROM");
    for DatedPrice { model, valid_from, price } in rows {
        let prices = Unit::ALL.map(|unit| format_price(price.0[unit], MICRO_DIGITS));
        text += &line(model, prices, &timestamp::zulu(*valid_from));
    }
    text
}
