//! The command line.

mod audit;
mod backup;
mod billing;
mod check_sharing;
mod credit;
mod doctor;
mod entries;
mod import;
mod limit;
mod models;
mod price;
mod process;
mod reference;
mod usage;
mod user;
mod webhook;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::builder::Styles;
use clap::{Arg, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use time::OffsetDateTime;

use crate::accounts;
use crate::call::Role;
use crate::config::{self, Config};
use crate::db::migrate::{self, Report};
use crate::db::{self, ConnectConfig, Database, Executor};
use crate::error::Error;
use crate::store::{User, timestamp};
use crate::version;

pub use audit::AuditCommand;
pub use backup::{BackupArguments, CreateArguments};
pub use billing::BillingCommand;
pub use credit::CreditCommand;
pub use doctor::DoctorArguments;
pub use limit::LimitCommand;
pub use models::{ModelsCommand, ProviderCommand};
pub use price::PriceCommand;
pub use process::ProcessCommand;
pub use usage::UsageArguments;
pub use user::UserCommand;
pub use webhook::WebhookCommand;

/// The command line.
#[derive(Parser)]
#[command(name = "textgen", version = version::LONG, about, arg_required_else_help = true, styles = Styles::plain(),
    max_term_width = 100, subcommand_help_heading = "Commands")]
pub struct Cli {
    /// The settings, from flags, the environment and defaults, in this order.
    #[command(flatten)]
    pub config: Config,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// A command.
#[derive(Subcommand)]
pub enum Command {
    /// Run all three servers, or only one of them
    #[command(after_help = "See `textgen --help` for the settings.")]
    Serve {
        /// Run only this server
        role: Option<RoleName>,
        /// Answer with a built-in demo engine where no model server is configured
        #[arg(long)]
        demo_engine: bool,
    },
    /// Apply database migrations, and say what is done
    Migrate {
        /// Only check that nothing stands in the way; changes nothing
        #[arg(long)]
        check: bool,
    },
    /// Check that the three running servers share one database
    CheckSharing {
        /// Number of secret rotations, for each of which the delay until the other servers see it is measured
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rounds: u32,
    },
    /// Check the database, the settings and all that a server needs, and say what to do. Fails if something does not work
    Doctor(DoctorArguments),
    /// Back up the database and the journals of charges into a directory, while servers run
    Backup(CreateArguments),
    /// Restore a backup into an empty database, and compare the sums
    Restore(BackupArguments),
    /// Manage accounts: list, create, set-password, link, rotate-secret, suspend, restore, promote, demote, delete
    #[command(subcommand)]
    User(UserCommand),
    /// Manage the catalogue of models: apply, export, list, show, set, remove
    #[command(subcommand, visible_alias = "model")]
    Models(ModelsCommand),
    /// Manage the providers of models: list, show, set, remove
    #[command(subcommand, visible_alias = "providers")]
    Provider(ProviderCommand),
    /// Show what accounts spent, by day, account, key, model or route
    Usage(UsageArguments),
    /// Show what administrators and commands have done: list
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Manage prices: list, set
    #[command(subcommand)]
    Price(PriceCommand),
    /// Manage the limits of accounts: show, set, remove
    #[command(subcommand)]
    Limit(LimitCommand),
    /// Manage the credit of accounts: show, grant, withdraw
    #[command(subcommand)]
    Credit(CreditCommand),
    /// Exchange billing data with Stripe: send, settle, resume, refund, check, import
    #[command(subcommand)]
    Billing(BillingCommand),
    /// Manage web-hooks, which are called when something has happened: list, add, disable, enable, remove, test, deliveries,
    /// retry
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Show the processes that hold parts of limits, and end one that was lost: list, end
    #[command(subcommand)]
    Process(ProcessCommand),
    /// Write the completions of a shell to standard output
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the manual pages into a folder: textgen.1, and one for each command
    Man {
        /// The folder, which must be there
        folder: PathBuf,
    },
}

impl Cli {
    /// Parses the command line and the environment.
    ///
    /// # Errors
    /// A mistake in either, or a request for help; the error knows its text, stream and exit code.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
        Cli::from_arg_matches(&Cli::declaration().try_get_matches_from(args)?)
    }

    /// The declaration of all commands and settings.
    fn declaration() -> clap::Command {
        let command = config::adjust(Cli::command());
        // The settings are listed in the help of `textgen` itself, and not again in that of each subcommand.
        let hidden: Vec<Arg> = command.get_arguments().map(|arg| arg.clone().hide(true)).collect();
        command.mut_subcommands(|subcommand| subcommand.args(&hidden))
    }
}

