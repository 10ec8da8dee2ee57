//! A watchdog for a database connection: it fails the connection when the server stays silent for too long.
//!
//! The driver waits for an answer for ever, and TCP notices only a machine that is gone: not a server or a proxy that
//! hangs, whose kernel goes on confirming what it is sent. But the driver lets a TLS library stand between itself and
//! the socket. What stands there here encrypts nothing and watches the clock.

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

/// How long one that waits may go on once another connection was found to hear nothing.
const SUSPECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a waiting connection checks its deadline.
const TICK: Duration = Duration::from_millis(100);

/// Counts how often the server was found to say nothing: shared by the lines to one database.
pub(super) type Silences = Arc<AtomicU64>;

/// The watchdog of one connection, shared by its session and its stream.
pub(super) struct Watchdog {
    wait: Mutex<Option<Wait>>,
    aborted: AtomicBool,
    silences: Silences,
}

/// Something was asked, or is about to be.
struct Wait {
    /// When it was asked, or when the last piece of the answer came.
    since: Instant,
    limit: Duration,
    silences: u64,
}

/// Connects. The watchdog is left armed with [`CONNECT_TIMEOUT`].
///
/// # Errors
/// The driver's; where the server said nothing, see [`is_silence`].
pub(super) fn connect(
    config: &postgres::Config,
    silences: &Silences,
) -> Result<(Client, Arc<Watchdog>), postgres::Error> {
    let watchdog =
        Arc::new(Watchdog { wait: Mutex::new(None), aborted: AtomicBool::new(false), silences: silences.clone() });
    let client = match watched(config) {
        Some(config) => PostgresConnectionManager::new(config, Watch(watchdog.clone())).connect()?,
        None => PostgresConnectionManager::new(config.clone(), NoTls).connect()?,
    };
    Ok((client, watchdog))
}

/// Whether the fault is that nothing was heard.
pub(super) fn is_silence(e: &postgres::Error) -> bool {
    use std::error::Error as _;
    let fault = e.source().and_then(|source| source.downcast_ref::<io::Error>());
    fault.is_some_and(|fault| fault.kind() == io::ErrorKind::TimedOut)
}

/// The settings by which the driver puts a [`Watched`] in between. `None` where it would not: on a Unix socket, whose
/// other end is on this machine; and where true TLS is wanted, which there is none of: the driver is to say so.
fn watched(config: &postgres::Config) -> Option<postgres::Config> {
    let mut config = config.clone();
    if config.get_hosts().is_empty() {
        // A host that is given by its number only has no name, without which the driver does nothing of the kind.
        for address in config.get_hostaddrs().to_vec() {
            config.host(&address.to_string());
        }
    }
    let has_names = config.get_hosts().iter().all(|host| matches!(host, Host::Tcp(_)));
    if !has_names || config.get_ssl_mode() == SslMode::Require {
        return None;
    }
    // Direct: nothing is said to the server before the stream is put in between, nor by it.
    config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    Some(config)
}

impl Watchdog {
    /// Arms it before a request: the connection fails when the server sends nothing for `limit`.
    pub(super) fn arm(&self, limit: Duration) {
        let silences = self.silences.load(Ordering::Acquire);
        *self.wait.lock() = Some(Wait { since: Instant::now(), limit, silences });
    }

    /// Disarms it: no response is due, so silence is normal.
    pub(super) fn disarm(&self) {
        *self.wait.lock() = None;
    }

    /// Fails the connection now, so that neither its next use nor its drop waits.
    pub(super) fn abort(&self) {
        self.aborted.store(true, Ordering::Release);
    }

    fn moved(&self) {
        if let Some(wait) = &mut *self.wait.lock() {
            wait.since = Instant::now();
        }
    }

    /// Why it is broken, if it is; else whether something is waited for.
    fn state(&self) -> Result<bool, io::Error> {
        if self.aborted.load(Ordering::Acquire) {
            return Err(io::Error::from(io::ErrorKind::ConnectionAborted));
        }
        let wait = self.wait.lock();
        let Some(wait) = &*wait else { return Ok(false) };
        let is_suspect = self.silences.load(Ordering::Acquire) > wait.silences;
        let limit = if is_suspect { wait.limit.min(SUSPECT_TIMEOUT) } else { wait.limit };
        match wait.since.elapsed() >= limit {
            true => Err(io::Error::new(io::ErrorKind::TimedOut, "the database says nothing")),
            false => Ok(true),
        }
    }
}

