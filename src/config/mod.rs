//! The settings. Each is declared once, as a field of [`Config`]: its name is the variable's and the flag's, its doc
//! comment is the help, which `textgen --help` and the README show.

pub mod database;
mod engines;
mod log_in;
mod mail;
mod parse;
mod payments;
mod quotas;
mod stripe;
mod traces;
mod webhooks;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{ArgAction, Args, Command};
use log::LevelFilter;

use parse::{
    address, boolean, database_url, encryption_key, log_format, log_level, networks, number, or_automatic,
    or_automatic_from, origins, plain, public_url, seconds, secret, use_postgres,
};

pub use engines::{EngineConfig, EngineConfigs};
pub use log_in::LogInConfig;
pub use mail::{MailConfig, SmtpServer, SmtpTls};
pub use parse::{ANY_ORIGIN, EncryptionKey, Networks, OrAutomatic, Secrets, Urls};
pub use payments::PaymentConfig;
pub use quotas::{DocumentQuota, QuotaConfig};
pub use stripe::StripeConfig;
pub use traces::TraceConfig;
pub use webhooks::WebhookConfig;

const DATABASE: &str = "Database";
const ADDRESSES: &str = "Addresses";
const PASSWORDS: &str = "Passwords";
const CAPACITY: &str = "Capacity";
const QUOTAS: &str = "Quotas";
const CHARGES: &str = "Charges";
const MODELS: &str = "Model servers";
const STRIPE: &str = "Stripe";
const MAIL: &str = "Mail";
const WEBHOOKS: &str = "Web-hooks";
const LOG: &str = "Log";

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The pooler between this process and the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooler {
    /// There is none, or it pools sessions.
    None,
    /// A connection may be to another session in each transaction.
    Transaction,
}

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricsAddress {
    /// At [`MetricsAddress::USUAL`], or at a free port of the same address if that is taken.
    Usual,
    /// There.
    At(SocketAddr),
    /// Nowhere.
    Nowhere,
}

impl MetricsAddress {
    /// The port that exporters of OpenTelemetry have by default.
    pub const USUAL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);
}

/// When work is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Billing {
    /// Afterwards.
    Metered,
    /// In advance.
    Prepaid,
    /// In advance, but for accounts with a subscription.
    Subscription,
}

impl Billing {
    /// Whether an account's work is paid for out of its balance.
    pub fn needs_balance(self, is_subscribed: bool) -> bool {
        match self {
            Billing::Metered => false,
            Billing::Prepaid => true,
            Billing::Subscription => !is_subscribed,
        }
    }
}

