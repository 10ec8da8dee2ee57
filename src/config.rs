//! Every setting that comes from the environment, read once.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;

/// One environment variable: name, default, meaning. The command line's help is made of these.
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// What holds when it is not set.
    pub default: &'static str,
    /// What it is for, in one line.
    pub meaning: &'static str,
}

const fn variable(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, default, meaning }
}

const DATABASE_URL: Variable = variable(
    "DATABASE_URL",
    "postgresql://postgres:password@localhost:5432/textgen",
    "the database, as libpq writes it; what docker-compose-postgres.yml serves by default",
);
const DATABASE_LISTEN_URL: Variable = variable(
    "DATABASE_LISTEN_URL",
    "DATABASE_URL",
    "where to LISTEN for revocations, when DATABASE_URL leads through a pooler",
);
const USE_POSTGRES: Variable =
    variable("USE_POSTGRES", "True", "accepted for old deployments; there is no other database, so False is refused");
const WEB_ADDR: Variable =
    variable("WEB_ADDR", "127.0.0.1:8083", "where the web server listens; port 0 takes a free one");
const INFERENCE_ADDR: Variable = variable("INFERENCE_ADDR", "127.0.0.1:9909", "where the inference server listens");
const AUDIO_ADDR: Variable = variable("AUDIO_ADDR", "127.0.0.1:9910", "where the audio server listens");
const POOL_SIZE: Variable = variable(
    "POOL_SIZE",
    "16",
    "database connections of this process, 1 to 1000, beside three for charges and one that listens",
);
const WORKERS: Variable = variable("WORKERS", "0", "threads that run at once; 0 is one a core");
const MAX_WAITING: Variable =
    variable("MAX_WAITING", "512", "requests that may wait (for a hash, a connection, an upstream) before 503");
const MAX_CONNECTIONS: Variable =
    variable("MAX_CONNECTIONS", "0", "open connections before the oldest idle one goes; 0 is what descriptors allow");
const REUSE_PORT: Variable = variable(
    "REUSE_PORT",
    "false",
    "true lets several processes listen on one address (SO_REUSEPORT), so that a new one can take over from an old",
);
const CACHE_SIZE: Variable = variable("CACHE_SIZE", "100000", "callers remembered");
const AUTH_GRACE: Variable =
    variable("AUTH_GRACE", "300", "seconds that known callers go on while the database is away");
const JOURNAL_DIR: Variable = variable(
    "JOURNAL_DIR",
    "journal",
    "a folder on a local disk for charges made while the database is away; servers of one machine share it",
);
const JOURNAL_MAX_BYTES: Variable = variable(
    "JOURNAL_MAX_BYTES",
    "1073741824",
    "bytes of charges that one process may keep there, 1048576 or more; further work gets 503",
);
const PASSWORD_PEPPER: Variable =
    variable("PASSWORD_PEPPER", "", "a secret mixed into every password hash; a lost one makes all passwords useless");
const BCRYPT_PEPPER: Variable =
    variable("BCRYPT_PEPPER", "PASSWORD_PEPPER", "the pepper of hashes made by the older bcrypt system");
const PUBLIC_URL: Variable =
    variable("PUBLIC_URL", "", "how browsers reach the web server; with https, cookies are Secure");
const TRUSTED_PROXIES: Variable =
    variable("TRUSTED_PROXIES", "", "addresses and networks whose X-Forwarded-For is believed, comma-separated");
const CORS_ORIGINS: Variable =
    variable("CORS_ORIGINS", "", "origins whose pages may call the servers, comma-separated; nobody's by default");
const LOG_LEVEL: Variable =
    variable("LOG_LEVEL", "info", "off, error, warn, info (one line a request), debug or trace");
const LOG_FORMAT: Variable = variable("LOG_FORMAT", "text", "text or json, on standard error");

