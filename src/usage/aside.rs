//! Charges that the database refuses for good are written to a file for the operator to look at.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::recovery::OPEN_FLAGS;
use crate::store::usage::charges::Event;

/// The file's name: a charge in JSON on each line.
pub(super) const NAME: &str = "rejected.jsonl";

/// Writes a charge to the file; it is on the disk when this returns.
///
/// # Errors
/// The file cannot be written.
pub(super) fn write(folder: &Path, event: &Event, reason: &str) -> io::Result<()> {
    let path = folder.join(NAME);
    log::error!("charge {} was set aside in {}: {reason}", event.id, path.display());
    super::journal::create_folder(folder)?;
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(OPEN_FLAGS).open(path)?;
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.sync_all()
}

/// How many charges are in the file, counted anew when its length has changed.
#[derive(Default)]
pub(super) struct Count {
    length: u64,
    lines: u64,
}

impl Count {
    /// The number now.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn read(&mut self, folder: &Path) -> io::Result<u64> {
        let mut file = match OpenOptions::new().read(true).custom_flags(OPEN_FLAGS).open(folder.join(NAME)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                *self = Count::default();
                return Ok(0);
            }
            file => file?,
        };
        let length = file.metadata()?.len();
        if length != self.length {
            self.lines = lines(&mut file)?;
            self.length = length;
        }
        Ok(self.lines)
    }
}

fn lines(file: &mut File) -> io::Result<u64> {
    let (mut count, mut part) = (0, vec![0; 64 << 10]);
    loop {
        let length = file.read(&mut part)?;
        if length == 0 {
            return Ok(count);
        }
        count += memchr::memchr_iter(b'\n', &part[..length]).count() as u64;
    }
}