/// Puts the stream in between.
#[derive(Clone)]
struct Watch(Arc<Watchdog>);

impl MakeTlsConnect<Socket> for Watch {
    type Stream = Watched;
    type TlsConnect = Watch;
    type Error = io::Error;

    /// Called for each host that is tried.
    fn make_tls_connect(&mut self, _: &str) -> io::Result<Watch> {
        self.0.arm(CONNECT_TIMEOUT);
        Ok(Watch(self.0.clone()))
    }
}

impl TlsConnect<Socket> for Watch {
    type Stream = Watched;
    type Error = io::Error;
    type Future = Ready<io::Result<Watched>>;

    fn connect(self, socket: Socket) -> Self::Future {
        ready(Ok(Watched { socket, watchdog: self.0, alarm: None }))
    }
}

/// A socket that is left when nothing comes.
struct Watched {
    socket: Socket,
    watchdog: Arc<Watchdog>,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    /// What to do instead of waiting for the socket: wait for that and for the clock.
    fn wait<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        loop {
            match self.watchdog.state() {
                Err(e) => return Poll::Ready(Err(e)),
                Ok(false) => return Poll::Pending,
                Ok(true) => {}
            }
            let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep(TICK)));
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            alarm.as_mut().reset(tokio::time::Instant::now() + TICK);
        }
    }

    fn is_cut(&self) -> io::Result<()> {
        match self.watchdog.aborted.load(Ordering::Acquire) {
            true => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
            false => Ok(()),
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.is_cut()?;
        match Pin::new(&mut self.socket).poll_read(cx, buf) {
            Poll::Pending => self.wait(cx),
            done @ Poll::Ready(_) => {
                self.watchdog.moved();
                done
            }
        }
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.is_cut()?;
        match Pin::new(&mut self.socket).poll_write(cx, bytes) {
            Poll::Pending => self.wait(cx),
            done @ Poll::Ready(_) => {
                self.watchdog.moved();
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

impl TlsStream for Watched {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that accepts, and never says a word.
    fn mute() -> (TcpListener, postgres::Config) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut config = postgres::Config::new();
        config.user("u").host("127.0.0.1").port(listener.local_addr().unwrap().port());
        (listener, config)
    }

    #[test]
    fn a_greeting_that_never_comes_is_not_waited_for() {
        let (_listener, config) = mute();
        let began = Instant::now();
        let failure = connect(&config, &Silences::default()).map(drop).unwrap_err();
        assert!(is_silence(&failure) && began.elapsed() >= CONNECT_TIMEOUT, "{failure:?}");
    }

    #[test]
    fn addresses_count_as_names_and_sockets_of_this_machine_are_left_alone() {
        let watched = |text: &str| watched(&text.parse().unwrap());
        assert!(watched("host=h user=u").is_some());
        assert_eq!(watched("hostaddr=127.0.0.1 user=u").unwrap().get_hosts(), [Host::Tcp("127.0.0.1".to_owned())]);
        assert!(watched("host=/tmp user=u").is_none());
        assert!(watched("host=h user=u sslmode=require").is_none());
    }

    #[test]
    fn a_line_is_overdue_only_while_something_is_asked() {
        let silences = Silences::default();
        let watchdog = Watchdog { wait: Mutex::new(None), aborted: AtomicBool::new(false), silences: silences.clone() };
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
    fn a_silence_elsewhere_makes_waits_shorter() {
        let silences = Silences::default();
        let watchdog = Watchdog { wait: Mutex::new(None), aborted: AtomicBool::new(false), silences: silences.clone() };
        let long_ago = Instant::now().checked_sub(SUSPECT_TIMEOUT).unwrap();
        watchdog.arm(Duration::from_secs(60));
        watchdog.wait.lock().as_mut().unwrap().since = long_ago;
        assert!(watchdog.state().unwrap());
        silences.fetch_add(1, Ordering::Release);
        assert_eq!(watchdog.state().unwrap_err().kind(), io::ErrorKind::TimedOut);
        watchdog.arm(Duration::from_secs(60));
        watchdog.wait.lock().as_mut().unwrap().since = long_ago;
        assert!(watchdog.state().unwrap(), "what is asked later is not suspect");
    }
}
