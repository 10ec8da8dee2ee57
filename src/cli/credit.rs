//! `textgen credit`.

use clap::{Args, Subcommand};
use time::OffsetDateTime;

use super::{Failure, database, find_user, future_time};
use crate::accounts::credits as account_credits;
use crate::config::Config;
use crate::money::Cost;
use crate::store::audit::{self, COMMAND_LINE};
use crate::store::credits::{self, Entry, Kind, NewEntry};
use crate::store::timestamp;

/// Entries that are shown.
const SHOWN: i64 = 100;

/// What to do with the credit of accounts.
#[derive(Subcommand)]
pub enum CreditCommand {
    /// Show what is left of an account's credit and its last 100 changes, in micro-dollars (a millionth of a dollar)
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
    /// How much, in micro-dollars (a millionth of a dollar)
    #[arg(value_name = "MICRODOLLARS", value_parser = clap::value_parser!(i64).range(1..=Cost::MAX.micros()))]
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
    let mut text = format!("{} {}: {} micro-dollars left\n", user.id, user.email, balance.balance_micros);
    for part in &balance.expiring {
        let expires = part.expires.map_or_else(|| "never".to_owned(), timestamp::zulu);
        text += &format!("  {:>16} expires {expires}\n", part.amount_micros);
    }
    let entries = credits::page(&mut session, &user.id, None, SHOWN)?;
    if !entries.is_empty() {
        text += &format!("{:<28} {:<10} {:>16} {:<28} ID, REASON\n", "CREATED", "KIND", "AMOUNT", "EXPIRES");
    }
    for Entry { id, kind, amount_micros, expires, reason, created, .. } in &entries {
        let expires = expires.map_or_else(|| "never".to_owned(), timestamp::zulu);
        text +=
            &format!("{:<28} {kind:<10} {amount_micros:>16} {expires:<28} {id} {reason}\n", timestamp::zulu(*created));
    }
    Ok(text)
}
