//! Receives notifications about what other processes change: `LISTEN` on a connection of its own.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fallible_iterator::FallibleIterator;
use postgres::Client;

use super::connect::{self, CONNECT_TIMEOUT, ConnectConfig};
use super::error::describe;
use super::watchdog::{TimeoutCounter, Watchdog, is_response_timeout};

/// How long no notification may arrive before the connection is tested, and how long the test may take. Together they
/// bound how late the loss of the connection is noticed.
const HEARTBEAT: Duration = Duration::from_millis(800);

/// The longest pause between two attempts to reconnect.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A receiver of notifications. Its functions are called on the listening thread and must not block.
pub trait Listener: Send + 'static {
    /// Notifications arrive from now on; earlier ones may have been missed.
    fn connected(&self);
    /// One arrived on this channel.
    fn notified(&self, channel: &str, payload: &str);
    /// None arrive until [`Listener::connected`] is called again. `silently` if the server stopped responding.
    fn lost(&self, reason: &str, silently: bool);
    /// Whether to end.
    fn stopped(&self) -> bool;
}

/// Listens on these channels, over one connection, until the listener says to stop, reconnecting as often as needed. While
/// it is connected, it shares the advisory lock `presence`, by which other processes see that this one lives.
///
/// # Errors
/// The thread could not be started.
pub fn spawn(
    config: ConnectConfig,
    channels: &'static [&'static str],
    presence: i64,
    listener: impl Listener,
) -> std::io::Result<()> {
    let run = move || run(&config, channels, presence, &listener);
    thread::Builder::new().name("listen".to_owned()).spawn(run).map(drop)
}

fn run(config: &ConnectConfig, channels: &[&str], presence: i64, listener: &impl Listener) {
    let mut pause = Duration::from_millis(50);
    while !listener.stopped() {
        match connect(config, channels, presence) {
            Ok((mut client, watchdog)) => {
                listener.connected();
                pause = Duration::from_millis(50);
                let failure = follow(&mut client, &watchdog, presence, listener);
                listener.lost(&describe(&failure), is_response_timeout(&failure));
                watchdog.abort();
            }
            Err(e) => listener.lost(&describe(&e), is_response_timeout(&e)),
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn connect(
    config: &ConnectConfig,
    channels: &[&str],
    presence: i64,
) -> Result<(Client, Arc<Watchdog>), postgres::Error> {
    let (mut client, watchdog) = connect::connect(config, &TimeoutCounter::default())?;
    watchdog.arm(CONNECT_TIMEOUT);
    let listen = channels.iter().map(|channel| format!("LISTEN {channel}"));
    let statements: Vec<String> = listen.chain([hold(presence)]).collect();
    client.batch_execute(&statements.join("; "))?;
    Ok((client, watchdog))
}

/// Takes the advisory lock, unless another connection holds it.
fn hold(presence: i64) -> String {
    format!("SELECT pg_try_advisory_lock_shared({presence})")
}

/// Passes notifications on until the connection breaks; returns why.
fn follow(client: &mut Client, watchdog: &Watchdog, presence: i64, listener: &impl Listener) -> postgres::Error {
    // Also when it is held already, which does no harm: the connection before this one may have held it when this began.
    let heartbeat = hold(presence);
    loop {
        watchdog.disarm();
        let passed_on = pass_on(client, listener);
        watchdog.arm(HEARTBEAT);
        if let Err(e) = passed_on.and_then(|()| client.simple_query(&heartbeat).map(drop)) {
            return e;
        }
    }
}

/// Passes on what arrives, until nothing has arrived for a while.
fn pass_on(client: &mut Client, listener: &impl Listener) -> Result<(), postgres::Error> {
    let mut notifications = client.notifications();
    let mut arriving = notifications.timeout_iter(HEARTBEAT);
    while let Some(notification) = arriving.next()? {
        listener.notified(notification.channel(), notification.payload());
    }
    Ok(())
}
