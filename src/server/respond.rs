//! Handles one request: calls the handler, and writes its response.

use std::borrow::Cow;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::blocking::{self, Party, Refused, Wait};
use crate::http::response::StreamFn;
use crate::http::{Body, Content, Deferred, Framing, Notifier, Request, Response, StartWaiting};
use crate::memory_budget::{self, Reservation};

use super::connection::{
    AfterResponse, Connection, ConnectionState, Deferral, DeferredResponse, Phase, PostponedRequest,
};
use super::outgoing::{self, ClientCapabilities, ResponseFraming};
use super::stream::{self, BlockingSocket, BodyWriter, StreamedBody, StreamedBodyReader};
use super::turn::Step;
use super::worker::Worker;

/// A body of up to this many bytes is copied into the output buffer, where the responses to pipelined requests collect.
const MAX_COPIED: usize = 16 * 1024;

/// A body that is produced while it is sent.
enum Source {
    Reader(Box<dyn Read + Send>, u64),
    Stream(StreamFn),
}

impl Worker {
    /// Serves the worker's request, whose body is in memory.
    pub(super) fn serve(&mut self, connection: &Arc<Connection>, state: &mut ConnectionState) -> Step {
        let client = ClientCapabilities::new(&self.request.head);
        let _client = blocking::set_client(Some(Arc::clone(connection) as blocking::Client));
        self.context.start_request();
        let has_earlier = !self.output.is_empty();
        if has_earlier {
            self.context.keep_responses(connection, &mut self.output);
        }
        let mut response = self.call(connection, connection.party(state));
        if has_earlier {
            self.context.take_back_responses(&mut self.output);
        }
        if let Some(start) = response.postponed.take() {
            let memory = self.reserved();
            self.context.leave_handler();
            return self.postpone(connection, state, start, memory);
        }
        let step = self.respond(connection, state, response, client, true);
        self.context.leave_handler();
        (self.request.body, self.request.postponed) = (Body::default(), None);
        step
    }

    /// Serves a request whose body is too large to be collected: the handler reads it from the socket.
    pub(super) fn stream_body(
        &mut self,
        connection: &Arc<Connection>,
        state: &mut ConnectionState,
        continue_due: bool,
    ) -> Step {
        let Some(collected) = state.take_body() else { return Step::Cut };
        connection.begin_transfer(collected.memory.holder());
        let (mut decoder, mut start) = (collected.decoder, collected.body);
        memory_budget::put(collected.memory);
        self.request = collected.request;
        let declared = match self.request.head.framing() {
            Framing::Length(n) => Some(n),
            _ => None,
        };
        if declared.is_some() {
            match decoder.decode(self.input.bytes(), &mut start, usize::MAX) {
                Ok(used) => self.input.consume(used),
                Err(_) => return Step::Cut,
            }
        }
        let (raw, settings) = (self.input.take(), &self.shared.settings);
        let body = StreamedBody::new(Arc::clone(connection), decoder, raw, continue_due, settings);
        let body = Arc::new(Mutex::new(body));
        self.request.body = Body::streamed(start, Box::new(StreamedBodyReader(Arc::clone(&body))), declared);
        let client = ClientCapabilities::new(&self.request.head);
        let _client = blocking::set_client(Some(Arc::clone(connection) as blocking::Client));
        self.context.start_request();
        let party = connection.party(state);
        blocking::set_party(party);
        let response = blocking::block_in_place(Wait::Upload, || self.call_blocking(connection, party));
        let step = match response {
            Ok(Err(_)) => Step::Cut,
            Ok(Ok(response)) => {
                let body_received = body.lock().is_finished();
                self.respond(connection, state, response, client, body_received)
            }
            Err(refused) => self.respond(connection, state, self.busy(refused), client, false),
        };
        self.context.leave_handler();
        state.received = body.lock().close();
        self.input.load(&mut state.received);
        self.request.body = Body::default();
        step
    }

    fn call_blocking(&mut self, connection: &Arc<Connection>, party: Party) -> io::Result<Response> {
        let _blocking = BlockingSocket::start(connection, &self.shared.settings)?;
        // Earlier responses must come before the `100 Continue` of this request.
        BodyWriter::new(connection, false, &self.shared.settings).send([&self.output, b"", b""])?;
        self.output.clear();
        Ok(self.call(connection, party))
    }

    /// Calls the handler for a party; a panic becomes a 500.
    fn call(&mut self, connection: &Connection, party: Party) -> Response {
        self.request.peer = connection.peer;
        blocking::set_party(party);
        let request = &mut self.request;
        catch_unwind(AssertUnwindSafe(|| (connection.handler)(request))).unwrap_or_else(|panic| {
            log::error!("a handler panicked at {:?}: {}", self.request, message(&*panic));
            self.shared.own(Response::detail(500, "Internal Server Error"), &self.request)
        })
    }

