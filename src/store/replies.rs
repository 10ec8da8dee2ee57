//! Replies that are kept for repetitions of their requests (`kept_replies`), and keys whose first request is running
//! (`idempotency_claims`). Rows of `kept_replies` are inserted by the statement that charges
//! ([`charge`](super::usage::charges::charge)).

use serde::{Deserialize, Serialize};

use crate::db::{Error, Executor};

/// Most bytes of a body that is kept.
pub const MAX_KEPT_BODY: usize = 1 << 20;

/// A reply, as it is kept under an `Idempotency-Key`. Serialised, it is part of a record of the journal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptReply {
    /// The client's key.
    pub key: String,
    /// The digest of the request.
    #[serde(with = "base64_bytes")]
    pub fingerprint: Vec<u8>,
    /// The status.
    pub status: u16,
    /// `Name: value` lines.
    pub headers: String,
    /// The body; `None` if it is larger than [`MAX_KEPT_BODY`].
    #[serde(with = "base64_option")]
    pub body: Option<Vec<u8>>,
    /// How many bytes the body has, also if it is not kept.
    pub bytes: i64,
}

/// No content: it may be private.
impl std::fmt::Debug for KeptReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptReply").field("status", &self.status).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// What became of an attempt to claim a key.
#[derive(Debug)]
pub enum ClaimState {
    /// It is claimed by this attempt.
    Claimed,
    /// Another request with this key is running.
    Running,
    /// A reply is kept for it.
    Kept(KeptReply),
}

/// Finds the reply that is kept under a user's key, or else claims the key for `owner`, the number of an advisory lock
/// that the process holds. The claim of a process that does not hold its lock any more is taken over.
///
/// # Errors
/// See [`Error`].
pub fn claim(db: &mut impl Executor, user_id: &str, key: &str, owner: i64, number: i64) -> Result<ClaimState, Error> {
    const SQL: &str = "SELECT state, fingerprint, status, headers, body FROM textgen_claim_key($1, $2, $3, $4)";
    let row = db.query_one(SQL, &[&user_id, &key, &owner, &number])?;
    Ok(match row.try_get(0)? {
        "claimed" => ClaimState::Claimed,
        "running" => ClaimState::Running,
        _ => {
            let body: Option<Vec<u8>> = row.try_get(4)?;
            ClaimState::Kept(KeptReply {
                key: key.to_owned(),
                fingerprint: row.try_get(1)?,
                status: u16::try_from(row.try_get::<_, i32>(2)?).unwrap_or(500),
                headers: row.try_get(3)?,
                bytes: body.as_ref().map_or(0, |body| i64::try_from(body.len()).unwrap_or(i64::MAX)),
                body,
            })
        }
    })
}

/// Deletes claims, given as users, keys and numbers, of this owner.
///
/// # Errors
/// See [`Error`].
pub fn release(
    db: &mut impl Executor,
    owner: i64,
    users: Vec<&str>,
    keys: Vec<&str>,
    numbers: Vec<i64>,
) -> Result<(), Error> {
    // Each is found by the primary key, whatever the planner thinks of the sizes.
    const SQL: &str = "DELETE FROM idempotency_claims c
        USING (SELECT unnest($2) AS user_id, unnest($3) AS key, unnest($4) AS number ORDER BY 1, 2) AS t
        WHERE c.user_id = t.user_id AND c.key = t.key AND c.number = t.number AND c.owner = $1";
    db.execute(SQL, &[&owner, &users, &keys, &numbers]).map(drop)
}

/// Drops the oldest bodies of a user beyond `max_bytes`. The rows stay: a repetition must not run again.
///
/// # Errors
/// See [`Error`].
pub fn trim(db: &mut impl Executor, user_id: &str, max_bytes: i64) -> Result<u64, Error> {
    const SQL: &str = "UPDATE kept_replies k SET body = NULL
        FROM (SELECT created, key, sum(bytes) OVER (ORDER BY created DESC, key) AS newest
              FROM kept_replies WHERE user_id = $1 AND body IS NOT NULL) AS t
        WHERE k.user_id = $1 AND k.key = t.key AND k.created = t.created AND t.newest > $2";
    db.execute(SQL, &[&user_id, &max_bytes])
}

/// Makes the partitions of the next days, and drops those that are over.
///
/// # Errors
/// See [`Error`].
pub fn maintain_partitions(db: &mut impl Executor) -> Result<(), Error> {
    db.query("SELECT textgen_partition_kept_replies()::text", &[]).map(drop)
}

mod base64_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

mod base64_option {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[allow(clippy::ref_option)] // serde passes the field like this.
    pub(super) fn serialize<S: Serializer>(bytes: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        bytes.as_ref().map(|bytes| STANDARD.encode(bytes)).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| STANDARD.decode(text).map_err(D::Error::custom)).transpose()
    }
}
