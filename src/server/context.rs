//! The state of a worker thread: the slot that it holds, if any, and whether it is in a handler.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::blocking::{self, BlockingHooks, Party, Place, Refused, Wait};
use crate::memory_budget;

use super::connection::Connection;
use super::outgoing;
use super::shared::Shared;

pub(super) struct WorkerContext {
    shared: Arc<Shared>,
    slot: Cell<Option<usize>>,
    /// The generation of the slot, as this thread last set or saw it.
    generation: Cell<u64>,
    in_handler: Cell<bool>,
    /// Responses to earlier requests of the connection whose handler runs. If that handler blocks, they are sent first.
    earlier_responses: RefCell<Option<(Arc<Connection>, Vec<u8>)>>,
    /// What the request waits for, or has waited for last, and the place that it holds for that until it is answered.
    place: RefCell<Option<(Wait, Place)>>,
}

impl WorkerContext {
    pub(super) fn new(shared: Arc<Shared>) -> WorkerContext {
        WorkerContext {
            shared,
            slot: Cell::new(None),
            generation: Cell::new(0),
            in_handler: Cell::new(false),
            earlier_responses: RefCell::new(None),
            place: RefCell::new(None),
        }
    }

    /// The thread holds `slot` from now on.
    pub(super) fn take_slot(&self, slot: usize) {
        self.generation.set(self.shared.slots[slot].generation.current());
        self.slot.set(Some(slot));
    }

    /// The slot that the thread holds. A thread in a handler may have lost its slot without having noticed.
    pub(super) fn slot(&self) -> Option<usize> {
        self.slot.get()
    }

    /// The thread is about to call a handler for a new request.
    pub(super) fn start_request(&self) {
        if let Some(slot) = self.slot.get() {
            self.shared.slots[slot].load.count_request();
        }
        self.enter_handler();
    }

    /// The thread is about to call code that may block.
    pub(super) fn enter_handler(&self) {
        if let Some(slot) = self.slot.get() {
            self.generation.set(self.shared.slots[slot].generation.enter_handler(self.generation.get()));
        }
        self.in_handler.set(true);
    }

    /// The thread has returned from a handler. Notes whether it has lost its slot meanwhile.
    pub(super) fn leave_handler(&self) {
        drop(memory_budget::take());
        if !self.in_handler.replace(false) {
            return;
        }
        self.place.take();
        if let Some(slot) = self.slot.get() {
            if self.shared.slots[slot].generation.try_end_run(self.generation.get()) {
                self.generation.set(self.generation.get() + 1);
            } else {
                self.slot.set(None);
            }
        }
    }

    /// The thread, which holds no slot, has finished the turn in which it lost it.
    pub(super) fn count_out(&self) {
        self.shared.pool.detached.fetch_sub(1, Relaxed);
    }

    /// Resets the context after a panic in the middle of a turn.
    pub(super) fn recover(&self) {
        self.leave_handler();
        self.earlier_responses.take();
    }

    /// Keeps `responses` until [`WorkerContext::take_back_responses`], to send them if the handler blocks.
    pub(super) fn keep_responses(&self, connection: &Arc<Connection>, responses: &mut Vec<u8>) {
        self.earlier_responses.replace(Some((Arc::clone(connection), std::mem::take(responses))));
    }

    /// Gives back what is left of them.
    pub(super) fn take_back_responses(&self, responses: &mut Vec<u8>) {
        if let Some((_, unsent)) = self.earlier_responses.take() {
            *responses = unsent;
        }
    }

    /// Has the request hold a place for this kind of wait, in place of that for another, unless that covers this one
    /// too.
    fn take_place(&self, wait: Wait) -> Result<(), Refused> {
        let mut place = self.place.borrow_mut();
        if !place.as_ref().is_some_and(|(held, _)| *held == wait || held.covers_the_rest()) {
            let taken = self.shared.bulkheads.of(wait).enter(blocking::party());
            if taken.is_err() {
                self.shared.pool.refused.fetch_add(1, Relaxed);
            }
            *place = Some((wait, taken?));
        }
        Ok(())
    }

    fn send_earlier_responses(&self) {
        if let Some((connection, responses)) = &mut *self.earlier_responses.borrow_mut() {
            // An error will occur again when the rest is sent.
            if let Ok(sent) = outgoing::send(&connection.socket, responses, &[], 0) {
                responses.drain(..sent);
            }
        }
    }
}

