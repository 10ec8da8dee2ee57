//! Finds the journals of dead processes and reads their complete records.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::commit::PORTION;
use super::journal::SUFFIX;
use super::record::{self, LONGEST_RECORD, MAGIC};
use crate::store::usage::charges::Event;

/// Bytes that are read at once.
const WINDOW: usize = 4 * LONGEST_RECORD;

/// The journal of a dead process, locked so that no other process replays it.
pub(super) struct Orphan {
    file: File,
    path: PathBuf,
    window: Vec<u8>,
    at: usize,
    is_at_end: bool,
    /// Bytes since the last complete record that are not part of one.
    torn: usize,
    /// Such bytes between complete records: the file was damaged. An incomplete record at the end does not count: the
    /// process died while writing it, before any request was answered.
    damaged: usize,
}

/// The journals of dead processes in `folder` whose names begin with `prefix`. Empty if there is no folder.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn orphans(folder: &Path, prefix: &str) -> io::Result<Vec<Orphan>> {
    let mut found = Vec::new();
    for path in files(folder, SUFFIX)? {
        if is_named(&path, prefix)
            && let Some(orphan) = Orphan::adopt(path)?
        {
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
    Ok(files(folder, SUFFIX)?.iter().filter(|path| !is_named(path, prefix)).count())
}

/// Whether a file's name begins with `prefix`.
pub(super) fn is_named(path: &Path, prefix: &str) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix))
}

/// The files in `folder` whose names end with `suffix`, in the order of their names. None if there is no folder.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn files(folder: &Path, suffix: &str) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(suffix)) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

impl Orphan {
    /// Locks a journal, unless its process lives or another process has locked it.
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
            log::error!("{} is not a journal of this version and is ignored", path.display());
            return Ok(None);
        }
        Ok(Some(Orphan { file, path, window: Vec::new(), at: 0, is_at_end: false, torn: 0, damaged: 0 }))
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The number of damaged bytes between complete records.
    #[cfg(test)]
    pub(super) fn damaged(&self) -> usize {
        self.damaged
    }

    /// The next complete records, at most `most` and about [`PORTION`] bytes; empty at the end.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn read(&mut self, most: usize) -> io::Result<Vec<Event>> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        while events.len() < most && bytes < PORTION {
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
                bytes += length;
                self.damaged += std::mem::take(&mut self.torn);
            } else {
                self.torn += usize::from(rest[0] != 0);
                // The first three bytes of a record are never all zero: its length is below 2^24, and not zero.
                let zeros = rest.iter().take_while(|byte| **byte == 0).count();
                self.at += zeros.saturating_sub(2).max(1);
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

    /// Removes the file after its records were replayed. If it is damaged, it is kept under another name.
    ///
    /// # Errors
    /// The file cannot be removed. It will be replayed again, which does no harm.
    pub(super) fn finish(self) -> io::Result<()> {
        if self.damaged == 0 {
            return fs::remove_file(&self.path);
        }
        let kept = self.path.with_extension("damaged");
        log::error!("{} bytes of {} are damaged: it is kept as {}", self.damaged, self.path.display(), kept.display());
        fs::rename(&self.path, kept)
    }
}
