//! `textgen audit`.

use clap::{Args, Subcommand};

use super::{Failure, database, find_user};
use crate::config::Config;
use crate::store::audit::{self, Filter};
use crate::store::timestamp;

/// What to do with the audit log.
#[derive(Subcommand)]
pub enum AuditCommand {
    /// List what administrators and commands have done, newest first
    List(ListArguments),
}

/// Which entries are listed.
#[derive(Args)]
pub struct ListArguments {
    /// E-mail address or id of the account that it was done to
    #[arg(long)]
    user: Option<String>,
    /// E-mail address of who did it, or `command line`
    #[arg(long)]
    actor: Option<String>,
    /// What was done, such as `suspend`
    #[arg(long)]
    action: Option<String>,
    /// Only entries before the one with this number
    #[arg(long, value_name = "ID")]
    before: Option<i64>,
    /// How many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
}

pub(super) fn run(command: &AuditCommand, config: &Config) -> Result<String, Failure> {
    let AuditCommand::List(ListArguments { user, actor, action, before, limit }) = command;
    let db = database(config)?;
    let mut session = db.session()?;
    // An account that was deleted is found by its id.
    let user = match user {
        Some(name) if name.contains('@') => Some(find_user(&mut session, name)?.id),
        user => user.clone(),
    };
    let filter = Filter { user_id: user.as_deref(), actor: actor.as_deref(), action: action.as_deref() };
    let mut text = format!("{:<8} {:<28} {:<32} {:<16} TARGET, DETAILS\n", "ID", "WHEN", "ACTOR", "ACTION");
    for entry in audit::page(&mut session, filter, *before, *limit)? {
        let line = format!(
            "{:<8} {:<28} {:<32} {:<16} {} {}",
            entry.id,
            timestamp::zulu(entry.at),
            entry.actor,
            entry.action,
            entry.user_email,
            entry.detail
        );
        text += line.trim_end();
        text += "\n";
    }
    Ok(text)
}
