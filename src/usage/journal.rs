//! The journal: a file of this process that takes charges while the database is unavailable.
//!
//! It is locked while the process lives. A file without a lock was left by a process that died; any process that finds it
//! replays it (`recovery`). Its name begins with a digest of the database's identity, so that servers of different
//! databases may share a folder. Space is allocated in advance, so that the charges of requests that were admitted fit.
//! Records may be replayed twice: the database ignores charges that it has.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::record::{self, Found, LONGEST_RECORD, MAGIC, Origin};
use crate::hex;
use crate::store::usage::charges::Event;

/// The suffix of a journal's name.
pub(super) const SUFFIX: &str = ".journal";

/// The file grows in steps of this many bytes; also its minimum size.
const STEP: u64 = 1 << 20;

/// Bytes that must be free for requests to be admitted: enough for the charges of all requests that may be running.
const HEADROOM: u64 = 256 << 10;

/// Maximum number of bytes that are read at once: at least one record.
const READ: u64 = LONGEST_RECORD as u64;

/// This process's journal.
pub(super) struct Journal {
    folder: PathBuf,
    most_bytes: u64,
    state: Mutex<State>,
    has_room: AtomicBool,
    bytes: AtomicU64,
    records: AtomicU64,
    /// When the oldest record was made that was not replayed, in microseconds since 1970; 0 if there is none.
    oldest: AtomicI64,
}

#[derive(Default)]
struct State {
    own: Option<Own>,
}

/// The file, while it is open.
struct Own {
    file: Arc<File>,
    path: PathBuf,
    origin: Origin,
    /// The position of the next record.
    end: u64,
    /// The end of the allocated space.
    capacity: u64,
    /// The end of the records that were replayed.
    done: u64,
}

/// Records to replay.
pub(super) struct Portion {
    pub(super) events: Vec<Event>,
    file: Arc<File>,
    to: u64,
}

impl Journal {
    /// A journal in `folder`, which is created when it is first needed; at most `most_bytes` long.
    pub(super) fn new(folder: PathBuf, most_bytes: u64) -> Journal {
        Journal {
            folder,
            most_bytes: most_bytes.max(STEP),
            state: Mutex::default(),
            has_room: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            records: AtomicU64::new(0),
            oldest: AtomicI64::new(0),
        }
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether it has room for the charges of further requests.
    pub(super) fn has_room(&self) -> bool {
        self.has_room.load(Ordering::Acquire)
    }

    /// Its size in bytes, and the number of its charges.
    pub(super) fn size(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.records.load(Ordering::Relaxed))
    }

    /// When the oldest of its charges was made.
    pub(super) fn oldest(&self) -> Option<OffsetDateTime> {
        Some(self.oldest.load(Ordering::Relaxed)).filter(|micros| *micros > 0).and_then(from_micros)
    }

    /// Its maximum size in bytes.
    pub(super) fn most_bytes(&self) -> u64 {
        self.most_bytes
    }

    /// Creates the file if it does not exist, and allocates space in it if needed.
    ///
    /// # Errors
    /// The folder cannot be written to, or the disk is full.
    pub(super) fn prepare(&self, prefix: &str, origin: &Origin) -> io::Result<()> {
        let mut state = self.state.lock();
        let own = match &mut state.own {
            Some(own) => own,
            none => none.insert(create(&self.folder, prefix, origin)?),
        };
        let grown = own.make_room(0, self.most_bytes);
        self.note(&state);
        grown
    }

