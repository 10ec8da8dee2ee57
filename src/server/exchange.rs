//! One turn of a connection: receives what is there, answers the requests that are whole, leaves the rest for later.

use std::borrow::Cow;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use crate::http::{Body, Framing, Parsed, Request, Response};

use super::clock::millis;
use super::connection::{Connection, Phase, State, Then, Waits};
use super::incoming::{Gathered, Gathering};
use super::outgoing::{self, Unsent};
use super::stream::CONTINUE;
use super::worker::{Outcome, Worker};

/// Requests of one connection in a row, or reads from it, before others have their turn.
const IN_A_ROW: u32 = 32;
/// Replies that are put together before they are sent, in bytes.
const TOGETHER: usize = 64 * 1024;
/// How long a client may take to read the last reply, and how much it may go on sending meanwhile.
const LINGER: Duration = Duration::from_secs(5);
const LINGER_STOPPING: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 256 * 1024 * 1024;

/// What a look at the received bytes led to.
pub(super) enum Step {
    /// More must come first.
    More,
    /// A request was answered (or refused), at least into the output buffer.
    Answered(Then),
    /// A request was answered, and the reply is held.
    Held,
    /// The connection is beyond use.
    Cut,
}

impl Worker {
    /// One turn. The caller owns the connection and has locked its state.
    pub(super) fn advance(&mut self, connection: &Arc<Connection>, state: &mut State) -> Outcome {
        self.out.clear();
        let now = self.shared.clock.now();
        let (waits, until) = connection.timer();
        let late = now >= until;
        if late && !waits.is_idle() && waits != Waits::Decision {
            return self.time_out(connection, state, waits);
        }
        if !state.unsent.is_empty() {
            if connection.is_unwanted() {
                return Outcome::Close;
            }
            match state.unsent.send(&connection.socket, now) {
                Ok(true) if state.then == Then::GoOn => {}
                Ok(true) => return self.end(connection, state, state.then),
                Ok(false) => {
                    connection.set_timer(Waits::Write, state.unsent.deadline(&self.shared.settings));
                    return Outcome::Wait;
                }
                Err(_) => return Outcome::Close,
            }
        }
        match &mut state.phase {
            Phase::Linger { .. } => return self.pass_over(connection, state),
            Phase::Held(waiting) if late && waits == Waits::Decision => waiting.response.close = true,
            Phase::Held(_) if !connection.is_decided() => {
                if waits != Waits::Decision {
                    connection.set_timer(Waits::Decision, now + millis(self.shared.settings.deferred_timeout));
                }
                return Outcome::Wait;
            }
            _ => {}
        }
        self.receive(connection, state)
    }

