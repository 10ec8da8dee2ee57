//! `textgen limit`.

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use time::{Duration, OffsetDateTime};

use super::{Failure, database, find_user, future_time};
use crate::accounts::budgets as account_budgets;
use crate::accounts::rates::{self as account_rates, HIGHEST, RateChange};
use crate::accounts::scopes::{self, AccountScope};
use crate::config::Config;
use crate::http::request_fields::Change;
use crate::money::{Cost, MICRO_DIGITS, in_dollars, parse_price};
use crate::store::audit::{self, COMMAND_LINE};
use crate::store::budgets::{self, Budget, BudgetChange, Window};
use crate::store::rates::{self, RateLimit};
use crate::store::{User, api_keys, timestamp};

/// What to do with the limits of accounts.
#[derive(Subcommand)]
pub enum LimitCommand {
    /// Show the limits of an account and of its keys; amounts are in US dollars
    Show {
        /// E-mail address or id of the account
        user: String,
    },
    /// Set limits of an account, for all of its keys together. Those that are not named stay. Servers follow at once
    Set(SetArguments),
    /// Remove the limits of an account: all of them, or those that are named
    Remove(RemoveArguments),
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

/// Limits to be set.
#[derive(Args)]
#[command(arg_required_else_help = true)]
#[command(group(ArgGroup::new("limits").required(true).multiple(true)
    .args(["budget", "requests_per_minute", "tokens_per_minute", "concurrent", "models", "addresses"])))]
pub struct SetArguments {
    /// E-mail address or id of the account
    user: String,
    /// The most that may be spent in a window, in US dollars, such as 12.50; what was spent in the current one counts
    #[arg(long, value_name = "DOLLARS", value_parser = dollars)]
    budget: Option<i64>,
    /// When it resets; weeks start on Monday. New budgets default to month
    #[arg(long, requires = "budget")]
    window: Option<WindowName>,
    /// The IANA time zone of the windows. Of a new budget, UTC by default
    #[arg(long, requires = "budget")]
    timezone: Option<String>,
    /// The most requests in any minute
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..=HIGHEST))]
    requests_per_minute: Option<i64>,
    /// The most tokens, of prompts and replies, of the requests in any minute
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..=HIGHEST))]
    tokens_per_minute: Option<i64>,
    /// The most requests at once
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i64).range(1..=HIGHEST))]
    concurrent: Option<i64>,
    /// The models that may be called, comma-separated
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    models: Option<Vec<String>>,
    /// The addresses and networks that it may be used from, comma-separated, such as 10.0.0.0/8,192.0.2.1
    #[arg(long, value_name = "NETWORKS", value_delimiter = ',')]
    addresses: Option<Vec<String>>,
}

/// Limits to be removed.
#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
#[command(arg_required_else_help = true)]
pub struct RemoveArguments {
    /// E-mail address or id of the account
    user: String,
    /// Remove the budget
    #[arg(long)]
    budget: bool,
    /// Remove the limits of requests and tokens a minute, and of requests at once
    #[arg(long)]
    rates: bool,
    /// Permit all models
    #[arg(long)]
    models: bool,
    /// Permit all addresses
    #[arg(long)]
    addresses: bool,
}

/// How the limits of an account change.
struct LimitChange {
    budget: Change<BudgetChange>,
    rate: Change<RateChange>,
    scope: AccountScope,
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
            let rates = rates::of_user(&mut session, &user.id)?;
            let budgets = budgets::of_user(&mut session, &user.id)?;
            Ok(budget_table(&user, &keys, &budgets) + &rate_table(&user, &keys, &rates) + &scope_table(&user, &keys))
        }
        LimitCommand::Set(set) => change_limits(&set.user, config, set.change()),
        LimitCommand::Remove(remove) => change_limits(&remove.user, config, remove.change()),
        LimitCommand::Lift(LiftArguments { user, key, until, time }) => {
            let until = until.or_else(|| time.map(|time| OffsetDateTime::now_utc() + time));
            lift(user, key.as_deref(), until, config)
        }
        LimitCommand::Restore { user, key } => lift(user, key.as_deref(), None, config),
    }
}

impl SetArguments {
    fn change(&self) -> LimitChange {
        let budget = self.budget.map(|limit_micros| BudgetChange {
            limit_micros,
            window: self.window.map(Window::from),
            timezone: self.timezone.clone(),
        });
        let change = |limit: Option<i64>| limit.map_or(Change::Keep, Change::Set);
        let list = |list: &Option<Vec<String>>| list.clone().map_or(Change::Keep, Change::Set);
        let rates = [self.requests_per_minute, self.tokens_per_minute, self.concurrent];
        let rate = rates.iter().any(Option::is_some).then(|| RateChange {
            requests_per_minute: change(self.requests_per_minute),
            tokens_per_minute: change(self.tokens_per_minute),
            concurrent: change(self.concurrent),
        });
        LimitChange {
            budget: budget.map_or(Change::Keep, Change::Set),
            rate: rate.map_or(Change::Keep, Change::Set),
            scope: AccountScope { models: list(&self.models), addresses: list(&self.addresses) },
        }
    }
}

