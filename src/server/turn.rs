//! One turn of a connection: receives the available bytes, answers complete requests, and keeps the rest for later.

use std::borrow::Cow;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use crate::http::{Body, Framing, Parsed, Response};
use crate::memory_budget::{self, Reservation};

use super::clock::millis;
use super::connection::{AfterResponse, Connection, ConnectionState, Deferral, Phase, TimerKind};
use super::incoming::{BodyAccumulator, BodyProgress};
use super::outgoing::{self, Unsent};
use super::stream::CONTINUE;
use super::transfer::Pace;
use super::worker::{Outcome, Worker};

/// Maximum number of requests answered, or of reads, in one turn.
const MAX_PER_TURN: u32 = 32;
/// The output buffer is sent before the end of a turn once it has this many bytes.
const SEND_THRESHOLD: usize = 64 * 1024;
/// How long a client may take to read its last response and to close the connection.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// The same while the server stops.
const LINGER_TIMEOUT_STOPPING: Duration = Duration::from_secs(1);
/// How much a client may send in that time.
const MAX_LINGER_BYTES: u64 = 256 * 1024 * 1024;

/// A body of up to this many bytes that comes with its head is not reserved.
const MAX_UNRESERVED: usize = 4 * 1024;

const NO_MEMORY: &str = "too many requests in progress";

/// The outcome of processing received bytes.
pub(super) enum Step {
    /// More bytes are needed.
    Incomplete,
    /// A request was answered or refused; the response is sent or in the output buffer.
    Answered(AfterResponse),
    /// A request was answered, and its response is deferred; or the request is postponed.
    Deferred,
    /// The connection must be closed at once.
    Cut,
}

impl Worker {
    /// Runs a turn. The caller owns the connection and has locked its state.
    pub(super) fn run_turn(&mut self, connection: &Arc<Connection>, state: &mut ConnectionState) -> Outcome {
        self.output.clear();
        let now = self.shared.clock.now();
        let (kind, deadline) = connection.timer();
        let is_late = now >= deadline;
        if is_late && !kind.is_idle() && kind != TimerKind::Deferred {
            return self.time_out(connection, state, kind);
        }
        if !state.unsent.is_empty() {
            if connection.is_eviction_requested() || connection.is_transfer_evicted() {
                return Outcome::Close;
            }
            let Ok(accepted) = state.unsent.send(&connection.socket, now) else { return Outcome::Close };
            if !state.unsent.is_empty() {
                connection.end_wait(accepted);
                connection.begin_wait();
                connection.set_timer(TimerKind::Write, state.unsent.deadline());
                return Outcome::Wait;
            }
            connection.end_transfer();
            if state.after_response != AfterResponse::KeepAlive {
                return self.end(connection, state, state.after_response);
            }
        }
        match &mut state.phase {
            Phase::Body(_) if connection.is_transfer_evicted() => {
                return self.time_out(connection, state, TimerKind::Body);
            }
            Phase::Linger { .. } => return self.drain(connection, state),
            Phase::Deferred(deferred) if is_late && kind == TimerKind::Deferred => match &mut **deferred {
                Deferral::Response(deferred) => deferred.response.close = true,
                Deferral::Request(postponed) => postponed.is_late = true,
            },
            Phase::Deferred(_) if !connection.completion.is_set() => {
                if kind != TimerKind::Deferred {
                    connection.set_timer(TimerKind::Deferred, now + millis(self.shared.settings.deferred_timeout));
                }
                return Outcome::Wait;
            }
            _ => {}
        }
        self.receive(connection, state)
    }

