//! Replies that are kept with their charges, as parameters of the statement that charges.

use time::OffsetDateTime;

use crate::db::Param;
use crate::store::replies::KeptReply;

/// The columns of `kept_replies`, in the order of the parameters of [`Replies`].
pub(super) const REPLY_COLUMNS: [&str; 9] =
    ["created", "user_id", "charge_id", "key", "fingerprint", "status", "headers", "body", "bytes"];

/// Replies as columns of `kept_replies`, in the order of its unique keys.
#[derive(Default)]
pub(super) struct Replies<'e> {
    created: Vec<OffsetDateTime>,
    texts: [Vec<&'e str>; 4],
    fingerprints: Vec<&'e [u8]>,
    statuses: Vec<i64>,
    bodies: Vec<Option<&'e [u8]>>,
    bytes: Vec<i64>,
}

/// The time of a charge, its user, its id and its reply.
type Row<'e> = (OffsetDateTime, &'e str, &'e str, &'e KeptReply);

impl<'e> Replies<'e> {
    pub(super) fn of(rows: impl Iterator<Item = Row<'e>>) -> Replies<'e> {
        let mut rows: Vec<Row<'e>> = rows.collect();
        rows.sort_by_key(|(_, user_id, _, reply)| (*user_id, &*reply.key));
        let mut replies = Replies::default();
        for (created, user_id, id, reply) in rows {
            replies.created.push(created);
            for (column, text) in replies.texts.iter_mut().zip([user_id, id, &*reply.key, &*reply.headers]) {
                column.push(text);
            }
            replies.fingerprints.push(&reply.fingerprint);
            replies.statuses.push(reply.status.into());
            replies.bodies.push(reply.body.as_deref());
            replies.bytes.push(reply.bytes);
        }
        replies
    }

    pub(super) fn is_empty(&self) -> bool {
        self.created.is_empty()
    }

    /// In the order of [`REPLY_COLUMNS`].
    pub(super) fn params(&self) -> [&dyn Param; REPLY_COLUMNS.len()] {
        let [users, ids, keys, headers] = &self.texts;
        [&self.created, users, ids, keys, &self.fingerprints, &self.statuses, headers, &self.bodies, &self.bytes]
    }
}
