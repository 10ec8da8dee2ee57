//! What rate limits count, whose they are, and how a caller sees them.

use std::collections::HashMap;
use std::sync::Arc;

use super::Micros;
pub(super) use crate::store::rates::KINDS;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests in a minute.
    Requests,
    /// Tokens in a minute.
    Tokens,
    /// Requests at once.
    Concurrent,
}

impl Kind {
    /// Each, in the order of the amounts of an [`Amounts`].
    pub const ALL: [Kind; KINDS] = [Kind::Requests, Kind::Tokens, Kind::Concurrent];
}

/// An amount of each [`Kind`].
pub(super) type Amounts = [i64; KINDS];

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Account,
    Key,
}

/// What is known by the id of a budget or of rate limits. We choose these ids at random, so a quick hash will do.
pub(super) type IdMap<V> = HashMap<Arc<str>, V, foldhash::fast::RandomState>;

/// The rate limits of a caller, by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateIds {
    /// The account's.
    pub account: Option<Arc<str>>,
    /// The key's.
    pub key: Option<Arc<str>>,
}

impl RateIds {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.account.is_none() && self.key.is_none()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.account.iter().chain(&self.key)
    }

    /// Each with whose it is.
    pub(super) fn owned(&self) -> impl Iterator<Item = (Owner, &Arc<str>)> {
        let account = self.account.iter().map(|id| (Owner::Account, id));
        account.chain(self.key.iter().map(|id| (Owner::Key, id)))
    }
}

/// One limit as its caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateStatus {
    /// The limit.
    pub most: i64,
    /// What is left of it, as far as this process knows.
    pub remaining: i64,
    /// In how long all of it will be left.
    pub resets_in: Micros,
}