impl RemoveArguments {
    /// All limits are removed if none is named.
    fn change(&self) -> LimitChange {
        let is_all = ![self.budget, self.rates, self.models, self.addresses].contains(&true);
        fn remove<T>(is_named: bool) -> Change<T> {
            if is_named { Change::Clear } else { Change::Keep }
        }
        LimitChange {
            budget: remove(is_all || self.budget),
            rate: remove(is_all || self.rates),
            scope: AccountScope { models: remove(is_all || self.models), addresses: remove(is_all || self.addresses) },
        }
    }
}

fn change_limits(user: &str, config: &Config, change: LimitChange) -> Result<String, Failure> {
    let LimitChange { budget, rate, scope } = change;
    let db = database(config)?;
    let mut session = db.session()?;
    let mut transaction = session.transaction()?;
    let user = find_user(&mut transaction, user)?;
    let mut details = scopes::set_for_account(&mut transaction, &user.id, scope)?;
    if budget != Change::Keep {
        let spec = account_budgets::set_for_account(&mut transaction, &user.id, budget.apply(None))?;
        details.push(spec.map_or("no budget".to_owned(), |spec| account_budgets::in_words(&spec)));
    }
    if rate != Change::Keep {
        let rate = account_rates::set_for_account(&mut transaction, &user.id, rate.apply(None))?;
        details.push(rate.map_or("no rate limits".to_owned(), |rate| account_rates::in_words(&rate)));
    }
    let detail = details.join("; ");
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

/// An amount in micro-dollars, written in dollars.
fn dollars(text: &str) -> Result<i64, String> {
    let words = |_| format!("{text:?} is not an amount in US dollars such as 12.50");
    parse_price(text, MICRO_DIGITS, Cost::MAX.micros()).map_err(words)
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

fn budget_table(user: &User, keys: &[api_keys::ApiKey], budgets: &[Budget]) -> String {
    let line = |of: &str, [limit, spent, left]: [&str; 3], window: &str, resets: &str| {
        format!("{of:<32} {limit:>16} {spent:>16} {left:>16} {window:<28} {resets}\n")
    };
    let mut text = line("OF", ["LIMIT", "SPENT", "LEFT"], "WINDOW", "RESETS");
    let account = std::iter::once((user.email.as_str(), &user.budget_id));
    for (of, id) in account.chain(keys.iter().map(|key| (key.id.as_str(), &key.budget_id))) {
        let Some(budget) = budgets.iter().find(|budget| Some(&budget.id) == id.as_ref()) else { continue };
        let amounts = [budget.limit_micros, budget.spent_micros, budget.remaining_micros].map(in_dollars);
        let [limit, spent, left] = &amounts;
        let mut resets = budget.resets.map_or_else(|| "never".to_owned(), timestamp::zulu);
        if let Some(until) = budget.lifted_until {
            resets += &format!(" (lifted until {})", timestamp::zulu(until));
        }
        text += &line(of, [limit, spent, left], &format!("{} {}", budget.window, budget.timezone), &resets);
    }
    text
}

/// Nothing if there are no rate limits.
fn rate_table(user: &User, keys: &[api_keys::ApiKey], rates: &[RateLimit]) -> String {
    let line = |of: &str, [requests, tokens, concurrent]: [&str; 3]| {
        format!("{of:<32} {requests:>16} {tokens:>16} {concurrent:>16}\n")
    };
    let account = std::iter::once((user.email.as_str(), &user.rate_id));
    let mut text = String::new();
    for (of, id) in account.chain(keys.iter().map(|key| (key.id.as_str(), &key.rate_id))) {
        let Some(rate) = rates.iter().find(|rate| Some(&rate.id) == id.as_ref()) else { continue };
        if text.is_empty() {
            text = format!("\n{}", line("OF", ["REQUESTS/MINUTE", "TOKENS/MINUTE", "AT ONCE"]));
        }
        let [requests, tokens, concurrent] = account_rates::named(rate)
            .map(|(limit, _)| limit.map_or_else(|| "-".to_owned(), |limit| limit.to_string()));
        text += &line(of, [&requests, &tokens, &concurrent]);
    }
    text
}

/// Nothing if neither the account nor a key is limited to models or addresses.
fn scope_table(user: &User, keys: &[api_keys::ApiKey]) -> String {
    let list = |list: &Option<Vec<String>>| match list.as_deref() {
        None => "all".to_owned(),
        Some([]) => "none".to_owned(),
        Some(items) => items.join(","),
    };
    let account = std::iter::once((&user.email, &user.models, &user.addresses));
    let mut text = String::new();
    for (of, models, addresses) in account.chain(keys.iter().map(|key| (&key.id, &key.models, &key.addresses))) {
        if models.is_none() && addresses.is_none() {
            continue;
        }
        if text.is_empty() {
            text = format!("\n{:<32} {:<40} ADDRESSES\n", "OF", "MODELS");
        }
        text += &format!("{of:<32} {:<40} {}\n", list(models), list(addresses));
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
