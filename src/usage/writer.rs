//! The writer: commits charges, all that are waiting in one transaction (group commit). There is no delay; charges that
//! arrive while one batch is written are the next.

use std::time::Instant;

use super::acknowledge::{Batch, Committed};
use super::commit::{BATCH, commit_new};
use super::queue::{Pending, isolate_panics};
use super::spill::{events, retry_or_spill, write_to_journal};
use super::state::Shared;

/// One batch in this many is committed as for a slow disk, which measures whether it still is fast.
const PROBE_EVERY: u32 = 100;

/// Writes until the queue ends.
pub(super) fn run(shared: &Shared, committed: &Committed) {
    let mut batches = 0_u32;
    while let Some(mut charges) = shared.queue.take(BATCH) {
        charges.retain(|pending| !pending.is_given_up());
        if charges.is_empty() {
            continue;
        }
        let is_probe = batches.is_multiple_of(PROBE_EVERY);
        batches = batches.wrapping_add(1);
        isolate_panics(|| write(shared, committed, charges, is_probe));
    }
    committed.end();
}

fn write(shared: &Shared, committed: &Committed, charges: Vec<Pending>, is_probe: bool) {
    let began = Instant::now();
    charges.iter().for_each(Pending::begin);
    if !shared.is_available() {
        return write_to_journal(shared, &charges);
    }
    let waits = !is_probe && committed.is_disk_fast();
    let session = if waits { shared.db.durable() } else { shared.db.fast() };
    match session.and_then(|mut session| commit_new(&mut session, &events(&charges))) {
        Ok((receipts, found_earlier)) => {
            // Earlier charges by other processes may not be durable yet, and a transaction that changes nothing does not
            // wait for the disk.
            let is_durable = waits && !found_earlier;
            committed.add(Batch { charges, receipts, began, is_durable });
        }
        Err(e) => retry_or_spill(shared, &charges, began, e),
    }
}
