//! The operator's commands.

mod check_sharing;
mod price;
mod user;

use clap::builder::Styles;
use clap::{Parser, Subcommand, ValueEnum};

use crate::call::Role;
use crate::config::{Config, VARIABLES};
use crate::db::{self, Database, migrate};
use crate::error::Error;

pub use price::PriceCommand;
pub use user::UserCommand;

/// The command line.
#[derive(Parser)]
#[command(name = "textgen", version, about, arg_required_else_help = true, styles = Styles::plain(),
    after_help = environment(), max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Run the servers: all three, or the one that is named
    Serve {
        /// The one to run
        role: Option<RoleName>,
        /// Answer with a built-in engine, which needs no model, wherever no model server is configured
        #[arg(long)]
        demo_engine: bool,
    },
    /// Bring the database's tables up to date
    Migrate,
    /// Verify that the three running servers share one database
    CheckSharing {
        /// How many times to rotate a secret and measure how soon the others refuse the old one
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
        rounds: u32,
    },
    /// Accounts: list, create, rotate a secret, suspend, restore, promote, demote, delete
    #[command(subcommand)]
    User(UserCommand),
    /// Prices: list, set
    #[command(subcommand)]
    Price(PriceCommand),
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

/// A command that did not do its work: one line for the operator.
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

/// Runs any command but `serve`; what it returns goes to standard output.
///
/// # Errors
/// One line for the operator.
pub fn run(command: &Command, config: &Config) -> Result<String, Failure> {
    match command {
        Command::Serve { .. } => Err(Failure("serve is not run here".to_owned())),
        Command::Migrate => migrate(config),
        Command::CheckSharing { rounds } => check_sharing::run(config, *rounds),
        Command::User(command) => user::run(command, config),
        Command::Price(command) => price::run(command, config),
    }
}

fn migrate(config: &Config) -> Result<String, Failure> {
    Ok(match migrate::migrate(&connection(config)?)? {
        0 => "the tables are up to date\n".to_owned(),
        n => format!("the tables are up to date: {n} migrations applied\n"),
    })
}

fn connection(config: &Config) -> Result<postgres::Config, Failure> {
    Ok(db::config(config.direct_url(), "textgen-cli")?)
}

/// A database whose tables are up to date.
fn database(config: &Config) -> Result<Database, Failure> {
    let connection = connection(config)?;
    migrate::migrate(&connection)?;
    let db = Database::new(connection, true, 1);
    db.open();
    Ok(db)
}

/// Columns of the help's lines, and of the names in it. What is longer clap would wrap without the indent.
const WIDTH: usize = 79;
const NAMES: usize = 23;

fn environment() -> String {
    let mut text = "Environment:".to_owned();
    for variable in VARIABLES {
        text += &format!("\n  {:<1$} ", variable.name, NAMES - 3);
        let default = Some(format!("[default: {}]", variable.default)).filter(|_| !variable.default.is_empty());
        let mut column = NAMES;
        for word in variable.meaning.split(' ').chain(default.as_deref()) {
            if column + 1 + word.len() > WIDTH {
                text += &format!("\n{:NAMES$}", "");
                column = NAMES;
            } else if column > NAMES {
                text.push(' ');
                column += 1;
            }
            text += word;
            column += word.len();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_and_the_readme_list_every_variable() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        let help = Cli::command().render_help().to_string();
        let readme = include_str!("../../README.md");
        for variable in VARIABLES {
            assert!(help.contains(variable.name), "{} is not in --help", variable.name);
            assert!(readme.contains(&format!("`{}`", variable.name)), "{} is not in README.md", variable.name);
        }
    }
}