/// All of them, in the order of the help.
pub const VARIABLES: &[Variable] = &[
    DATABASE_URL,
    DATABASE_LISTEN_URL,
    USE_POSTGRES,
    WEB_ADDR,
    INFERENCE_ADDR,
    AUDIO_ADDR,
    PUBLIC_URL,
    TRUSTED_PROXIES,
    CORS_ORIGINS,
    PASSWORD_PEPPER,
    BCRYPT_PEPPER,
    POOL_SIZE,
    WORKERS,
    MAX_WAITING,
    MAX_CONNECTIONS,
    REUSE_PORT,
    CACHE_SIZE,
    AUTH_GRACE,
    JOURNAL_DIR,
    JOURNAL_MAX_BYTES,
    LOG_LEVEL,
    LOG_FORMAT,
];

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The settings.
#[derive(Clone)]
pub struct Config {
    /// The database. Holds a password.
    pub database_url: String,
    /// Where to listen for notifications. Holds a password.
    pub database_listen_url: String,
    /// Where the web server listens.
    pub web_addr: SocketAddr,
    /// Where the inference server listens.
    pub inference_addr: SocketAddr,
    /// Where the audio server listens.
    pub audio_addr: SocketAddr,
    /// Database connections of this process.
    pub pool_size: u32,
    /// Threads that run at once; `None` is one a core.
    pub workers: Option<usize>,
    /// Requests that may wait before further ones are refused.
    pub max_waiting: usize,
    /// Open connections before the oldest idle one goes; `None` is what descriptors allow.
    pub max_connections: Option<usize>,
    /// Whether several processes may listen on one address.
    pub reuse_port: bool,
    /// Callers remembered.
    pub cache_size: usize,
    /// How long known callers go on while the database is away.
    pub auth_grace: Duration,
    /// Where charges are kept while the database is away.
    pub journal_dir: PathBuf,
    /// How many bytes of them this process may keep.
    pub journal_max_bytes: u64,
    /// Mixed into password hashes.
    pub password_pepper: String,
    /// Mixed into the bcrypt hashes of the older system.
    pub bcrypt_pepper: String,
    /// How browsers reach the web server, without a slash at the end; empty when nothing was said.
    pub public_url: String,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whose pages may call the servers.
    pub cors_origins: Vec<String>,
    /// The least severity that is logged.
    pub log_level: LevelFilter,
    /// How log lines are written.
    pub log_format: LogFormat,
}

/// A setting that cannot be used. The text names the variable and, unless it is a secret, its value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

/// Where settings come from: the environment, or a table in tests.
struct Source<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Source<'_> {
    /// The variable's value; an empty one counts as not set.
    fn optional(&self, variable: &Variable) -> Option<String> {
        (self.0)(variable.name).filter(|value| !value.trim().is_empty())
    }

    /// The variable's value or its default, understood by `parse`, which says what was expected.
    fn parsed<T>(&self, variable: &Variable, parse: impl Fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        let value = self.optional(variable).unwrap_or_else(|| variable.default.to_owned());
        let value = value.trim();
        parse(value).map_err(|why| ConfigError(format!("{}={value}: {why}", variable.name)))
    }

    /// A whole number within bounds.
    fn number<T>(&self, variable: &Variable, least: T, most: T) -> Result<T, ConfigError>
    where
        T: FromStr + PartialOrd + fmt::Display + Copy,
    {
        self.parsed(variable, |value| match value.parse::<T>() {
            Ok(number) if number >= least && number <= most => Ok(number),
            _ => Err(format!("a whole number from {least} to {most} is needed")),
        })
    }
}

impl Config {
    /// Reads the process's environment.
    ///
    /// # Errors
    /// The first variable whose value cannot be used.
    pub fn from_env() -> Result<Config, ConfigError> {
        Config::from_source(&|name| std::env::var(name).ok())
    }

    /// Reads settings from anywhere.
    ///
    /// # Errors
    /// The first variable whose value cannot be used.
    pub fn from_source(get: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigError> {
        let source = Source(get);
        source.parsed(&USE_POSTGRES, use_postgres)?;
        let database_url = database_url(&source, &DATABASE_URL, DATABASE_URL.default)?;
        let password_pepper = source.optional(&PASSWORD_PEPPER).unwrap_or_default();
        let none_if_zero = |n: usize| Some(n).filter(|n| *n > 0);
        Ok(Config {
            database_listen_url: self::database_url(&source, &DATABASE_LISTEN_URL, &database_url)?,
            database_url,
            web_addr: source.parsed(&WEB_ADDR, address)?,
            inference_addr: source.parsed(&INFERENCE_ADDR, address)?,
            audio_addr: source.parsed(&AUDIO_ADDR, address)?,
            pool_size: source.number(&POOL_SIZE, 1, 1000)?,
            workers: none_if_zero(source.number(&WORKERS, 0, 1024)?),
            max_waiting: source.number(&MAX_WAITING, 1, 100_000)?,
            max_connections: none_if_zero(source.number(&MAX_CONNECTIONS, 0, 10_000_000)?),
            reuse_port: source.parsed(&REUSE_PORT, |v| v.parse().map_err(|_| "true or false is needed".to_owned()))?,
            cache_size: source.number(&CACHE_SIZE, 1, 100_000_000)?,
            auth_grace: Duration::from_secs(source.number(&AUTH_GRACE, 0, 86_400)?),
            journal_dir: source.parsed(&JOURNAL_DIR, |value| Ok(PathBuf::from(value)))?,
            journal_max_bytes: source.number(&JOURNAL_MAX_BYTES, 1 << 20, 1 << 40)?,
            bcrypt_pepper: source.optional(&BCRYPT_PEPPER).unwrap_or_else(|| password_pepper.clone()),
            password_pepper,
            public_url: source.parsed(&PUBLIC_URL, public_url)?,
            trusted_proxies: source.parsed(&TRUSTED_PROXIES, networks)?,
            cors_origins: source.parsed(&CORS_ORIGINS, origins)?,
            log_level: source
                .parsed(&LOG_LEVEL, |v| v.parse().map_err(|_| "off, error, warn, info, debug or trace".to_owned()))?,
            log_format: source.parsed(&LOG_FORMAT, |value| match value {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err("text or json is needed".to_owned()),
            })?,
        })
    }

    /// Whether browsers reach the web server by https.
    pub fn is_https(&self) -> bool {
        self.public_url.starts_with("https://")
    }
}

/// Everything but what is secret.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("web_addr", &self.web_addr)
            .field("inference_addr", &self.inference_addr)
            .field("audio_addr", &self.audio_addr)
            .field("pool_size", &self.pool_size)
            .field("public_url", &self.public_url)
            .field("log_level", &self.log_level)
            .finish_non_exhaustive()
    }
}

