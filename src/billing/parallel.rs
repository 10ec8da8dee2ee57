//! Several calls to Stripe at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use parking_lot::Mutex;

/// Calls at once.
const THREADS: usize = 8;
/// How often `each` is called at least.
const TICK: Duration = Duration::from_secs(1);

/// Does `work` for each item, several at once, and gives the results to `each`, in this thread, in any order; and `None`
/// every second. Once `each` has returned false, no further item is begun.
pub(super) fn in_parallel<T: Send, R: Send>(
    items: Vec<T>,
    work: impl Fn(&T) -> R + Sync,
    mut each: impl FnMut(Option<(T, R)>) -> bool,
) {
    let threads = THREADS.min(items.len());
    let (items, is_stopped, (results, finished)) =
        (Mutex::new(items.into_iter()), AtomicBool::new(false), mpsc::channel());
    thread::scope(|scope| {
        for _ in 0..threads {
            let (items, is_stopped, results, work) = (&items, &is_stopped, results.clone(), &work);
            scope.spawn(move || {
                while !is_stopped.load(Ordering::Acquire) {
                    let Some(item) = items.lock().next() else { return };
                    let result = work(&item);
                    if results.send((item, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(results);
        loop {
            let next = match finished.recv_timeout(TICK) {
                Ok(result) => Some(result),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            if !each(next) {
                is_stopped.store(true, Ordering::Release);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_has_a_result() {
        let mut results = Vec::new();
        let each = |result: Option<(u32, u32)>| {
            results.extend(result);
            true
        };
        in_parallel((0..100).collect(), |n| n * 2, each);
        results.sort_unstable();
        assert_eq!(results, (0..100).map(|n| (n, n * 2)).collect::<Vec<_>>());
        in_parallel(Vec::<u32>::new(), |n| *n, |_| panic!("there is nothing to do"));
    }

    #[test]
    fn what_was_begun_is_finished_after_a_stop() {
        let mut results = 0;
        let each = |_: Option<(u32, u32)>| {
            results += 1;
            false
        };
        // Later ones take so long that all of them would take minutes, however late this thread hears of the first.
        let work = |n: &u32| {
            std::thread::sleep(std::time::Duration::from_millis((*n).min(10).into()));
            *n
        };
        in_parallel((0..100_000).collect(), work, each);
        assert!((1..100_000).contains(&results), "{results}");
    }
}
