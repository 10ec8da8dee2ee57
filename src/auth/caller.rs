//! Somebody whose credential was found valid.

use time::OffsetDateTime;

use crate::store::User;

/// Who calls, and by what right.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The account.
    pub user: User,
    /// The credential it came with.
    pub via: Via,
}

/// The credential a caller came with.
#[derive(Clone, Debug)]
pub enum Via {
    /// A secret.
    Key {
        /// The key's id.
        id: String,
        /// When it stops working.
        expires: Option<OffsetDateTime>,
    },
    /// A session cookie.
    Session {
        /// The session's id.
        id: String,
        /// When the person signed in.
        created: OffsetDateTime,
        /// When it ends if it is not used.
        expires: OffsetDateTime,
        /// When the browser was last given the cookie.
        renewed: OffsetDateTime,
    },
}

impl Caller {
    /// When the credential stops working by itself.
    pub fn expires(&self) -> Option<OffsetDateTime> {
        match &self.via {
            Via::Key { expires, .. } => *expires,
            Via::Session { expires, .. } => Some(*expires),
        }
    }

    /// The session's id, where the caller came with a cookie.
    pub fn session_id(&self) -> Option<&str> {
        match &self.via {
            Via::Session { id, .. } => Some(id),
            Via::Key { .. } => None,
        }
    }
}
