//! A watchdog for a database connection: it fails the connection if the server sends nothing for too long.
//!
//! The driver waits for a response without a time-out, and TCP detects only a machine that is gone, not a server or proxy
//! that hangs, as its kernel still acknowledges what is sent. The driver can be given a TLS library that wraps its socket.
//! This one does not encrypt; it adds a time-out to the socket.

use std::future::{Future, Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postgres::config::{Host, SslMode, SslNegotiation};
use postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use postgres::{Client, NoTls, Socket};
use r2d2::ManageConnection;
use r2d2_postgres::PostgresConnectionManager;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long the server may be silent while a connection is established.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

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

/// Connects. The watchdog is left armed with [`CONNECT_TIMEOUT`].
///
/// # Errors
/// Those of the driver; for a time-out, [`is_response_timeout`] is true.
pub(super) fn connect(
    config: &postgres::Config,
    timeouts: &TimeoutCounter,
) -> Result<(Client, Arc<Watchdog>), postgres::Error> {
    let watchdog =
        Arc::new(Watchdog { pending: Mutex::new(None), aborted: AtomicBool::new(false), timeouts: timeouts.clone() });
    let client = match with_watchdog(config) {
        Some(config) => PostgresConnectionManager::new(config, WatchdogConnector(watchdog.clone())).connect()?,
        None => PostgresConnectionManager::new(config.clone(), NoTls).connect()?,
    };
    Ok((client, watchdog))
}

/// Whether the error is that the server sent nothing in time.
pub(super) fn is_response_timeout(e: &postgres::Error) -> bool {
    use std::error::Error as _;
    let fault = e.source().and_then(|source| source.downcast_ref::<io::Error>());
    fault.is_some_and(|fault| fault.kind() == io::ErrorKind::TimedOut)
}

/// The settings with which the driver wraps its socket in a [`WatchedStream`]. `None` for a Unix socket, which the driver
/// does not wrap, and for `sslmode=require`, which is not supported: the driver then reports that.
fn with_watchdog(config: &postgres::Config) -> Option<postgres::Config> {
    let mut config = config.clone();
    if config.get_hosts().is_empty() {
        // The driver wraps the socket only if the host has a name.
        for address in config.get_hostaddrs().to_vec() {
            config.host(&address.to_string());
        }
    }
    let has_names = config.get_hosts().iter().all(|host| matches!(host, Host::Tcp(_)));
    if !has_names || config.get_ssl_mode() == SslMode::Require {
        return None;
    }
    // Direct: the driver negotiates nothing with the server before it wraps the socket.
    config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    Some(config)
}

impl Watchdog {
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

/// Wraps the sockets of the driver.
#[derive(Clone)]
struct WatchdogConnector(Arc<Watchdog>);

impl MakeTlsConnect<Socket> for WatchdogConnector {
    type Stream = WatchedStream;
    type TlsConnect = WatchdogConnector;
    type Error = io::Error;

    /// Called for each host that is tried.
    fn make_tls_connect(&mut self, _: &str) -> io::Result<WatchdogConnector> {
        self.0.arm(CONNECT_TIMEOUT);
        Ok(WatchdogConnector(self.0.clone()))
    }
}

impl TlsConnect<Socket> for WatchdogConnector {
    type Stream = WatchedStream;
    type Error = io::Error;
    type Future = Ready<io::Result<WatchedStream>>;

    fn connect(self, socket: Socket) -> Self::Future {
        ready(Ok(WatchedStream { socket, watchdog: self.0, timer: None }))
    }
}

/// A socket that fails when the server sends nothing for too long.
struct WatchedStream {
    socket: Socket,
    watchdog: Arc<Watchdog>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl WatchedStream {
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

impl TlsStream for WatchedStream {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that accepts connections and sends nothing.
    fn unresponsive_server() -> (TcpListener, postgres::Config) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = postgres::Config::new();
        config.user("u").host("127.0.0.1").port(listener.local_addr().unwrap().port());
        (listener, config)
    }

    #[test]
    fn connecting_to_an_unresponsive_server_times_out() {
        let (_listener, config) = unresponsive_server();
        let began = Instant::now();
        let failure = connect(&config, &TimeoutCounter::default()).map(drop).unwrap_err();
        assert!(is_response_timeout(&failure) && began.elapsed() >= CONNECT_TIMEOUT, "{failure:?}");
    }

    #[test]
    fn tcp_sockets_are_wrapped_and_unix_sockets_are_not() {
        let configured = |text: &str| with_watchdog(&text.parse().unwrap());
        assert!(configured("host=h user=u").is_some());
        assert_eq!(configured("hostaddr=127.0.0.1 user=u").unwrap().get_hosts(), [Host::Tcp("127.0.0.1".to_owned())]);
        assert!(configured("host=/tmp user=u").is_none());
        assert!(configured("host=h user=u sslmode=require").is_none());
    }

    #[test]
    fn the_time_out_applies_only_while_a_response_is_pending() {
        let timeouts = TimeoutCounter::default();
        let watchdog =
            Watchdog { pending: Mutex::new(None), aborted: AtomicBool::new(false), timeouts: timeouts.clone() };
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
        let watchdog =
            Watchdog { pending: Mutex::new(None), aborted: AtomicBool::new(false), timeouts: timeouts.clone() };
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