/// The settings.
#[derive(Clone, Args)]
pub struct Config {
    /// The database, as a URL or in any other form that libpq accepts, with `sslmode`, `sslrootcert`, `sslcert`, `sslkey`
    /// and `channel_binding` for TLS
    #[arg(long, env, hide_env_values = true, value_parser = secret(database_url), help_heading = DATABASE,
        default_value = "postgresql://postgres:password@localhost:5432/textgen")]
    pub database_url: String,

    /// A direct connection to the database, for LISTEN and migrations, if DATABASE_URL goes through a pooler. Defaults
    /// to DATABASE_URL
    #[arg(long, env, hide_env_values = true, value_parser = secret(database_url), help_heading = DATABASE)]
    pub database_listen_url: Option<String>,

    /// `transaction` if DATABASE_URL goes through PgBouncer or a similar pooler in transaction mode. No statements are
    /// prepared then, and the time-outs must be set for the role: `ALTER ROLE … SET statement_timeout = '10s'`, and the
    /// same with `lock_timeout = '4s'`
    #[arg(long, env, default_value = "none", value_parser = plain(pooler), help_heading = DATABASE)]
    pub database_pooler: Pooler,

    /// Accepted for compatibility with older deployments. Only PostgreSQL is supported: `False` is refused
    #[arg(long, env, default_value = "True", value_parser = plain(use_postgres), help_heading = DATABASE,
        action = ArgAction::Set)]
    pub use_postgres: bool,

    /// Most database connections per process, 1 to 1000, in addition to at most eight that record charges and claim keys
    /// and one that listens for notifications. They are made when they are needed
    #[arg(long, env, default_value = "16", value_parser = number(1_u32..=1000), help_heading = DATABASE)]
    pub pool_size: u32,

    /// Listen address of the web server. A port alone means loopback; port 0 picks a free one
    #[arg(long, env, default_value = "127.0.0.1:8083", value_parser = plain(address), help_heading = ADDRESSES)]
    pub web_addr: SocketAddr,

    /// Listen address of the inference server
    #[arg(long, env, default_value = "127.0.0.1:9909", value_parser = plain(address), help_heading = ADDRESSES)]
    pub inference_addr: SocketAddr,

    /// Listen address of the audio server
    #[arg(long, env, default_value = "127.0.0.1:9910", value_parser = plain(address), help_heading = ADDRESSES)]
    pub audio_addr: SocketAddr,

    /// Listen address of `GET /metrics`, for Prometheus: never a public one, as everybody is answered there. `none` turns it
    /// off. Defaults to 127.0.0.1:9464, or to a free port where another process has that
    #[arg(long, env, default_value = "", value_parser = plain(metrics_address), help_heading = ADDRESSES)]
    pub metrics_addr: MetricsAddress,

    /// Public URL of the web server; with `https://`, cookies are `Secure`. Required with STRIPE_SECRET_KEY
    #[arg(long, env, default_value = "", value_parser = plain(public_url), help_heading = ADDRESSES)]
    pub public_url: String,

    /// Public URL of the inference server, shown in examples
    #[arg(long, env, default_value = "", value_parser = plain(public_url), help_heading = ADDRESSES)]
    pub inference_public_url: String,

    /// Public URL of the audio server, shown in examples
    #[arg(long, env, default_value = "", value_parser = plain(public_url), help_heading = ADDRESSES)]
    pub audio_public_url: String,

    /// Proxies whose `X-Forwarded-For` is trusted: addresses and networks, comma-separated
    #[arg(long, env, default_value = "", value_parser = plain(networks), help_heading = ADDRESSES)]
    pub trusted_proxies: Networks,

    /// Allowed CORS origins, comma-separated. `*` allows all others too, without cookies
    #[arg(long, env, default_value = "", value_parser = plain(origins), help_heading = ADDRESSES)]
    pub cors_origins: Urls,

    /// Let several processes listen on one address (`SO_REUSEPORT`), for restarts without downtime: `true` or `false`
    #[arg(long, env, default_value = "false", value_parser = plain(boolean), help_heading = ADDRESSES,
        action = ArgAction::Set)]
    pub reuse_port: bool,

    /// How people log in.
    #[command(flatten)]
    pub log_in: LogInConfig,

    /// Threads that run at once; 0 = one per core
    #[arg(long, env, default_value = "0", value_parser = or_automatic(1024), help_heading = CAPACITY)]
    pub workers: OrAutomatic,

    /// Requests that may wait for password hashes, and as many again for the database; further ones get a 503. Of this
    /// and the next three, one account (without a log-in: one network) gets two thirds at most, and the rest is for
    /// others
    #[arg(long, env, default_value = "512", value_parser = number(1_usize..=100_000), help_heading = CAPACITY)]
    pub max_waiting: usize,

    /// Requests that may wait for model servers, streams included. Each takes a thread, about 40 kB and two file
    /// descriptors
    #[arg(long, env, default_value = "6144", value_parser = number(1_usize..=100_000), help_heading = CAPACITY)]
    pub max_model_calls: usize,

    /// Bodies over 1 MiB that may be received at once
    #[arg(long, env, default_value = "256", value_parser = number(1_usize..=100_000), help_heading = CAPACITY)]
    pub max_uploads: usize,

    /// Recordings that may be fetched from an `audio_url`, and requests that wait for Stripe, at once
    #[arg(long, env, default_value = "256", value_parser = number(1_usize..=100_000), help_heading = CAPACITY)]
    pub max_fetches: usize,

    /// Open connections, beyond which the one that has been idle longest is closed; 0 = file-descriptor limit
    #[arg(long, env, default_value = "0", value_parser = or_automatic(10_000_000), help_heading = CAPACITY)]
    pub max_connections: OrAutomatic,

    /// Bytes of memory for what requests hold: bodies, what is parsed and rendered of them, and replies that clients have
    /// not read yet; at least 67108864. Further ones get a 503, and one account (without a log-in: one network) gets two
    /// thirds at most. 0 = half the memory of the machine or of the control group
    #[arg(long, env, default_value = "0", value_parser = or_automatic_from(1 << 26, 1 << 46), help_heading = CAPACITY)]
    pub memory_budget: OrAutomatic,

    /// Callers kept in the cache, which saves looking up their credentials in the database
    #[arg(long, env, default_value = "100000", value_parser = number(1_usize..=100_000_000), help_heading = CAPACITY)]
    pub cache_size: usize,

    /// How long cached callers keep working while the database is down, in seconds
    #[arg(long, env, default_value = "300", value_parser = seconds(0..=86_400), help_heading = CAPACITY)]
    pub auth_grace: Duration,

    /// What anybody may create.
    #[command(flatten)]
    pub quotas: QuotaConfig,

    /// `metered`: work is billed afterwards; `prepaid`: it needs credit, and uses it up; `subscription`: the same for
    /// accounts without a subscription
    #[arg(long, env, default_value = "metered", value_parser = plain(billing), help_heading = CHARGES)]
    pub billing: Billing,

    /// Directory on a local disk for charges made while the database is down; processes on one machine share it
    #[arg(long, env, default_value = "journal", value_parser = plain(path), help_heading = CHARGES)]
    pub journal_dir: PathBuf,

    /// Bytes of charges that one process may keep there, at least 1048576; beyond them, requests that cost money get
    /// a 503
    #[arg(long, env, default_value = "1073741824", value_parser = number(1_u64 << 20..=1 << 40), help_heading = CHARGES)]
    pub journal_max_bytes: u64,

    /// Months of single charges (`usage_events`) kept in addition to the current one; older ones are deleted. 0 keeps
    /// all. Daily totals and client-supplied ids are always kept
    #[arg(long, env, default_value = "0", value_parser = number(0..=1200), help_heading = CHARGES)]
    pub usage_retention_months: i32,

    /// Bytes of replies that are kept for each account for 24 hours, for requests repeated with the same
    /// `Idempotency-Key`, at least 1048576; the oldest make room
    #[arg(long, env, default_value = "67108864", value_parser = number(1_u64 << 20..=1 << 40), help_heading = CHARGES)]
    pub idempotency_max_bytes: u64,

    /// The model servers.
    #[command(flatten, next_help_heading = MODELS)]
    pub engines: EngineConfigs,

    /// File with the certificates (PEM) that those of `https://` model servers are checked against, in place of the
    /// public authorities
    #[arg(long, env, value_parser = plain(path), help_heading = MODELS)]
    pub upstream_ca_file: Option<PathBuf>,

    /// Timeout for connecting to a model server, in seconds
    #[arg(long, env, default_value = "5", value_parser = seconds(1..=3600), help_heading = MODELS)]
    pub upstream_connect_timeout: Duration,

    /// Timeout from the end of a request to a model server to the first byte of its reply, in seconds; another server is
    /// tried then. 0 = UPSTREAM_TIMEOUT
    #[arg(long, env, default_value = "0", value_parser = seconds(0..=86_400), help_heading = MODELS)]
    pub upstream_first_byte_timeout: Duration,

    /// Timeout between two pieces of a model server's reply, in seconds
    #[arg(long, env, default_value = "300", value_parser = seconds(1..=86_400), help_heading = MODELS)]
    pub upstream_idle_timeout: Duration,

    /// Calls that one model server may have at once; further ones go to others, or get a 503. 0 = no limit
    #[arg(long, env, default_value = "0", value_parser = number(0_u32..=1_000_000), help_heading = MODELS)]
    pub upstream_max_concurrent: u32,

    /// Timeout for a whole call to a model server, reply included, in seconds. A streamed reply may take longer
    #[arg(long, env, default_value = "600", value_parser = seconds(1..=86_400), help_heading = MODELS)]
    pub upstream_timeout: Duration,

    /// Key that seals providers' API keys and the seeds of authenticator apps in the database: 32 random bytes in base64,
    /// such as `openssl rand -base64 32` prints. Needed where the catalogue holds a key itself, and the same on every
    /// server. Without it, the seeds are sealed with a key that is in the database too
    #[arg(long, env, hide_env_values = true, value_parser = secret(encryption_key), help_heading = MODELS)]
    pub encryption_key: Option<EncryptionKey>,

    /// Private networks that `audio_url` may reach, comma-separated. Every user can read what these networks serve:
    /// leave it empty on a public service
    #[arg(long, env, default_value = "", value_parser = plain(networks), help_heading = MODELS)]
    pub audio_url_allow: Networks,

    /// Web-hooks of the operator's.
    #[command(flatten)]
    pub webhooks: WebhookConfig,

    /// Whether the built-in demo engine answers where no model server is configured. Set by `textgen serve`.
    #[arg(skip)]
    pub demo_engine: bool,

    /// The connection to Stripe.
    #[command(flatten)]
    pub stripe: StripeConfig,

    /// What is paid there.
    #[command(flatten)]
    pub payments: PaymentConfig,

    /// How mails are sent.
    #[command(flatten)]
    pub mail: MailConfig,

    /// `off`, `error`, `warn`, `info` (one line per request), `debug` or `trace`
    #[arg(long, env, default_value = "info", value_parser = plain(log_level), help_heading = LOG)]
    pub log_level: LevelFilter,

    /// `text` or `json`, on standard error
    #[arg(long, env, default_value = "text", value_parser = plain(log_format), help_heading = LOG)]
    pub log_format: LogFormat,

    /// Where traces go.
    #[command(flatten)]
    pub traces: TraceConfig,
}

