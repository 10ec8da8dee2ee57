//! The one way in which connections to the database are opened: under a watchdog, and encrypted as the settings say.
//!
//! The driver can be given a TLS library that wraps its socket. It is given one that negotiates with the server itself, so
//! that the watchdog is under the negotiation and the handshake too, and that does not encrypt where that is not wanted.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use postgres::config::{Host, SslNegotiation};
use postgres::error::{DbError, SqlState};
use postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use postgres::{Client, NoTls, Socket};
use r2d2::ManageConnection;
use r2d2_postgres::PostgresConnectionManager;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::TlsConnector;

use super::certificates::end_point;
use super::tls::{Tls, explain};
use super::watchdog::{TimeoutCounter, Watchdog, WatchedStream};
use super::{LOCK_TIMEOUT, STATEMENT_TIMEOUT};
use crate::config::database;

/// How long an attempt to connect may take, up to the first byte; and how long the server may be silent while a connection
/// is established.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The message that asks a server whether it encrypts: its length, and a number in place of a version.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// How to connect.
#[derive(Clone)]
pub struct ConnectConfig {
    driver: postgres::Config,
    tls: Option<Tls>,
}

impl ConnectConfig {
    /// From a URL or a list of `name=value` in libpq's syntax. Reads the certificates that it names.
    ///
    /// # Errors
    /// What is wrong with it, or with a file. The message shows no part of it but names and paths.
    pub fn new(url: &str, application_name: &str) -> Result<ConnectConfig, String> {
        let (mut driver, tls) = database::parse(url)?;
        driver
            .application_name(application_name)
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(Duration::from_secs(30))
            .tcp_user_timeout(STATEMENT_TIMEOUT);
        if driver.get_hosts().is_empty() {
            // The driver wraps the socket only if the host has a name.
            for address in driver.get_hostaddrs().to_vec() {
                driver.host(&address.to_string());
            }
        }
        Ok(ConnectConfig { driver, tls: Tls::load(&tls)? })
    }

    /// What the driver knows of it.
    pub fn driver(&self) -> &postgres::Config {
        &self.driver
    }

    /// Sets the options of the server's command line, such as `-c statement_timeout=0`, after or before those given.
    pub fn set_options(&mut self, options: &str) {
        self.driver.options(options);
    }

    /// Has a function called for each notice that the server sends.
    pub(super) fn on_notice(&mut self, take: impl Fn(DbError) + Send + Sync + 'static) {
        self.driver.notice_callback(take);
    }

    /// Has statements fail that wait for a lock longer than [`LOCK_TIMEOUT`], unless the options say otherwise already.
    pub fn limit_lock_waits(&mut self) {
        let given = self.driver.get_options().unwrap_or_default();
        let options = format!("-c lock_timeout={} {given}", LOCK_TIMEOUT.as_millis());
        self.driver.options(options.trim_end());
    }

    /// Whether the database of this name is on this machine.
    fn is_local(&self, name: &str) -> bool {
        let addresses = self.driver.get_hostaddrs();
        let mut named =
            self.driver.get_hosts().iter().enumerate().filter(|(_, host)| **host == Host::Tcp(name.to_owned()));
        named.all(|(i, _)| addresses.get(i).map_or_else(|| database::is_loopback(name), std::net::IpAddr::is_loopback))
    }
}

