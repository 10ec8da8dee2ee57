//! Journals that dead processes left: finding them, and reading what is whole in them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::journal::SUFFIX;
use super::record::{self, LONGEST_RECORD, MAGIC};
use crate::store::usage::charges::Event;

/// How much is read at once.
const WINDOW: usize = 4 * LONGEST_RECORD;

/// A journal that nobody writes to, held so that nobody else brings it to the database.
pub(super) struct Orphan {
    file: File,
    path: PathBuf,
    window: Vec<u8>,
    at: usize,
    is_at_end: bool,
    /// Bytes that belong to no whole record, since the last one that does.
    torn: usize,
    /// The same, but between whole records: something damaged the file. A torn end is none of it: a process that died
    /// while it wrote had not told anybody yet.
    damaged: usize,
}

/// The journals in `folder` whose names begin with `prefix` and whose processes are gone. No folder, no journals.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn orphans(folder: &Path, prefix: &str) -> io::Result<Vec<Orphan>> {
    let mut found = Vec::new();
    for path in journals(folder)? {
        let is_ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix));
        if is_ours && let Some(orphan) = Orphan::adopt(path)? {
            found.push(orphan);
        }
    }
    Ok(found)
}

/// How many journals in `folder` have names that do not begin with `prefix`.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn count_foreign(folder: &Path, prefix: &str) -> io::Result<usize> {
    let is_foreign = |path: &PathBuf| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with(prefix));
    Ok(journals(folder)?.iter().filter(|path| is_foreign(path)).count())
}

fn journals(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(SUFFIX)) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

impl Orphan {
    /// Takes a journal over, unless its process lives or another has taken it.
    fn adopt(path: PathBuf) -> io::Result<Option<Orphan>> {
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let mut magic = Vec::new();
        (&mut file).take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        if magic != MAGIC && magic.iter().any(|byte| *byte != 0) {
            log::error!("{} is no journal of this version: it is left as it is", path.display());
            return Ok(None);
        }
        Ok(Some(Orphan { file, path, window: Vec::new(), at: 0, is_at_end: false, torn: 0, damaged: 0 }))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that something damaged between whole records.
    #[cfg(test)]
    pub(super) fn damaged(&self) -> usize {
        self.damaged
    }

    /// The next whole records, at most `most`; none at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn read(&mut self, most: usize) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        while events.len() < most {
            if self.window.len() - self.at < LONGEST_RECORD && !self.is_at_end {
                self.fill()?;
            }
            let rest = &self.window[self.at..];
            if rest.is_empty() {
                break;
            }
            if let Some((event, length)) = record::read(rest) {
                events.push(event);
                self.at += length;
                self.damaged += std::mem::take(&mut self.torn);
            } else {
                self.torn += usize::from(rest[0] != 0);
                // The first two bytes of a record are never both zero: its length is small, and not zero.
                let zeros = rest.iter().take_while(|byte| **byte == 0).count();
                self.at += zeros.saturating_sub(1).max(1);
            }
        }
        Ok(events)
    }

    fn fill(&mut self) -> io::Result<()> {
        self.window.drain(..self.at);
        self.at = 0;
        let wanted = WINDOW - self.window.len();
        let read = (&mut self.file).take(wanted as u64).read_to_end(&mut self.window)?;
        self.is_at_end = read < wanted;
        Ok(())
    }

    /// Its records are in the database: the file goes, unless it is damaged; then it is kept under another name.
    ///
    /// # Errors
    /// The file cannot be removed; it will be brought again, which does no harm.
    pub(super) fn finish(self) -> io::Result<()> {
        if self.damaged == 0 {
            return fs::remove_file(&self.path);
        }
        let kept = self.path.with_extension("damaged");
        log::error!("{} bytes of {} are damaged: it is kept as {}", self.damaged, self.path.display(), kept.display());
        fs::rename(&self.path, kept)
    }
}
