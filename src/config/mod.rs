//! Every setting that comes from the environment, read once.

mod parse;
mod variables;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;

use parse::{address, engine_url, list, networks, origins, public_url, use_postgres};
#[allow(clippy::wildcard_imports)] // Each name is a variable, and all are read here.
use variables::*;

pub use variables::{VARIABLES, Variable};

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The model servers for one purpose.
#[derive(Clone, Default)]
pub struct EngineConfig {
    /// The variable that names them.
    pub variable: &'static str,
    /// Their addresses, without `/v1` and without a slash at the end. None: there is no such engine.
    pub urls: Vec<String>,
    /// Sent to each as a bearer token. A secret.
    pub api_key: Option<String>,
    /// The model of requests that name none.
    pub model: Option<String>,
}

/// Everything but the key.
impl fmt::Debug for EngineConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineConfig").field("urls", &self.urls).field("model", &self.model).finish_non_exhaustive()
    }
}

/// The settings.
#[derive(Clone)]
pub struct Config {
    /// The database. Holds a password.
    pub database_url: String,
    /// Where to listen for notifications. Holds a password.
    pub database_listen_url: String,
    /// Whether a pooler in transaction mode stands before the database.
    pub is_pooled: bool,
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
    /// How many months of the ledger are kept beside this one; 0 for all.
    pub usage_retention_months: i32,
    /// Mixed into password hashes.
    pub password_pepper: String,
    /// Mixed into the bcrypt hashes of the older system.
    pub bcrypt_pepper: String,
    /// How browsers reach the web server, without a slash at the end; empty when nothing was said.
    pub public_url: String,
    /// How programs reach the inference server, without a slash at the end; empty if only its address is known.
    pub inference_public_url: String,
    /// The same for the audio server.
    pub audio_public_url: String,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Whose pages may call the servers.
    pub cors_origins: Vec<String>,
    /// The model servers for text.
    pub inference: EngineConfig,
    /// The model servers for embeddings.
    pub embeddings: EngineConfig,
    /// The model servers that turn speech to text.
    pub transcribe: EngineConfig,
    /// The model servers that turn text to speech.
    pub speech: EngineConfig,
    /// How long connecting to a model server may take.
    pub upstream_connect_timeout: Duration,
    /// How long a whole call of a model server may take.
    pub upstream_timeout: Duration,
    /// Networks that `audio_url` may reach although they are not public.
    pub audio_url_allow: Vec<IpNet>,
    /// Whether the built-in engine answers where no model server is configured. Set by the command line.
    pub demo_engine: bool,
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
        parse(value).map_err(|why| {
            // One line, whatever was set.
            let line: String = format!("{value}: {why}").chars().filter(|c| !c.is_control()).collect();
            ConfigError(format!("{}={line}", variable.name))
        })
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
        let is_text = |v: &&Variable| !matches!(std::env::var(v.name), Err(std::env::VarError::NotUnicode(_)));
        match VARIABLES.iter().find(|v| !is_text(v)) {
            // Taking it for not set would, say, leave the pepper out of every hash.
            Some(variable) => Err(ConfigError(format!("{}: the value is not UTF-8", variable.name))),
            None => Config::from_source(&|name| std::env::var(name).ok()),
        }
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
            is_pooled: source.parsed(&DATABASE_POOLER, |value| match value {
                "none" => Ok(false),
                "transaction" => Ok(true),
                _ => Err("none or transaction is needed".to_owned()),
            })?,
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
            usage_retention_months: source.number(&USAGE_RETENTION_MONTHS, 0, 1200)?,
            bcrypt_pepper: source.optional(&BCRYPT_PEPPER).unwrap_or_else(|| password_pepper.clone()),
            password_pepper,
            public_url: source.parsed(&PUBLIC_URL, public_url)?,
            inference_public_url: source.parsed(&INFERENCE_PUBLIC_URL, public_url)?,
            audio_public_url: source.parsed(&AUDIO_PUBLIC_URL, public_url)?,
            trusted_proxies: source.parsed(&TRUSTED_PROXIES, networks)?,
            cors_origins: source.parsed(&CORS_ORIGINS, origins)?,
            inference: engine(&source, &INFERENCE_URL, &INFERENCE_API_KEY, &INFERENCE_MODEL)?,
            embeddings: engine(&source, &EMBEDDINGS_URL, &EMBEDDINGS_API_KEY, &EMBEDDINGS_MODEL)?,
            transcribe: engine(&source, &TRANSCRIBE_URL, &TRANSCRIBE_API_KEY, &TRANSCRIBE_MODEL)?,
            speech: engine(&source, &SPEECH_URL, &SPEECH_API_KEY, &SPEECH_MODEL)?,
            upstream_connect_timeout: Duration::from_secs(source.number(&UPSTREAM_CONNECT_TIMEOUT, 1, 3600)?),
            upstream_timeout: Duration::from_secs(source.number(&UPSTREAM_TIMEOUT, 1, 86_400)?),
            audio_url_allow: source.parsed(&AUDIO_URL_ALLOW, networks)?,
            demo_engine: false,
            log_level: source
                .parsed(&LOG_LEVEL, |v| v.parse().map_err(|_| "off, error, warn, info, debug or trace".to_owned()))?,
            log_format: source.parsed(&LOG_FORMAT, |value| match value {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err("text or json is needed".to_owned()),
            })?,
        })
    }

    /// The database itself, past a pooler, for what belongs to a connection: the lock of a migration, the settings of the
    /// connection that charges.
    pub fn direct_url(&self) -> &str {
        if self.is_pooled { &self.database_listen_url } else { &self.database_url }
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
            .field("inference_public_url", &self.inference_public_url)
            .field("audio_public_url", &self.audio_public_url)
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

fn engine(
    source: &Source<'_>,
    urls: &Variable,
    api_key: &Variable,
    model: &Variable,
) -> Result<EngineConfig, ConfigError> {
    let api_key = source.optional(api_key).map(|key| (api_key.name, key.trim().to_owned()));
    // A key goes into a header, and into no error.
    if let Some((name, key)) = &api_key
        && !key.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(ConfigError(format!("{name}: a key has no blanks and no control characters")));
    }
    Ok(EngineConfig {
        variable: urls.name,
        urls: source.parsed(urls, |value| list(value).map(engine_url).collect())?,
        api_key: api_key.map(|(_, key)| key),
        model: source.optional(model).map(|model| model.trim().to_owned()),
    })
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
            ("USAGE_RETENTION_MONTHS", "-1"),
            ("TRUSTED_PROXIES", "10.0.0.0/8, nonsense"),
            ("PUBLIC_URL", "ftp://x"),
            ("PUBLIC_URL", "https://x/path"),
            ("INFERENCE_URL", "localhost:8000"),
            ("INFERENCE_URL", "http://a, ftp://b"),
            ("SPEECH_URL", "http://user:pass@host"),
            ("UPSTREAM_TIMEOUT", "0"),
            ("AUDIO_URL_ALLOW", "loopback"),
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
    fn engines_may_be_several_and_their_keys_are_hidden() {
        let config =
            read(&[("INFERENCE_URL", "http://a:1/v1/, https://b/x"), ("INFERENCE_API_KEY", "hunter2")]).unwrap();
        assert_eq!(config.inference.urls, ["http://a:1", "https://b/x"]);
        assert!(config.speech.urls.is_empty() && !format!("{:?}", config.inference).contains("hunter2"));
        let text = read(&[("SPEECH_API_KEY", "hunter 2")]).unwrap_err().to_string();
        assert!(text.starts_with("SPEECH_API_KEY") && !text.contains("hunter"), "{text}");
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