/// Connects. The watchdog is left armed with [`CONNECT_TIMEOUT`].
///
/// # Errors
/// Those of the driver; for a time-out, [`is_response_timeout`](super::watchdog::is_response_timeout) is true.
pub(super) fn connect(
    config: &ConnectConfig,
    timeouts: &TimeoutCounter,
) -> Result<(Client, Arc<Watchdog>), postgres::Error> {
    let watchdog = Arc::new(Watchdog::new(timeouts));
    let Some(driver) = wrapping(&config.driver) else {
        // The driver does not wrap Unix sockets.
        let driver = config.driver.clone();
        return Ok((PostgresConnectionManager::new(driver, NoTls).connect()?, watchdog));
    };
    let handshake_failed = Arc::new(AtomicBool::new(false));
    let attempt = |tls: Option<Tls>| {
        let (config, watchdog) = (Arc::new(config.clone()), watchdog.clone());
        let connector =
            Connector { config, tls, watchdog, handshake_failed: handshake_failed.clone(), host: String::new() };
        PostgresConnectionManager::new(driver.clone(), connector).connect()
    };
    // As libpq does: `pg_hba.conf` may allow only connections that are encrypted, or only others.
    let refused = |e: &postgres::Error| e.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
    let client = match &config.tls {
        Some(tls) if tls.is_last_resort => match attempt(None) {
            Err(e) if refused(&e) => attempt(Some(tls.clone())).map_err(|_| e)?,
            outcome => outcome?,
        },
        Some(tls) if !tls.is_required => match attempt(Some(tls.clone())) {
            Err(e) if refused(&e) || handshake_failed.load(Ordering::Acquire) => attempt(None).map_err(|_| e)?,
            outcome => outcome?,
        },
        tls => attempt(tls.clone())?,
    };
    Ok((client, watchdog))
}

