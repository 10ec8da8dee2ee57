//! `textgen process`.

use clap::Subcommand;

use super::{Failure, database};
use crate::config::Config;
use crate::store::audit::{self, COMMAND_LINE};
use crate::store::{leases, timestamp};

/// What to do with processes that hold parts of limits.
#[derive(Subcommand)]
pub enum ProcessCommand {
    /// List the processes that may hold parts of budgets and of rate limits, and how much, in micro-dollars
    List,
    /// End a process whose machine was lost with its folder of journals, so that what it holds is free again
    ///
    /// That is safe only if the process does not run any more and its folder (JOURNAL_DIR) is gone for good: the charges
    /// in it are not counted, so what they cost can be spent once more. While the folder is there, nothing needs to be
    /// done by hand: any process that uses it makes the charges and ends the dead one within seconds.
    End {
        /// The id, as `textgen process list` shows it
        id: String,
    },
}

pub(super) fn run(command: &ProcessCommand, config: &Config) -> Result<String, Failure> {
    let db = database(config)?;
    let mut session = db.session()?;
    match command {
        ProcessCommand::List => {
            let line = |id: &str, started: &str, [budgets, leased, permits]: [&str; 3]| {
                format!("{id:<38} {started:<28} {budgets:>10} {leased:>16} {permits:>12}\n")
            };
            let mut text = line("ID", "STARTED", ["BUDGETS", "HELD OF THEM", "PERMITS"]);
            for holder in leases::holders(&mut session)? {
                let [budgets, leased, permits] =
                    [holder.budgets, holder.leased_micros, holder.permits].map(|number| number.to_string());
                text += &line(&holder.id, &timestamp::zulu(holder.started), [&budgets, &leased, &permits]);
            }
            Ok(text)
        }
        ProcessCommand::End { id } => {
            let holders = leases::holders(&mut session)?;
            let Some(holder) = holders.iter().find(|holder| holder.id == *id) else {
                return Err(Failure(format!("no such process, or it has ended: {id:?}")));
            };
            let freed = format!(
                "{} micro-dollars of {} budgets, {} permits",
                holder.leased_micros, holder.budgets, holder.permits
            );
            audit::insert_for(&mut session, COMMAND_LINE, "end process", &format!("process {id}"), &freed)?;
            leases::end(&mut session, id)?;
            Ok(format!("ended process {id}: {freed}\n"))
        }
    }
}
