//! Receives notifications about what other processes change: `LISTEN` on a connection of its own.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fallible_iterator::FallibleIterator;
use postgres::Client;

use super::error::describe;
use super::watchdog::{self, TimeoutCounter, Watchdog, is_response_timeout};

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

/// Listens on these channels, over one connection, until the listener says to stop, reconnecting as often as needed.
///
/// # Errors
/// The thread could not be started.
pub fn spawn(
    config: postgres::Config,
    channels: &'static [&'static str],
    listener: impl Listener,
) -> std::io::Result<()> {
    thread::Builder::new().name("listen".to_owned()).spawn(move || run(&config, channels, &listener)).map(drop)
}

fn run(config: &postgres::Config, channels: &[&str], listener: &impl Listener) {
    let mut pause = Duration::from_millis(50);
    while !listener.stopped() {
        match connect(config, channels) {
            Ok((mut client, watchdog)) => {
                listener.connected();
                pause = Duration::from_millis(50);
                let failure = follow(&mut client, &watchdog, listener);
                listener.lost(&describe(&failure), is_response_timeout(&failure));
                watchdog.abort();
            }
            Err(e) => listener.lost(&describe(&e), is_response_timeout(&e)),
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn connect(config: &postgres::Config, channels: &[&str]) -> Result<(Client, Arc<Watchdog>), postgres::Error> {
    let (mut client, watchdog) = watchdog::connect(config, &TimeoutCounter::default())?;
    watchdog.arm(watchdog::CONNECT_TIMEOUT);
    let statements: Vec<String> = channels.iter().map(|channel| format!("LISTEN {channel}")).collect();
    client.batch_execute(&statements.join("; "))?;
    Ok((client, watchdog))
}

/// Passes notifications on until the connection breaks; returns why.
fn follow(client: &mut Client, watchdog: &Watchdog, listener: &impl Listener) -> postgres::Error {
    loop {
        watchdog.disarm();
        let passed_on = pass_on(client, listener);
        watchdog.arm(HEARTBEAT);
        if let Err(e) = passed_on.and_then(|()| client.simple_query("").map(drop)) {
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