    /// Completes what was deferred, if anything was, then reads and answers requests until there is nothing to read
    /// or it is the turn of other connections.
    fn receive(&mut self, connection: &Arc<Connection>, state: &mut ConnectionState) -> Outcome {
        // Whether parsing may succeed: an incomplete head is only parsed again when another line is complete.
        let mut is_promising = !state.is_partial_head;
        self.input.load(&mut state.received);
        let mut completed = state.take_deferred().map(|deferred| self.complete(connection, state, deferred));
        let (mut answered, mut reads, mut is_dry) = (0, 0, false);
        loop {
            while is_promising && (completed.is_some() || !self.input.is_empty()) {
                let step = completed.take().unwrap_or_else(|| self.step(connection, state));
                state.is_partial_head = matches!(step, Step::Incomplete) && matches!(state.phase, Phase::Head);
                match step {
                    Step::Incomplete => break,
                    Step::Answered(AfterResponse::KeepAlive) => answered += 1,
                    Step::Answered(after) => return self.finish(connection, state, after),
                    Step::Deferred => return self.suspend(connection, state, answered),
                    Step::Cut => return Outcome::Close,
                }
                let lost_slot = self.context.slot().is_none();
                if !state.unsent.is_empty() || lost_slot || answered >= MAX_PER_TURN {
                    let more = !self.input.is_empty() || !is_dry;
                    return self.yield_turn(connection, state, answered, more);
                }
            }
            if is_dry || reads >= MAX_PER_TURN {
                return self.yield_turn(connection, state, answered, !is_dry);
            }
            reads += 1;
            match self.input.fill(&connection.socket) {
                Ok(([], _)) => return self.finish(connection, state, AfterResponse::Close),
                Ok((new, is_short)) => {
                    is_promising = is_promising || memchr::memchr(b'\n', new).is_some();
                    is_promising = is_promising || self.input.len() >= self.shared.settings.max_head;
                    is_dry = is_short && !connection.is_hung_up();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return self.suspend(connection, state, answered),
                Err(_) => return Outcome::Close,
            }
        }
    }

    /// Suspends the connection; it is queued again if there is `more` to do.
    fn yield_turn(
        &mut self,
        connection: &Arc<Connection>,
        state: &mut ConnectionState,
        answered: u32,
        more: bool,
    ) -> Outcome {
        match self.suspend(connection, state, answered) {
            Outcome::Wait if more => Outcome::Yield,
            outcome => outcome,
        }
    }

    /// Processes received bytes: parses a head, or collects a part of a body.
    fn step(&mut self, connection: &Arc<Connection>, state: &mut ConnectionState) -> Step {
        if matches!(state.phase, Phase::Body(_)) {
            return self.feed_body(connection, state);
        }
        let max_head = self.shared.settings.max_head;
        match self.request.head.parse(self.input.bytes()) {
            Ok(Parsed::Partial) if self.input.len() < max_head => Step::Incomplete,
            Ok(Parsed::Complete(n)) if n <= max_head => {
                self.input.consume(n);
                self.start_body(connection, state)
            }
            Ok(_) => self.refuse(431, "request head too large"),
            Err(e) => self.refuse(e.status.as_u16(), e.reason),
        }
    }

    /// Decides, after the head, how the body is received: it is already here, or it is collected, or streamed.
    fn start_body(&mut self, connection: &Arc<Connection>, state: &mut ConnectionState) -> Step {
        self.request.peer = connection.peer;
        let settings = &self.shared.settings;
        let party = settings.client.party(&self.request);
        state.party = Some(party);
        let declared = match self.request.head.framing() {
            Framing::None => return self.serve(connection, state),
            Framing::Length(n) if n > settings.max_body => return self.refuse(413, "request body too large"),
            Framing::Length(n) => match usize::try_from(n) {
                Ok(length) if length <= self.input.len().min(settings.max_buffered_body) => {
                    if length > MAX_UNRESERVED {
                        let mut memory = Reservation::new(&self.shared.memory, party);
                        if memory.grow(length).is_err() {
                            return self.refuse(503, NO_MEMORY);
                        }
                        memory_budget::put(memory);
                    }
                    self.request.body = Body::from_bytes(self.input.bytes()[..length].to_vec());
                    self.input.consume(length);
                    return self.serve(connection, state);
                }
                _ => n,
            },
            Framing::Chunked => 0,
        };
        let is_streamed = declared > settings.max_buffered_body as u64;
        let continue_due = self.request.head.expects_continue() && self.input.is_empty();
        let memory = Reservation::new(&self.shared.memory, party);
        let (request, now) = (std::mem::take(&mut self.request), self.shared.clock.now());
        let body = BodyAccumulator::new(request, memory, &self.shared.settings, now);
        state.phase = Phase::Body(Box::new(body));
        if is_streamed {
            return self.stream_body(connection, state, continue_due);
        }
        if continue_due {
            self.output.extend_from_slice(CONTINUE);
        }
        if self.input.is_empty() { Step::Incomplete } else { self.feed_body(connection, state) }
    }

    /// Collects a part of a body, and answers the request once it is complete.
    fn feed_body(&mut self, connection: &Arc<Connection>, state: &mut ConnectionState) -> Step {
        let settings = &self.shared.settings;
        let Phase::Body(body) = &mut state.phase else { return Step::Cut };
        let before = body.body.len();
        let progress = body.feed(&mut self.input, self.shared.clock.now(), settings.max_buffered_body);
        connection.end_wait(body.body.len() - before);
        match progress {
            Ok(BodyProgress::Refused) => {
                state.phase = Phase::Head;
                self.refuse(503, NO_MEMORY)
            }
            Ok(BodyProgress::Partial) => Step::Incomplete,
            Ok(BodyProgress::TooLong) => self.stream_body(connection, state, false),
            Ok(BodyProgress::Complete) => match state.take_body() {
                Some(body) => {
                    connection.end_transfer();
                    let memory;
                    (self.request, memory) = body.into_request();
                    memory_budget::put(memory);
                    self.serve(connection, state)
                }
                None => Step::Cut,
            },
            Err(_) => {
                state.phase = Phase::Head;
                self.refuse(400, "malformed chunked body")
            }
        }
    }

    /// Answers a request that cannot be served, and ends the connection, as the start of the next request is unknown.
    fn refuse(&mut self, status: u16, reason: &str) -> Step {
        let mut response = Response::detail(status, reason);
        if status == 503 {
            response = response.header("Retry-After", "1");
        }
        let response = self.shared.own(response, &std::mem::take(&mut self.request));
        self.write_refusal(&response);
        Step::Answered(AfterResponse::Linger)
    }

    fn time_out(&mut self, connection: &Arc<Connection>, state: &mut ConnectionState, kind: TimerKind) -> Outcome {
        if matches!(kind, TimerKind::Write | TimerKind::Linger) {
            return Outcome::Close;
        }
        state.phase = Phase::Head;
        state.received = Vec::new();
        connection.end_transfer();
        self.refuse(408, "request timed out");
        self.finish(connection, state, AfterResponse::Linger)
    }

    /// Sends the output buffer, followed by `body`. What the socket does not accept is kept with the connection.
    pub(super) fn send(
        &mut self,
        connection: &Connection,
        state: &mut ConnectionState,
        body: Cow<'static, [u8]>,
    ) -> io::Result<()> {
        let total = self.output.len() + body.len();
        let sent = outgoing::send(&connection.socket, &self.output, &body, 0)?;
        if sent < total {
            let (bytes, now) = (std::mem::take(&mut self.output), self.shared.clock.now());
            let (settings, memory) = (&self.shared.settings, self.reserved());
            connection.begin_transfer(memory.holder());
            connection.begin_wait();
            let pace = Pace::new(settings.write_timeout, settings.min_rate, now);
            state.unsent = Unsent::new(bytes, body, sent, pace, memory, &self.shared.unsent);
            if self.shared.memory.is_exceeded() {
                self.shared.evict_slow_readers();
            }
            if !std::mem::replace(&mut state.watches_writability, true) {
                self.shared.slots[connection.slot].watch_writability(connection)?;
            }
        }
        self.output.clear();
        Ok(())
    }

    /// Sends the output buffer if it is large.
    pub(super) fn send_if_large(&mut self, connection: &Connection, state: &mut ConnectionState) -> io::Result<()> {
        if self.output.len() < SEND_THRESHOLD { Ok(()) } else { self.send(connection, state, Cow::Borrowed(&[])) }
    }

    /// Sends the output buffer, and sets the deadline of the connection for the time until the next event.
    fn suspend(&mut self, connection: &Arc<Connection>, state: &mut ConnectionState, answered: u32) -> Outcome {
        let must_send = state.unsent.is_empty() && !self.output.is_empty();
        if must_send && self.send(connection, state, Cow::Borrowed(&[])).is_err() {
            return Outcome::Close;
        }
        state.received = self.input.take();
        state.received_memory = None;
        if !state.received.is_empty() {
            let mut memory = Reservation::new(&self.shared.memory, connection.party(state));
            if memory.grow(state.received.capacity()).is_err() {
                return Outcome::Close;
            }
            state.received_memory = Some(memory);
        }
        let (settings, now) = (&self.shared.settings, self.shared.clock.now());
        let (kind, deadline) = connection.timer();
        if !state.unsent.is_empty() {
            state.after_response = AfterResponse::KeepAlive;
            connection.set_timer(TimerKind::Write, state.unsent.deadline());
        } else if let Phase::Body(body) = &state.phase {
            connection.resume_transfer(|| body.memory.holder());
            connection.set_timer(TimerKind::Body, body.deadline());
        } else if let Phase::Deferred(_) = &state.phase {
            connection.set_timer(TimerKind::Deferred, now + millis(settings.deferred_timeout));
        } else if !state.received.is_empty() {
            if connection.is_eviction_requested() {
                return Outcome::Close;
            } else if kind != TimerKind::Head || answered > 0 {
                connection.set_timer(TimerKind::Head, now + millis(settings.head_timeout));
            }
        } else if answered > 0 || !kind.is_idle() {
            connection.set_timer(TimerKind::NextRequest, now + millis(settings.idle_timeout));
        } else if self.shared.is_closing_idle() {
            return self.linger(connection, state);
        } else if now >= deadline || connection.is_eviction_requested() {
            return Outcome::Close;
        }
        Outcome::Wait
    }

    /// Sends the output buffer, then ends the connection according to `after`.
    fn finish(&mut self, connection: &Arc<Connection>, state: &mut ConnectionState, after: AfterResponse) -> Outcome {
        if state.unsent.is_empty() && self.send(connection, state, Cow::Borrowed(&[])).is_err() {
            return Outcome::Close;
        }
        if state.unsent.is_empty() {
            return self.end(connection, state, after);
        }
        state.after_response = after;
        connection.set_timer(TimerKind::Write, state.unsent.deadline());
        Outcome::Wait
    }

    fn end(&mut self, connection: &Arc<Connection>, state: &mut ConnectionState, after: AfterResponse) -> Outcome {
        if after == AfterResponse::Linger { self.linger(connection, state) } else { Outcome::Close }
    }

    /// Shuts down our side, and gives the client time to read the response and close its side.
    fn linger(&mut self, connection: &Arc<Connection>, state: &mut ConnectionState) -> Outcome {
        if connection.socket.shutdown(Shutdown::Write).is_err() {
            return Outcome::Close;
        }
        state.phase = Phase::Linger { discarded: 0 };
        state.received = Vec::new();
        let timeout = if self.shared.is_stopping() { LINGER_TIMEOUT_STOPPING } else { LINGER_TIMEOUT };
        connection.set_timer(TimerKind::Linger, self.shared.clock.now() + millis(timeout));
        self.drain(connection, state)
    }

    /// Discards bytes that a lingering connection receives.
    fn drain(&mut self, connection: &Arc<Connection>, state: &mut ConnectionState) -> Outcome {
        let Phase::Linger { discarded } = &mut state.phase else { return Outcome::Close };
        for _ in 0..MAX_PER_TURN {
            match self.input.discard(&connection.socket) {
                Ok(n) if n > 0 && *discarded < MAX_LINGER_BYTES => *discarded += n as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Outcome::Wait,
                _ => return Outcome::Close,
            }
        }
        Outcome::Yield
    }
}
