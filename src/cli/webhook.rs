//! `textgen webhook`.

use clap::Subcommand;

use super::{Failure, database};
use crate::accounts::webhooks as changes;
use crate::config::Config;
use crate::store::audit::COMMAND_LINE;
use crate::store::timestamp;
use crate::store::webhooks::{self, Endpoint};

/// What to do with web-hooks.
#[derive(Subcommand)]
pub enum WebhookCommand {
    /// List the endpoints that are called when something has happened
    List,
    /// Add an endpoint and print the secret of its signatures, which is never shown again. Servers follow at once
    Add {
        /// Its address
        url: String,
        /// A kind of event that it wants, such as `account.suspended`; several times for several. All by default
        #[arg(long = "kind", value_name = "KIND")]
        kinds: Vec<String>,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Send nothing to an endpoint any more, until it is enabled
    Disable {
        /// Its id
        id: String,
    },
    /// Send events to an endpoint again, also those that wait
    Enable {
        /// Its id
        id: String,
    },
    /// Remove an endpoint
    Remove {
        /// Its id
        id: String,
    },
    /// Send an event of kind `webhook.test` to an endpoint
    Test {
        /// Its id
        id: String,
    },
    /// List the last 100 deliveries, or those of one endpoint, newest first
    Deliveries {
        /// The endpoint's id
        id: Option<String>,
    },
    /// Try a delivery again now
    Retry {
        /// The delivery's number
        delivery: i64,
    },
}

pub(super) fn run(command: &WebhookCommand, config: &Config) -> Result<String, Failure> {
    let db = database(config)?;
    let mut session = db.session()?;
    match command {
        WebhookCommand::List => Ok(table(&webhooks::endpoints(&mut session)?)),
        WebhookCommand::Add { url, kinds, description } => {
            let mut transaction = session.transaction()?;
            let (made, secret) = changes::add(&mut transaction, COMMAND_LINE, url, kinds, description)?;
            transaction.commit()?;
            Ok(format!("id {}\nurl {}\nsecret {secret}\n", made.id, made.url))
        }
        WebhookCommand::Disable { id } | WebhookCommand::Enable { id } => {
            let is_disabled = matches!(command, WebhookCommand::Disable { .. });
            let mut transaction = session.transaction()?;
            let changed = changes::set_disabled(&mut transaction, COMMAND_LINE, id, is_disabled)?;
            transaction.commit()?;
            Ok(table(&[changed]))
        }
        WebhookCommand::Remove { id } => {
            let mut transaction = session.transaction()?;
            changes::remove(&mut transaction, COMMAND_LINE, id)?;
            transaction.commit()?;
            Ok(format!("removed {id}\n"))
        }
        WebhookCommand::Test { id } => match webhooks::test(&mut session, id)? {
            true => Ok("sent within a second or two: see `textgen webhook deliveries`\n".to_owned()),
            false => Err(Failure(format!("no such endpoint: {id:?}"))),
        },
        WebhookCommand::Deliveries { id } => {
            let mut text = format!(
                "{:<8} {:<22} {:<20} {:<10} {:>8} {:>6} CREATED, PROBLEM\n",
                "ID", "ENDPOINT", "KIND", "STATE", "ATTEMPTS", "STATUS"
            );
            for one in webhooks::page(&mut session, id.as_deref(), None, 100)? {
                let status = one.status.map_or("-".to_owned(), |status| status.to_string());
                let line = format!(
                    "{:<8} {:<22} {:<20} {:<10} {:>8} {status:>6} {} {}",
                    one.id,
                    one.endpoint_id,
                    one.kind,
                    one.state,
                    one.attempts,
                    timestamp::zulu(one.created),
                    one.problem
                );
                text += line.trim_end();
                text += "\n";
            }
            Ok(text)
        }
        WebhookCommand::Retry { delivery } => match webhooks::retry(&mut session, *delivery)? {
            true => Ok("tried again now\n".to_owned()),
            false => Err(Failure(format!("{delivery} is no delivery that has failed"))),
        },
    }
}

fn table(endpoints: &[Endpoint]) -> String {
    let mut text = format!("{:<22} {:<10} {:<40} ADDRESS\n", "ID", "STATE", "KINDS");
    for Endpoint { id, url, kinds, disabled, .. } in endpoints {
        let state = if disabled.is_some() { "disabled" } else { "enabled" };
        let kinds = if kinds.is_empty() { "all".to_owned() } else { kinds.join(", ") };
        text += &format!("{id:<22} {state:<10} {kinds:<40} {url}\n");
    }
    text
}
