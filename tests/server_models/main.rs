//! Models of the server's own synchronisation: every interleaving of a few threads that the C11 memory model allows, up
//! to a number of preemptions, by the model checker `loom`. A model fails if an assertion does, if data is not visible
//! where it should be, or if all threads wait for each other.
//!
//! The models run the server's own files (see `sync`), compiled against `loom` instead of the standard library. So
//! they need no special build: `cargo test` runs them, and production code knows nothing of `loom`.

#![allow(clippy::unwrap_used, missing_docs)]

mod connections;
mod slots;
mod sync;
mod threads;

use std::sync::Arc;

/// Runs `model` through all interleavings with up to so many preemptions; nearly all errors need one or two. More
/// threads and longer models need a lower bound to take no more than a few seconds.
fn check(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Starts a thread of a model, with its part of what the threads share.
fn spawn<S: 'static, R: 'static>(shared: &Arc<S>, body: impl FnOnce(&S) -> R + 'static) -> loom::thread::JoinHandle<R> {
    let shared = Arc::clone(shared);
    loom::thread::spawn(move || body(&shared))
}

/// A number as a thread keeps it that believes that it is alone: no atomic addition, no ordering. It comes out right
/// only if the threads that change it exclude each other and see each other's writes.
struct Exclusive(loom::sync::atomic::AtomicUsize);

impl Exclusive {
    fn new() -> Exclusive {
        Exclusive(loom::sync::atomic::AtomicUsize::new(0))
    }

    fn get(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn add(&self, n: usize) {
        self.0.store(self.get() + n, std::sync::atomic::Ordering::Relaxed);
    }
}
