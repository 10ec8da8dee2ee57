//! Replies that are kept for repetitions of their requests (`kept_replies`), and keys whose first request is running
//! (`idempotency_claims`). Rows of `kept_replies` are inserted by the statement that charges
//! ([`charge`](super::usage::charges::charge)).

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::db::{Error, Executor};

/// Most bytes of a body that is kept.
pub const MAX_KEPT_BODY: usize = 1 << 20;

/// Most bytes of a body that [`claim`] returns: as in `textgen_claim`. [`body`] reads a larger one.
pub const MAX_CLAIMED_BODY: usize = 16 * 1024;

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
    /// When its key was claimed. It is not kept, and unknown to the journal.
    #[serde(skip)]
    pub claimed: Option<OffsetDateTime>,
}

/// No content: it may be private.
impl std::fmt::Debug for KeptReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptReply").field("status", &self.status).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// The claim of a request, a row of `idempotency_claims`. Claims are locked in the order of `Ord`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClaimRow {
    /// Whose key it is.
    pub user_id: String,
    /// The client's key.
    pub key: String,
    /// Unique for the process.
    pub number: i64,
}

/// What became of an attempt to claim a key.
#[derive(Clone, Debug)]
pub enum ClaimState {
    /// It is claimed by this attempt.
    Claimed,
    /// Another request with this key is running.
    Running,
    /// A reply is kept for it. If it has bytes and no body, this is too large to be returned here.
    Kept(KeptReply),
}

/// For each of these claims, finds the reply that is kept under its key, or else claims the key for `owner`, the number
/// of an advisory lock that the process holds. The claim of a process that does not hold its lock any more is taken
/// over. The rows must be in order. A row that was claimed before, by a call whose outcome is unknown, is claimed.
/// Returns what became of each row.
///
/// # Errors
/// See [`Error`].
pub fn claim(db: &mut impl Executor, owner: i64, rows: &[&ClaimRow]) -> Result<Vec<ClaimState>, Error> {
    const SQL: &str =
        "SELECT number, state, fingerprint, status, headers, body, bytes FROM textgen_claim($1, $2, $3, $4)";
    let mut states = claim_unknown(db, owner, rows)?;
    let others: Vec<&ClaimRow> = rows
        .iter()
        .zip(&states)
        .filter(|(_, state)| !matches!(state, ClaimState::Claimed))
        .map(|(row, _)| *row)
        .collect();
    if others.is_empty() {
        return Ok(states);
    }
    let (users, keys, numbers) = columns(others);
    for found in db.query(SQL, &[&users, &keys, &owner, &numbers])? {
        let place = place_of(rows, found.try_get(0)?)?;
        states[place] = claim_state(rows[place], &found)?;
    }
    Ok(states)
}

/// Claims the keys of which nothing is known, as is usual, and only on a connection on which `textgen_claim` has shown
/// that the process lives. It takes two thirds of the time of that function. What it claimed was unknown by one snapshot,
/// as there. Keys without an answer count as those of requests that are running.
fn claim_unknown(db: &mut impl Executor, owner: i64, rows: &[&ClaimRow]) -> Result<Vec<ClaimState>, Error> {
    const SQL: &str = "INSERT INTO idempotency_claims AS c (user_id, key, owner, number)
        SELECT t.user_id, t.key, $3, t.number
        FROM (SELECT unnest($1) AS user_id, unnest($2) AS key, unnest($4) AS number) AS t
        WHERE current_setting('textgen.present', true) = $3::bigint::text AND NOT EXISTS (
            SELECT FROM kept_replies k
            WHERE k.user_id = t.user_id AND k.key = t.key AND k.created > now() - interval '1 day'
                AND k.created < now() + interval '1 hour')
        ON CONFLICT DO NOTHING RETURNING c.number";
    let (users, keys, numbers) = columns(rows.iter().copied());
    let mut states = vec![ClaimState::Running; rows.len()];
    for claimed in db.query(SQL, &[&users, &keys, &owner, &numbers])? {
        states[place_of(rows, claimed.try_get(0)?)?] = ClaimState::Claimed;
    }
    Ok(states)
}

/// The place of the row with this number.
fn place_of(rows: &[&ClaimRow], number: i64) -> Result<usize, Error> {
    let place = rows.iter().position(|row| row.number == number);
    place.ok_or_else(|| Error::Other("a claim has an impossible number".to_owned()))
}

fn claim_state(row: &ClaimRow, found: &postgres::Row) -> Result<ClaimState, Error> {
    if found.try_get::<_, &str>(1)? == "claimed" {
        return Ok(ClaimState::Claimed);
    }
    Ok(ClaimState::Kept(KeptReply {
        key: row.key.clone(),
        fingerprint: found.try_get(2)?,
        status: u16::try_from(found.try_get::<_, i32>(3)?).unwrap_or(500),
        headers: found.try_get(4)?,
        claimed: None,
        body: found.try_get(5)?,
        bytes: found.try_get::<_, Option<i64>>(6)?.unwrap_or(0),
    }))
}

/// The body of the newest reply that is kept for a user's key, if it is still there.
///
/// # Errors
/// See [`Error`].
pub fn body(db: &mut impl Executor, user_id: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
    const SQL: &str = "SELECT k.body FROM kept_replies k WHERE k.user_id = $1 AND k.key = $2
        AND k.created > now() - interval '1 day' AND k.created < now() + interval '1 hour'
        ORDER BY k.created DESC LIMIT 1";
    db.query_opt(SQL, &[&user_id, &key])?.map_or(Ok(None), |row| Ok(row.try_get(0)?))
}

/// Deletes these claims of this owner.
///
/// # Errors
/// See [`Error`].
pub fn release(db: &mut impl Executor, owner: i64, rows: &[ClaimRow]) -> Result<(), Error> {
    // Each is found by the primary key, whatever the planner thinks of the sizes.
    const SQL: &str = "DELETE FROM idempotency_claims c
        USING (SELECT * FROM (SELECT unnest($2) AS user_id, unnest($3) AS key, unnest($4) AS number) AS t
            ORDER BY user_id COLLATE \"C\", key COLLATE \"C\") AS t
        WHERE c.user_id = t.user_id AND c.key = t.key AND c.number = t.number AND c.owner = $1";
    let (users, keys, numbers) = columns(rows);
    db.execute(SQL, &[&owner, &users, &keys, &numbers]).map(drop)
}

/// Users, keys and numbers, as parameters.
fn columns<'r>(rows: impl IntoIterator<Item = &'r ClaimRow>) -> (Vec<&'r str>, Vec<&'r str>, Vec<i64>) {
    rows.into_iter().map(|row| (&*row.user_id, &*row.key, row.number)).collect()
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
