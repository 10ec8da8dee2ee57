//! What the account holds.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::Answer;
use super::exchange::Call;
use super::faults::Faults;
use super::idempotency::Remembered;
use super::meters::Usage;
use super::params::Params;
use super::refusal::Refusal;

#[derive(Default)]
pub struct State {
    /// Where the server listens.
    pub url: String,
    /// Web-hook events, in the order in which they happened.
    pub events: Vec<Value>,
    /// By id, such as `cus_…`, in the order in which they were made: ids grow.
    pub objects: BTreeMap<String, Value>,
    pub calls: Vec<Call>,
    pub faults: Faults,
    /// How far the clock is ahead of this machine's.
    pub clock_ahead: Duration,
    /// How long each request takes, in which others may come.
    pub work_time: Duration,
    pub usage: Vec<Usage>,
    /// How long each meter takes to add an event up, in seconds.
    pub(super) lags: BTreeMap<String, i64>,
    pub(super) remembered: BTreeMap<String, Remembered>,
    /// What requests are at work on.
    pub(super) at_work: HashSet<String>,
    made: u64,
}

impl State {
    /// In seconds since 1970.
    pub fn now(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + self.clock_ahead;
        i64::try_from(now.as_secs()).unwrap()
    }

    /// An id that no object has.
    pub fn new_id(&mut self, prefix: &str) -> String {
        self.made += 1;
        format!("{prefix}_{:016}", self.made)
    }

    /// Keeps an object under its id, and answers with it.
    pub fn put(&mut self, object: Value) -> Answer {
        self.objects.insert(object["id"].as_str().unwrap().to_owned(), object.clone());
        Ok(object)
    }

    /// The object of a path. `kind` is its `object`.
    pub fn object(&self, kind: &str, id: &str) -> Answer {
        let found = self.objects.get(id).filter(|object| object["object"] == kind);
        found.cloned().ok_or_else(|| Refusal::unknown_object(404, kind, id, "id"))
    }

    /// The object that a parameter names.
    pub fn named(&self, kind: &str, id: &str, param: &str) -> Answer {
        let found = self.objects.get(id).filter(|object| object["object"] == kind && object["deleted"] != true);
        found.cloned().ok_or_else(|| Refusal::unknown_object(400, kind, id, param))
    }

    /// A page of the objects of a kind that `is_listed`, the newest first.
    pub fn list(&self, kind: &str, url: &str, params: &Params, is_listed: impl Fn(&Value) -> bool) -> Answer {
        let of_kind = |object: &&Value| object["object"] == kind && object["deleted"] != true && is_listed(object);
        page(self.objects.values().rev().filter(of_kind).cloned().collect(), url, params)
    }
}

/// The part of a list that the parameters ask for.
pub fn page(all: Vec<Value>, url: &str, params: &Params) -> Answer {
    let limit = params.number("limit")?.unwrap_or(10);
    if !(1..=100).contains(&limit) {
        return Err(Refusal::invalid("limit", "This value must be between 1 and 100."));
    }
    let first = match params.get("starting_after") {
        None => 0,
        Some(id) => {
            let found = all.iter().position(|object| object["id"] == id);
            1 + found.ok_or_else(|| Refusal::invalid("starting_after", format!("No such object: '{id}'")))?
        }
    };
    let mut data = all[first..].to_vec();
    let has_more = data.len() > usize::try_from(limit).unwrap();
    data.truncate(usize::try_from(limit).unwrap());
    Ok(json!({"object": "list", "url": url, "has_more": has_more, "data": data}))
}