    /// Writes a response into the output buffer, or defers it. One whose body is produced while it is sent is sent
    /// before this returns.
    fn respond(
        &mut self,
        connection: &Arc<Connection>,
        state: &mut ConnectionState,
        mut response: Response,
        client: ClientCapabilities,
        body_received: bool,
    ) -> Step {
        if let Some(deferred) = response.deferred.take() {
            return self.defer(connection, state, deferred, response, client, body_received);
        }
        let (framing, source) = match std::mem::take(&mut response.content) {
            Content::Empty => (ResponseFraming::Length(0), None),
            Content::LeftOut => (ResponseFraming::Unknown, None),
            Content::Bytes(bytes) => {
                return self.respond_bytes(connection, state, response, bytes, client, body_received);
            }
            Content::Reader(reader, length) => (ResponseFraming::Length(length), Some(Source::Reader(reader, length))),
            Content::Stream(write) if client.http_10 => (ResponseFraming::ByClose, Some(Source::Stream(write))),
            Content::Stream(write) => (ResponseFraming::Chunked, Some(Source::Stream(write))),
        };
        let source = source.filter(|_| !client.no_body && !outgoing::is_bodiless(response.status));
        let before = self.output.len();
        let after = self.write_head(&response, framing, client, body_received);
        let Some(source) = source else { return self.answered(connection, state, after) };
        match blocking::block_in_place(Wait::Model, || self.send_source(connection, framing, source)) {
            Ok(Ok(())) => Step::Answered(after),
            Ok(Err(e)) => {
                log::debug!("a response was cut off: {e}");
                Step::Cut
            }
            Err(refused) => {
                self.output.truncate(before);
                self.respond(connection, state, self.busy(refused), client, body_received)
            }
        }
    }

    /// Keeps the worker's request until the notifier that `start` gets is called. Its handler is called again then.
    fn postpone(
        &mut self,
        connection: &Arc<Connection>,
        state: &mut ConnectionState,
        start: StartWaiting,
        mut memory: Reservation,
    ) -> Step {
        if memory.grow_to(self.request.body.buffered_bytes()).is_err() {
            let client = ClientCapabilities::new(&self.request.head);
            let step = self.respond(connection, state, self.busy(Refused::Full), client, true);
            self.request = Request::default();
            return step;
        }
        let request = std::mem::take(&mut self.request);
        start(self.notifier(connection));
        let postponed = PostponedRequest { request, is_late: false, memory };
        state.phase = Phase::Deferred(Box::new(Deferral::Request(postponed)));
        Step::Deferred
    }

    /// What was reserved for the request that this thread works on.
    pub(super) fn reserved(&self) -> Reservation {
        memory_budget::take().unwrap_or_else(|| Reservation::new(&self.shared.memory, blocking::party()))
    }

    /// Gives the connection its next turn when it is called.
    fn notifier(&self, connection: &Arc<Connection>) -> Notifier {
        connection.completion.reset();
        let (shared, waiting) = (Arc::clone(&self.shared), Arc::clone(connection));
        Box::new(move || {
            waiting.completion.set();
            shared.schedule(&waiting);
        })
    }

    /// Keeps a response until its notifier is called. No thread waits for that.
    fn defer(
        &mut self,
        connection: &Arc<Connection>,
        state: &mut ConnectionState,
        deferred: Deferred<Response>,
        response: Response,
        client: ClientCapabilities,
        body_received: bool,
    ) -> Step {
        let mut memory = self.reserved();
        memory.set(match &response.content {
            Content::Bytes(Cow::Owned(bytes)) => bytes.capacity(),
            _ => 0,
        });
        if self.shared.memory.is_exceeded() {
            memory_budget::put(memory);
            let response = Response { deferred: Some(deferred), ..response };
            let completed = blocking::block_in_place(Wait::Database, || response.wait())
                .unwrap_or_else(|refused| self.busy(refused));
            return self.respond(connection, state, completed, client, body_received);
        }
        let notifier = self.notifier(connection);
        match catch_unwind(AssertUnwindSafe(|| deferred.start(notifier))) {
            Ok(completion) => {
                let deferred = DeferredResponse { completion, response, client, body_received, memory };
                state.phase = Phase::Deferred(Box::new(Deferral::Response(deferred)));
                Step::Deferred
            }
            Err(panic) => self.respond(connection, state, self.panicked(&*panic), client, body_received),
        }
    }