/// A server, as named on the command line.
#[derive(Clone, Copy, ValueEnum)]
pub enum RoleName {
    /// Accounts, documents, pages
    Web,
    /// Text models
    Inference,
    /// Speech models
    Audio,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Role {
        match name {
            RoleName::Web => Role::Web,
            RoleName::Inference => Role::Inference,
            RoleName::Audio => Role::Audio,
        }
    }
}

/// Why a command failed: one line for the operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl From<db::Error> for Failure {
    fn from(e: db::Error) -> Failure {
        Failure(e.to_string())
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Failure {
        Failure(e.to_string())
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure(text)
    }
}

/// What a command has found.
pub struct Done {
    /// For standard output.
    pub text: String,
    /// Whether all is well; otherwise the command fails.
    pub is_ok: bool,
}

/// Runs any command but `serve`.
///
/// # Errors
/// One line for the operator.
pub fn run(command: &Command, config: &Config) -> Result<Done, Failure> {
    let text = match command {
        Command::Serve { .. } => Err(Failure("serve is not a one-off command".to_owned())),
        Command::Migrate { check } => migrate(config, *check),
        Command::CheckSharing { rounds } => check_sharing::run(config, *rounds),
        Command::Doctor(arguments) => return doctor::run(arguments, config),
        Command::Backup(arguments) => backup::create(arguments, config),
        Command::Restore(arguments) => backup::restore(arguments, config),
        Command::User(command) => user::run(command, config),
        Command::Models(command) => models::run(command, config),
        Command::Provider(command) => models::run_provider(command, config),
        Command::Usage(arguments) => usage::run(arguments, config),
        Command::Audit(command) => audit::run(command, config),
        Command::Price(command) => price::run(command, config),
        Command::Limit(command) => limit::run(command, config),
        Command::Credit(command) => credit::run(command, config),
        Command::Billing(command) => billing::run(command, config),
        Command::Webhook(command) => webhook::run(command, config),
        Command::Process(command) => process::run(command, config),
        Command::Completions { shell } => reference::completions(*shell, &Cli::declaration()),
        Command::Man { folder } => reference::manual(folder, Cli::declaration()),
    }?;
    Ok(Done { text, is_ok: true })
}

fn migrate(config: &Config, only_checks: bool) -> Result<String, Failure> {
    let connection = connection(config)?;
    if only_checks {
        return Ok(format!("{} migrations to apply; nothing stands in the way\n", migrate::check(&connection)?));
    }
    // If nobody reads it, there is nowhere to report that.
    let report = Report::new(|line: &str| drop(writeln!(std::io::stdout(), "{line}")));
    Ok(match migrate::migrate_and_report(&connection, report)? {
        0 => "the database is up to date\n".to_owned(),
        n => format!("the database is up to date: {n} migrations applied\n"),
    })
}

fn connection(config: &Config) -> Result<ConnectConfig, Failure> {
    Ok(ConnectConfig::new(config.direct_url(), "textgen-cli")?)
}

/// The account with this e-mail address or id.
fn find_user(db: &mut impl Executor, name: &str) -> Result<User, Failure> {
    let found = accounts::find(db, name)?;
    found.ok_or_else(|| Failure(format!("no such account: {name:?}")))
}

/// The database, with all migrations applied.
fn database(config: &Config) -> Result<Database, Failure> {
    let connection = connection(config)?;
    migrate::migrate_own(&connection)?;
    let db = Database::new(connection, true, 1);
    db.open();
    Ok(db)
}

/// A time that is to come.
fn future_time(text: &str) -> Result<OffsetDateTime, String> {
    let time = timestamp::parse(text).ok_or("a time such as 2027-01-01T00:00:00Z is expected")?;
    if time > OffsetDateTime::now_utc() { Ok(time) } else { Err("it must be in the future".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(args: &[&str]) -> Result<Cli, clap::Error> {
        Cli::read(["textgen"].iter().chain(args).map(OsString::from))
    }

    #[test]
    fn settings_may_stand_before_and_after_a_command() {
        for args in
            [["--pool-size=7", "user", "list"], ["user", "--pool-size=7", "list"], ["user", "list", "--pool-size=7"]]
        {
            assert_eq!(read(&args).map(|cli| cli.config.pool_size).unwrap(), 7, "{args:?}");
        }
        assert!(!read(&["serve"]).unwrap().config.database_url.is_empty());
    }

    #[test]
    fn only_the_main_help_lists_the_settings() {
        let help = |args: &[&str]| read(args).err().unwrap().to_string();
        assert!(help(&["--help"]).contains("--pool-size <POOL_SIZE>"));
        for args in [&["serve", "--help"][..], &["user", "--help"], &["user", "list", "--help"]] {
            assert!(!help(args).contains("--pool-size"), "{args:?}");
        }
    }
}
