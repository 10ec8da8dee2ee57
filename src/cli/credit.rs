//! `textgen credit`.

use clap::{Args, Subcommand};
use time::OffsetDateTime;

use super::{Failure, database, find_user, future_time};
use crate::accounts::credits as account_credits;
use crate::config::Config;
use crate::money::{MICRO_DIGITS, in_dollars, parse_price};
use crate::store::audit::{self, COMMAND_LINE};
use crate::store::credits::{self, Entry, Kind, NewEntry};
use crate::store::timestamp;

/// The highest amount of one change, in micro-dollars: 10,000 dollars.
const HIGHEST: i64 = 10_000_000_000;

/// Entries that are shown.
const SHOWN: i64 = 100;

/// What to do with the credit of accounts.
#[derive(Subcommand)]
pub enum CreditCommand {
    /// Show what is left of an account's credit and its last 100 changes, in US dollars
    Show {
        /// E-mail address or id of the account
        user: String,
    },
    /// Give credit to an account. Servers follow at once
    Grant(ChangeArguments),
    /// Take credit away from an account, at most what is neither spent nor set aside for running requests
    Withdraw(ChangeArguments),
}

/// A change of an account's credit.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct ChangeArguments {
    /// E-mail address or id of the account
    user: String,
    /// How much, in US dollars, such as 12.50; at most 10000 at once
    #[arg(value_name = "DOLLARS", value_parser = dollars)]
    amount: i64,
    /// Why, for the account's owner to read
    #[arg(long, default_value = "")]
    reason: String,
    /// The same id twice changes the credit once
    #[arg(long, default_value = "", hide_default_value = true)]
    id: String,
    /// When what is left of it expires, such as 2027-01-01T00:00:00Z; never by default
    #[arg(long, value_name = "TIME", value_parser = future_time)]
    expires: Option<OffsetDateTime>,
}

pub(super) fn run(command: &CreditCommand, config: &Config) -> Result<String, Failure> {
    match command {
        CreditCommand::Show { user } => show(user, config),
        CreditCommand::Grant(arguments) => change(arguments, Kind::Grant, arguments.amount, config),
        CreditCommand::Withdraw(arguments) => change(arguments, Kind::Correction, -arguments.amount, config),
    }
}

fn change(arguments: &ChangeArguments, kind: Kind, amount_micros: i64, config: &Config) -> Result<String, Failure> {
    let ChangeArguments { user, reason, id, expires, .. } = arguments;
    let db = database(config)?;
    let user = find_user(&mut db.session()?, user)?;
    let new = NewEntry { id, kind, amount_micros, expires: *expires, reason };
    let added = account_credits::add_now(&db, &user.id, &new, |db, added| {
        Ok(audit::insert(db, COMMAND_LINE, "credit", &user, &account_credits::in_words(&added.entry))?)
    })?;
    let made = if added.is_new { "" } else { ", made before" };
    Ok(format!("{} {}: {}{made}\n", user.id, user.email, account_credits::in_words(&added.entry)))
}

fn show(user: &str, config: &Config) -> Result<String, Failure> {
    let db = database(config)?;
    let mut session = db.session()?;
    let user = find_user(&mut session, user)?;
    let balance = account_credits::balance(&mut session, user.balance_id.as_deref())?;
    let mut text = format!("{} {}: US$ {} left\n", user.id, user.email, in_dollars(balance.balance_micros));
    for part in &balance.expiring {
        let expires = part.expires.map_or_else(|| "never".to_owned(), timestamp::zulu);
        text += &format!("  {:>16} expires {expires}\n", in_dollars(part.amount_micros));
    }
    let entries = credits::page(&mut session, &user.id, None, SHOWN)?;
    if !entries.is_empty() {
        text += &format!("{:<28} {:<10} {:>16} {:<28} ID, REASON\n", "CREATED", "KIND", "AMOUNT", "EXPIRES");
    }
    for Entry { id, kind, amount_micros, expires, reason, created, .. } in &entries {
        let expires = expires.map_or_else(|| "never".to_owned(), timestamp::zulu);
        let (created, amount) = (timestamp::zulu(*created), in_dollars(*amount_micros));
        text += &format!("{created:<28} {kind:<10} {amount:>16} {expires:<28} {id} {reason}\n");
    }
    Ok(text)
}

/// An amount in micro-dollars, written in dollars. One so high that somebody must have meant micro-dollars is refused.
fn dollars(text: &str) -> Result<i64, String> {
    let amount = parse_price(text, MICRO_DIGITS, HIGHEST).ok().filter(|amount| *amount > 0);
    let words = || format!("{text:?} is not an amount in US dollars such as 12.50, above 0 and at most 10000");
    amount.ok_or_else(words)
}
