//! A thread pool for password hashes, with a low priority, so that a flood of logins does not slow down other requests.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::blocking::{self, Party, Turns, Wait};
use crate::error::Error;

/// How long a hash may wait in the queue behind others of its network or account.
pub const MAX_WAIT: Duration = Duration::from_secs(2);

/// How long it may wait if there is none of those: it has the next turn, and only the machine is slow.
const MAX_WAIT_FOR_TURN: Duration = Duration::from_secs(10);

/// Length of the queue per thread. A hash takes about 20 ms, so later ones would wait for too long anyway. No more
/// requests than fit into it should wait, so that it is never full of those of one client.
pub const QUEUE_PER_THREAD: usize = 64;

/// The `nice` value of the threads.
const NICENESS: i32 = 10;

/// Why a hash was not computed.
#[derive(Debug, PartialEq, Eq)]
pub enum HashError {
    /// The queue was full, or the hash waited in it for too long.
    Busy,
    /// An internal error.
    Failed(String),
}

impl From<HashError> for Error {
    fn from(e: HashError) -> Error {
        match e {
            HashError::Busy => Error::Busy,
            HashError::Failed(why) => Error::Internal(why),
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A job in the queue.
struct Queued {
    job: Job,
    /// After this nobody waits for it.
    until: Instant,
}

/// The thread pool. Its threads end when it is dropped. The networks and accounts that hashes are for take turns, so a
/// flood from one of them does not make others wait for longer than a few hashes take.
pub struct Hasher {
    queue: Arc<Queue>,
}

struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// How many jobs fit in.
    room: usize,
}

#[derive(Default)]
struct State {
    jobs: Turns<Queued>,
    is_closed: bool,
}

impl Queue {
    /// Adds a job of this party; false if there is no room.
    fn push(&self, party: Party, job: Job) -> bool {
        let mut state = self.state.lock();
        if state.jobs.len() >= self.room {
            return false;
        }
        let wait = if state.jobs.has_group_of(party) { MAX_WAIT } else { MAX_WAIT_FOR_TURN };
        state.jobs.push(party, Queued { job, until: Instant::now() + wait });
        drop(state);
        self.changed.notify_one();
        true
    }

    /// Waits for a job; `None` if there will be no more. One that has waited for too long is dropped: it would only delay
    /// others.
    fn pop(&self) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            while let Some(Queued { job, until }) = state.jobs.pop() {
                if Instant::now() < until {
                    return Some(job);
                }
            }
            if state.is_closed {
                return None;
            }
            self.changed.wait(&mut state);
        }
    }
}

impl Hasher {
    /// Starts this many threads.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn new(threads: usize) -> Result<Hasher, String> {
        let room = threads * QUEUE_PER_THREAD;
        let queue = Arc::new(Queue { state: Mutex::default(), changed: Condvar::new(), room });
        let hasher = Hasher { queue: Arc::clone(&queue) };
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            let thread = thread::Builder::new().name("hasher".to_owned());
            thread.spawn(move || work(&queue)).map_err(|e| e.to_string())?;
        }
        Ok(hasher)
    }

    /// Runs `hash` on one of the threads, and waits for it.
    ///
    /// # Errors
    /// [`HashError::Busy`] if the queue is full, or it did not start in time: within [`MAX_WAIT`], or ten seconds if
    /// nothing else of the same network or account was waiting.
    pub fn run<T: Send + 'static>(&self, hash: impl FnOnce() -> T + Send + 'static) -> Result<T, HashError> {
        let (done, result) = sync_channel(1);
        let job = move || {
            // This only fails if the request has given up.
            let _ = done.send(hash());
        };
        // A request that gets no place must not fill the queue.
        let wait = || match self.queue.push(blocking::party(), Box::new(job)) {
            true => result.recv().ok(),
            false => None,
        };
        match blocking::block_in_place(Wait::LogIn, wait) {
            Ok(Some(value)) => Ok(value),
            Ok(None) | Err(_) => Err(HashError::Busy),
        }
    }
}

