//! Credentials as they are looked up.

use std::time::Instant;

use super::Digest;
use super::epochs::{Bucket, Stamp};

/// The kind of a credential. An API secret is not accepted as a session token, or the other way round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An API secret.
    Key,
    /// A session token.
    Session,
}

/// The key of an entry.
pub(super) type Key = (Kind, Digest);

/// When a credential was found to be valid.
#[derive(Clone, Debug, Default)]
pub struct Validity {
    /// The credential, and when its row was read; `None` for a caller that was not looked up.
    pub(super) read: Option<(Key, Bucket, Stamp)>,
    /// When it could not be read, as the database was away.
    pub(super) failed: Option<Instant>,
}