impl BlockingHooks for WorkerContext {
    /// Takes a place, and gives the slot to another thread. This thread finishes its turn without a slot.
    fn before_blocking(&self, wait: Wait) -> Result<(), Refused> {
        self.send_earlier_responses();
        if !self.in_handler.get() {
            return Ok(());
        }
        self.take_place(wait)?;
        let Some(slot) = self.slot.get() else { return Ok(()) };
        let (pool, generation) = (&self.shared.pool, &self.shared.slots[slot].generation);
        pool.detached.fetch_add(1, Relaxed);
        if !generation.try_end_run(self.generation.get()) {
            // The monitor was first, and has counted this thread.
            pool.detached.fetch_sub(1, Relaxed);
        } else if let Err(e) = self.shared.assign(slot) {
            log::error!("cannot start a thread: {e}");
            generation.resume_run(self.generation.get());
            pool.detached.fetch_sub(1, Relaxed);
            pool.refused.fetch_add(1, Relaxed);
            self.place.take();
            return Err(Refused::Full);
        }
        self.slot.set(None);
        Ok(())
    }

    fn place(&self, wait: Wait) -> Result<Option<Place>, Refused> {
        self.shared.bulkheads.of(wait).enter(blocking::party()).map(Some)
    }

    fn identified(&self, party: Party) -> Result<(), Refused> {
        match &mut *self.place.borrow_mut() {
            Some((wait, place)) if wait.covers_the_rest() => place.pass_to(party),
            _ => Ok(()),
        }
    }

    fn before_short_wait(&self) {
        if let (Some(slot), true) = (self.slot.get(), self.in_handler.get()) {
            self.shared.slots[slot].load.count_short_wait();
            self.shared.call_helper(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocking::Places;
    use crate::server::settings::Settings;
    use crate::server::slot::Slot;

    fn context() -> WorkerContext {
        let settings = Settings { workers: 1, places: Places::new(|_| 1), ..Settings::default() };
        let context = WorkerContext::new(Arc::new(Shared::new(settings, |_, _| {}).unwrap()));
        context.take_slot(0);
        context
    }

    fn slot(context: &WorkerContext) -> &Slot {
        &context.shared.slots[0]
    }

    /// Takes the slot away, as the monitor does.
    fn retake(context: &WorkerContext) {
        context.shared.pool.detached.fetch_add(1, Relaxed);
        assert!(slot(context).generation.try_end_run(slot(context).generation.current()));
    }

    #[test]
    fn a_panic_outside_a_handler_does_not_change_the_generation() {
        let context = context();
        context.recover();
        assert_eq!((context.slot(), slot(&context).generation.current()), (Some(0), 0));
        context.enter_handler();
        context.recover();
        assert_eq!((context.slot(), slot(&context).generation.current()), (Some(0), 2));
    }

    #[test]
    fn a_thread_that_has_lost_its_slot_counts_its_short_waits_too() {
        let context = context();
        context.start_request();
        retake(&context);
        // The new holder counts at the same time.
        slot(&context).load.count_short_wait();
        context.before_short_wait();
        context.leave_handler();
        assert_eq!((context.slot(), slot(&context).load.short_waits()), (None, 2));
    }

    #[test]
    fn a_thread_without_a_slot_does_not_count_against_itself() {
        let context = context();
        context.start_request();
        retake(&context);
        assert_eq!(context.before_blocking(Wait::Database), Ok(()));
        assert_eq!((context.slot(), context.shared.pool.detached.load(Relaxed)), (None, 1));
    }

    #[test]
    fn a_request_holds_one_place_until_it_is_answered() {
        let context = context();
        let used = || Wait::ALL.map(|wait| context.shared.bulkheads.of(wait).used());
        context.start_request();
        for (wait, held) in [
            (Wait::Database, [0, 1, 0, 0, 0]),
            (Wait::LogIn, [1, 0, 0, 0, 0]),
            (Wait::Model, [0, 0, 1, 0, 0]),
            (Wait::Database, [0, 0, 1, 0, 0]),
        ] {
            assert_eq!((context.before_blocking(wait), used()), (Ok(()), held));
        }
        context.leave_handler();
        assert_eq!(used(), [0; 5]);
        let other = context.shared.bulkheads.of(Wait::Model).enter(Party::Process).unwrap();
        context.start_request();
        context.before_blocking(Wait::Fetch).unwrap();
        assert_eq!(context.before_blocking(Wait::Model), Ok(()), "the fetch covers it");
        context.leave_handler();
        context.start_request();
        assert_eq!(context.before_blocking(Wait::Model), Err(Refused::Full));
        assert_eq!(context.shared.pool.refused.load(Relaxed), 1);
        drop(other);
    }
}
