//! A worker thread: holds a slot, runs ready connections one turn at a time, and waits for more.

use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::http::Request;
use crate::{blocking, memory, memory_budget};

use super::clock::Date;
use super::connection::{Connection, Phase};
use super::context::WorkerContext;
use super::incoming::ReadBuffer;
use super::shared::Shared;
use super::thread_pool::STACK_SIZE;

/// A thread with all that it needs to run any connection.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) context: Rc<WorkerContext>,
    pub(super) request: Request,
    pub(super) input: ReadBuffer,
    /// Responses to the connection that is run, not sent yet.
    pub(super) output: Vec<u8>,
    pub(super) date: Date,
}

/// What happens to a connection after its turn.
pub(super) enum Outcome {
    /// It waits for an event.
    Wait,
    /// It could go on, but lets others have their turn first.
    Yield,
    Close,
}

/// Runs a worker thread whose first slot is `slot`, until it exits.
pub(super) fn run(shared: Arc<Shared>, slot: usize) {
    memory::note_stack(STACK_SIZE);
    let context = Rc::new(WorkerContext::new(Arc::clone(&shared)));
    blocking::install(context.clone());
    memory_budget::install(Arc::clone(&shared.memory));
    let mut worker = Worker {
        context,
        request: Request::default(),
        input: ReadBuffer::new(shared.settings.max_head),
        output: Vec::new(),
        date: Date::default(),
        shared: Arc::clone(&shared),
    };
    let mut next = Some(slot);
    while let Some(slot) = next {
        worker.context.take_slot(slot);
        if worker.hold(slot) == HoldEnd::Finished {
            break;
        }
        next = shared.pool.wait_for_slot(|| shared.is_finished());
    }
    shared.pool.threads.fetch_sub(1, Relaxed);
}

#[derive(PartialEq, Eq)]
enum HoldEnd {
    SlotLost,
    /// The server has finished.
    Finished,
}

impl Worker {
    /// Works with a slot until it is lost, or until the server has finished.
    fn hold(&mut self, slot: usize) -> HoldEnd {
        let shared = Arc::clone(&self.shared);
        let mut turn: u32 = 0;
        loop {
            turn = turn.wrapping_add(1);
            if let Some(connection) = shared.next_ready(slot, turn) {
                self.run(connection);
                if self.context.slot().is_none() {
                    self.context.count_out();
                    return HoldEnd::SlotLost;
                }
            } else if shared.is_finished() {
                return HoldEnd::Finished;
            } else {
                shared.wait_for_work(slot);
            }
        }
    }

    /// Gives a connection that this thread owns its turn. Whatever goes wrong in it costs this connection only.
    fn run(&mut self, connection: Arc<Connection>) {
        loop {
            let seen = connection.ownership.events_seen();
            let turn = catch_unwind(AssertUnwindSafe(|| {
                let mut state = connection.state.lock();
                self.run_turn(&connection, &mut state)
            }));
            match turn {
                Ok(Outcome::Wait) if connection.ownership.release(seen) => return,
                Ok(Outcome::Wait) if self.context.slot().is_some() => {}
                Ok(Outcome::Wait | Outcome::Yield) => match self.context.slot() {
                    Some(slot) => return self.shared.slots[slot].push(connection),
                    None => return self.shared.queue(connection),
                },
                Ok(Outcome::Close) => return self.close(&connection),
                Err(_) => {
                    log::error!("closing a connection after a panic in the server");
                    self.context.recover();
                    self.request = Request::default();
                    return self.close(&connection);
                }
            }
        }
    }

    fn close(&self, connection: &Connection) {
        let state = std::mem::take(&mut *connection.state.lock());
        if let Phase::Deferred(_) = state.phase {
            // The notifier keeps the socket open until it is called or dropped; the client should know at once.
            let _ = connection.socket.shutdown(Shutdown::Both);
        }
        self.shared.close(connection);
    }
}
