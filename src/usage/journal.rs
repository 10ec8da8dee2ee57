//! The journal: a file of this process's own that takes charges while the database is away.
//!
//! It is locked for as long as the process lives; a file that nobody holds was left by a process that died, and
//! whoever finds it brings it to the database (`recovery`). Its name begins with a digest of the database's identity,
//! so that servers of different databases may share a folder. Space is written ahead, so that what was let in while
//! there was room finds room. Bringing a record twice does no harm, as the database drops what it has.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use super::record::{self, MAGIC};
use crate::hex;
use crate::store::usage::charges::Event;

/// How a journal's name ends.
pub(super) const SUFFIX: &str = ".journal";

/// By how much the file grows; also its least size.
const STEP: u64 = 1 << 20;

/// Space that must be left for work to be let in: the charges of all requests that may be at work already.
const HEADROOM: u64 = 256 << 10;

/// Most bytes that are read at once.
const READ: u64 = 256 << 10;

/// This process's journal.
pub(super) struct Journal {
    folder: PathBuf,
    most_bytes: u64,
    state: Mutex<State>,
    has_room: AtomicBool,
    bytes: AtomicU64,
    records: AtomicU64,
}

#[derive(Default)]
struct State {
    own: Option<Own>,
}

/// The file, while it is open.
struct Own {
    file: Arc<File>,
    path: PathBuf,
    /// Where the next record goes.
    end: u64,
    /// To where space was written ahead.
    capacity: u64,
    /// Up to where the records are in the database.
    done: u64,
}

/// Records that wait to be brought to the database.
pub(super) struct Portion {
    pub(super) events: Vec<Event>,
    file: Arc<File>,
    to: u64,
}

impl Journal {
    /// In `folder`, which is made when it is first needed; at most `most_bytes` long.
    pub(super) fn new(folder: PathBuf, most_bytes: u64) -> Journal {
        Journal {
            folder,
            most_bytes: most_bytes.max(STEP),
            state: Mutex::default(),
            has_room: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            records: AtomicU64::new(0),
        }
    }

    /// The folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether new work may count on it.
    pub(super) fn has_room(&self) -> bool {
        self.has_room.load(Ordering::Acquire)
    }