/// The settings with which the driver wraps its socket. `None` for a Unix socket.
fn wrapping(driver: &postgres::Config) -> Option<postgres::Config> {
    let mut driver = driver.clone();
    if !driver.get_hosts().iter().all(|host| matches!(host, Host::Tcp(_))) {
        return None;
    }
    // Direct: the driver negotiates nothing with the server before it wraps the socket.
    driver.ssl_mode(postgres::config::SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
    Some(driver)
}

/// Wraps the sockets of the driver.
#[derive(Clone)]
struct Connector {
    config: Arc<ConnectConfig>,
    /// `None` for a connection that is not encrypted.
    tls: Option<Tls>,
    watchdog: Arc<Watchdog>,
    handshake_failed: Arc<AtomicBool>,
    host: String,
}

impl MakeTlsConnect<Socket> for Connector {
    type Stream = Stream;
    type TlsConnect = Connector;
    type Error = io::Error;

    /// Called for each host that is tried.
    fn make_tls_connect(&mut self, host: &str) -> io::Result<Connector> {
        self.watchdog.arm(CONNECT_TIMEOUT);
        Ok(Connector { host: host.to_owned(), ..self.clone() })
    }
}

impl TlsConnect<Socket> for Connector {
    type Stream = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn connect(self, socket: Socket) -> Self::Future {
        let socket = WatchedStream::new(socket, self.watchdog.clone());
        Box::pin(self.open(socket))
    }
}

impl Connector {
    /// Agrees with the server on whether to encrypt, and does so.
    async fn open(self, mut socket: WatchedStream) -> io::Result<Stream> {
        let Some(tls) = &self.tls else {
            match &self.config.tls {
                Some(tls) if tls.is_last_resort => self.warn_of_clear_text("is not asked to encrypt (sslmode=allow)"),
                Some(_) => self.warn_of_clear_text("refuses to encrypt the connection"),
                None => {}
            }
            return Ok(Stream::Clear(socket));
        };
        if self.config.driver.get_ssl_negotiation() == SslNegotiation::Postgres && !ask(&mut socket).await? {
            if tls.is_required {
                return Err(io::Error::other("the database does not encrypt, which sslmode demands"));
            }
            self.warn_of_clear_text("does not encrypt");
            return Ok(Stream::Clear(socket));
        }
        let name = tls.server_name(&self.host)?;
        match TlsConnector::from(tls.client.clone()).connect(name, socket).await {
            Ok(stream) => Ok(Stream::Encrypted(Box::new(stream))),
            Err(e) => {
                let is_own = [io::ErrorKind::TimedOut, io::ErrorKind::ConnectionAborted].contains(&e.kind());
                self.handshake_failed.fetch_or(!is_own, Ordering::AcqRel);
                Err(explain(e))
            }
        }
    }

    /// Logs it, once, where others could read what is sent.
    fn warn_of_clear_text(&self, why: &str) {
        static WARNED: AtomicBool = AtomicBool::new(false);
        if !self.config.is_local(&self.host) && !WARNED.swap(true, Ordering::AcqRel) {
            log::warn!(
                "the database on {} {why}: passwords and data go over the network in clear text. Set sslmode=verify-full, or \
                 sslmode=disable if all who can read that network may read them",
                self.host
            );
        }
    }
}

/// Asks the server whether it encrypts.
async fn ask(socket: &mut WatchedStream) -> io::Result<bool> {
    socket.write_all(&SSL_REQUEST).await?;
    socket.flush().await?;
    let mut answer = [0];
    // Only this byte: what an attacker put behind it is taken for a part of the handshake, and fails it.
    socket.read_exact(&mut answer).await?;
    match answer {
        [b'S'] => Ok(true),
        [b'N'] => Ok(false),
        _ => Err(io::Error::other("what listens there is no PostgreSQL")),
    }
}

/// A connection's stream.
enum Stream {
    Clear(WatchedStream),
    Encrypted(Box<tokio_rustls::client::TlsStream<WatchedStream>>),
}

impl TlsStream for Stream {
    fn channel_binding(&self) -> ChannelBinding {
        let Stream::Encrypted(stream) = self else { return ChannelBinding::none() };
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        certificate.and_then(end_point).map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Clear(socket) => Pin::new(socket).poll_read(cx, buf),
            // In TLS 1.3 the server looks at a client's certificate after the handshake.
            Stream::Encrypted(stream) => Pin::new(stream).poll_read(cx, buf).map_err(explain),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Clear(socket) => Pin::new(socket).poll_write(cx, buf),
            Stream::Encrypted(stream) => Pin::new(stream).poll_write(cx, buf).map_err(explain),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Clear(socket) => Pin::new(socket).poll_flush(cx),
            Stream::Encrypted(stream) => Pin::new(stream).poll_flush(cx).map_err(explain),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Clear(socket) => Pin::new(socket).poll_shutdown(cx),
            Stream::Encrypted(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::watchdog::is_response_timeout;
    use std::net::TcpListener;
    use std::time::Instant;

    fn config(text: &str) -> ConnectConfig {
        ConnectConfig::new(text, "test").unwrap()
    }

    #[test]
    fn connecting_to_an_unresponsive_server_times_out() {
        for mode in ["disable", "prefer", "require"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let began = Instant::now();
            let config = config(&format!("host=127.0.0.1 port={port} user=u sslmode={mode}"));
            let failure = connect(&config, &TimeoutCounter::default()).map(drop).unwrap_err();
            assert!(is_response_timeout(&failure) && began.elapsed() >= CONNECT_TIMEOUT, "{mode}: {failure:?}");
        }
    }

    #[test]
    fn tcp_sockets_are_wrapped_and_unix_sockets_are_not() {
        let wrapped = |text: &str| wrapping(&config(text).driver);
        assert!(wrapped("host=h user=u").is_some());
        assert_eq!(wrapped("hostaddr=127.0.0.1 user=u").unwrap().get_hosts(), [Host::Tcp("127.0.0.1".to_owned())]);
        assert!(wrapped("host=/tmp user=u").is_none());
        assert!(wrapped("host=/tmp user=u sslmode=require").is_none());
    }

    #[test]
    fn loopback_addresses_and_the_name_of_this_machine_are_local() {
        for (text, name, local) in [
            ("host=localhost user=u", "localhost", true),
            ("host=127.0.0.2 user=u", "127.0.0.2", true),
            ("hostaddr=::1 user=u", "::1", true),
            ("host=db user=u hostaddr=127.0.0.1", "db", true),
            ("host=db user=u", "db", false),
            ("host=localhost user=u hostaddr=10.0.0.1", "localhost", false),
        ] {
            assert_eq!(config(text).is_local(name), local, "{text}");
        }
    }
}
