//! One request that can be served: calls the handler, and turns its reply into bytes.

use std::borrow::Cow;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;

use crate::blocking::{self, Busy};
use crate::http::response::StreamFn;
use crate::http::{Body, Content, Deferred, Framing, Response};

use super::Shared;
use super::connection::{Connection, Phase, State, Then, Waiting};
use super::exchange::Step;
use super::incoming::Share;
use super::outgoing::{self, Framed, Terms};
use super::stream::{self, Blocking, Feed, FeedReader, PieceWriter};
use super::worker::Worker;

/// A body up to this many bytes is copied behind its head, so that the reply is one system call.
const COPIED: usize = 16 * 1024;

/// A body that is made while it is sent.
enum Source {
    Reader(Box<dyn Read + Send>, u64),
    Stream(StreamFn),
}

impl Worker {
    /// Serves the worker's request, whose body is in memory.
    pub(super) fn serve(&mut self, connection: &Arc<Connection>, state: &mut State) -> Step {
        let terms = Terms::of(&self.request.head);
        let _client = blocking::set_client(Some(Arc::clone(connection) as blocking::Client));
        self.seat.start_request();
        let lent = !self.out.is_empty();
        if lent {
            self.seat.lend(connection, &mut self.out);
        }
        let response = self.call(connection);
        if lent {
            self.seat.give_back(&mut self.out);
        }
        let step = self.reply(connection, state, response, terms, true);
        self.seat.end();
        self.request.body = Body::default();
        step
    }

    /// Serves a request whose body is too large to be gathered: the handler reads it from the socket.
    pub(super) fn stream_body(&mut self, connection: &Arc<Connection>, state: &mut State, waiting: bool) -> Step {
        let Some(gathering) = state.take_gathering() else { return Step::Cut };
        let (mut coding, mut body) = (gathering.coding, gathering.body);
        self.request = gathering.request;
        let declared = match self.request.head.framing() {
            Framing::Length(n) => Some(n),
            _ => None,
        };
        if declared.is_some() {
            match coding.decode(self.window.bytes(), &mut body, usize::MAX) {
                Ok(used) => self.window.consume(used),
                Err(_) => return Step::Cut,
            }
        }
        let feed = Feed::new(Arc::clone(connection), coding, self.window.take(), waiting, &self.shared.settings);
        let feed = Arc::new(Mutex::new(feed));
        self.request.body = Body::streamed(body, Box::new(FeedReader(Arc::clone(&feed))), declared);
        let terms = Terms::of(&self.request.head);
        let _client = blocking::set_client(Some(Arc::clone(connection) as blocking::Client));
        self.seat.start_request();
        let response = match Streaming::begin(&self.shared) {
            Ok(_streaming) => blocking::block_in_place(|| self.call_blocking(connection)),
            Err(busy) => Err(busy),
        };
        let step = match response {
            Ok(Err(_)) => Step::Cut,
            Ok(Ok(response)) => {
                let all_read = feed.lock().is_finished();
                self.reply(connection, state, response, terms, all_read)
            }
            Err(Busy) => self.reply(connection, state, busy(), terms, false),
        };
        self.seat.end();
        state.input = feed.lock().close();
        self.window.load(&mut state.input);
        self.request.body = Body::default();
        step
    }

    fn call_blocking(&mut self, connection: &Arc<Connection>) -> io::Result<Response> {
        let _blocking = Blocking::start(connection, &self.shared.settings)?;
        // Earlier replies come before a `100 Continue` of this one.
        PieceWriter::new(connection, false, &self.shared.settings).send([&self.out, b"", b""])?;
        self.out.clear();
        Ok(self.call(connection))
    }

    fn call(&mut self, connection: &Connection) -> Response {
        self.request.peer = connection.peer;
        let request = &mut self.request;
        catch_unwind(AssertUnwindSafe(|| (connection.handler)(request))).unwrap_or_else(|panic| {
            log::error!("a handler panicked at {:?}: {}", self.request, message(&*panic));
            Response::detail(500, "Internal Server Error")
        })
    }

    /// Writes a reply; one whose body is made on the way is sent before this returns.
    fn reply(
        &mut self,
        connection: &Arc<Connection>,
        state: &mut State,
        mut response: Response,
        terms: Terms,
        all_read: bool,
    ) -> Step {
        if let Some(hold) = response.deferred.take() {
            return self.hold_back(connection, state, hold, response, terms, all_read);
        }
        let (framed, source) = match std::mem::take(&mut response.content) {
            Content::Empty => (Framed::Length(0), None),
            Content::Bytes(bytes) => return self.reply_bytes(connection, state, response, bytes, terms, all_read),
            Content::Reader(reader, length) => (Framed::Length(length), Some(Source::Reader(reader, length))),
            Content::Stream(write) if terms.http_10 => (Framed::ByClose, Some(Source::Stream(write))),
            Content::Stream(write) => (Framed::Chunked, Some(Source::Stream(write))),
        };
        let source = source.filter(|_| !terms.no_body && !outgoing::is_bodiless(response.status));
        let before = self.out.len();
        let then = self.write_head(&response, framed, terms, all_read);
        let Some(source) = source else { return self.answered(connection, state, then) };
        match blocking::block_in_place(|| self.send_source(connection, framed, source)) {
            Ok(Ok(())) => Step::Answered(then),
            Ok(Err(e)) => {
                log::debug!("a reply was cut off: {e}");
                Step::Cut
            }
            Err(Busy) => {
                self.out.truncate(before);
                self.reply(connection, state, busy(), terms, all_read)
            }
        }
    }

