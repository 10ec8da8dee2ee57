//! Reads a reply while the model makes it. Until the model has finished, a client that disconnects ends the call. From
//! then on the rest, which tells what was used, is read in any case.
//!
//! What a model makes and does not show can only be known by its numbers. Where those come at the end, a client could
//! leave just before, so of a model that is known to hide something the rest is read as if it had finished, for
//! [`REST_TIME`] at most. If no numbers have come by then, the most that it is known to have hidden is charged. Of a model
//! that has not been seen to hide anything, the call ends at once.

use std::io;
use std::time::{Duration, Instant};

use crate::blocking::unwatched;
use crate::engine::{Reply, client_left};

use super::usage_counter::UsageCounter;

/// Bytes read at a time. Every stream that waits has as many.
const READ_SIZE: usize = 2 * 1024;
/// How long the rest of a reply is waited for once the model has finished.
const REST_TIME: Duration = Duration::from_secs(10);
/// Most bytes of that rest.
const REST_BYTES: usize = 1024 * 1024;

/// Whether the rest of a reply is read although the client has left before the model has finished.
pub(super) fn is_rest_needed(counter: &UsageCounter, reply: &Reply, model: &str) -> bool {
    !counter.has_output_numbers() && reply.most_hidden_output(model).is_some_and(|most| most > 0)
}

/// Remembers what a model has hidden in a reply. If this one was cut before its numbers came, so much is added to what is
/// known of it.
pub(super) fn note_hidden_output(counter: &mut UsageCounter, reply: &Reply, model: &str, is_cut: bool) {
    if counter.has_output_numbers() {
        reply.note_hidden_output(model, counter.hidden_output());
    }
    if is_cut {
        counter.assume_hidden(reply.most_hidden_output(model).unwrap_or(0));
    }
}

/// Reads one reply.
pub(super) struct LiveReader {
    buffer: Vec<u8>,
    rest: Option<Rest>,
}

/// Limits of what is read once the model has finished.
struct Rest {
    end: Option<Instant>,
    bytes: usize,
}

/// The result of a read.
pub(super) enum Next<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// The end of the reply, or as much of it as is waited for once the model has finished.
    End,
    /// The client has disconnected, so the call is to be ended.
    ClientLeft,
    /// The model server failed.
    Failed(io::Error),
}

impl LiveReader {
    /// Nothing was read yet.
    pub(super) fn new() -> LiveReader {
        LiveReader { buffer: vec![0; READ_SIZE], rest: None }
    }

    /// Waits for more. `is_finished` tells whether the model has finished.
    pub(super) fn next(&mut self, reply: &mut Reply, is_finished: bool) -> Next<'_> {
        let LiveReader { buffer, rest } = self;
        if !is_finished {
            *rest = None;
        } else if rest.is_none() {
            *rest = Some(Rest { end: Instant::now().checked_add(REST_TIME), bytes: REST_BYTES });
        }
        if rest.as_ref().is_some_and(|rest| rest.bytes == 0) {
            return Next::End;
        }
        let end = rest.as_ref().and_then(|rest| rest.end);
        let read = match rest {
            None => reply.read_before(buffer, end),
            Some(_) => unwatched(|| reply.read_before(buffer, end)),
        };
        match (read, rest) {
            (Ok(0), _) => Next::End,
            (Ok(n), rest) => {
                if let Some(rest) = rest {
                    rest.bytes = rest.bytes.saturating_sub(n);
                }
                Next::Bytes(&buffer[..n])
            }
            // All of the text has come; only its usage has not.
            (Err(e), Some(_)) => {
                log::info!("a model server did not end its reply: {e}");
                Next::End
            }
            (Err(_), None) if client_left() => Next::ClientLeft,
            (Err(e), None) => Next::Failed(e),
        }
    }
}
