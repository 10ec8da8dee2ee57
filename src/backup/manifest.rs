//! What a backup holds, with a digest of each file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Failure, MANIFEST, at};
use crate::hex;
use crate::store::books::Total;

/// The layout that this version writes, and the only one that it reads.
const FORMAT: u32 = 1;

/// What a backup holds.
#[derive(Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    /// The version of textgen that made it.
    pub(super) textgen: String,
    /// The version of the server that was dumped, such as `15.4`.
    pub(super) server: String,
    /// The number of the last migration.
    pub(super) schema: i64,
    /// When the snapshot was taken, in ISO-8601.
    pub(super) created: String,
    /// The name of the database.
    pub(super) database: String,
    /// Sums over the snapshot, to be compared with those after a restore.
    pub(super) totals: Vec<Total>,
    /// All other files.
    pub(super) files: Vec<Entry>,
}

/// A file of a backup.
#[derive(Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its path below the backup.
    path: String,
    bytes: u64,
    sha256: String,
}

impl Manifest {
    /// That of the files below `folder`, which are read for it.
    ///
    /// # Errors
    /// One cannot be read.
    pub(super) fn of(folder: &Path, server: String, schema: i64, database: String) -> Result<Manifest, Failure> {
        let mut files = Vec::new();
        for path in all_files(folder)? {
            files.push(entry(folder, &path)?);
        }
        let (textgen, created) = (env!("CARGO_PKG_VERSION").to_owned(), String::new());
        Ok(Manifest { format: FORMAT, textgen, server, schema, created, database, totals: Vec::new(), files })
    }

    /// How many bytes its files have.
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Writes it, and thereby completes the backup: it is on the disk when this returns.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn write(&self, folder: &Path) -> Result<(), Failure> {
        let (path, draft) = (folder.join(MANIFEST), folder.join("manifest.draft"));
        let write = || {
            let mut text = serde_json::to_vec_pretty(self)?;
            text.push(b'\n');
            let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&draft)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(at(&path))
    }

    /// Reads that of a backup, and compares each of its files.
    ///
    /// # Errors
    /// It is not complete, or not as it was made.
    pub(super) fn verified(folder: &Path) -> Result<Manifest, Failure> {
        let path = folder.join(MANIFEST);
        let text = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(format!("{} is no complete backup: it has no {MANIFEST}", folder.display()).into());
            }
            text => text.map_err(at(&path))?,
        };
        let found: Manifest =
            serde_json::from_slice(&text).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
        if found.format != FORMAT {
            return Err(format!("the backup has format {}, and this version reads {FORMAT}", found.format).into());
        }
        for file in &found.files {
            let is_below =
                Path::new(&file.path).components().all(|part| matches!(part, std::path::Component::Normal(_)));
            if !is_below {
                return Err(format!("{} names a file elsewhere", path.display()).into());
            }
            let now = entry(folder, &folder.join(&file.path))?;
            if (now.bytes, &now.sha256) != (file.bytes, &file.sha256) {
                return Err(format!("{} is damaged: its digest differs from that in {MANIFEST}", file.path).into());
            }
        }
        Ok(found)
    }
}

/// The files below a folder, in the order of their paths.
fn all_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let path = entry.map_err(at(&folder))?.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

fn entry(folder: &Path, path: &Path) -> Result<Entry, Failure> {
    let (bytes, sha256) = digest(path).map_err(at(path))?;
    let below = path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned();
    Ok(Entry { path: below, bytes, sha256 })
}

fn digest(path: &Path) -> io::Result<(u64, String)> {
    let (mut file, mut part) = (File::open(path)?, vec![0; 256 << 10]);
    let (mut bytes, mut digest) = (0, Sha256::new());
    loop {
        let length = file.read(&mut part)?;
        if length == 0 {
            return Ok((bytes, hex::encode(&digest.finalize())));
        }
        digest.update(&part[..length]);
        bytes += length as u64;
    }
}