    /// Keeps a reply until the signal is given. The thread is free for others meanwhile.
    fn hold_back(
        &mut self,
        connection: &Arc<Connection>,
        state: &mut State,
        hold: Deferred,
        response: Response,
        terms: Terms,
        all_read: bool,
    ) -> Step {
        let mut share = Share::of(&self.shared.held);
        if let Content::Bytes(Cow::Owned(bytes)) = &response.content {
            share.set(bytes.capacity());
        }
        if self.shared.held.bytes() > self.shared.settings.max_unsent_total {
            let response = Response { deferred: Some(hold), ..response };
            let settled = blocking::block_in_place(|| response.wait()).unwrap_or_else(|Busy| busy());
            return self.reply(connection, state, settled, terms, all_read);
        }
        connection.set_decided(false);
        let (shared, held_up) = (Arc::clone(&self.shared), Arc::clone(connection));
        let signal = Box::new(move || {
            held_up.set_decided(true);
            shared.nudge(&held_up);
        });
        match catch_unwind(AssertUnwindSafe(|| hold.start(signal))) {
            Ok(held) => {
                state.phase = Phase::Held(Box::new(Waiting { held, response, terms, all_read, _share: share }));
                Step::Held
            }
            Err(panic) => self.reply(connection, state, panicked(&*panic), terms, all_read),
        }
    }

    /// Sends what was held, or what takes its place.
    pub(super) fn release(&mut self, connection: &Arc<Connection>, state: &mut State, waiting: Waiting) -> Step {
        let Waiting { held, response, terms, all_read, _share } = waiting;
        let close = response.close;
        self.seat.start();
        let decided = catch_unwind(AssertUnwindSafe(|| held.complete(response)));
        let mut response = decided.unwrap_or_else(|panic| panicked(&*panic));
        response.close |= close;
        let step = self.reply(connection, state, response, terms, all_read);
        self.seat.end();
        step
    }

    fn reply_bytes(
        &mut self,
        connection: &Arc<Connection>,
        state: &mut State,
        response: Response,
        bytes: Cow<'static, [u8]>,
        terms: Terms,
        all_read: bool,
    ) -> Step {
        let then = self.write_head(&response, Framed::Length(bytes.len() as u64), terms, all_read);
        if terms.no_body || outgoing::is_bodiless(response.status) {
        } else if bytes.len() <= COPIED {
            self.out.extend_from_slice(&bytes);
        } else if self.send(connection, state, bytes).is_err() {
            return Step::Cut;
        }
        self.answered(connection, state, then)
    }

    fn answered(&mut self, connection: &Connection, state: &mut State, then: Then) -> Step {
        match self.send_if_large(connection, state) {
            Ok(()) => Step::Answered(then),
            Err(_) => Step::Cut,
        }
    }

    /// Writes the head of a reply into the output buffer, and says what comes after the reply.
    fn write_head(&mut self, response: &Response, framed: Framed, terms: Terms, all_read: bool) -> Then {
        let ours = response.close || !all_read || self.shared.is_stopping();
        let close = ours || !terms.keep_alive || framed == Framed::ByClose;
        let date = self.date.at(self.shared.clock.unix_seconds());
        outgoing::write_head(&mut self.out, response, framed, terms, close, date);
        match close {
            false => Then::GoOn,
            // A client that asked for the end sends nothing more, as a rule.
            true if !ours && self.window.is_empty() => Then::Close,
            true => Then::Linger,
        }
    }

    /// Writes a reply that ends the connection, to a request that was not understood.
    pub(super) fn write_refusal(&mut self, response: &Response) {
        let terms = Terms { no_body: false, http_10: false, keep_alive: false };
        let Content::Bytes(bytes) = &response.content else { return };
        self.write_head(response, Framed::Length(bytes.len() as u64), terms, false);
        self.out.extend_from_slice(bytes);
    }

    /// Sends the output buffer and a body that is made on the way; on an error the client must see it cut off.
    fn send_source(&mut self, connection: &Connection, framed: Framed, source: Source) -> io::Result<()> {
        let settings = &self.shared.settings;
        let _blocking = Blocking::start(connection, settings)?;
        let mut writer = PieceWriter::new(connection, framed == Framed::Chunked, settings);
        writer.send([&self.out, b"", b""])?;
        self.out.clear();
        let made = catch_unwind(AssertUnwindSafe(|| match source {
            Source::Reader(mut reader, length) => stream::copy(&mut *reader, length, &mut writer),
            Source::Stream(write) => write(&mut writer),
        }));
        match made {
            Ok(Ok(())) if !writer.failed => writer.finish(),
            Ok(Ok(())) => Err(io::ErrorKind::BrokenPipe.into()),
            Ok(Err(e)) => Err(e),
            Err(panic) => {
                log::error!("the writer of a reply panicked: {}", message(&*panic));
                Err(io::Error::other("panic"))
            }
        }
    }
}

/// One of the bodies that threads wait for. They have half of the threads that may wait, so that clients who send slowly
/// leave the other half to hashes and upstreams.
struct Streaming(Arc<Shared>);

impl Streaming {
    fn begin(shared: &Arc<Shared>) -> Result<Streaming, Busy> {
        let streaming = Streaming(Arc::clone(shared));
        if shared.streaming.fetch_add(1, Relaxed) < shared.settings.max_blocked.div_ceil(2) {
            return Ok(streaming);
        }
        shared.crew.refused.fetch_add(1, Relaxed);
        Err(Busy)
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.0.streaming.fetch_sub(1, Relaxed);
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Response {
    log::error!("what a reply waited for panicked: {}", message(panic));
    Response::detail(500, "Internal Server Error")
}

fn busy() -> Response {
    Response::detail(503, "Service Unavailable").header("Retry-After", "1")
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
