//! What an account and its keys may spend, have spent and have left: a part of the pages of an account.

use super::show;
use crate::accounts::credits as account_credits;
use crate::db::Executor;
use crate::error::Result;
use crate::money::{MICRO_DIGITS, parse_price};
use crate::store::budgets::{self, Budget};
use crate::store::credits::Balance;
use crate::store::events::{self, Event};
use crate::store::{ApiKey, User};

/// Events on the page.
const EVENTS: i64 = 5;

/// Times of expiry on the page.
const EXPIRING: usize = 10;

/// The highest amount that a form takes, in micro-dollars: a billion dollars.
const HIGHEST: i64 = 1_000_000_000_000_000;

/// The limits of an account.
pub(super) struct Limits {
    pub(super) budgets: Vec<ShownBudget>,
    /// What is left of its credit, if it ever had any.
    pub(super) balance: Option<Balance>,
    pub(super) events: Vec<String>,
}

/// A budget, and whose it is.
pub(super) struct ShownBudget {
    pub(super) title: String,
    /// The key's id; empty for the account.
    pub(super) key_id: String,
    pub(super) budget: Budget,
}

impl Limits {
    /// Those of an account with these keys.
    pub(super) fn of(db: &mut impl Executor, user: &User, keys: &[ApiKey]) -> Result<Limits> {
        let all = budgets::of_user(db, &user.id)?;
        let owners = std::iter::once(("All keys".to_owned(), "", &user.budget_id));
        let owners =
            owners.chain(keys.iter().map(|key| (format!("Key “{}”", key.name), key.id.as_str(), &key.budget_id)));
        let shown = owners.filter_map(|(title, key_id, id)| {
            let budget = all.iter().find(|budget| Some(&budget.id) == id.as_ref())?.clone();
            Some(ShownBudget { title, key_id: key_id.to_owned(), budget })
        });
        let budgets = shown.collect();
        let balance = user.balance_id.as_deref().map(|id| account_credits::balance(db, Some(id))).transpose()?;
        let balance = balance.map(|mut balance| {
            balance.expiring.retain(|part| part.expires.is_some());
            balance.expiring.truncate(EXPIRING);
            balance
        });
        let events = events::newest(db, &user.id, EVENTS)?;
        let events = events.iter().map(|event| in_words(event, keys)).collect();
        Ok(Limits { budgets, balance, events })
    }
}

impl ShownBudget {
    /// How much of it was spent, in percent.
    pub(super) fn percent(&self) -> i64 {
        let Budget { limit_micros, spent_micros, .. } = &self.budget;
        match *limit_micros {
            0 => 100,
            limit => i64::try_from(i128::from(*spent_micros) * 100 / i128::from(limit)).unwrap_or(100).min(100),
        }
    }

    /// The time in which it may be spent.
    pub(super) fn window(&self) -> &'static str {
        match self.budget.window.as_str() {
            "day" => "a day",
            "week" => "a week",
            "month" => "a month",
            _ => "in total",
        }
    }
}

/// An event as HTML.
fn in_words(event: &Event, keys: &[ApiKey]) -> String {
    let time = show::time(&event.created);
    let percent = event.percent;
    match (event.kind.as_str(), &event.key_id) {
        ("credit.low", _) if percent >= 100 => format!("{time}: no credit left"),
        ("credit.low", _) => format!("{time}: credit is running low"),
        (_, None) => format!("{time}: {percent} % of the account’s limit spent"),
        (_, Some(id)) => {
            let name = keys.iter().find(|key| key.id == *id).map_or("a key that no longer works", |key| &key.name);
            let name = askama::filters::escape(name, askama::filters::Html);
            let name = name.map(|name| name.to_string()).unwrap_or_default();
            format!("{time}: {percent} % of the limit of “{name}” spent")
        }
    }
}

/// An amount in US$ as people write it, in micro-dollars.
///
/// # Errors
/// What is wrong with it.
pub(super) fn dollars(text: &str) -> std::result::Result<i64, String> {
    parse_price(text.trim().trim_start_matches('$'), MICRO_DIGITS, HIGHEST)
        .map_err(|_| format!("{text:?} is not an amount such as 12.50"))
}
