//! `textgen backup`.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use super::manifest::Manifest;
use super::programs::{self, Program};
use super::{DATABASE, Failure, JOURNALS, at};
use crate::config::Config;
use crate::db::{ConnectConfig, Database, migrate};
use crate::store::{books, installation, timestamp};
use crate::usage::folder;

/// What was backed up.
pub struct Created {
    /// The size of all files, in bytes.
    pub bytes: u64,
    /// Objects in the dump, such as tables.
    pub objects: usize,
    /// Files of the folder of journals.
    pub journals: usize,
    /// Charges in the ledger, and what they cost.
    pub ledger: String,
}

/// Makes a backup in `target`, which must not exist or be empty, with so many connections at once.
///
/// # Errors
/// See [`Failure`]. What was written until then is left there, without a manifest.
pub fn create(config: &Config, target: &Path, jobs: u32) -> Result<Created, Failure> {
    make_folder(target)?;
    let connection = programs::connection(config.direct_url())?;
    let db = Database::new(ConnectConfig::new(config.direct_url(), "textgen-backup")?, true, 1);
    db.open();
    let mut session = db.session()?;
    let schema = migrate::applied(&mut session)?;
    if schema < migrate::newest() {
        return Err(format!(
            "the database has migration {schema} and this version needs {}: back up with the version that runs, or run \
             `textgen migrate` first",
            migrate::newest()
        )
        .into());
    }
    let server = books::server(&mut session)?;
    let (dump, list) = (Program::find("pg_dump", server.major)?, Program::find("pg_restore", server.major)?);

    // Before the snapshot: what leaves a journal from now on is in it.
    let identity = installation::identity(&mut session)?;
    let kept = target.join(JOURNALS);
    let journals = folder::copy(&config.journal_dir, &identity, &kept).map_err(at(&kept))?;

    session.set_timeout(books::PATIENCE);
    let mut transaction = session.transaction()?;
    let snapshot = books::snapshot(&mut transaction)?;
    let to = target.join(DATABASE);
    let args = [
        "--format=directory".into(),
        "--no-password".into(),
        format!("--jobs={jobs}").into(),
        format!("--snapshot={}", snapshot.id).into(),
        with_value("--file=", &to),
    ];
    dump.run(&args, &connection)?;
    let totals = books::totals(&mut transaction)?;
    drop(transaction);

    let objects = objects(&list, &to)?;
    let mut manifest = Manifest::of(target, server.version, schema, server.database)?;
    (manifest.created, manifest.totals) = (timestamp::zulu(snapshot.taken), totals);
    manifest.write(target)?;
    Ok(Created { bytes: manifest.bytes(), objects, journals, ledger: books::ledger(&manifest.totals) })
}

/// An option whose value is a path, which need not be UTF-8.
pub(super) fn with_value(option: &str, path: &Path) -> OsString {
    let mut arg = OsString::from(option);
    arg.push(path);
    arg
}

/// How many objects a dump lists, which shows that it can be read.
pub(super) fn objects(program: &Program, dump: &Path) -> Result<usize, Failure> {
    let listed = program.run(&["--list".into(), dump.into()], &[])?;
    match listed.lines().filter(|line| !line.starts_with(';') && !line.is_empty()).count() {
        0 => Err(format!("{} lists nothing", dump.display()).into()),
        objects => Ok(objects),
    }
}

/// Makes the folder, for this user alone.
fn make_folder(target: &Path) -> Result<(), Failure> {
    match fs::read_dir(target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(at(target)(e)),
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(format!("{} is not empty: a backup needs a directory of its own", target.display()).into());
            }
            return fs::set_permissions(target, Permissions::from_mode(0o700)).map_err(at(target));
        }
    }
    DirBuilder::new().recursive(true).mode(0o700).create(target).map_err(at(target))
}