impl Drop for Hasher {
    fn drop(&mut self) {
        self.queue.state.lock().is_closed = true;
        self.queue.changed.notify_all();
    }
}

fn work(queue: &Queue) {
    // On Linux, this applies to the calling thread only. If it is not permitted, the priority stays as it is.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(NICENESS);
    while let Some(job) = queue.pop() {
        // The thread outlives a panic; the request that waits sees its channel close.
        drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocking::{Place, Refused};
    use std::rc::Rc;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Full;

    impl blocking::BlockingHooks for Full {
        fn before_blocking(&self, _: Wait) -> Result<(), Refused> {
            Err(Refused::Full)
        }

        fn place(&self, _: Wait) -> Result<Option<Place>, Refused> {
            Err(Refused::Full)
        }

        fn identified(&self, _: Party) -> Result<(), Refused> {
            Ok(())
        }
        fn before_short_wait(&self) {}
    }

    #[test]
    fn a_hash_that_no_request_waits_for_is_skipped() {
        let hasher = Hasher::new(1).unwrap();
        let (release, held) = sync_channel::<()>(0);
        let (begin, begun) = sync_channel::<()>(0);
        let hashed = Arc::new(AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| hasher.run(move || begin.send(()).is_ok() && held.recv().is_ok()));
            begun.recv().unwrap();
            let (hasher, in_vain) = (&hasher, hashed.clone());
            let refused = scope.spawn(move || {
                blocking::install(Rc::new(Full));
                hasher.run(move || in_vain.store(true, Ordering::Release))
            });
            assert_eq!(refused.join().unwrap(), Err(HashError::Busy));
            release.send(()).unwrap();
        });
        // The only thread runs its jobs in order.
        assert_eq!(hasher.run(|| 7), Ok(7));
        assert!(!hashed.load(Ordering::Acquire));
    }

    #[test]
    fn a_flood_of_one_network_delays_another_by_one_hash() {
        let hasher = Hasher::new(1).unwrap();
        let (release, held) = sync_channel::<()>(0);
        let (begin, begun) = sync_channel::<()>(0);
        let order = Arc::new(Mutex::new(Vec::new()));
        thread::scope(|scope| {
            scope.spawn(|| hasher.run(move || begin.send(()).is_ok() && held.recv().is_ok()));
            begun.recv().unwrap();
            let push = |address: &str| {
                let (party, order) = (Party::network(address.parse().unwrap()), Arc::clone(&order));
                assert!(hasher.queue.push(party, Box::new(move || order.lock().push(party))));
                party
            };
            let flood: Vec<_> = (0..20).map(|n| push(&format!("10.0.0.{n}"))).collect();
            let other = push("10.0.1.1");
            release.send(()).unwrap();
            while order.lock().len() < 21 {
                thread::yield_now();
            }
            assert_eq!(order.lock()[..3], [flood[0], other, flood[1]]);
        });
    }

    #[test]
    fn a_full_queue_refuses_at_once_and_a_panic_is_survived() {
        let hasher = Hasher::new(1).unwrap();
        assert_eq!(hasher.run(|| panic!("on purpose")), Err::<(), _>(HashError::Busy));
        let (release, held) = sync_channel::<()>(0);
        let (begin, begun) = sync_channel::<()>(0);
        thread::scope(|scope| {
            scope.spawn(|| hasher.run(move || begin.send(()).is_ok() && held.recv().is_ok()));
            begun.recv().unwrap();
            while hasher.queue.push(Party::Process, Box::new(|| ())) {}
            // If this waited, it would never end.
            assert_eq!(hasher.run(|| ()), Err(HashError::Busy));
            release.send(()).unwrap();
        });
        let mut last = hasher.run(|| 7);
        while last == Err(HashError::Busy) {
            thread::yield_now();
            last = hasher.run(|| 7);
        }
        assert_eq!(last, Ok(7));
    }
}