    /// Completes a deferred response, and writes the result; or calls the handler of a postponed request again.
    pub(super) fn complete(
        &mut self,
        connection: &Arc<Connection>,
        state: &mut ConnectionState,
        deferred: Deferral,
    ) -> Step {
        let deferred = match deferred {
            Deferral::Response(deferred) => deferred,
            Deferral::Request(postponed) if postponed.is_late => {
                let client = ClientCapabilities::new(&postponed.request.head);
                drop(postponed);
                let response = Response { close: true, ..self.busy(Refused::Full) };
                return self.respond(connection, state, response, client, true);
            }
            Deferral::Request(postponed) => {
                self.request = postponed.request;
                memory_budget::put(postponed.memory);
                return self.serve(connection, state);
            }
        };
        let DeferredResponse { completion, response, client, body_received, memory } = deferred;
        memory_budget::put(memory);
        let close = response.close;
        self.context.enter_handler();
        let completed = catch_unwind(AssertUnwindSafe(|| completion.complete(response)));
        let mut response = completed.unwrap_or_else(|panic| self.panicked(&*panic));
        response.close |= close;
        let step = self.respond(connection, state, response, client, body_received);
        self.context.leave_handler();
        step
    }

    fn respond_bytes(
        &mut self,
        connection: &Arc<Connection>,
        state: &mut ConnectionState,
        response: Response,
        bytes: Cow<'static, [u8]>,
        client: ClientCapabilities,
        body_received: bool,
    ) -> Step {
        let after = self.write_head(&response, ResponseFraming::Length(bytes.len() as u64), client, body_received);
        if client.no_body || outgoing::is_bodiless(response.status) {
        } else if bytes.len() <= MAX_COPIED {
            self.output.extend_from_slice(&bytes);
        } else if self.send(connection, state, bytes).is_err() {
            return Step::Cut;
        }
        self.answered(connection, state, after)
    }

    fn answered(&mut self, connection: &Connection, state: &mut ConnectionState, after: AfterResponse) -> Step {
        match self.send_if_large(connection, state) {
            Ok(()) => Step::Answered(after),
            Err(_) => Step::Cut,
        }
    }

    /// Writes the head of a response into the output buffer. Returns what follows the response.
    fn write_head(
        &mut self,
        response: &Response,
        framing: ResponseFraming,
        client: ClientCapabilities,
        body_received: bool,
    ) -> AfterResponse {
        let server_closes = response.close || !body_received || self.shared.is_stopping();
        let is_by_close = match framing {
            ResponseFraming::ByClose => true,
            ResponseFraming::Unknown => !client.no_body,
            ResponseFraming::Length(_) | ResponseFraming::Chunked => false,
        };
        let close = server_closes || !client.keep_alive || is_by_close;
        let date = self.date.at(self.shared.clock.unix_seconds());
        outgoing::write_head(&mut self.output, response, framing, client, close, date);
        match close {
            false => AfterResponse::KeepAlive,
            // A client that asked for the connection to be closed usually sends nothing more.
            true if !server_closes && self.input.is_empty() => AfterResponse::Close,
            true => AfterResponse::Linger,
        }
    }

    /// Writes the response to a request that could not be parsed or received. The connection ends after it.
    pub(super) fn write_refusal(&mut self, response: &Response) {
        let client = ClientCapabilities { no_body: false, http_10: false, keep_alive: false };
        let Content::Bytes(bytes) = &response.content else { return };
        self.write_head(response, ResponseFraming::Length(bytes.len() as u64), client, false);
        self.output.extend_from_slice(bytes);
    }

    fn panicked(&self, panic: &(dyn std::any::Any + Send)) -> Response {
        log::error!("a deferred response panicked: {}", message(panic));
        self.shared.own(Response::detail(500, "Internal Server Error"), &self.request)
    }

    /// Refuses the worker's request, as too many wait.
    fn busy(&self, refused: Refused) -> Response {
        let response = match refused {
            Refused::Full => Response::detail(503, "Service Unavailable"),
            Refused::ShareIsUsed => Response::detail(429, "Too many requests of this account are waiting"),
        };
        self.shared.own(response.header("Retry-After", "1"), &self.request)
    }

    /// Sends the output buffer, and a body while it is produced. After an error, the connection must be closed at once,
    /// so that the client sees that the body is incomplete.
    fn send_source(&mut self, connection: &Connection, framing: ResponseFraming, source: Source) -> io::Result<()> {
        let settings = &self.shared.settings;
        let _blocking = BlockingSocket::start(connection, settings)?;
        if let Some(holder) = memory_budget::holder() {
            connection.begin_transfer(holder);
        }
        let mut writer = BodyWriter::new(connection, framing == ResponseFraming::Chunked, settings);
        writer.send([&self.output, b"", b""])?;
        // It may take minutes, and there may be thousands.
        self.output = Vec::new();
        self.input.free();
        let produced = catch_unwind(AssertUnwindSafe(|| match source {
            Source::Reader(mut reader, length) => stream::copy(&mut *reader, length, &mut writer),
            Source::Stream(write) => write(&mut writer),
        }));
        connection.end_transfer();
        match produced {
            Ok(Ok(())) if !writer.failed => writer.finish(),
            Ok(Ok(())) => Err(io::ErrorKind::BrokenPipe.into()),
            Ok(Err(e)) => Err(e),
            Err(panic) => {
                log::error!("the writer of a response panicked: {}", message(&*panic));
                Err(io::Error::other("panic"))
            }
        }
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
