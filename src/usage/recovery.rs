//! Finds the journals of dead processes and reads their complete records.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::commit::PORTION;
use super::journal::SUFFIX;
use super::record::{self, Found, LONGEST_RECORD, MAGIC, Origin, UNSIGNED_MAGIC};
use crate::store::usage::charges::Event;

/// Bytes that are read at once.
const WINDOW: usize = 4 * LONGEST_RECORD;

/// The suffixes of the names under which journals are kept that were not replayed, or not all of them.
pub(super) const ASIDE: [&str; 2] = [".damaged", ".unsigned"];

/// Bytes that may be looked through in vain for the next record of a damaged file. A file that was made for it would
/// otherwise keep a thread busy for hours.
const MAX_WASTED: usize = 16 << 30;

/// How a file is opened whose name anybody may have given to anything: not through a link, nor waiting for a pipe.
#[expect(clippy::cast_possible_wrap, reason = "the flags are the bits of an int")]
pub(super) const OPEN_FLAGS: i32 = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits() as i32;

/// The journal of a dead process, locked so that no other process replays it.
pub(super) struct Orphan {
    file: File,
    path: PathBuf,
    origin: Origin,
    window: Vec<u8>,
    at: usize,
    is_at_end: bool,
    /// Bytes since the last complete record that are not part of one.
    torn: usize,
    /// Such bytes between complete records: the file was damaged. An incomplete record at the end does not count: the
    /// process died while writing it, before any request was answered.
    damaged: usize,
    /// Bytes of records that were not written by a server.
    forged: usize,
    /// Bytes that were looked through for a record where there was none.
    wasted: usize,
}

/// The journals in `folder` whose names begin with `prefix`. Empty if there is no folder.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn journals(folder: &Path, prefix: &str) -> io::Result<Vec<PathBuf>> {
    Ok(files(folder, SUFFIX)?.into_iter().filter(|path| is_named(path, prefix)).collect())
}

/// How many journals in `folder` whose names begin with `prefix` were put aside.
///
/// # Errors
/// The folder cannot be read.
pub(super) fn count_aside(folder: &Path, prefix: &str) -> io::Result<usize> {
    let mut count = 0;
    for suffix in ASIDE {
        count += files(folder, suffix)?.iter().filter(|path| is_named(path, prefix)).count();
    }
    Ok(count)
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
    /// Locks a journal, unless its process lives or another process has locked it. `origin` is that of this database.
    ///
    /// # Errors
    /// It is not a journal of this version, or cannot be read.
    pub(super) fn adopt(path: PathBuf, origin: &Origin) -> io::Result<Option<Orphan>> {
        let mut file = match OpenOptions::new().read(true).write(true).custom_flags(OPEN_FLAGS).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a file"));
        }
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        let mut magic = Vec::new();
        (&mut file).take(MAGIC.len() as u64).read_to_end(&mut magic)?;
        let origin = match &*magic {
            magic if magic == UNSIGNED_MAGIC => Origin::Unsigned,
            magic if magic == MAGIC || magic.iter().all(|byte| *byte == 0) => origin.clone(),
            _ => return Err(io::Error::other("not a journal of this version")),
        };
        let (window, at, is_at_end) = (Vec::new(), 0, false);
        Ok(Some(Orphan { file, path, origin, window, at, is_at_end, torn: 0, damaged: 0, forged: 0, wasted: 0 }))
    }

    /// Whether its records have no codes, as an older release writes them; or somebody else.
    pub(super) fn is_unsigned(&self) -> bool {
        matches!(self.origin, Origin::Unsigned)
    }

    /// Keeps the file under another name, as it must not be replayed.
    ///
    /// # Errors
    /// It cannot be renamed.
    pub(super) fn put_aside(self) -> io::Result<()> {
        let kept = self.path.with_extension("unsigned");
        log::error!(
            "{} may be forged: its records have no codes. It is kept as {}",
            self.path.display(),
            kept.display()
        );
        fs::rename(&self.path, kept)
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
            let found = record::read(rest, &self.origin);
            if let Found::Record(..) | Found::Forged(_) = found {
                self.damaged += std::mem::take(&mut self.torn);
            }
            match found {
                Found::Record(event, length) => {
                    events.push(*event);
                    self.at += length;
                    bytes += length;
                }
                Found::Forged(length) => {
                    self.forged += length;
                    self.at += length;
                }
                Found::Nothing => self.search(),
            }
        }
        Ok(events)
    }

    /// Goes on by a byte, or past zeros.
    fn search(&mut self) {
        let rest = &self.window[self.at..];
        self.torn += usize::from(rest[0] != 0);
        // The first three bytes of a record are never all zero: its length is below 2^24, and not zero.
        let zeros = rest.iter().take_while(|byte| **byte == 0).count();
        if zeros < 3 {
            self.wasted = self.wasted.saturating_add(record::length(rest));
        }
        if self.wasted > MAX_WASTED {
            self.damaged += rest.len();
            (self.at, self.is_at_end) = (self.window.len(), true);
            return;
        }
        self.at += zeros.saturating_sub(2).max(1);
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
        if self.damaged + self.forged == 0 {
            return fs::remove_file(&self.path);
        }
        let kept = self.path.with_extension("damaged");
        log::error!(
            "{} bytes of {} are damaged and {} forged: it is kept as {}",
            self.damaged,
            self.path.display(),
            self.forged,
            kept.display()
        );
        fs::rename(&self.path, kept)
    }
}
