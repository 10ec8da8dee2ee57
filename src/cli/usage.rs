//! `textgen usage`.

use clap::{Args, ValueEnum};
use time::macros::format_description;
use time::{Date, OffsetDateTime};

use super::{Failure, database, find_user};
use crate::accounts::spend::{self, Spend, SpendBy};
use crate::config::Config;
use crate::store::timestamp;

/// Which charges are added up, and how they are shown.
#[derive(Args)]
pub struct UsageArguments {
    /// What they are added up by
    #[arg(long, default_value = "day")]
    by: By,
    /// The first day (UTC), such as 2026-11-01; the first of the month by default
    #[arg(long, value_name = "DAY", value_parser = day)]
    from: Option<Date>,
    /// The last day; today by default
    #[arg(long, value_name = "DAY", value_parser = day)]
    to: Option<Date>,
    /// E-mail address or id of the only account to look at
    #[arg(long)]
    user: Option<String>,
    /// How many are shown, the largest first
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    limit: u64,
    /// Print all of them as a CSV file
    #[arg(long)]
    csv: bool,
}

/// What charges are added up by.
#[derive(Clone, Copy, ValueEnum)]
enum By {
    /// The day
    Day,
    /// The account: those that spent most
    User,
    /// The key: those that spent most
    Key,
    /// The model
    Model,
    /// The route, of one account
    Route,
}

impl From<By> for SpendBy {
    fn from(by: By) -> SpendBy {
        match by {
            By::Day => SpendBy::Day,
            By::User => SpendBy::User,
            By::Key => SpendBy::Key,
            By::Model => SpendBy::Model,
            By::Route => SpendBy::Route,
        }
    }
}

pub(super) fn run(arguments: &UsageArguments, config: &Config) -> Result<String, Failure> {
    let today = OffsetDateTime::now_utc().date();
    let to = arguments.to.unwrap_or(today);
    let from = arguments.from.unwrap_or(to.replace_day(1).unwrap_or(to));
    if from > to {
        return Err(Failure("--from must not be after --to".to_owned()));
    }
    let by = SpendBy::from(arguments.by);
    let db = database(config)?;
    let mut session = db.session()?;
    let user = arguments.user.as_ref().map(|name| find_user(&mut session, name)).transpose()?;
    let spending = spend::spending(&mut session, (from, to), by, user.as_ref())?;
    if arguments.csv {
        return Ok(spending.csv(by));
    }
    let line = |name: &str, charges: &str, cost: &str| format!("{name:<64} {charges:>12} {cost:>18}\n");
    let mut text = line(&by.name().to_uppercase(), "CHARGES", "US$");
    let shown = usize::try_from(arguments.limit).unwrap_or(usize::MAX);
    for sum in spending.sums.iter().take(shown) {
        let micros = sum.spender.cost.micros();
        let cost = format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000);
        text += &line(&name(sum, by), &sum.spender.events.to_string(), &cost);
    }
    if spending.sums.len() > shown {
        text += &format!("and {} more\n", spending.sums.len() - shown);
    }
    let micros = spending.total.micros();
    text += &format!("in all US$ {}.{:06}\n", micros / 1_000_000, micros % 1_000_000);
    if let Some(as_of) = spending.as_of {
        text += &format!("as of {}\n", timestamp::zulu(as_of));
    }
    Ok(text)
}

/// What a sum is of.
fn name(Spend { label, spender }: &Spend, by: SpendBy) -> String {
    let account = if spender.email.is_empty() { &spender.user_id } else { &spender.email };
    match by {
        SpendBy::Day | SpendBy::Route => label.clone(),
        SpendBy::User => account.clone(),
        SpendBy::Model => spender.model.clone(),
        SpendBy::Key if spender.key_id.is_empty() => format!("{account} (browser)"),
        SpendBy::Key => format!("{account} {} {}", spender.key_id, spender.key_name),
    }
}

fn day(text: &str) -> Result<Date, String> {
    let date = Date::parse(text, format_description!("[year]-[month]-[day]")).ok();
    date.ok_or_else(|| "a day such as 2026-11-01 is expected".to_owned())
}
