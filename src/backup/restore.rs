//! `textgen restore`.

use std::path::Path;

use super::create::{objects, with_value};
use super::manifest::Manifest;
use super::programs::{self, Program};
use super::{DATABASE, Failure, JOURNALS};
use crate::config::Config;
use crate::db::{ConnectConfig, Database, Session, migrate};
use crate::store::books::{self, Total};
use crate::store::leases;
use crate::usage::folder::{self, TakenOver};

/// Differences that are named; further ones are only counted.
const LISTED: i64 = 20;

/// What was restored.
pub struct Restored {
    /// When the backup was made, in ISO-8601.
    pub created: String,
    /// What its journals held.
    pub journals: TakenOver,
    /// Charges in the ledger, and what they cost.
    pub ledger: String,
    /// Processes of the old database that held parts of limits, which are free now.
    pub ended: usize,
}

/// Restores a backup into the database of the settings, which must be empty and not in use, with so many connections at
/// once. With one, a failure leaves the database empty.
///
/// # Errors
/// See [`Failure`]; also if sums differ from those of the backup or from each other.
pub fn restore(config: &Config, source: &Path, jobs: u32) -> Result<Restored, Failure> {
    let manifest = Manifest::verified(source)?;
    let connection = programs::connection(config.direct_url())?;
    let connect = ConnectConfig::new(config.direct_url(), "textgen-restore")?;
    let db = Database::new(connect.clone(), true, 1);
    db.open();
    let mut session = db.session()?;
    let server = books::server(&mut session)?;
    check_unused(&mut session, &server.database)?;
    let program = Program::find("pg_restore", server.major)?;
    let dump = source.join(DATABASE);
    objects(&program, &dump)?;

    // Servers that start meanwhile wait for this lock, as they do for migrations.
    if !migrate::try_lock(&mut session)? {
        return Err("another process is migrating this database, or restoring into it".to_owned().into());
    }
    let mut args =
        vec!["--no-password".into(), "--exit-on-error".into(), "--no-owner".into(), "--no-privileges".into()];
    args.push(if jobs > 1 { format!("--jobs={jobs}").into() } else { "--single-transaction".into() });
    // The name comes from the environment, like all of the connection.
    args.push(with_value("--dbname=", Path::new("application_name=textgen-restore")));
    args.push(dump.into_os_string());
    program.run(&args, &connection)?;
    migrate::unlock(&mut session)?;
    migrate::migrate(&connect)?;

    session.set_timeout(books::PATIENCE);
    compare(&manifest.totals, &totals(&mut session)?)?;
    let journals = folder::take_over(config.direct_url(), &source.join(JOURNALS), &config.journal_dir)?;
    let ended = end_holders(&mut session)?;
    check_books(&mut session)?;
    let ledger = books::ledger(&totals(&mut session)?);
    Ok(Restored { created: manifest.created, journals, ledger, ended })
}

/// Refuses a database that holds something, or that other processes use.
fn check_unused(session: &mut Session, name: &str) -> Result<(), Failure> {
    let users = books::other_processes(session)?;
    if !users.is_empty() {
        return Err(format!("the database {name} is in use by {}: stop them first", users.join(", ")).into());
    }
    match books::relations(session)? {
        0 => Ok(()),
        tables => Err(format!(
            "the database {name} is not empty, it has {tables} tables or the like: create another one (`createdb`), and \
             set DATABASE_URL to it"
        )
        .into()),
    }
}

fn totals(session: &mut Session) -> Result<Vec<Total>, Failure> {
    let mut transaction = session.transaction()?;
    books::without_time_limit(&mut transaction)?;
    Ok(books::totals(&mut transaction)?)
}

/// Compares the sums of the backup with those of what was restored.
fn compare(before: &[Total], after: &[Total]) -> Result<(), Failure> {
    let found = |name: &str| after.iter().find(|total| total.name == name).map_or("nothing", |total| &total.value);
    let differ = before.iter().filter(|total| found(&total.name) != total.value);
    let differences: Vec<String> = differ
        .map(|total| format!("{}: {} in the backup, {} restored", total.name, total.value, found(&total.name)))
        .collect();
    match differences.is_empty() {
        true => Ok(()),
        false => Err(format!("what was restored is not what was backed up: {}", differences.join("; ")).into()),
    }
}

/// Frees what the processes of the old database hold of limits: none of them runs on this one.
fn end_holders(session: &mut Session) -> Result<usize, Failure> {
    let mut ended = 0;
    loop {
        let holders = leases::holders(session)?;
        if holders.is_empty() {
            return Ok(ended);
        }
        for holder in &holders {
            leases::end(session, &holder.id)?;
        }
        ended += holders.len();
    }
}

/// Compares the ledger's sums with the totals of days and of accounts.
fn check_books(session: &mut Session) -> Result<(), Failure> {
    let mut transaction = session.transaction()?;
    books::without_time_limit(&mut transaction)?;
    let differences = books::differences(&mut transaction, LISTED)?;
    match differences.is_empty() {
        true => Ok(()),
        false => Err(format!("sums differ: {}", differences.join("; ")).into()),
    }
}
