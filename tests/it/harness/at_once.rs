//! Many clients at the same moment, and things that must become true soon.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use super::{Client, Reply};

/// How long a change may take to be heard of everywhere, on a busy machine. It is far less than the minute after which
/// a cached caller would be looked up anyway: what comes in time was told.
const SOON: Duration = Duration::from_secs(20);

/// Runs `work` on this many threads, which all begin together; what each returned, in order.
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

/// Sends until the answer is not "come back later".
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

/// Waits until the credential is refused, and fails the test if that is not soon.
#[track_caller]
pub fn refused_soon(client: &Client) {
    soon("the credential to be refused", || client.get("/api/current-user").status == 401);
}

/// Waits for something to become true, and fails the test if that is not soon.
#[track_caller]
pub fn soon(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < SOON, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
