//! `textgen backup` and `textgen restore`: the database, dumped by PostgreSQL's own programs, with the journals of charges
//! that it does not have yet.
//!
//! A charge that was answered is in the database or in a journal, and moves from a journal to the database, never back. So
//! the journals are copied before the snapshot is taken that is dumped: whatever leaves a journal in between is in the
//! snapshot. A charge that is in both is made once, as its id is known.
//!
//! A backup is a directory: `manifest.json`, which is written last and has the digest of each other file, `database/`, in
//! the directory format of `pg_dump`, and `journals/`.

mod create;
mod manifest;
mod programs;
mod restore;

pub use create::{Created, create};
pub use restore::{Restored, restore};

use std::io;
use std::path::Path;

use crate::db;

/// The manifest's name.
const MANIFEST: &str = "manifest.json";
/// The folder of the dump.
const DATABASE: &str = "database";
/// The folder of the journals.
const JOURNALS: &str = "journals";

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The database, or what is in it.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// A file, named by its path.
    #[error("{0}: {1}")]
    File(String, io::Error),
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

impl From<String> for Failure {
    fn from(what: String) -> Failure {
        Failure::Other(what)
    }
}

/// A fault of this file.
fn at(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let name = path.display().to_string();
    move |e| Failure::File(name, e)
}