    /// Adds charges, all or none of them; they are on the disk when it returns.
    ///
    /// # Errors
    /// The journal is not open, or it or the disk is full.
    pub(super) fn append<'e>(&self, events: impl Iterator<Item = &'e Event>) -> io::Result<()> {
        let not_open = || io::Error::other("the journal is not open");
        let origin = self.state.lock().own.as_ref().ok_or_else(not_open)?.origin.clone();
        let mut bytes = Vec::new();
        let mut count = 0;
        let mut first = 0;
        for event in events {
            if count == 0 {
                first = micros(event.created);
            }
            record::write(event, &origin, &mut bytes)?;
            count += 1;
        }
        let mut state = self.state.lock();
        let own = state.own.as_mut().ok_or_else(not_open)?;
        // Even if it cannot grow, it may have room for this.
        let grown = own.make_room(bytes.len() as u64, self.most_bytes);
        if own.end + bytes.len() as u64 > own.capacity {
            return Err(grown.err().unwrap_or_else(|| io::Error::other("the journal is full")));
        }
        let written = own.file.write_all_at(&bytes, own.end).and_then(|()| own.file.sync_data());
        match &written {
            Ok(()) => {
                if own.done == own.end {
                    self.oldest.store(first, Ordering::Relaxed);
                }
                own.end += bytes.len() as u64;
                self.records.fetch_add(count, Ordering::Relaxed);
            }
            // It is unknown what was written: recovery will read the file.
            Err(_) => state.own = None,
        }
        self.note(&state);
        written
    }

    /// The oldest records that were not replayed; `None` if all were, or there is no file.
    ///
    /// # Errors
    /// The file cannot be read, or a record in it is damaged.
    pub(super) fn portion(&self) -> io::Result<Option<Portion>> {
        let (file, origin, from, end) = match &self.state.lock().own {
            Some(own) if own.done < own.end => (own.file.clone(), own.origin.clone(), own.done, own.end),
            _ => return Ok(None),
        };
        let mut bytes = vec![0; usize::try_from(READ.min(end - from)).unwrap_or(0)];
        file.read_exact_at(&mut bytes, from)?;
        let (mut events, mut at) = (Vec::new(), 0);
        while let Found::Record(event, length) = record::read(&bytes[at..], &origin) {
            events.push(*event);
            at += length;
        }
        if let Some(first) = events.first() {
            self.oldest.store(micros(first.created), Ordering::Relaxed);
        }
        match events.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::InvalidData, "a record is damaged")),
            false => Ok(Some(Portion { events, file, to: from + at as u64 })),
        }
    }

    /// Marks the records of a portion as replayed. When all are, the file is emptied.
    ///
    /// # Errors
    /// The file cannot be emptied. Its records will be replayed again, which does no harm.
    pub(super) fn done(&self, portion: &Portion) -> io::Result<()> {
        let mut state = self.state.lock();
        let Some(own) = state.own.as_mut().filter(|own| Arc::ptr_eq(&own.file, &portion.file)) else {
            return Ok(());
        };
        own.done = portion.to;
        let emptied = if own.done == own.end { own.empty() } else { Ok(()) };
        self.records.fetch_sub(portion.events.len() as u64, Ordering::Relaxed);
        if emptied.is_err() {
            state.own = None;
        }
        self.note(&state);
        emptied
    }

    /// Unlocks the file, so that recovery replays it.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        state.own = None;
        self.note(&state);
    }

    /// Closes the journal: an empty file is removed, any other is left for the next process.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        if let Some(own) = state.own.take().filter(|own| own.done == own.end)
            && let Err(e) = fs::remove_file(&own.path)
        {
            log::warn!("{} was not removed: {e}", own.path.display());
        }
        self.note(&state);
    }

    /// Updates the sizes that are read without the lock.
    fn note(&self, state: &State) {
        let own = state.own.as_ref();
        self.has_room.store(own.is_some_and(|own| own.capacity - own.end >= HEADROOM), Ordering::Release);
        self.bytes.store(own.map_or(0, |own| own.end - MAGIC.len() as u64), Ordering::Relaxed);
        if own.is_none() {
            self.records.store(0, Ordering::Relaxed);
        }
        if own.is_none_or(|own| own.done == own.end) {
            self.oldest.store(0, Ordering::Relaxed);
        }
    }
}

impl Own {
    /// Allocates space for `coming` bytes and the headroom; the file never gets longer than `most_bytes`.
    fn make_room(&mut self, coming: u64, most_bytes: u64) -> io::Result<()> {
        let wanted = (self.end + coming + HEADROOM).next_multiple_of(STEP).min(most_bytes);
        if wanted > self.capacity {
            write_zeros(&self.file, self.capacity, wanted)?;
            self.file.sync_all()?;
            self.capacity = wanted;
        }
        Ok(())
    }

    /// Removes all records. Their bytes are overwritten, as otherwise old ones would follow new ones after a crash.
    fn empty(&mut self) -> io::Result<()> {
        let start = MAGIC.len() as u64;
        self.file.set_len(STEP)?;
        write_zeros(&self.file, start, self.end.min(STEP))?;
        self.file.sync_all()?;
        (self.end, self.done, self.capacity) = (start, start, STEP);
        Ok(())
    }
}

fn micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos() / 1000).unwrap_or(0)
}

fn from_micros(micros: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok()
}

/// The part of a file's name that identifies the database.
pub(super) fn prefix(identity: &str) -> String {
    let digest = Sha256::digest(identity.as_bytes());
    hex::encode(&digest[..8]) + "-"
}

/// Creates the folder of journals, for this user alone, if it does not exist.
///
/// # Errors
/// It cannot be created.
pub(super) fn create_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Creates a file, locks it and allocates space.
fn create(folder: &Path, prefix: &str, origin: &Origin) -> io::Result<Own> {
    create_folder(folder)?;
    let path = folder.join(format!("{prefix}{}{SUFFIX}", super::new_id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let filled = write_zeros(&file, 0, STEP).and_then(|()| file.write_all_at(MAGIC, 0)).and_then(|()| file.sync_all());
    if let Err(e) = filled.and_then(|()| File::open(folder)?.sync_all()) {
        // It is empty; recovery would remove it too.
        let _ = fs::remove_file(&path);
        return Err(e);
    }
    let start = MAGIC.len() as u64;
    Ok(Own { file: Arc::new(file), path, origin: origin.clone(), end: start, capacity: STEP, done: start })
}

fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    const ZEROS: [u8; 16 * 1024] = [0; 16 * 1024];
    let mut at = from;
    while at < to {
        let length = (to - at).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..usize::try_from(length).unwrap_or(ZEROS.len())], at)?;
        at += length;
    }
    Ok(())
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
