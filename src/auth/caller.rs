//! Somebody whose credential was found valid.

use std::sync::OnceLock;

use time::OffsetDateTime;

use crate::store::User;

/// Who calls, and by what right.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The account.
    pub user: User,
    /// The credential it came with.
    pub via: Via,
    /// The account as JSON, made at most once for all the requests this caller is remembered for.
    json: OnceLock<Vec<u8>>,
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
    /// The owner of this account, who came with this credential.
    pub fn new(user: User, via: Via) -> Caller {
        Caller { user, via, json: OnceLock::new() }
    }

    /// The user object as it goes over the wire.
    ///
    /// # Errors
    /// It cannot be serialised, which does not happen.
    pub fn user_json(&self) -> Result<&[u8], serde_json::Error> {
        if let Some(json) = self.json.get() {
            return Ok(json);
        }
        let json = serde_json::to_vec(&self.user)?;
        Ok(self.json.get_or_init(|| json))
    }

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
