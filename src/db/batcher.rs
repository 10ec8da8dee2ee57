//! Combines concurrent reads by key into one query. While enough reads are running, further ones wait, and the next query
//! reads the keys of all that wait. A read is never delayed to wait for others.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::thread::{self, Thread};

use parking_lot::Mutex;

use crate::blocking;

/// Reads of values `V` by key `K`.
pub struct Batcher<K, V> {
    state: Mutex<State<K, V>>,
    /// Number of concurrent reads from which on further ones are combined.
    most_reads: usize,
    most_keys: usize,
}

struct State<K, V> {
    reads: usize,
    waiting: Vec<Waiter<K, V>>,
}

struct Waiter<K, V> {
    key: K,
    slot: Arc<Slot<K, V>>,
}

/// Holds the outcome for one waiting request.
struct Slot<K, V> {
    outcome: Mutex<Option<Outcome<K, V>>>,
    thread: Thread,
}

enum Outcome<K, V> {
    Found(Option<V>),
    /// The request must read these keys, among them its own.
    Lead(Vec<Waiter<K, V>>),
    /// The query failed: each request reads its own key.
    Alone,
}

impl<K, V> Slot<K, V> {
    fn complete(&self, outcome: Outcome<K, V>) {
        *self.outcome.lock() = Some(outcome);
        self.thread.unpark();
    }
}

impl<K: Hash + Eq, V: Clone> Batcher<K, V> {
    /// At most `most_reads` concurrent queries, but at least one; each reads one key while they suffice, and never more than
    /// `most_keys`. A request waits for the values of all keys of its query.
    pub fn new(most_reads: usize, most_keys: usize) -> Batcher<K, V> {
        let state = Mutex::new(State { reads: 0, waiting: Vec::new() });
        Batcher { state, most_reads: most_reads.max(1), most_keys }
    }

    /// The value of this key. `read` gets the distinct keys of one query, in order, and returns the values that exist, by
    /// key.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn get<Q, E>(&self, key: &Q, read: impl Fn(&[&Q]) -> Result<HashMap<K, V>, E>) -> Result<Option<V>, E>
    where
        K: Borrow<Q>,
        Q: ToOwned<Owned = K> + Hash + Ord + ?Sized,
    {
        let followers = match self.begin(key) {
            Ok(()) => Vec::new(),
            Err(slot) => match wait(&slot) {
                Outcome::Found(value) => return Ok(value),
                Outcome::Alone => return Ok(read(&[key])?.remove(key)),
                Outcome::Lead(followers) => followers,
            },
        };
        let mut turn = Turn { batcher: self, followers, is_over: false };
        let mut keys: Vec<&Q> = turn.followers.iter().map(|waiter| waiter.key.borrow()).chain([key]).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut found = read(&keys)?;
        turn.start_next();
        for Waiter { key, slot } in turn.followers.drain(..) {
            slot.complete(Outcome::Found(found.get(key.borrow()).cloned()));
        }
        Ok(found.remove(key))
    }

    /// Begins a read, or joins the queue if enough are running.
    fn begin<Q: ToOwned<Owned = K> + ?Sized>(&self, key: &Q) -> Result<(), Arc<Slot<K, V>>> {
        let mut state = self.state.lock();
        if state.reads < self.most_reads {
            state.reads += 1;
            return Ok(());
        }
        let slot = Arc::new(Slot { outcome: Mutex::new(None), thread: thread::current() });
        state.waiting.push(Waiter { key: key.to_owned(), slot: slot.clone() });
        Err(slot)
    }
}

fn wait<K, V>(slot: &Slot<K, V>) -> Outcome<K, V> {
    blocking::note_short_wait();
    loop {
        if let Some(outcome) = slot.outcome.lock().take() {
            return outcome;
        }
        thread::park();
    }
}

/// A running read. However it ends, the requests that wait for it are notified, and the next read can start.
struct Turn<'t, K, V> {
    batcher: &'t Batcher<K, V>,
    followers: Vec<Waiter<K, V>>,
    is_over: bool,
}

impl<K, V> Turn<'_, K, V> {
    /// Starts the next read for the requests that are waiting.
    fn start_next(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let mut state = self.batcher.state.lock();
        let count = state.waiting.len().min(self.batcher.most_keys);
        let mut next = state.waiting.drain(..count);
        if let Some(leader) = next.next() {
            let followers = next.collect();
            drop(state);
            leader.slot.complete(Outcome::Lead(followers));
        } else {
            drop(next);
            state.reads -= 1;
        }
    }
}

impl<K, V> Drop for Turn<'_, K, V> {
    fn drop(&mut self) {
        self.start_next();
        for waiter in self.followers.drain(..) {
            waiter.slot.complete(Outcome::Alone);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    use super::*;

    fn values(keys: &[&str]) -> HashMap<String, String> {
        let known = keys.iter().filter(|key| !key.starts_with("no"));
        known.map(|key| ((*key).to_owned(), format!("value of {key}"))).collect()
    }

    #[test]
    fn each_request_gets_its_value_with_few_queries() {
        let (batcher, reads, start) = (Batcher::<String, String>::new(1, 8), AtomicUsize::new(0), Barrier::new(16));
        let read = |keys: &[&str]| {
            assert!(keys.len() <= 8 && keys.is_sorted());
            reads.fetch_add(1, SeqCst);
            thread::sleep(Duration::from_millis(2));
            Ok::<_, ()>(values(keys))
        };
        thread::scope(|scope| {
            for t in 0..16 {
                let (batcher, start) = (&batcher, &start);
                scope.spawn(move || {
                    start.wait();
                    for n in 0..20 {
                        let key = if n % 5 == 0 { format!("no{t}") } else { format!("{}", (t + n) % 7) };
                        let expected = (n % 5 != 0).then(|| format!("value of {key}"));
                        assert_eq!(batcher.get(key.as_str(), read).unwrap(), expected);
                    }
                });
            }
        });
        assert!(reads.load(SeqCst) < 200, "{} reads for 320", reads.load(SeqCst));
        assert_eq!(batcher.state.lock().reads, 0);
    }

    #[test]
    fn after_a_read_that_fails_or_panics_each_request_reads_by_itself() {
        let (batcher, start) = (Batcher::<String, String>::new(1, 8), Barrier::new(8));
        thread::scope(|scope| {
            for t in 0..8 {
                let (batcher, start) = (&batcher, &start);
                scope.spawn(move || {
                    start.wait();
                    for n in 0..20 {
                        let read = |keys: &[&str]| {
                            thread::sleep(Duration::from_millis(1));
                            assert!(t != 0 || n % 4 != 0, "on purpose");
                            if t == 1 && n % 3 == 0 { Err("on purpose") } else { Ok(values(keys)) }
                        };
                        let get = || batcher.get(format!("{t}").as_str(), read);
                        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(get)) {
                            Ok(Ok(value)) => assert_eq!(value, Some(format!("value of {t}"))),
                            Ok(Err(_)) => assert!(t == 1),
                            Err(_) => assert!(t == 0),
                        }
                    }
                });
            }
        });
        assert_eq!(batcher.state.lock().reads, 0);
        assert_eq!(batcher.get("1", |keys| Ok::<_, ()>(values(keys))).unwrap(), Some("value of 1".to_owned()));
    }
}
