//! The operator's commands.

mod check_sharing;
mod user;

use clap::builder::Styles;
use clap::{Parser, Subcommand, ValueEnum};

use crate::call::Role;
use crate::config::{Config, VARIABLES};
use crate::db::{self, Database, migrate};
use crate::error::Error;

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
    CheckSharing,
    /// Accounts: list, create, rotate a secret, delete
    #[command(subcommand)]
    User(UserCommand),
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
        Command::CheckSharing => check_sharing::run(config),
        Command::User(command) => user::run(command, config),
    }
}

fn migrate(config: &Config) -> Result<String, Failure> {
    Ok(match migrate::migrate(&connection(config)?)? {
        0 => "the tables are up to date\n".to_owned(),
        n => format!("the tables are up to date: {n} migrations applied\n"),
    })
}

fn connection(config: &Config) -> Result<postgres::Config, Failure> {
    Ok(db::config(&config.database_url, "textgen-cli")?)
}

/// A database whose tables are up to date.
fn database(config: &Config) -> Result<Database, Failure> {
    let connection = connection(config)?;
    migrate::migrate(&connection)?;
    let db = Database::new(connection, 1);
    db.open();
    Ok(db)
}

fn environment() -> String {
    let mut text = "Environment:\n".to_owned();
    for variable in VARIABLES {
        let default = match variable.default {
            "" => String::new(),
            default => format!(" [default: {default}]"),
        };
        text += &format!("  {:<20} {}{default}\n", variable.name, variable.meaning);
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
