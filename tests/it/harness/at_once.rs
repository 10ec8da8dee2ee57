//! Concurrent clients, and waiting for conditions with a short limit.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use super::{Client, Reply};

/// How long a change may take to reach every server, on a busy machine. Far less than the minute after which a cached
/// caller is looked up again anyway: a change seen in time must have come by a notification.
const SOON: Duration = Duration::from_secs(20);

/// Runs `work` on `count` threads that start together. Returns their results in order.
pub fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let start = Barrier::new(count);
    thread::scope(|scope| {
        let (work, start) = (&work, &start);
        let threads: Vec<_> = (0..count)
            .map(|n| {
                scope.spawn(move || {
                    start.wait();
                    work(n)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Says that it is over when it is dropped, also where the test fails: clients that went on without end would make all other
/// tests slow, and the run would never end.
pub struct End<'a>(pub &'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Repeats a request until the reply is not 503.
pub fn retry_while_unavailable(send: impl Fn() -> Reply) -> Reply {
    let began = Instant::now();
    loop {
        let reply = send();
        if reply.status != 503 || began.elapsed() > Duration::from_secs(60) {
            return reply;
        }
        assert!(reply.header("retry-after").is_some(), "503 without Retry-After");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until the credential is refused; fails the test after a short time.
#[track_caller]
pub fn refused_soon(client: &Client) {
    soon("the credential to be refused", || client.get("/api/current-user").status == 401);
}

/// Waits until `done` returns true; fails the test after a short time.
#[track_caller]
pub fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < SOON, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
