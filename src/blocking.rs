//! How code announces that it is about to block, without knowing what kind of thread it runs on.
//!
//! A server runs about as many threads as there are cores. Code that may block for long (on an upstream, a password
//! hash, a free database connection) wraps the wait in [`block_in_place`], and the server lets another thread take its
//! place, up to a limit. On a thread that belongs to no server, `block_in_place` simply runs its argument.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

/// Too many threads are blocked already; the request should be refused for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests are waiting")]
pub struct Busy;

/// What a server does when one of its threads is about to block.
pub trait BlockingHooks {
    /// Called on the blocking thread, before it blocks for long.
    ///
    /// # Errors
    /// [`Busy`] if the limit of blocked threads is reached. The thread must not block then.
    fn before_blocking(&self) -> Result<(), Busy>;

    /// Called on the blocking thread, before a wait too short to be worth giving up its place.
    fn before_short_wait(&self);
}

/// The socket of the client whose request is being served; tells whether the client is still connected.
pub type Client = Arc<dyn AsFd + Send + Sync>;

thread_local! {
    static CLIENT: RefCell<Option<Client>> = const { RefCell::new(None) };
    static HOOKS: RefCell<Option<Rc<dyn BlockingHooks>>> = const { RefCell::new(None) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Sets what [`block_in_place`] and [`note_short_wait`] call on this thread from now on.
pub fn install(hooks: Rc<dyn BlockingHooks>) {
    HOOKS.with(|installed| *installed.borrow_mut() = Some(hooks));
}

/// Runs `wait`, which may block for long. Nested calls count as part of the outermost one.
///
/// # Errors
/// [`Busy`] if too many threads are blocked already; `wait` was not called.
pub fn block_in_place<R>(wait: impl FnOnce() -> R) -> Result<R, Busy> {
    let _nesting = Nesting::enter()?;
    Ok(wait())
}

/// Announces a short wait, such as one database statement. It costs next to nothing; a server keeps more threads
/// running while many requests wait like this.
pub fn note_short_wait() {
    HOOKS.with(|installed| {
        if let Some(hooks) = &*installed.borrow() {
            hooks.before_short_wait();
        }
    });
}

/// Sets the client whose request this thread works on until the result is dropped, so that code that waits on the
/// client's behalf can stop when the client disconnects.
pub fn set_client(client: Option<Client>) -> ClientGuard {
    ClientGuard(CLIENT.replace(client))
}

/// The client whose request this thread works on, if there is one.
pub fn client() -> Option<Client> {
    CLIENT.with_borrow(Clone::clone)
}

/// Runs `work` to its end even if the client disconnects meanwhile: what it waits for does not watch the client.
pub fn unwatched<R>(work: impl FnOnce() -> R) -> R {
    let _client = set_client(None);
    work()
}

/// Restores the previous client when dropped; see [`set_client`].
#[must_use]
pub struct ClientGuard(Option<Client>);

impl Drop for ClientGuard {
    fn drop(&mut self) {
        CLIENT.set(self.0.take());
    }
}

/// Counts the nested calls of [`block_in_place`], also when one of them panics.
struct Nesting;

impl Nesting {
    fn enter() -> Result<Nesting, Busy> {
        if DEPTH.get() == 0 {
            // Cloned, so that the hook may itself call `install`.
            let hooks = HOOKS.with_borrow(Clone::clone);
            hooks.map_or(Ok(()), |hooks| hooks.before_blocking())?;
        }
        DEPTH.set(DEPTH.get() + 1);
        Ok(Nesting)
    }
}

impl Drop for Nesting {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct CountingHooks {
        entered: Cell<u32>,
        is_full: Cell<bool>,
    }

    impl BlockingHooks for CountingHooks {
        fn before_blocking(&self) -> Result<(), Busy> {
            if self.is_full.get() {
                return Err(Busy);
            }
            self.entered.set(self.entered.get() + 1);
            Ok(())
        }

        fn before_short_wait(&self) {}
    }

    #[test]
    fn nested_calls_count_once_also_after_a_panic_and_a_full_server_refuses() {
        let hooks = Rc::new(CountingHooks::default());
        install(hooks.clone());
        assert_eq!(block_in_place(|| block_in_place(|| 7)), Ok(Ok(7)));
        assert_eq!((hooks.entered.get(), DEPTH.get()), (1, 0));
        let panicked = std::panic::catch_unwind(|| block_in_place(|| panic!("on purpose")));
        assert!(panicked.is_err());
        assert_eq!((hooks.entered.get(), DEPTH.get()), (2, 0));
        hooks.is_full.set(true);
        assert_eq!(block_in_place(|| unreachable!("refused")), Err::<(), _>(Busy));
    }
}
