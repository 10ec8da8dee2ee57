//! The composition root: builds what the servers of a process share, and starts and stops it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use serde_json::Value;

use crate::accounts::second_factor::Seeds;
use crate::auth::password::{Passwords, Peppers};
use crate::auth::revocation::Revocations;
use crate::auth::{Cache, Hasher, LastUsed, MailRequests, Resolver, SignUps, Throttle};
use crate::background;
use crate::billing::payments::Payments;
use crate::billing::{self, Checker, Outbox, Sender, Stripe};
use crate::blocking::Bulkhead;
use crate::catalogue::{Models, Refresher};
use crate::config::Config;
use crate::db::probe::Probe;
use crate::db::{Batcher, ConnectConfig, Database, listen};
use crate::engine::{Fetcher, Poster};
use crate::error::{Error, Result as Answer};
use crate::mail::{self, Mail};
use crate::notifications::{CHANNELS, Notifications};
use crate::store::documents::Short;
use crate::telemetry::Requests;
use crate::traces::Traces;
use crate::usage::{Claims, Connections, Meter};
use crate::webhooks;

/// Most documents that one query reads; they may be large.
const MAX_DOCUMENTS: usize = 8;

/// Searches that an account may run at once.
const SEARCHES_OF_ACCOUNT: usize = 2;

/// Searches of documents that may run at once, each with one of the pool's connections: what else uses the database keeps
/// three quarters of them.
fn searches(pool_size: usize) -> usize {
    (pool_size / 4).max(2)
}

/// What request handlers use.
pub struct App {
    /// The settings.
    pub config: Config,
    /// The database.
    pub db: Database,
    /// Authenticated callers.
    pub cache: Arc<Cache>,
    /// Looks up callers by their credentials.
    pub resolver: Arc<Resolver>,
    /// Hashes and checks passwords.
    pub passwords: Passwords,
    /// Limits the guessing of passwords.
    pub throttle: Throttle,
    /// Limits the number of accounts that are created.
    pub sign_ups: SignUps,
    /// The models that can be called.
    pub models: Arc<Models>,
    /// Downloads the files that `audio_url` points to.
    pub fetcher: Fetcher,
    /// Records charges.
    pub meter: Arc<Meter>,
    /// Idempotency keys whose first request is running.
    pub claims: Arc<Claims>,
    /// Places for searches of documents.
    pub searches: Bulkhead,
    /// Reads documents, several requests in one query.
    pub documents: Batcher<String, Short>,
    /// Queues mails, and counts those that were sent.
    pub mail: Arc<Mail>,
    /// Limits the asking for mails.
    pub mail_requests: MailRequests,
    /// Usage that waits to be sent to Stripe.
    pub outbox: Arc<Outbox>,
    /// What is counted of requests.
    pub requests: Requests,
    /// What requests spend their time on, for a collector.
    pub traces: Traces,
    /// The OpenAPI document of all servers.
    pub api_document: OnceLock<Value>,
    /// The listen addresses of this process's servers, by server name.
    pub addresses: OnceLock<Vec<(&'static str, SocketAddr)>>,
    /// The key of the cookies of known devices, once it was read.
    pub device_key: OnceLock<ring::hmac::Key>,
    /// Measures how late notifications are.
    pub probe: Arc<Probe>,
    /// Seals and opens the seeds of authenticator apps.
    pub seeds: Seeds,
    payments: Option<Payments>,
    catalogue: Arc<Refresher>,
    last_used: Arc<LastUsed>,
    migration_database: ConnectConfig,
    listen_database: ConnectConfig,
    stopped: Arc<AtomicBool>,
}

impl App {
    /// Builds everything, without connecting to the database. `name` is the application name that the database sees,
    /// such as `textgen-web`.
    ///
    /// # Errors
    /// A message for the operator: a thread cannot be started.
    pub fn new(config: Config, name: &str) -> Result<Arc<App>, String> {
        let mut database = ConnectConfig::new(&config.database_url, name)?;
        // A pooler takes no options.
        if !config.is_pooled() {
            database.limit_lock_waits();
        }
        let db = Database::new(database, !config.is_pooled(), config.pool_size);
        let pool_size = config.pool_size as usize;
        let migration_database = ConnectConfig::new(config.direct_url(), name)?;
        let listen_database = ConnectConfig::new(config.listen_url(), &format!("{name}-listen"))?;
        let cache = Arc::new(Cache::new(config.cache_size));
        let last_used = LastUsed::new();
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let charges = Connections::new(config.direct_url(), &format!("{name}-charges"))?;
        let mut owner = [0; 8];
        getrandom::fill(&mut owner).map_err(|e| e.to_string())?;
        let claims = Claims::new(charges.for_claims(), i64::from_le_bytes(owner));
        let meter = Meter::new(charges, config.journal_dir.clone(), config.journal_max_bytes);
        meter.keep_months(config.usage_retention_months);
        meter.keep_reply_bytes(config.idempotency_max_bytes);
        let models = Models::new(&config)?;
        Payments::check(&config)?;
        Ok(Arc::new(App {
            resolver: Arc::new(Resolver::new(db.clone(), cache.clone(), last_used.clone(), config.auth_grace)),
            passwords: Passwords::new(Hasher::new(cores)?, Peppers::from(&config))?,
            throttle: Throttle::default(),
            probe: Arc::new(Probe::new(claims.owner())),
            sign_ups: SignUps::new(config.quotas.signups_per_address, config.quotas.signups_per_network),
            claims,
            catalogue: Refresher::new(models.clone(), meter.clone()),
            meter,
            models,
            fetcher: Fetcher::new(&config.audio_url_allow, config.upstream_connect_timeout),
            payments: Payments::of(&config),
            mail: Arc::new(Mail::of(&config)?),
            mail_requests: MailRequests::default(),
            seeds: Seeds::new(&config),
            db,
            cache,
            searches: Bulkhead::with_most(searches(pool_size), SEARCHES_OF_ACCOUNT),
            documents: Batcher::new(cores, MAX_DOCUMENTS),
            outbox: Arc::default(),
            requests: Requests::default(),
            traces: Traces::new(config.traces.otel_exporter_otlp_endpoint.as_deref())?,
            api_document: OnceLock::new(),
            addresses: OnceLock::new(),
            device_key: OnceLock::new(),
            last_used,
            migration_database,
            listen_database,
            config,
            stopped: Arc::new(AtomicBool::new(false)),
        }))
    }

