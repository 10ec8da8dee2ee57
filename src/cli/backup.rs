//! `textgen backup` and `textgen restore`.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::backup;
use crate::config::Config;

/// Where a backup is, and how it is made or read.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct BackupArguments {
    /// The backup's directory
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Database connections that are used at once. A restore with more than one leaves the database half filled if it
    /// fails, rather than empty
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: u32,
}

/// What is backed up, and how.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct CreateArguments {
    #[command(flatten)]
    backup: BackupArguments,
    /// Leave out the journals, where no server runs that has any
    #[arg(long)]
    without_journals: bool,
}

impl From<backup::Failure> for Failure {
    fn from(e: backup::Failure) -> Failure {
        Failure(e.to_string())
    }
}

pub(super) fn create(arguments: &CreateArguments, config: &Config) -> Result<String, Failure> {
    let CreateArguments { backup: BackupArguments { directory, jobs }, without_journals } = arguments;
    // From another directory than the servers', a relative path would lead nowhere, and charges would be missing.
    let journals = std::path::absolute(&config.journal_dir).unwrap_or_else(|_| config.journal_dir.clone());
    if !*without_journals && !journals.is_dir() {
        return Err(Failure(format!(
            "JOURNAL_DIR, {}, does not exist: run this where the servers run, with their settings and in their directory, \
             or with --without-journals if none of them has any",
            journals.display()
        )));
    }
    let made = backup::create(config, directory, *jobs)?;
    Ok(format!(
        "{}: {} bytes, {} objects of the database, {} files of {}\nthe ledger has {}\n",
        directory.display(),
        made.bytes,
        made.objects,
        made.journals,
        journals.display(),
        made.ledger
    ))
}

pub(super) fn restore(arguments: &BackupArguments, config: &Config) -> Result<String, Failure> {
    let BackupArguments { directory, jobs } = arguments;
    let restored = backup::restore(config, directory, *jobs)?;
    let journals = restored.journals;
    let mut text = format!(
        "restored the backup of {}\njournals: {} charges made, {} that the database had already\n",
        restored.created, journals.charged, journals.known
    );
    if journals.rejected + journals.aside as u64 > 0 {
        text += &format!(
            "JOURNAL_DIR holds {} charges that the database refuses (rejected.jsonl) and {} journals that are damaged or \
             may be forged: they wait for you\n",
            journals.rejected, journals.aside
        );
    }
    if restored.ended > 0 {
        text += &format!("{} processes of the old database hold nothing of its limits any more\n", restored.ended);
    }
    Ok(text + &format!("the sums agree: the ledger has {}\n", restored.ledger))
}
