//! A watchdog for a database connection: it fails the connection if the server sends nothing for too long.
//!
//! The driver waits for a response without a time-out, and TCP detects only a machine that is gone, not a server or proxy
//! that hangs, as its kernel still acknowledges what is sent. [`WatchedStream`] adds a time-out to the socket.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postgres::Socket;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The time-out of a response once another connection to the same database has timed out.
const SUSPECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a waiting connection checks its deadline.
const TICK: Duration = Duration::from_millis(100);

/// Counts time-outs. It is shared by all connections to one database.
pub(super) type TimeoutCounter = Arc<AtomicU64>;

/// The watchdog of one connection, shared by its session and its stream.
pub(super) struct Watchdog {
    pending: Mutex<Option<PendingResponse>>,
    aborted: AtomicBool,
    timeouts: TimeoutCounter,
}

/// A response that the server has to send.
struct PendingResponse {
    /// When the request was sent, or when the last bytes of the response were received.
    since: Instant,
    limit: Duration,
    timeouts: u64,
}

/// Whether the error is that the server sent nothing in time.
pub(super) fn is_response_timeout(e: &postgres::Error) -> bool {
    use std::error::Error as _;
    let fault = e.source().and_then(|source| source.downcast_ref::<io::Error>());
    fault.is_some_and(|fault| fault.kind() == io::ErrorKind::TimedOut)
}

impl Watchdog {
    /// It is disarmed at first.
    pub(super) fn new(timeouts: &TimeoutCounter) -> Watchdog {
        Watchdog { pending: Mutex::new(None), aborted: AtomicBool::new(false), timeouts: timeouts.clone() }
    }

    /// Arms it before a request: the connection fails when the server sends nothing for `limit`.
    pub(super) fn arm(&self, limit: Duration) {
        let timeouts = self.timeouts.load(Ordering::Acquire);
        *self.pending.lock() = Some(PendingResponse { since: Instant::now(), limit, timeouts });
    }

    /// Disarms it: no response is due, so silence is normal.
    pub(super) fn disarm(&self) {
        *self.pending.lock() = None;
    }

    /// Fails the connection now, so that neither its next use nor its drop waits.
    pub(super) fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
    }

    fn progressed(&self) {
        if let Some(wait) = &mut *self.pending.lock() {
            wait.since = Instant::now();
        }
    }

    /// Whether a response is pending; an error if the connection must not be used further.
    fn state(&self) -> Result<bool, io::Error> {
        if self.aborted.load(Ordering::Acquire) {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
        }
        let wait = self.pending.lock();
        let Some(wait) = &*wait else { return Ok(false) };
        let is_suspect = self.timeouts.load(Ordering::Acquire) > wait.timeouts;
        let limit = if is_suspect { wait.limit.min(SUSPECT_TIMEOUT) } else { wait.limit };
        match wait.since.elapsed() >= limit {
            true => Err(io::Error::new(io::ErrorKind::TimedOut, "the database does not respond")),
            false => Ok(true),
        }
    }
}

/// A socket that fails when the server sends nothing for too long.
pub(super) struct WatchedStream {
    socket: Socket,
    watchdog: Arc<Watchdog>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl WatchedStream {
    pub(super) fn new(socket: Socket, watchdog: Arc<Watchdog>) -> WatchedStream {
        WatchedStream { socket, watchdog, timer: None }
    }

    /// Waits for the socket and for the time-out.
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            match self.watchdog.state() {
                Err(e) => return Poll::Ready(Err(e)),
                Ok(false) => return Poll::Pending,
                Ok(true) => {}
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(TICK)));
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            timer.as_mut().reset(tokio::time::Instant::now() + TICK);
        }
    }

    fn check_not_aborted(&self) -> io::Result<()> {
        match self.watchdog.aborted.load(Ordering::Acquire) {
            true => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
            false => Ok(()),
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_not_aborted()?;
        match Pin::new(&mut self.socket).poll_read(cx, buf) {
            Poll::Pending => self.wait(cx),
            done @ Poll::Ready(_) => {
                self.watchdog.progressed();
                done
            }
        }
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check_not_aborted()?;
        match Pin::new(&mut self.socket).poll_write(cx, bytes) {
            Poll::Pending => self.wait(cx),
            done @ Poll::Ready(_) => {
                self.watchdog.progressed();
                done
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.socket).poll_flush(cx) {
            Poll::Pending => self.wait(cx),
            done @ Poll::Ready(_) => done,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.socket).poll_shutdown(cx) {
            Poll::Pending => self.wait(cx),
            done @ Poll::Ready(_) => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_out_applies_only_while_a_response_is_pending() {
        let watchdog = Watchdog::new(&TimeoutCounter::default());
        assert!(!watchdog.state().unwrap());
        watchdog.arm(Duration::from_secs(60));
        assert!(watchdog.state().unwrap());
        watchdog.arm(Duration::ZERO);
        assert_eq!(watchdog.state().unwrap_err().kind(), io::ErrorKind::TimedOut);
        watchdog.disarm();
        assert!(!watchdog.state().unwrap());
        watchdog.abort();
        assert_eq!(watchdog.state().unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }

    #[test]
    fn a_time_out_of_another_connection_shortens_the_time_out() {
        let timeouts = TimeoutCounter::default();
        let watchdog = Watchdog::new(&timeouts);
        let long_ago = Instant::now().checked_sub(SUSPECT_TIMEOUT).unwrap();
        watchdog.arm(Duration::from_secs(60));
        watchdog.pending.lock().as_mut().unwrap().since = long_ago;
        assert!(watchdog.state().unwrap());
        timeouts.fetch_add(1, Ordering::Release);
        assert_eq!(watchdog.state().unwrap_err().kind(), io::ErrorKind::TimedOut);
        watchdog.arm(Duration::from_secs(60));
        watchdog.pending.lock().as_mut().unwrap().since = long_ago;
        assert!(watchdog.state().unwrap(), "later requests get the full time-out");
    }
}
