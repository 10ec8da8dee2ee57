//! What the servers of one process share, built once, and the work they do in the background.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::auth::password::{Passwords, Peppers};
use crate::auth::revocation::{CHANNEL, Revocations};
use crate::auth::{Cache, Hasher, LastUsed, Resolver, Throttle, last_used};
use crate::config::Config;
use crate::db::{self, Database, Together, listen, migrate};
use crate::engine::Engines;
use crate::store::{Document, deleted_documents, known_networks, sessions};
use crate::usage::{Connections, Meter};

/// How often what is long over is deleted.
const CLEAN_EVERY: Duration = Duration::from_secs(3600);

/// The longest pause between two attempts to migrate.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long the end of the process waits for its last write.
const LAST_WRITE: Duration = Duration::from_secs(5);

/// Everything a handler may need.
pub struct App {
    /// The settings.
    pub config: Config,
    /// The database.
    pub db: Database,
    /// Callers seen lately.
    pub cache: Arc<Cache>,
    /// From credentials to callers.
    pub resolver: Resolver,
    /// Hashes and checks passwords.
    pub passwords: Passwords,
    /// Holds guessers of passwords back.
    pub throttle: Throttle,
    /// Model servers.
    pub engines: Engines,
    /// Charges for work.
    pub meter: Arc<Meter>,
    /// Reads of documents, those of the same moment together.
    pub documents: Together<Document>,
    /// Where the servers of this process listen, by name.
    pub addresses: OnceLock<Vec<(&'static str, SocketAddr)>>,
    last_used: Arc<LastUsed>,
    migrate_at: postgres::Config,
    listen_at: postgres::Config,
    stopped: Arc<AtomicBool>,
}

impl App {
    /// Builds it; nothing is asked of the database yet. `name` is what the database sees, such as `textgen-web`.
    ///
    /// # Errors
    /// A thread cannot be started, in words for the operator.
    pub fn new(config: Config, name: &str) -> Result<Arc<App>, String> {
        let db = Database::new(db::config(&config.database_url, name)?, !config.is_pooled(), config.pool_size);
        let migrate_at = db::config(config.direct_url(), name)?;
        let listen_at = db::config(config.listen_url(), &format!("{name}-listen"))?;
        let cache = Arc::new(Cache::new(config.cache_size));
        let last_used = LastUsed::new();
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let peppers = Peppers { current: config.password_pepper.clone(), bcrypt: config.bcrypt_pepper().to_owned() };
        let charges = Connections::new(config.direct_url(), &format!("{name}-charges"))?;
        let meter = Meter::new(charges, config.journal_dir.clone(), config.journal_max_bytes);
        meter.keep_months(config.usage_retention_months);
        Ok(Arc::new(App {
            resolver: Resolver::new(db.clone(), cache.clone(), last_used.clone(), config.auth_grace),
            passwords: Passwords::new(Hasher::new(cores)?, peppers)?,
            throttle: Throttle::default(),
            meter,
            engines: Engines::new(&config),
            config,
            db,
            cache,
            documents: Together::new(cores),
            addresses: OnceLock::new(),
            last_used,
            migrate_at,
            listen_at,
            stopped: Arc::new(AtomicBool::new(false)),
        }))
    }

    /// Starts what runs beside the servers: the migration, the listener, the meter, the writer of last-used stamps.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(self: &Arc<App>) -> Result<(), String> {
        let spawn = |name: &str, work: fn(&App)| {
            let app = self.clone();
            let thread = thread::Builder::new().name(name.to_owned());
            thread.spawn(move || work(&app)).map(drop).map_err(|e| e.to_string())
        };
        spawn("migrate", App::migrate)?;
        spawn("background", App::work_in_background)?;
        self.meter.start()?;
        let revocations = Revocations {
            cache: self.cache.clone(),
            db: self.db.clone(),
            stopped: self.stopped.clone(),
            is_loss_logged: AtomicBool::new(false),
        };
        listen::spawn(self.listen_at.clone(), CHANNEL, revocations).map_err(|e| e.to_string())
    }

    /// Brings the schema up to date, trying for as long as it takes, then lets requests at it.
    fn migrate(&self) {
        let mut pause = Duration::from_millis(100);
        let mut said = String::new();
        while !self.is_stopped() {
            match migrate::migrate(&self.migrate_at) {
                Ok(applied) => {
                    log::info!("the schema is up to date ({applied} migrations applied)");
                    self.meter.open();
                    return self.db.open();
                }
                Err(e) => {
                    let reason = e.to_string();
                    if reason != said {
                        log::error!("cannot serve yet, trying again: {reason}");
                        said = reason;
                    }
                }
            }
            thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn work_in_background(&self) {
        let mut cleaned: Option<Instant> = None;
        while !self.is_stopped() {
            thread::sleep(last_used::FLUSH_INTERVAL);
            if !self.db.is_open() {
                continue;
            }
            if let Err(e) = self.last_used.flush(&self.db) {
                log::debug!("last-used stamps were not written: {e}");
            }
            if cleaned.is_none_or(|at| at.elapsed() >= CLEAN_EVERY) {
                cleaned = Some(Instant::now());
                let done = self.db.session().and_then(|mut session| clean(&mut session));
                if let Err(e) = done {
                    log::debug!("what is over was not deleted: {e}");
                }
            }
        }
    }

    /// Ends the background work and writes what it still holds, unless the database takes too long over it.
    pub fn stop(self: &Arc<App>) {
        self.stopped.store(true, Ordering::Release);
        self.meter.stop();
        let (app, (done, written)) = (self.clone(), mpsc::channel());
        let write = move || {
            if let Err(e) = app.last_used.flush(&app.db) {
                log::debug!("last-used stamps were not written: {e}");
            }
            // Nobody waits any more if this fails.
            let _ = done.send(());
        };
        // Where no thread can be had, the channel is closed and the wait over at once.
        let _ = thread::Builder::new().name("last-used".to_owned()).spawn(write);
        let _ = written.recv_timeout(LAST_WRITE);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

/// Deletes what ended, or was deleted, long ago.
fn clean(db: &mut impl db::Executor) -> Result<(), db::Error> {
    sessions::delete_expired(db)?;
    deleted_documents::purge(db)?;
    known_networks::delete_old(db)?;
    Ok(())
}
