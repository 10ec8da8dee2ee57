//! What all accounts were charged, or one of them, by day, account, key, model or route: for the operator's API, pages and
//! commands.

use time::{Date, OffsetDateTime};

use crate::csv::cell;
use crate::db::Executor;
use crate::error::{Error, Result};
use crate::money::Cost;
use crate::store::User;
use crate::store::usage::days;
use crate::store::usage::sums::{GroupBy, sums};
use crate::store::usage::top::{self, MOST, Spender, TopBy};

/// What charges are added up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpendBy {
    /// The day (UTC).
    Day,
    /// The account.
    User,
    /// The API key.
    Key,
    /// The model.
    Model,
    /// The path of the route; of one account only.
    Route,
}

impl SpendBy {
    /// All of them.
    pub const ALL: [SpendBy; 5] = [SpendBy::Day, SpendBy::User, SpendBy::Key, SpendBy::Model, SpendBy::Route];

    /// Its name in requests and commands.
    pub const fn name(self) -> &'static str {
        match self {
            SpendBy::Day => "day",
            SpendBy::User => "user",
            SpendBy::Key => "key",
            SpendBy::Model => "model",
            SpendBy::Route => "route",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<SpendBy> {
        SpendBy::ALL.into_iter().find(|by| by.name() == name)
    }
}

/// A sum of charges.
#[derive(Clone, Debug, Default)]
pub struct Spend {
    /// The day or the route; empty for others.
    pub label: String,
    /// Of whom or what it is; the label's own fields are empty.
    pub spender: Spender,
}

/// All sums that were asked for.
pub struct Spending {
    /// The largest first; days in their order.
    pub sums: Vec<Spend>,
    /// What all charges of these days cost, also of those that are not among the largest.
    pub total: Cost,
    /// Everything charged before this time is included; `None` if that is all.
    pub as_of: Option<OffsetDateTime>,
}

impl Spending {
    /// As a CSV file.
    pub fn csv(&self, by: SpendBy) -> String {
        let mut text = match by {
            SpendBy::Day | SpendBy::Route => format!("{},charges,cost_usd\r\n", by.name()),
            SpendBy::User => "user_id,email,charges,cost_usd\r\n".to_owned(),
            SpendBy::Key => "user_id,email,key_id,key,charges,cost_usd\r\n".to_owned(),
            SpendBy::Model => "model,charges,cost_usd\r\n".to_owned(),
        };
        for Spend { label, spender } in &self.sums {
            let Spender { user_id, email, key_id, key_name, model, events, cost } = spender;
            let cells: Vec<String> = match by {
                SpendBy::Day | SpendBy::Route => vec![cell(label)],
                SpendBy::User => vec![cell(user_id), cell(email)],
                SpendBy::Key => vec![cell(user_id), cell(email), cell(key_id), cell(key_name)],
                SpendBy::Model => vec![cell(model)],
            };
            let (dollars, fraction, picos) = (cost.micros() / 1_000_000, cost.micros() % 1_000_000, cost.picos());
            text += &format!("{},{events},{dollars}.{fraction:06}{picos:06}\r\n", cells.join(","));
        }
        text
    }
}

/// The sums from the first day to the last, both included: of all accounts, or of `user`. Of all accounts, those by
/// account, key and model are the largest, [`MOST`] at most, and follow charges by a few seconds.
///
/// # Errors
/// 400 for routes of all accounts, and for accounts of one; those of the database.
pub fn spending(db: &mut impl Executor, days: (Date, Date), by: SpendBy, user: Option<&User>) -> Result<Spending> {
    if let Some(user) = user {
        return of_user(db, days, by, user);
    }
    let top_by = match by {
        SpendBy::Day => return of_all_days(db, days),
        SpendBy::Route => return Err(Error::bad("by route: name an account (user)")),
        SpendBy::User => TopBy::User,
        SpendBy::Key => TopBy::Key,
        SpendBy::Model => TopBy::Model,
    };
    let found = top::top(db, days, top_by, MOST)?;
    let sums = found.into_iter().map(|spender| Spend { label: String::new(), spender }).collect();
    Ok(Spending { sums, ..of_all_days(db, days)? })
}

fn of_all_days(db: &mut impl Executor, days: (Date, Date)) -> Result<Spending> {
    let totals = days::between(db, days)?;
    let sum = |day: days::DayTotal| Spend {
        label: day.day,
        spender: Spender { events: day.events, cost: Cost::new(day.cost_micros, 0), ..Spender::default() },
    };
    let sums: Vec<Spend> = totals.days.into_iter().map(sum).collect();
    Ok(Spending { total: total(&sums), sums, as_of: totals.as_of })
}

fn of_user(db: &mut impl Executor, days: (Date, Date), by: SpendBy, user: &User) -> Result<Spending> {
    let group = match by {
        SpendBy::Day => GroupBy::Day,
        SpendBy::Key => GroupBy::Key,
        SpendBy::Model => GroupBy::Model,
        SpendBy::Route => GroupBy::Route,
        SpendBy::User => return Err(Error::bad("by user: name no account (user)")),
    };
    let names = match by {
        SpendBy::Key => crate::store::api_keys::names(db, &user.id)?,
        _ => Vec::new(),
    };
    let mut sums: Vec<Spend> = sums(db, &user.id, days, group, MOST * 10)?
        .into_iter()
        .map(|sum| {
            let mut spender = Spender { events: sum.events, cost: sum.cost, ..Spender::default() };
            (spender.user_id, spender.email) = (user.id.clone(), user.email.clone());
            let mut label = String::new();
            match by {
                SpendBy::Key => {
                    let name = names.iter().find(|(id, _)| *id == sum.name).map(|(_, name)| name.clone());
                    (spender.key_id, spender.key_name) = (sum.name, name.unwrap_or_default());
                }
                SpendBy::Model => spender.model = sum.name,
                _ => label = sum.name,
            }
            Spend { label, spender }
        })
        .collect();
    if by != SpendBy::Day {
        sums.sort_by_key(|sum| std::cmp::Reverse(sum.spender.cost));
    }
    Ok(Spending { total: total(&sums), sums, as_of: None })
}

fn total(sums: &[Spend]) -> Cost {
    sums.iter().map(|sum| sum.spender.cost).sum()
}