    /// How many bytes it holds, and how many charges.
    pub(super) fn size(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.records.load(Ordering::Relaxed))
    }

    /// How many bytes it may hold.
    pub(super) fn most_bytes(&self) -> u64 {
        self.most_bytes
    }

    /// Makes the file if it is not there, and space in it if it lacks.
    ///
    /// # Errors
    /// The folder cannot be written to, or the disk is full.
    pub(super) fn prepare(&self, prefix: &str) -> io::Result<()> {
        let mut state = self.state.lock();
        let own = match &mut state.own {
            Some(own) => own,
            none => none.insert(create(&self.folder, prefix)?),
        };
        let grown = own.make_room(0, self.most_bytes);
        self.note(&state);
        grown
    }

    /// Adds charges; they are on the disk when it returns. They are all kept, or none is.
    ///
    /// # Errors
    /// It is not open, full, or the disk is.
    pub(super) fn append<'e>(&self, events: impl Iterator<Item = &'e Event>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut count = 0;
        for event in events {
            record::write(event, &mut bytes)?;
            count += 1;
        }
        let mut state = self.state.lock();
        let own = state.own.as_mut().ok_or_else(|| io::Error::other("there is none"))?;
        // What does not grow may still have room for this.
        let grown = own.make_room(bytes.len() as u64, self.most_bytes);
        if own.end + bytes.len() as u64 > own.capacity {
            return Err(grown.err().unwrap_or_else(|| io::Error::other("it is full")));
        }
        let written = own.file.write_all_at(&bytes, own.end).and_then(|()| own.file.sync_data());
        match &written {
            Ok(()) => {
                own.end += bytes.len() as u64;
                self.records.fetch_add(count, Ordering::Relaxed);
            }
            // What the disk holds now is not known: the file is left to recovery, which looks.
            Err(_) => state.own = None,
        }
        self.note(&state);
        written
    }

    /// The oldest records that are not in the database; `None` when all are, or there is no file.
    ///
    /// # Errors
    /// The file cannot be read, or a record in it is damaged.
    pub(super) fn portion(&self) -> io::Result<Option<Portion>> {
        let (file, from, end) = match &self.state.lock().own {
            Some(own) if own.done < own.end => (own.file.clone(), own.done, own.end),
            _ => return Ok(None),
        };
        let mut bytes = vec![0; usize::try_from(READ.min(end - from)).unwrap_or(0)];
        file.read_exact_at(&mut bytes, from)?;
        let (mut events, mut at) = (Vec::new(), 0);
        while let Some((event, length)) = record::read(&bytes[at..]) {
            events.push(event);
            at += length;
        }
        match events.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::InvalidData, "a record is damaged")),
            false => Ok(Some(Portion { events, file, to: from + at as u64 })),
        }
    }

    /// The records of a portion are in the database. When all are, the file is emptied.
    ///
    /// # Errors
    /// It cannot be emptied; its records will be brought again, which does no harm.
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

    /// Lets the file go: recovery finds what is in it.
    pub(super) fn abandon(&self) {
        let mut state = self.state.lock();
        state.own = None;
        self.note(&state);
    }

    /// Ends: an empty file is removed, any other is left to the next process.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        if let Some(own) = state.own.take().filter(|own| own.done == own.end)
            && let Err(e) = fs::remove_file(&own.path)
        {
            log::warn!("{} was not removed: {e}", own.path.display());
        }
        self.note(&state);
    }

    /// Brings what others see up to date.
    fn note(&self, state: &State) {
        let own = state.own.as_ref();
        self.has_room.store(own.is_some_and(|own| own.capacity - own.end >= HEADROOM), Ordering::Release);
        self.bytes.store(own.map_or(0, |own| own.end - MAGIC.len() as u64), Ordering::Relaxed);
        if own.is_none() {
            self.records.store(0, Ordering::Relaxed);
        }
    }
}

impl Own {
    /// Writes space ahead, so that `coming` bytes and the headroom fit; the file never gets longer than `most_bytes`.
    fn make_room(&mut self, coming: u64, most_bytes: u64) -> io::Result<()> {
        let wanted = (self.end + coming + HEADROOM).next_multiple_of(STEP).min(most_bytes);
        if wanted > self.capacity {
            write_zeros(&self.file, self.capacity, wanted)?;
            self.file.sync_all()?;
            self.capacity = wanted;
        }
        Ok(())
    }

    /// Forgets every record. Their bytes go, too, or a crash would show old ones behind new ones.
    fn empty(&mut self) -> io::Result<()> {
        let start = MAGIC.len() as u64;
        self.file.set_len(STEP)?;
        write_zeros(&self.file, start, self.end.min(STEP))?;
        self.file.sync_all()?;
        (self.end, self.done, self.capacity) = (start, start, STEP);
        Ok(())
    }
}

/// The part of a file's name that says whose charges are in it.
pub(super) fn prefix(identity: &str) -> String {
    let digest = Sha256::digest(identity.as_bytes());
    hex::encode(&digest[..8]) + "-"
}

/// A new file, locked, with space in it.
fn create(folder: &Path, prefix: &str) -> io::Result<Own> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("{prefix}{}{SUFFIX}", super::new_id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let filled = write_zeros(&file, 0, STEP).and_then(|()| file.write_all_at(MAGIC, 0)).and_then(|()| file.sync_all());
    if let Err(e) = filled.and_then(|()| File::open(folder)?.sync_all()) {
        // Nobody else needs what is left of it; recovery would remove it, too.
        let _ = fs::remove_file(&path);
        return Err(e);
    }
    let start = MAGIC.len() as u64;
    Ok(Own { file: Arc::new(file), path, end: start, capacity: STEP, done: start })
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
