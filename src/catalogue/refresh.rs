//! Keeps [`Models`] up to date: reads the stored catalogue and the prices when they have changed, and asks the servers
//! of the settings for their lists of models.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::db::{self, Database};
use crate::store::catalogue as store;
use crate::usage::Meter;

use super::models::Models;

/// How often the stored catalogue is read while changes are not heard of, and how soon it is seen that the process ends.
const INTERVAL: Duration = Duration::from_secs(2);
/// The pause after the stored catalogue could not be read.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);
/// Most lists of models that are asked for at once.
const MAX_ASKED_AT_ONCE: usize = 16;

/// Keeps the models up to date.
pub struct Refresher {
    models: Arc<Models>,
    meter: Arc<Meter>,
    signal: Mutex<Signal>,
    wake: Condvar,
}

struct Signal {
    /// The stored catalogue has changed, or may have.
    is_stale: bool,
    /// Changes are heard of.
    is_listening: bool,
}

impl Refresher {
    /// For these models, whose stored catalogue is yet to be read, and whose prices the meter has.
    pub fn new(models: Arc<Models>, meter: Arc<Meter>) -> Arc<Refresher> {
        let signal = Mutex::new(Signal { is_stale: true, is_listening: false });
        Arc::new(Refresher { models, meter, signal, wake: Condvar::new() })
    }

    /// Has the stored catalogue read at once, as it has changed.
    pub fn catalogue_changed(&self) {
        self.signal.lock().is_stale = true;
        self.wake.notify_one();
    }

    /// Says whether changes are announced from now on. Those before may have been missed.
    pub fn set_listening(&self, is_listening: bool) {
        let mut signal = self.signal.lock();
        signal.is_listening = is_listening;
        signal.is_stale |= is_listening;
        drop(signal);
        self.wake.notify_one();
    }

    /// Reads the stored catalogue whenever it has changed, until the process stops. While it cannot be read, the last
    /// one stays.
    pub fn follow_catalogue(&self, db: &Database, stopped: &AtomicBool) {
        let mut logged = String::new();
        while !stopped.load(Ordering::Acquire) {
            // As long as the schema may lack the tables, there is nothing to read; whoever opens the database says so.
            if !self.take_stale() || !db.is_open() {
                continue;
            }
            let (text, pause) = match self.read(db) {
                Ok(faults) => (faults.join("; "), Duration::ZERO),
                Err(e) => {
                    self.signal.lock().is_stale = true;
                    (format!("it cannot be read: {e}"), RETRY_INTERVAL)
                }
            };
            if text != logged && !text.is_empty() {
                log::warn!("the catalogue of models: {text}");
            }
            logged = text;
            thread::sleep(pause);
        }
    }

    fn read(&self, db: &Database) -> Result<Vec<String>, db::Error> {
        let mut session = db.session()?;
        let rows = store::read(&mut session)?;
        // Read after the models, and known before: no model can be called at another price than its own.
        self.meter.read_prices(&mut session)?;
        drop(session);
        Ok(self.models.set_stored(&rows))
    }

    /// Waits until the catalogue is to be read, for [`INTERVAL`] at most; whether it is.
    fn take_stale(&self) -> bool {
        let mut signal = self.signal.lock();
        if !signal.is_stale {
            let timed_out = self.wake.wait_for(&mut signal, INTERVAL).timed_out();
            if timed_out && !signal.is_listening {
                return true;
            }
        }
        std::mem::take(&mut signal.is_stale)
    }

    /// Asks the servers of the settings for their lists as they become due, until the process stops.
    pub fn follow_lists(&self, stopped: &AtomicBool) {
        while !stopped.load(Ordering::Acquire) {
            let due = self.models.wait_for_due_lists(INTERVAL);
            for some in due.chunks(MAX_ASKED_AT_ONCE) {
                thread::scope(|scope| {
                    for list in some {
                        let ask = || self.models.listed(list, &list.provider.models());
                        // Without another thread, it only takes longer.
                        if some.len() == 1 || thread::Builder::new().spawn_scoped(scope, ask).is_err() {
                            ask();
                        }
                    }
                });
            }
        }
    }
}
