//! How code that is about to block for long says so, without knowing what runs it.
//!
//! A server runs about as many threads as there are cores. One that is going to wait (for an upstream, a password
//! hash, a free connection) wraps the wait in [`section`]; the server then lets another thread step in, up to a limit.
//! On a thread that belongs to no server, `section` just runs its argument.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;

/// Too many threads wait already: the request is to be refused, for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests are waiting")]
pub struct Busy;

/// What a server does around a wait of one of its threads.
pub trait Handover {
    /// Called before the wait, on the waiting thread.
    ///
    /// # Errors
    /// [`Busy`] when as many threads wait as may; the wait then does not happen.
    fn enter(&self) -> Result<(), Busy>;
    /// Called after the wait, whether it returned or panicked.
    fn leave(&self);
    /// Called before a wait too short to be worth a handover.
    fn short_wait(&self);
}

/// The socket of the client that a request came from, to see whether it is still there.
pub type Client = Arc<dyn AsFd + Send + Sync>;

thread_local! {
    static CLIENT: RefCell<Option<Client>> = const { RefCell::new(None) };
    static HANDOVER: RefCell<Option<Rc<dyn Handover>>> = const { RefCell::new(None) };
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// Tells [`section`] what to do on this thread from now on.
pub fn install(handover: Rc<dyn Handover>) {
    HANDOVER.with(|slot| *slot.borrow_mut() = Some(handover));
}

/// Runs `wait`, which may block for long. A section inside a section is part of the outer one.
///
/// # Errors
/// [`Busy`] when too many threads wait already; `wait` was not called.
pub fn section<R>(wait: impl FnOnce() -> R) -> Result<R, Busy> {
    let _left = Section::enter()?;
    Ok(wait())
}

/// Says that a short wait follows: one call to the database. It costs next to nothing; the server has more threads at
/// hand while many requests wait like this.
pub fn short_wait() {
    HANDOVER.with(|slot| {
        if let Some(handover) = &*slot.borrow() {
            handover.short_wait();
        }
    });
}

/// Says whose request this thread works on, until the result is dropped: who waits for something on behalf of the
/// client can end the wait when the client leaves.
pub fn serving(client: Option<Client>) -> Serving {
    Serving(CLIENT.replace(client))
}

/// Whose request this thread works on, where that is known.
pub fn client() -> Option<Client> {
    CLIENT.with_borrow(Clone::clone)
}

/// See [`serving`].
#[must_use]
pub struct Serving(Option<Client>);

impl Drop for Serving {
    fn drop(&mut self) {
        CLIENT.set(self.0.take());
    }
}

struct Section(Option<Rc<dyn Handover>>);

impl Section {
    fn enter() -> Result<Section, Busy> {
        let outermost = DEPTH.get() == 0;
        let handover = HANDOVER.with(|slot| slot.borrow().clone()).filter(|_| outermost);
        if let Some(handover) = &handover {
            handover.enter()?;
        }
        DEPTH.set(DEPTH.get() + 1);
        Ok(Section(handover))
    }
}

impl Drop for Section {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
        if let Some(handover) = &self.0 {
            handover.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count {
        entered: Cell<u32>,
        left: Cell<u32>,
        full: Cell<bool>,
    }

    impl Handover for Count {
        fn enter(&self) -> Result<(), Busy> {
            if self.full.get() {
                return Err(Busy);
            }
            self.entered.set(self.entered.get() + 1);
            Ok(())
        }
        fn leave(&self) {
            self.left.set(self.left.get() + 1);
        }
        fn short_wait(&self) {}
    }

    #[test]
    fn nests_refuses_and_survives_a_panic() {
        let count = Rc::new(Count { entered: Cell::new(0), left: Cell::new(0), full: Cell::new(false) });
        install(count.clone());
        assert_eq!(section(|| section(|| 7)), Ok(Ok(7)));
        assert_eq!((count.entered.get(), count.left.get()), (1, 1));
        let panicked = std::panic::catch_unwind(|| section(|| panic!("on purpose")));
        assert!(panicked.is_err());
        assert_eq!((count.entered.get(), count.left.get()), (2, 2));
        count.full.set(true);
        assert_eq!(section(|| unreachable!("refused")), Err::<(), _>(Busy));
    }
}
