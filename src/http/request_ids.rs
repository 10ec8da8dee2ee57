//! Ids of requests, by which the log and a reply can be matched.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Request;

/// Most characters of a request id that a client or proxy may set.
const LONGEST: usize = 64;

/// Takes the id that a client or proxy set, or makes one: a random number for this process, and a counter.
pub struct RequestIds {
    process: u32,
    next: AtomicU32,
}

impl fmt::Debug for RequestIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestIds")
    }
}

impl Default for RequestIds {
    fn default() -> RequestIds {
        RequestIds::new()
    }
}

impl RequestIds {
    /// Those of one server.
    pub fn new() -> RequestIds {
        let process = getrandom::u32().unwrap_or_else(|_| std::process::id());
        RequestIds { process, next: AtomicU32::new(0) }
    }

    /// The id of this request.
    pub fn of(&self, request: &Request) -> String {
        let sane = |id: &&str| {
            (1..=LONGEST).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        match request.header("x-request-id").filter(sane) {
            Some(id) => id.to_owned(),
            None => format!("{:08x}{:08x}", self.process, self.next.fetch_add(1, Ordering::Relaxed)),
        }
    }
}