    fn receive(&mut self, connection: &Arc<Connection>, state: &mut State) -> Outcome {
        // The start of a head is worth another look only once a line has ended.
        let mut look = !state.looked_at;
        self.window.load(&mut state.input);
        let mut released = state.take_held().map(|waiting| self.release(connection, state, waiting));
        let (mut answered, mut reads, mut dry) = (0, 0, false);
        loop {
            while look && (released.is_some() || !self.window.is_empty()) {
                let step = released.take().unwrap_or_else(|| self.step(connection, state));
                state.looked_at = matches!(step, Step::More) && matches!(state.phase, Phase::Head);
                match step {
                    Step::More => break,
                    Step::Answered(Then::GoOn) => answered += 1,
                    Step::Answered(then) => return self.finish(connection, state, then),
                    Step::Held => return self.rest(connection, state, answered),
                    Step::Cut => return Outcome::Close,
                }
                let detached = self.seat.slot().is_none();
                if !state.unsent.is_empty() || detached || answered >= IN_A_ROW {
                    let more = !self.window.is_empty() || !dry;
                    return self.pause(connection, state, answered, more);
                }
            }
            if dry || reads >= IN_A_ROW {
                return self.pause(connection, state, answered, !dry);
            }
            reads += 1;
            match self.window.fill(&connection.socket) {
                Ok(([], _)) => return self.finish(connection, state, Then::Close),
                Ok((new, short)) => {
                    look = look || memchr::memchr(b'\n', new).is_some();
                    look = look || self.window.len() >= self.shared.settings.max_head;
                    dry = short && !connection.is_hung_up();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return self.rest(connection, state, answered),
                Err(_) => return Outcome::Close,
            }
        }
    }

    /// Leaves the connection, in the queue if there may be more to do.
    fn pause(&mut self, connection: &Arc<Connection>, state: &mut State, answered: u32, more: bool) -> Outcome {
        match self.rest(connection, state, answered) {
            Outcome::Wait if more => Outcome::Yield,
            outcome => outcome,
        }
    }

    fn step(&mut self, connection: &Arc<Connection>, state: &mut State) -> Step {
        if matches!(state.phase, Phase::Body(_)) {
            return self.gather(connection, state);
        }
        let max_head = self.shared.settings.max_head;
        match self.request.head.parse(self.window.bytes()) {
            Ok(Parsed::Partial) if self.window.len() < max_head => Step::More,
            Ok(Parsed::Complete(n)) if n <= max_head => {
                self.window.consume(n);
                self.start_body(connection, state)
            }
            Ok(_) => self.refuse(431, "the head of the request is too large"),
            Err(e) => self.refuse(e.status.0, e.reason),
        }
    }

    /// The head is read; decides how the body is to be had.
    fn start_body(&mut self, connection: &Arc<Connection>, state: &mut State) -> Step {
        let settings = &self.shared.settings;
        let declared = match self.request.head.framing() {
            Framing::None => return self.serve(connection, state),
            Framing::Length(n) if n > settings.max_body => return self.refuse(413, "the body is too large"),
            Framing::Length(n) => match usize::try_from(n) {
                Ok(here) if here <= self.window.len().min(settings.max_buffered_body) => {
                    self.request.body = Body::from_bytes(self.window.bytes()[..here].to_vec());
                    self.window.consume(here);
                    return self.serve(connection, state);
                }
                _ => n,
            },
            Framing::Chunked => 0,
        };
        let streamed = declared > settings.max_buffered_body as u64;
        let waiting = self.request.head.expects_continue() && self.window.is_empty();
        let (request, now) = (std::mem::take(&mut self.request), self.shared.clock.now());
        let gathering = Box::new(Gathering::new(request, &self.shared.gathered, now));
        state.phase = Phase::Body(gathering);
        if streamed {
            return self.stream_body(connection, state, waiting);
        }
        if waiting {
            self.out.extend_from_slice(CONTINUE);
        }
        if self.window.is_empty() { Step::More } else { self.gather(connection, state) }
    }

    /// Takes a piece of the body in, and answers when it is whole.
    fn gather(&mut self, connection: &Arc<Connection>, state: &mut State) -> Step {
        let limit = self.shared.settings.max_buffered_body;
        let Phase::Body(gathering) = &mut state.phase else { return Step::Cut };
        let fed = gathering.feed(&mut self.window, self.shared.clock.now(), limit);
        if self.shared.gathered.bytes() > self.shared.settings.max_buffered_bodies
            && !matches!(fed, Ok(Gathered::Whole))
        {
            state.phase = Phase::Head;
            return self.refuse(503, "too many requests are being received");
        }
        match fed {
            Ok(Gathered::Part) => Step::More,
            Ok(Gathered::TooMuch) => self.stream_body(connection, state, false),
            Ok(Gathered::Whole) => match state.take_gathering() {
                Some(gathering) => {
                    self.request = gathering.finish();
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

    /// Answers what cannot be served. What follows on the connection cannot be trusted.
    fn refuse(&mut self, status: u16, reason: &str) -> Step {
        self.request = Request::default();
        let mut response = Response::detail(status, reason);
        if status == 503 {
            response = response.header("Retry-After", "1");
        }
        self.write_refusal(&response);
        Step::Answered(Then::Linger)
    }

    fn time_out(&mut self, connection: &Arc<Connection>, state: &mut State, waits: Waits) -> Outcome {
        if matches!(waits, Waits::Write | Waits::Linger) {
            return Outcome::Close;
        }
        state.phase = Phase::Head;
        state.input = Vec::new();
        self.refuse(408, "the request did not arrive in time");
        self.finish(connection, state, Then::Linger)
    }

    /// Sends the output buffer, and `body` behind it. What the socket does not take stays with the connection.
    pub(super) fn send(
        &mut self,
        connection: &Connection,
        state: &mut State,
        body: Cow<'static, [u8]>,
    ) -> io::Result<()> {
        let total = self.out.len() + body.len();
        let sent = outgoing::send(&connection.socket, &self.out, &body, 0)?;
        if sent < total {
            let bytes = std::mem::take(&mut self.out);
            state.unsent = Unsent::new(bytes, body, sent, self.shared.clock.now(), &self.shared.unsent);
            if self.shared.unsent.bytes() > self.shared.settings.max_unsent_total {
                self.shared.shed_slow_readers();
            }
            if !std::mem::replace(&mut state.watches_writes, true) {
                self.shared.slots[connection.slot].watch_writes(connection)?;
            }
        }
        self.out.clear();
        Ok(())
    }

    /// Sends the output buffer if it has grown large.
    pub(super) fn send_if_large(&mut self, connection: &Connection, state: &mut State) -> io::Result<()> {
        if self.out.len() < TOGETHER { Ok(()) } else { self.send(connection, state, Cow::Borrowed(&[])) }
    }

    /// Leaves the connection until something happens on it.
    fn rest(&mut self, connection: &Arc<Connection>, state: &mut State, answered: u32) -> Outcome {
        if state.unsent.is_empty() && !self.out.is_empty() && self.send(connection, state, Cow::Borrowed(&[])).is_err()
        {
            return Outcome::Close;
        }
        state.input = self.window.take();
        let (settings, now) = (&self.shared.settings, self.shared.clock.now());
        let (waits, until) = connection.timer();
        if !state.unsent.is_empty() {
            state.then = Then::GoOn;
            connection.set_timer(Waits::Write, state.unsent.deadline(settings));
        } else if let Phase::Body(gathering) = &state.phase {
            connection.set_timer(Waits::Body, gathering.deadline(settings));
        } else if let Phase::Held(_) = &state.phase {
            connection.set_timer(Waits::Decision, now + millis(settings.deferred_timeout));
        } else if !state.input.is_empty() {
            if connection.is_unwanted() {
                return Outcome::Close;
            } else if waits != Waits::Head || answered > 0 {
                connection.set_timer(Waits::Head, now + millis(settings.head_timeout));
            }
        } else if answered > 0 || !waits.is_idle() {
            connection.set_timer(Waits::Request, now + millis(settings.idle_timeout));
        } else if self.shared.is_closing_idle() {
            return self.linger(connection, state);
        } else if now >= until || connection.is_unwanted() {
            return Outcome::Close;
        }
        Outcome::Wait
    }

    /// Sends what there is, then ends the connection as `then` says.
    fn finish(&mut self, connection: &Arc<Connection>, state: &mut State, then: Then) -> Outcome {
        if state.unsent.is_empty() && self.send(connection, state, Cow::Borrowed(&[])).is_err() {
            return Outcome::Close;
        }
        if state.unsent.is_empty() {
            return self.end(connection, state, then);
        }
        state.then = then;
        connection.set_timer(Waits::Write, state.unsent.deadline(&self.shared.settings));
        Outcome::Wait
    }

    fn end(&mut self, connection: &Arc<Connection>, state: &mut State, then: Then) -> Outcome {
        if then == Then::Linger { self.linger(connection, state) } else { Outcome::Close }
    }

    /// Ends our side, and lets the client end its own after it has read what was sent.
    fn linger(&mut self, connection: &Arc<Connection>, state: &mut State) -> Outcome {
        if connection.socket.shutdown(Shutdown::Write).is_err() {
            return Outcome::Close;
        }
        state.phase = Phase::Linger { passed_over: 0 };
        state.input = Vec::new();
        let time = if self.shared.is_stopping() { LINGER_STOPPING } else { LINGER };
        connection.set_timer(Waits::Linger, self.shared.clock.now() + millis(time));
        self.pass_over(connection, state)
    }

    fn pass_over(&mut self, connection: &Arc<Connection>, state: &mut State) -> Outcome {
        let Phase::Linger { passed_over } = &mut state.phase else { return Outcome::Close };
        for _ in 0..IN_A_ROW {
            match self.window.discard(&connection.socket) {
                Ok(n) if n > 0 && *passed_over < LINGER_BYTES => *passed_over += n as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Outcome::Wait,
                _ => return Outcome::Close,
            }
        }
        Outcome::Yield
    }
}
