//! What this process remembers of a server that has no more connections to grant. Known to all its pools, as they share the
//! server.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long connections that nobody waits for are given back after one was refused.
const GIVE_BACK_FOR: Duration = Duration::from_secs(60);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The milliseconds from [`START`] to the latest refusal; 0 if there was none.
static LATEST: AtomicU64 = AtomicU64::new(0);

fn now() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// The server refused a connection, as it has no more. Logs the first time.
pub(super) fn met(reason: &str) {
    if LATEST.swap(now(), Ordering::AcqRel) == 0 {
        log::warn!("the database grants no more connections; continuing with those that are open: {reason}");
    }
}

/// Whether one was refused a short while ago.
pub(super) fn is_recent() -> bool {
    let latest = LATEST.load(Ordering::Acquire);
    latest != 0 && Duration::from_millis(now().saturating_sub(latest)) < GIVE_BACK_FOR
}
