//! The folder of journals as backups see it: copied while processes write to it, and taken over by another database.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::journal::{self, Journal};
use super::record::Origin;
use super::state::Shared;
use super::{Connections, aside, recovery, replay};
use crate::store::installation;

/// How often a file is read that changes meanwhile. After that, the copy has what was in it when the copy began, and
/// perhaps a part of a later record, which is found to be incomplete.
const ATTEMPTS: u32 = 5;

/// What a folder of journals holds of a database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Journals, also those that are in use.
    pub journals: usize,
    /// Of these, those of processes that died: the next server replays them.
    pub orphans: usize,
    /// Charges in `rejected.jsonl`.
    pub rejected: u64,
    /// Journals that are damaged or may be forged.
    pub aside: usize,
}

/// Looks at the journals of the database with this identity.
///
/// # Errors
/// The folder cannot be read.
pub fn look(folder: &Path, identity: &str) -> io::Result<Contents> {
    let prefix = journal::prefix(identity);
    let mut found = Contents {
        rejected: aside::Count::default().read(folder)?,
        aside: recovery::count_aside(folder, &prefix)?,
        ..Contents::default()
    };
    for path in recovery::journals(folder, &prefix)? {
        found.journals += 1;
        let file = OpenOptions::new().read(true).custom_flags(recovery::OPEN_FLAGS).open(&path);
        // The lock ends with the file.
        found.orphans +=
            usize::from(file.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_ok()));
    }
    Ok(found)
}

/// What was taken over from copies of journals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TakenOver {
    /// Charges that the database did not have.
    pub charged: u64,
    /// Charges that it had already.
    pub known: u64,
    /// Charges that it refuses, in `rejected.jsonl`.
    pub rejected: u64,
    /// Journals that are damaged or may be forged.
    pub aside: usize,
}

/// Creates the folder of journals, for this user alone, if it does not exist.
///
/// # Errors
/// It cannot be created.
pub fn create(folder: &Path) -> io::Result<()> {
    journal::create_folder(folder)
}

/// Copies the journals of the database with this identity into a new folder, and what was put aside. Returns the number of
/// files. Processes may go on with their journals meanwhile: what one of them held when this was called is in the copy, or
/// was committed to the database before it was removed from the journal.
///
/// # Errors
/// A file cannot be read or written.
pub fn copy(folder: &Path, identity: &str, to: &Path) -> io::Result<usize> {
    DirBuilder::new().recursive(true).mode(0o700).create(to)?;
    let mut count = 0;
    for path in kept_files(folder, &journal::prefix(identity))? {
        let Some(name) = path.file_name() else { continue };
        count += usize::from(copy_file(&path, &to.join(name))?);
    }
    File::open(to)?.sync_all()?;
    Ok(count)
}

/// What is worth keeping of a folder of journals; of all databases, if `prefix` is empty.
fn kept_files(folder: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    let mut paths = recovery::files(folder, aside::NAME)?;
    for suffix in [journal::SUFFIX].iter().chain(&recovery::ASIDE) {
        let found = recovery::files(folder, suffix)?;
        paths.extend(found.into_iter().filter(|path| recovery::is_named(path, prefix)));
    }
    Ok(paths)
}

/// Copies a file that may change. False if it is gone: its charges are in the database.
fn copy_file(path: &Path, to: &Path) -> io::Result<bool> {
    let open = || OpenOptions::new().read(true).custom_flags(recovery::OPEN_FLAGS).open(path);
    for _ in 0..ATTEMPTS {
        let mut file = match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return match fs::remove_file(to) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
                    _ => Ok(false),
                };
            }
            file => file?,
        };
        if !file.metadata()?.is_file() {
            return Ok(false);
        }
        let mut copied = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(to)?;
        let written = read_all(&mut file, |part| copied.write_all(part))?;
        copied.sync_all()?;
        match open().and_then(|mut again| read_all(&mut again, |_| Ok(()))) {
            Ok(now) if now == written => break,
            // It has changed, or is gone: that is seen at the next attempt.
            _ => {}
        }
    }
    Ok(true)
}

