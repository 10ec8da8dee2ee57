//! This process as the holder of leases: a file in the folder of journals, locked while the process lives. Whoever finds it
//! without its lock ends the leases, once all journals of the process are replayed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::recovery::{files, is_named};

/// The suffix of the file's name.
const SUFFIX: &str = ".holder";

/// The file of a process, locked until this is dropped: that of this process, or that of one that died.
pub(super) struct Holder {
    file: File,
    path: PathBuf,
    id: String,
    /// What the names of its journals begin with.
    journal_prefix: String,
}

impl Holder {
    /// That of this process, with a new id.
    ///
    /// # Errors
    /// The file cannot be made. Another process may also have taken the file for that of a dead one before it was locked.
    pub(super) fn create(folder: &Path, prefix: &str) -> io::Result<Holder> {
        super::journal::create_folder(folder)?;
        let id = super::new_id();
        let path = folder.join(format!("{prefix}{id}{SUFFIX}"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let holder = Holder::new(file, path, prefix, id);
        if holder.is_in_place() { Ok(holder) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Those of dead processes whose names begin with `prefix`, locked so that no other process ends their leases.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn dead(folder: &Path, prefix: &str) -> io::Result<Vec<Holder>> {
        let mut dead = Vec::new();
        for path in files(folder, SUFFIX)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(id) = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(SUFFIX)) else { continue };
            let id = id.to_owned();
            // A folder of that name, or the file of another user, is none that this process can do anything about.
            let Ok(file) = OpenOptions::new().write(true).custom_flags(super::recovery::OPEN_FLAGS).open(&path) else {
                continue;
            };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                dead.push(Holder::new(file, path, prefix, id));
            }
        }
        Ok(dead)
    }

    fn new(file: File, path: PathBuf, prefix: &str, id: String) -> Holder {
        Holder { file, path, journal_prefix: format!("{prefix}{id}-"), id }
    }

    /// Its id.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// What the names of its journals begin with.
    pub(super) fn journal_prefix(&self) -> &str {
        &self.journal_prefix
    }

    /// Whether it has journals that are not replayed yet.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub(super) fn has_journals(&self, folder: &Path) -> io::Result<bool> {
        Ok(files(folder, super::journal::SUFFIX)?.iter().any(|path| is_named(path, &self.journal_prefix)))
    }

    /// Removes the file, as its leases have ended.
    ///
    /// # Errors
    /// It cannot be removed. The leases will be ended again, which does no harm.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    /// Whether the file that is locked is the one of this name.
    fn is_in_place(&self) -> bool {
        let inode = |metadata: io::Result<fs::Metadata>| metadata.map(|metadata| metadata.ino()).ok();
        inode(self.file.metadata()) == inode(fs::metadata(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_dead_once_its_lock_is_gone() {
        let folder = std::env::temp_dir().join(format!("textgen-holder-{}", crate::usage::new_id()));
        let living = Holder::create(&folder, "p-").unwrap();
        let other = Holder::create(&folder, "q-").unwrap();
        assert!(Holder::dead(&folder, "p-").unwrap().is_empty());
        let (id, journal) = (living.id().to_owned(), format!("p-{}-x.journal", living.id()));
        drop((living, other));
        let dead = Holder::dead(&folder, "p-").unwrap();
        assert_eq!(dead.iter().map(Holder::id).collect::<Vec<_>>(), [&id]);
        assert!(Holder::dead(&folder, "p-").unwrap().is_empty(), "whoever found it has locked it");
        fs::write(folder.join(&journal), b"").unwrap();
        assert!(dead[0].has_journals(&folder).unwrap());
        fs::remove_file(folder.join(&journal)).unwrap();
        assert!(!dead[0].has_journals(&folder).unwrap());
        for dead in dead {
            dead.remove().unwrap();
        }
        assert!(Holder::dead(&folder, "p-").unwrap().is_empty());
        fs::remove_dir_all(folder).unwrap();
    }
}
