//! `textgen limit`.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use time::{Duration, OffsetDateTime};

use super::{Failure, database, find_user, future_time};
use crate::accounts::budgets as account_budgets;
use crate::config::Config;
use crate::money::Cost;
use crate::store::audit::{self, COMMAND_LINE};
use crate::store::budgets::{self, Budget, BudgetChange, BudgetSpec, Window};
use crate::store::{User, api_keys, timestamp};

/// What to do with the limits of accounts.
#[derive(Subcommand)]
pub enum LimitCommand {
    /// Show the budgets of an account and of its keys, in micro-dollars (a millionth of a dollar)
    Show {
        /// E-mail address or id of the account
        user: String,
    },
    /// Set the budget of an account, for all of its keys together. Servers follow at once
    Set(SetArguments),
    /// Remove the budget of an account
    Remove {
        /// E-mail address or id of the account
        user: String,
    },
    /// Lift a budget for a time: spending is counted, but not limited. Then it limits again by itself
    Lift(LiftArguments),
    /// Let a budget that was lifted limit again now
    Restore {
        /// E-mail address or id of the account
        user: String,
        /// The id of a key, whose budget it is; by default, that of the account
        #[arg(long)]
        key: Option<String>,
    },
}

/// Which budget is lifted, and for how long.
#[derive(Args)]
#[command(arg_required_else_help = true, group = ArgGroup::new("end").required(true))]
pub struct LiftArguments {
    /// E-mail address or id of the account
    user: String,
    /// The id of a key, whose budget it is; by default, that of the account
    #[arg(long)]
    key: Option<String>,
    /// When it limits again, such as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = future_time, group = "end")]
    until: Option<OffsetDateTime>,
    /// For how long, such as 30m, 2h or 7d
    #[arg(long = "for", value_name = "TIME", value_parser = duration, group = "end")]
    time: Option<Duration>,
}

/// A budget to be set.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct SetArguments {
    /// E-mail address or id of the account
    user: String,
    /// The most that may be spent in a window; what was spent in the current one counts
    #[arg(long, value_name = "MICRODOLLARS", value_parser = clap::value_parser!(i64).range(0..=Cost::MAX.micros()))]
    budget: i64,
    /// When it begins anew; a week begins on Monday. Of a new budget, month by default
    #[arg(long)]
    window: Option<WindowName>,
    /// The IANA time zone of the windows. Of a new budget, UTC by default
    #[arg(long)]
    timezone: Option<String>,
}

/// A window, as named on the command line.
#[derive(Clone, Copy, ValueEnum)]
pub enum WindowName {
    /// Each day
    Day,
    /// Each week
    Week,
    /// Each month
    Month,
    /// Never
    Total,
}

impl From<WindowName> for Window {
    fn from(name: WindowName) -> Window {
        match name {
            WindowName::Day => Window::Day,
            WindowName::Week => Window::Week,
            WindowName::Month => Window::Month,
            WindowName::Total => Window::Total,
        }
    }
}

pub(super) fn run(command: &LimitCommand, config: &Config) -> Result<String, Failure> {
    match command {
        LimitCommand::Show { user } => {
            let db = database(config)?;
            let mut session = db.session()?;
            let user = find_user(&mut session, user)?;
            let keys = api_keys::of_user(&mut session, &user.id)?;
            Ok(table(&user, &keys, &budgets::of_user(&mut session, &user.id)?))
        }
        LimitCommand::Set(SetArguments { user, budget, window, timezone }) => {
            let window = window.map(Window::from);
            set(user, Some(BudgetChange { limit_micros: *budget, window, timezone: timezone.clone() }), config)
        }
        LimitCommand::Remove { user } => set(user, None, config),
        LimitCommand::Lift(LiftArguments { user, key, until, time }) => {
            let until = until.or_else(|| time.map(|time| OffsetDateTime::now_utc() + time));
            lift(user, key.as_deref(), until, config)
        }
        LimitCommand::Restore { user, key } => lift(user, key.as_deref(), None, config),
    }
}

fn set(user: &str, change: Option<BudgetChange>, config: &Config) -> Result<String, Failure> {
    let db = database(config)?;
    let mut session = db.session()?;
    let mut transaction = session.transaction()?;
    let user = find_user(&mut transaction, user)?;
    let spec = account_budgets::set_for_account(&mut transaction, &user.id, change)?;
    let detail = spec.map_or("no budget".to_owned(), |BudgetSpec { limit_micros, window, timezone }| {
        format!("{limit_micros} micro-dollars, {}, {timezone}", window.name())
    });
    audit::insert(&mut transaction, COMMAND_LINE, "limit", &user, &detail)?;
    transaction.commit()?;
    Ok(format!("{} {}: {detail}\n", user.id, user.email))
}

fn lift(user: &str, key: Option<&str>, until: Option<OffsetDateTime>, config: &Config) -> Result<String, Failure> {
    let db = database(config)?;
    let mut session = db.session()?;
    let mut transaction = session.transaction()?;
    let user = find_user(&mut transaction, user)?;
    account_budgets::lift(&mut transaction, &user.id, key, until)?;
    let detail = account_budgets::lift_in_words(key, until);
    audit::insert(&mut transaction, COMMAND_LINE, "lift limit", &user, &detail)?;
    transaction.commit()?;
    Ok(format!("{} {}: {detail}\n", user.id, user.email))
}

/// A length of time such as `90s`, `30m`, `2h` or `7d`, of at most ten years.
fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(char, i64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let parsed = UNITS.iter().find_map(|(unit, seconds)| {
        let count: i64 = text.strip_suffix(*unit)?.parse().ok()?;
        count.checked_mul(*seconds).filter(|all| (1..=3650 * 86_400).contains(all))
    });
    parsed.map(Duration::seconds).ok_or_else(|| "a time such as 30m, 2h or 7d is expected".to_owned())
}

fn table(user: &User, keys: &[api_keys::ApiKey], budgets: &[Budget]) -> String {
    let line = |of: &str, [limit, spent, left]: [&str; 3], window: &str, resets: &str| {
        format!("{of:<32} {limit:>16} {spent:>16} {left:>16} {window:<28} {resets}\n")
    };
    let mut text = line("OF", ["LIMIT", "SPENT", "LEFT"], "WINDOW", "RESETS");
    let account = std::iter::once((user.email.as_str(), &user.budget_id));
    for (of, id) in account.chain(keys.iter().map(|key| (key.id.as_str(), &key.budget_id))) {
        let Some(budget) = budgets.iter().find(|budget| Some(&budget.id) == id.as_ref()) else { continue };
        let amounts = [budget.limit_micros, budget.spent_micros, budget.remaining_micros].map(|n| n.to_string());
        let [limit, spent, left] = &amounts;
        let mut resets = budget.resets.map_or_else(|| "never".to_owned(), timestamp::zulu);
        if let Some(until) = budget.lifted_until {
            resets += &format!(" (lifted until {})", timestamp::zulu(until));
        }
        text += &line(of, [limit, spent, left], &format!("{} {}", budget.window, budget.timezone), &resets);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit_and_a_bound() {
        assert_eq!(duration("90s"), Ok(Duration::seconds(90)));
        assert_eq!((duration("2h"), duration("7d")), (Ok(Duration::hours(2)), Ok(Duration::days(7))));
        for bad in ["", "2", "h", "0m", "-1h", "1.5h", "3651d", "9223372036854775807d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
