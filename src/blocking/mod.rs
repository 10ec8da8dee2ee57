//! How code announces that it is about to block, without knowing what kind of thread it runs on.
//!
//! A server runs about as many threads as there are cores. Code that may block for long (on an upstream, a password
//! hash, a free database connection) wraps the wait in [`block_in_place`], and the server lets another thread take its
//! place. On a thread that belongs to no server, `block_in_place` simply runs its argument.
//!
//! Threads and their memory are limited. So for each kind of [`Wait`] there is a [`Bulkhead`]: a number of places, which
//! are shared out between accounts (each a [`Party`]). Nothing is counted, and no lock taken, for a request that never
//! waits.

mod bulkhead;
mod fair_semaphore;
mod kinds;
mod party;
mod turns;

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

pub use bulkhead::{Bulkhead, Place};
pub use fair_semaphore::{FairSemaphore, Permit};
pub use kinds::{Places, Wait};
pub use party::{Party, network_of, site_of};
pub use turns::Turns;

/// Why a request may not wait now. Nothing was done for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many wait already.
    #[error("too many requests are waiting")]
    Full,
    /// Its account has as many waiting as it may have, as others might come.
    #[error("too many requests of this account are waiting")]
    ShareIsUsed,
}

/// The places of all kinds.
pub struct Bulkheads([Bulkhead; Wait::ALL.len()]);

impl Bulkheads {
    /// So many places.
    pub fn new(places: &Places) -> Bulkheads {
        Bulkheads(Wait::ALL.map(|wait| Bulkhead::new(places.of(wait))))
    }

    /// The places of this kind.
    pub fn of(&self, wait: Wait) -> &Bulkhead {
        &self.0[wait as usize]
    }
}

/// What a server does when one of its threads is about to block.
pub trait BlockingHooks {
    /// Called on the blocking thread, before it blocks for long.
    ///
    /// # Errors
    /// There is no place. The thread must not block then.
    fn before_blocking(&self, wait: Wait) -> Result<(), Refused>;

    /// A place for another thread that works on this one's request. `None`: it needs none.
    ///
    /// # Errors
    /// There is none.
    fn place(&self, wait: Wait) -> Result<Option<Place>, Refused>;

    /// The request that this thread works on is this party's.
    ///
    /// # Errors
    /// The party has no right to the place that the request holds.
    fn identified(&self, party: Party) -> Result<(), Refused>;

    /// Called on the blocking thread, before a wait too short to be worth giving up its place.
    fn before_short_wait(&self);
}

/// The socket of the client whose request is being served; tells whether the client is still connected.
pub type Client = Arc<dyn AsFd + Send + Sync>;

thread_local! {
    static CLIENT: RefCell<Option<Client>> = const { RefCell::new(None) };
    static HOOKS: RefCell<Option<Rc<dyn BlockingHooks>>> = const { RefCell::new(None) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static PARTY: Cell<Party> = const { Cell::new(Party::Process) };
}

/// Sets what [`block_in_place`] and [`note_short_wait`] call on this thread from now on.
pub fn install(hooks: Rc<dyn BlockingHooks>) {
    HOOKS.with(|installed| *installed.borrow_mut() = Some(hooks));
}

/// Runs `work`, which may wait for long. Nested calls count as part of the outermost one. Later calls for the same
/// request count as part of one that waited for a model server, an upload or a fetch, and are not refused.
///
/// # Errors
/// Too many requests wait for the same kind of thing; `work` was not called.
pub fn block_in_place<R>(wait: Wait, work: impl FnOnce() -> R) -> Result<R, Refused> {
    let _nesting = Nesting::enter(wait)?;
    Ok(work())
}

/// A place for another thread that waits on behalf of this one's request. `None`: it needs none.
///
/// # Errors
/// There is none.
pub fn place(wait: Wait) -> Result<Option<Place>, Refused> {
    let hooks = HOOKS.with_borrow(Clone::clone);
    hooks.map_or(Ok(None), |hooks| hooks.place(wait))
}

/// The party for which this thread works.
pub fn party() -> Party {
    PARTY.get()
}

/// Sets the party for which this thread works from now on, until it is set again.
pub fn set_party(party: Party) {
    PARTY.set(party);
}

/// As [`set_party`], for a request that is being handled and has turned out to be this party's.
///
/// # Errors
/// The request waits already, and the party may not have it wait.
pub fn identify(party: Party) -> Result<(), Refused> {
    set_party(party);
    HOOKS.with_borrow(|hooks| hooks.as_ref().map_or(Ok(()), |hooks| hooks.identified(party)))
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
    fn enter(wait: Wait) -> Result<Nesting, Refused> {
        if DEPTH.get() == 0 {
            // Cloned, so that the hook may itself call `install`.
            let hooks = HOOKS.with_borrow(Clone::clone);
            hooks.map_or(Ok(()), |hooks| hooks.before_blocking(wait))?;
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
        fn before_blocking(&self, _: Wait) -> Result<(), Refused> {
            if self.is_full.get() {
                return Err(Refused::Full);
            }
            self.entered.set(self.entered.get() + 1);
            Ok(())
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
    fn nested_calls_count_once_also_after_a_panic_and_a_full_server_refuses() {
        let hooks = Rc::new(CountingHooks::default());
        install(hooks.clone());
        assert_eq!(block_in_place(Wait::Database, || block_in_place(Wait::Model, || 7)), Ok(Ok(7)));
        assert_eq!((hooks.entered.get(), DEPTH.get()), (1, 0));
        let panicked = std::panic::catch_unwind(|| block_in_place(Wait::Model, || panic!("on purpose")));
        assert!(panicked.is_err());
        assert_eq!((hooks.entered.get(), DEPTH.get()), (2, 0));
        hooks.is_full.set(true);
        assert_eq!(block_in_place(Wait::Model, || unreachable!("refused")), Err::<(), _>(Refused::Full));
    }
}