fn metrics_address(value: &str) -> Result<MetricsAddress, String> {
    match value {
        "" => Ok(MetricsAddress::Usual),
        "none" => Ok(MetricsAddress::Nowhere),
        _ => address(value).map(MetricsAddress::At).map_err(|why| format!("{why}, or none")),
    }
}

fn pooler(value: &str) -> Result<Pooler, String> {
    match value {
        "none" => Ok(Pooler::None),
        "transaction" => Ok(Pooler::Transaction),
        _ => Err("expected none or transaction".to_owned()),
    }
}

fn billing(value: &str) -> Result<Billing, String> {
    match value {
        "metered" => Ok(Billing::Metered),
        "prepaid" => Ok(Billing::Prepaid),
        "subscription" => Ok(Billing::Subscription),
        _ => Err("expected metered, prepaid or subscription".to_owned()),
    }
}

fn path(value: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(value))
}

impl Config {
    /// Where to listen for notifications.
    pub fn listen_url(&self) -> &str {
        self.database_listen_url.as_ref().unwrap_or(&self.database_url)
    }

    /// A direct connection to the database, for what belongs to a session: a migration's lock, and the settings of the
    /// connections that record charges.
    pub fn direct_url(&self) -> &str {
        if self.is_pooled() { self.listen_url() } else { &self.database_url }
    }