/// Hands over all parts of a file. Returns their digest.
fn read_all(file: &mut File, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<[u8; 32]> {
    let (mut part, mut digest) = (vec![0; 256 << 10], Sha256::new());
    loop {
        let length = file.read(&mut part)?;
        if length == 0 {
            return Ok(digest.finalize().into());
        }
        digest.update(&part[..length]);
        each(&part[..length])?;
    }
}

/// Brings copied journals into the folder of the database at this URL, as those of a process that died, and replays them.
/// The copies stay where they are.
///
/// # Errors
/// What failed, in words. What is in the folder by then is replayed by the next server that uses it.
pub fn take_over(url: &str, copies: &Path, folder: &Path) -> Result<TakenOver, String> {
    let connections = Connections::new(url, "textgen-restore-charges")?;
    connections.open();
    let shared = Shared::new(connections, Journal::new(folder.to_owned(), 0));
    let (prefix, origin) = identify(&shared).map_err(|e| e.to_string())?;
    bring(copies, folder, &prefix).map_err(|e| format!("{}: {e}", folder.display()))?;
    let problems = replay::replay_orphans(&shared, &prefix, &origin).map_err(|e| e.to_string())?;
    if !problems.is_empty() {
        return Err(problems.join("; "));
    }
    let fault = |e: io::Error| format!("{}: {e}", folder.display());
    Ok(TakenOver {
        charged: shared.counters.replayed.load(Ordering::Relaxed),
        known: shared.counters.duplicates.load(Ordering::Relaxed),
        rejected: aside::Count::default().read(folder).map_err(fault)?,
        aside: recovery::count_aside(folder, &prefix).map_err(fault)?,
    })
}

fn identify(shared: &Shared) -> Result<(String, Origin), crate::db::Error> {
    let mut session = shared.db.background()?;
    let prefix = journal::prefix(&installation::identity(&mut session)?);
    Ok((prefix, Origin::of(&installation::journal_key(&mut session)?)))
}

/// Copies the files under names that no process of this database has.
fn bring(copies: &Path, folder: &Path, prefix: &str) -> io::Result<()> {
    let found = kept_files(copies, "")?;
    if found.is_empty() {
        return Ok(());
    }
    journal::create_folder(folder)?;
    for path in found {
        let suffix = path.extension().map(|suffix| suffix.to_string_lossy().into_owned()).unwrap_or_default();
        let mut file = File::open(&path)?;
        let mut options = OpenOptions::new();
        let (to, options) = if path.ends_with(aside::NAME) {
            (folder.join(aside::NAME), options.append(true).create(true))
        } else {
            (folder.join(format!("{prefix}{}.{suffix}", super::new_id())), options.write(true).create_new(true))
        };
        let mut copied = options.mode(0o600).custom_flags(recovery::OPEN_FLAGS).open(to)?;
        read_all(&mut file, |part| copied.write_all(part))?;
        copied.sync_all()?;
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_of_one_database_are_copied_and_brought_under_another_name() {
        let home = std::env::temp_dir().join(format!("textgen-folder-{}", crate::usage::new_id()));
        let (folder, copies, other) = (home.join("a"), home.join("b"), home.join("c"));
        fs::create_dir_all(&folder).unwrap();
        let (own, foreign) = (journal::prefix("one"), journal::prefix("two"));
        for (name, text) in [
            (format!("{own}x.journal"), "1"),
            (format!("{own}x.damaged"), "2"),
            (format!("{own}x.holder"), "3"),
            (format!("{foreign}x.journal"), "4"),
            ("rejected.jsonl".to_owned(), "5\n"),
        ] {
            fs::write(folder.join(name), text).unwrap();
        }
        assert_eq!(copy(&folder, "one", &copies).unwrap(), 3);
        bring(&copies, &other, "p-").unwrap();
        bring(&copies, &other, "p-").unwrap();
        let mut found: Vec<(String, String)> = fs::read_dir(&other)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                assert!(name.starts_with("p-") || name == "rejected.jsonl", "{name}");
                (name.split_once('.').unwrap().1.to_owned(), fs::read_to_string(&path).unwrap())
            })
            .collect();
        found.sort();
        let expected = [("damaged", "2"), ("damaged", "2"), ("journal", "1"), ("journal", "1"), ("jsonl", "5\n5\n")];
        assert_eq!(found, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
        assert_eq!(copy(&home.join("nowhere"), "one", &home.join("d")).unwrap(), 0);
        fs::remove_dir_all(home).unwrap();
    }
}