/// The value may hold a password, so the error does not repeat it.
fn database_url(source: &Source<'_>, variable: &Variable, default: &str) -> Result<String, ConfigError> {
    let url = source.optional(variable).unwrap_or_else(|| default.to_owned());
    match url.parse::<postgres::Config>() {
        Ok(_) => Ok(url),
        Err(_) => Err(ConfigError(format!("{}: not a PostgreSQL URL such as {}", variable.name, DATABASE_URL.default))),
    }
}

fn use_postgres(value: &str) -> Result<(), String> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(()),
        "false" | "0" | "no" | "off" => {
            Err("there is no other database than PostgreSQL; unset it or say True".to_owned())
        }
        _ => Err("True is the only value".to_owned()),
    }
}

/// `host:port`, an IP address only; `:port` and `port` alone mean loopback.
fn address(value: &str) -> Result<SocketAddr, String> {
    let loopback = |port: &str| port.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    let named = value.strip_prefix("localhost:").and_then(loopback);
    let port_only = loopback(value.strip_prefix(':').unwrap_or(value));
    named
        .or(port_only)
        .or_else(|| value.parse().ok())
        .ok_or_else(|| "an address such as 127.0.0.1:8083 or 0.0.0.0:8083 is needed".to_owned())
}

fn public_url(value: &str) -> Result<String, String> {
    let value = value.trim_end_matches('/');
    let host = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
    let sane = |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'"');
    match host {
        _ if value.is_empty() => Ok(String::new()),
        Some(host) if sane(host) => Ok(value.to_owned()),
        _ => Err("an address such as https://example.com, without a path, is needed".to_owned()),
    }
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn networks(value: &str) -> Result<Vec<IpNet>, String> {
    let network = |item: &str| item.parse().ok().or_else(|| item.parse::<IpAddr>().ok().map(IpNet::from));
    list(value).map(|item| network(item).ok_or_else(|| format!("{item} is no address and no network"))).collect()
}

fn origins(value: &str) -> Result<Vec<String>, String> {
    list(value).map(public_url).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(settings: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_source(&|name| settings.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn defaults_are_what_the_table_says() {
        let config = read(&[]).unwrap();
        assert_eq!(config.web_addr.to_string(), WEB_ADDR.default);
        assert_eq!(config.database_url, DATABASE_URL.default);
        assert_eq!(config.database_listen_url, DATABASE_URL.default);
        assert!(config.trusted_proxies.is_empty() && config.cors_origins.is_empty() && !config.is_https());
    }

    #[test]
    fn a_wrong_value_is_one_clear_line() {
        for (name, value) in [
            ("USE_POSTGRES", "False"),
            ("WEB_ADDR", "everywhere"),
            ("POOL_SIZE", "0"),
            ("POOL_SIZE", "many"),
            ("JOURNAL_MAX_BYTES", "1000"),
            ("TRUSTED_PROXIES", "10.0.0.0/8, nonsense"),
            ("PUBLIC_URL", "ftp://x"),
            ("PUBLIC_URL", "https://x/path"),
            ("LOG_LEVEL", "loud"),
            ("LOG_FORMAT", "xml"),
        ] {
            let text = read(&[(name, value)]).unwrap_err().to_string();
            assert!(text.starts_with(&format!("{name}={value}: ")) && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn a_database_url_is_never_repeated() {
        for name in ["DATABASE_URL", "DATABASE_LISTEN_URL"] {
            let text = read(&[(name, "postgresql://u:hunter2@h:x/")]).unwrap_err().to_string();
            assert!(text.starts_with(name) && !text.contains("hunter2"), "{text}");
        }
        let config = read(&[("DATABASE_URL", "postgresql://u:hunter2@h/d"), ("PASSWORD_PEPPER", "hunter2")]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn addresses_may_be_short() {
        for (text, meant) in [
            (":0", "127.0.0.1:0"),
            ("9000", "127.0.0.1:9000"),
            ("localhost:1", "127.0.0.1:1"),
            ("0.0.0.0:80", "0.0.0.0:80"),
            ("[::1]:80", "[::1]:80"),
        ] {
            assert_eq!(read(&[("WEB_ADDR", text)]).unwrap().web_addr.to_string(), meant);
        }
    }
}
