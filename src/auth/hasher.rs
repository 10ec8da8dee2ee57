//! Threads that hash passwords: as many as cores, at a low priority, so that a flood of logins slows nothing else.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::blocking;
use crate::error::Error;

/// The longest a hash waits for its turn.
pub const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How many may wait per thread; at some 20 ms each, those behind could not have their turn in time.
const QUEUE_PER_THREAD: usize = 64;

/// How much the threads yield to the rest of the machine (nice).
const NICENESS: i32 = 10;

/// Why a hash was not made.
#[derive(Debug, PartialEq, Eq)]
pub enum Overloaded {
    /// Its turn did not come in time.
    Busy,
    /// It went wrong.
    Failed(String),
}

impl From<Overloaded> for Error {
    fn from(e: Overloaded) -> Error {
        match e {
            Overloaded::Busy => Error::Busy,
            Overloaded::Failed(why) => Error::Internal(why),
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// The threads, and the queue before them.
pub struct Hasher {
    queue: SyncSender<Job>,
}

impl Hasher {
    /// Starts this many threads; they end with the hasher.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn new(threads: usize) -> Result<Hasher, String> {
        let (queue, jobs) = sync_channel(threads * QUEUE_PER_THREAD);
        let jobs = Arc::new(Mutex::new(jobs));
        for _ in 0..threads {
            let jobs = jobs.clone();
            let thread = thread::Builder::new().name("hasher".to_owned());
            thread.spawn(move || work(&jobs)).map_err(|e| e.to_string())?;
        }
        Ok(Hasher { queue })
    }

    /// Runs a hash on one of the threads and waits for it.
    ///
    /// # Errors
    /// [`Overloaded::Busy`] when the queue is full or the turn did not come within [`LONGEST_WAIT`].
    pub fn run<T: Send + 'static>(&self, hash: impl FnOnce() -> T + Send + 'static) -> Result<T, Overloaded> {
        let (done, result) = sync_channel(1);
        let queued = Instant::now();
        let wanted = Arc::new(());
        let is_wanted = Arc::downgrade(&wanted);
        let job = move || {
            // Where too many wait already the hash is queued in vain: it must not take the time of others.
            if queued.elapsed() < LONGEST_WAIT && is_wanted.strong_count() > 0 {
                // Nobody waits any more if this fails.
                let _ = done.send(hash());
            }
        };
        self.queue.try_send(Box::new(job)).map_err(|_| Overloaded::Busy)?;
        let outcome = match blocking::block_in_place(|| result.recv()) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) | Err(blocking::Busy) => Err(Overloaded::Busy),
        };
        drop(wanted);
        outcome
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    // On Linux this is the thread's own; where it is not allowed, hashes merely compete.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::nice(NICENESS);
    loop {
        let job = jobs.lock().recv();
        match job {
            // A panic would end the thread: the one who waits sees its channel close, the others go on.
            Ok(job) => drop(std::panic::catch_unwind(std::panic::AssertUnwindSafe(job))),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use std::sync::atomic::{AtomicBool, Ordering};

    struct Full;

    impl blocking::BlockingHooks for Full {
        fn before_blocking(&self) -> Result<(), blocking::Busy> {
            Err(blocking::Busy)
        }
        fn before_short_wait(&self) {}
    }

    #[test]
    fn what_nobody_waits_for_is_not_hashed() {
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
            assert_eq!(refused.join().unwrap(), Err(Overloaded::Busy));
            release.send(()).unwrap();
        });
        // The one thread takes its jobs in order.
        assert_eq!(hasher.run(|| 7), Ok(7));
        assert!(!hashed.load(Ordering::Acquire));
    }

    #[test]
    fn a_full_queue_refuses_at_once_and_a_panic_is_survived() {
        let hasher = Hasher::new(1).unwrap();
        assert_eq!(hasher.run(|| panic!("on purpose")), Err::<(), _>(Overloaded::Busy));
        let (release, held) = sync_channel::<()>(0);
        let (begin, begun) = sync_channel::<()>(0);
        thread::scope(|scope| {
            scope.spawn(|| hasher.run(move || begin.send(()).is_ok() && held.recv().is_ok()));
            begun.recv().unwrap();
            while hasher.queue.try_send(Box::new(|| ())).is_ok() {}
            // If this waited, it would wait for ever.
            assert_eq!(hasher.run(|| ()), Err(Overloaded::Busy));
            release.send(()).unwrap();
        });
        let mut last = hasher.run(|| 7);
        while last == Err(Overloaded::Busy) {
            thread::yield_now();
            last = hasher.run(|| 7);
        }
        assert_eq!(last, Ok(7));
    }
}