    /// What is paid at Stripe.
    ///
    /// # Errors
    /// 503 without `STRIPE_SECRET_KEY`.
    pub fn payments(&self) -> Answer<&Payments> {
        self.payments.as_ref().ok_or(Error::PaymentsNotConfigured("STRIPE_SECRET_KEY"))
    }

    /// Starts the background threads. Once the migrations are applied, requests can use the database.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(self: &Arc<App>) -> Result<(), String> {
        let spawn = |name: &str, work: fn(&App)| {
            let app = self.clone();
            self::spawn(name, move || work(&app))
        };
        spawn("migrate", |app| {
            if background::migrate(&app.migration_database, &app.stopped) {
                app.meter.open();
                app.db.open();
                app.catalogue.catalogue_changed();
            }
        })?;
        spawn("catalogue", |app| app.catalogue.follow_catalogue(&app.db, &app.stopped))?;
        spawn("model-lists", |app| app.catalogue.follow_lists(&app.stopped))?;
        spawn("background", |app| background::housekeeping(&app.db, &app.last_used, &app.probe, &app.stopped))?;
        if self.payments.is_some() {
            spawn("payments", |app| app.payments.iter().for_each(|payments| payments.follow(&app.db, &app.stopped)))?;
            spawn("stripe", |app| {
                if let Some(payments) = &app.payments {
                    payments.tell_stripe(&app.db, &app.stopped);
                }
            })?;
        }
        spawn("webhooks", |app| {
            let poster = Poster::new(&app.config.webhooks.webhook_allow);
            webhooks::follow(&app.db, &poster, app.config.stripe.reports_usage(), &app.stopped);
        })?;
        spawn("claims", |app| app.claims.run_calls(&app.stopped))?;
        spawn("ended-claims", |app| {
            app.claims.run_deletions(&app.stopped, || app.meter.knows_kept_replies().is_ok());
        })?;
        if self.mail.is_set_up() {
            spawn("mail", |app| mail::follow(&app.mail, &app.db, &app.stopped))?;
        }
        self.meter.start()?;
        self.start_billing()?;
        let revocations = Revocations {
            cache: self.cache.clone(),
            db: self.db.clone(),
            stopped: self.stopped.clone(),
            is_loss_logged: AtomicBool::new(false),
        };
        let (meter, catalogue, probe) = (self.meter.clone(), self.catalogue.clone(), self.probe.clone());
        let notifications = Notifications { revocations, meter, catalogue, probe };
        let presence = self.claims.owner();
        listen::spawn(self.listen_database.clone(), CHANNELS, presence, notifications).map_err(|e| e.to_string())
    }

    /// Starts what reports usage to Stripe, if that is wanted.
    fn start_billing(&self) -> Result<(), String> {
        let Some(stripe) = Stripe::of(&self.config.stripe) else { return Ok(()) };
        let Some(meter) = &self.config.stripe.stripe_meter_event else { return Ok(()) };
        let (sender, db, stopped) =
            (Sender::new(stripe.clone(), self.db.clone(), meter)?, self.db.clone(), self.stopped.clone());
        spawn("billing", move || billing::report_usage(sender, &db, &stopped))?;
        let (outbox, db, stopped) = (self.outbox.clone(), self.db.clone(), self.stopped.clone());
        spawn("outbox", move || outbox.follow(&db, &stopped))?;
        let (checker, stopped) = (Checker::new(&self.config, stripe, self.db.clone()), self.stopped.clone());
        spawn("billing-check", move || billing::check_daily(&checker, &stopped))
    }

    /// Stops the background threads, and writes what they have not written yet.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.meter.stop();
        background::flush_at_exit(&self.db, &self.last_used);
        self.traces.stop();
    }
}

/// Starts a thread that ends by itself once the process is stopped.
fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    thread::Builder::new().name(name.to_owned()).spawn(work).map(drop).map_err(|e| e.to_string())
}