    /// Whether `database_url` goes through a pooler in transaction mode.
    pub fn is_pooled(&self) -> bool {
        self.database_pooler == Pooler::Transaction
    }

    /// Whether browsers reach the web server over HTTPS.
    pub fn is_https(&self) -> bool {
        self.public_url.starts_with("https://")
    }
}

/// Shows only settings that are certainly not secret.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("web_addr", &self.web_addr)
            .field("inference_addr", &self.inference_addr)
            .field("audio_addr", &self.audio_addr)
            .field("pool_size", &self.pool_size)
            .field("public_url", &self.public_url)
            .field("inference_public_url", &self.inference_public_url)
            .field("audio_public_url", &self.audio_public_url)
            .field("log_level", &self.log_level)
            .finish_non_exhaustive()
    }
}

/// Applies to the settings of a command what attributes cannot: each is accepted after any subcommand too, a blank
/// variable counts as not set, and an empty default is not listed.
pub fn adjust(command: Command) -> Command {
    command.mut_args(|arg| {
        let value = arg.get_env().and_then(std::env::var_os);
        let is_blank = value.is_some_and(|value| value.to_str().is_some_and(|text| text.trim().is_empty()));
        let has_empty_default = arg.get_default_values().iter().any(|value| value.is_empty());
        let arg = arg.global(true).hide_default_value(has_empty_default);
        if is_blank { arg.env(Resettable::Reset) } else { arg }
    })
}

/// Whether this environment variable holds a secret of textgen itself, such as the database's password, rather than a
/// model server's API key.
pub fn is_own_secret(variable: &str) -> bool {
    let is_secret = |command: Command| {
        let mut secrets = command.get_arguments().filter(|arg| arg.is_hide_env_values_set());
        secrets.any(|arg| arg.get_env().is_some_and(|name| name == variable))
    };
    is_secret(Config::augment_args(Command::new("all")))
        && !is_secret(EngineConfigs::augment_args(Command::new("keys")))
}

/// The settings of this command as Markdown tables, one per heading.
pub fn markdown(command: &Command) -> String {
    let mut text = String::new();
    let mut heading = None;
    for arg in command.get_arguments() {
        let Some(variable) = arg.get_env().and_then(|name| name.to_str()) else { continue };
        if heading != arg.get_help_heading() {
            heading = arg.get_help_heading();
            text +=
                &format!("\n**{}**\n\n| variable | default | meaning |\n|---|---|---|\n", heading.unwrap_or_default());
        }
        let default = arg.get_default_values().first().and_then(|value| value.to_str()).filter(|text| !text.is_empty());
        let default = default.map(|text| format!("`{text}` ")).unwrap_or_default();
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        text += &format!("| `{variable}` | {default}| {help} |\n");
    }
    text
}

#[cfg(test)]
mod settings_tests;
