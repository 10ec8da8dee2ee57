//! The environment variables: names, defaults, meanings.

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

pub(super) const DATABASE_URL: Variable = variable(
    "DATABASE_URL",
    "postgresql://postgres:password@localhost:5432/textgen",
    "the database, as libpq writes it; what docker-compose-postgres.yml serves by default",
);
pub(super) const DATABASE_LISTEN_URL: Variable = variable(
    "DATABASE_LISTEN_URL",
    "DATABASE_URL",
    "the database itself, when DATABASE_URL leads through a pooler: for LISTEN and migrations",
);
pub(super) const DATABASE_POOLER: Variable = variable(
    "DATABASE_POOLER",
    "none",
    "transaction when DATABASE_URL leads through PgBouncer or the like in transaction mode; DATABASE_LISTEN_URL must not",
);
pub(super) const USE_POSTGRES: Variable =
    variable("USE_POSTGRES", "True", "accepted for old deployments; there is no other database, so False is refused");
pub(super) const WEB_ADDR: Variable =
    variable("WEB_ADDR", "127.0.0.1:8083", "where the web server listens; port 0 takes a free one");
pub(super) const INFERENCE_ADDR: Variable =
    variable("INFERENCE_ADDR", "127.0.0.1:9909", "where the inference server listens");
pub(super) const AUDIO_ADDR: Variable = variable("AUDIO_ADDR", "127.0.0.1:9910", "where the audio server listens");
pub(super) const POOL_SIZE: Variable = variable(
    "POOL_SIZE",
    "16",
    "database connections of this process, 1 to 1000, beside three for charges and one that listens",
);
pub(super) const WORKERS: Variable = variable("WORKERS", "0", "threads that run at once; 0 is one a core");
pub(super) const MAX_WAITING: Variable =
    variable("MAX_WAITING", "512", "requests that may wait (for a hash, a connection, an upstream) before 503");
pub(super) const MAX_CONNECTIONS: Variable =
    variable("MAX_CONNECTIONS", "0", "open connections before the oldest idle one goes; 0 is what descriptors allow");
pub(super) const REUSE_PORT: Variable = variable(
    "REUSE_PORT",
    "false",
    "true lets several processes listen on one address (SO_REUSEPORT), so that a new one can take over from an old",
);
pub(super) const CACHE_SIZE: Variable = variable("CACHE_SIZE", "100000", "callers remembered");
pub(super) const AUTH_GRACE: Variable =
    variable("AUTH_GRACE", "300", "seconds that known callers go on while the database is away");
pub(super) const JOURNAL_DIR: Variable = variable(
    "JOURNAL_DIR",
    "journal",
    "a folder on a local disk for charges made while the database is away; servers of one machine share it",
);
pub(super) const JOURNAL_MAX_BYTES: Variable = variable(
    "JOURNAL_MAX_BYTES",
    "1073741824",
    "bytes of charges that one process may keep there, 1048576 or more; further work gets 503",
);
pub(super) const USAGE_RETENTION_MONTHS: Variable = variable(
    "USAGE_RETENTION_MONTHS",
    "0",
    "months of single charges that are kept beside this one, older ones are dropped; 0 keeps all; daily totals stay",
);
pub(super) const PASSWORD_PEPPER: Variable =
    variable("PASSWORD_PEPPER", "", "a secret mixed into every password hash; a lost one makes all passwords useless");
pub(super) const BCRYPT_PEPPER: Variable =
    variable("BCRYPT_PEPPER", "PASSWORD_PEPPER", "the pepper of hashes made by the older bcrypt system");
pub(super) const PUBLIC_URL: Variable =
    variable("PUBLIC_URL", "", "how browsers reach the web server; with https, cookies are Secure");
pub(super) const INFERENCE_PUBLIC_URL: Variable =
    variable("INFERENCE_PUBLIC_URL", "", "how programs reach the inference server, as the pages tell them");
pub(super) const AUDIO_PUBLIC_URL: Variable =
    variable("AUDIO_PUBLIC_URL", "", "how programs reach the audio server, as the pages tell them");
pub(super) const TRUSTED_PROXIES: Variable =
    variable("TRUSTED_PROXIES", "", "addresses and networks whose X-Forwarded-For is believed, comma-separated");
pub(super) const CORS_ORIGINS: Variable =
    variable("CORS_ORIGINS", "", "origins whose pages may call the servers, comma-separated; nobody's by default");
pub(super) const INFERENCE_URL: Variable = variable(
    "INFERENCE_URL",
    "",
    "model servers for text that speak OpenAI's protocol, such as http://127.0.0.1:8000; comma-separated",
);
pub(super) const EMBEDDINGS_URL: Variable =
    variable("EMBEDDINGS_URL", "", "model servers for embeddings, comma-separated");
pub(super) const TRANSCRIBE_URL: Variable =
    variable("TRANSCRIBE_URL", "", "model servers that turn speech to text, comma-separated");
pub(super) const SPEECH_URL: Variable =
    variable("SPEECH_URL", "", "model servers that turn text to speech, comma-separated");
pub(super) const INFERENCE_API_KEY: Variable =
    variable("INFERENCE_API_KEY", "", "sent to INFERENCE_URL as a bearer token");
pub(super) const EMBEDDINGS_API_KEY: Variable =
    variable("EMBEDDINGS_API_KEY", "", "sent to EMBEDDINGS_URL as a bearer token");
pub(super) const TRANSCRIBE_API_KEY: Variable =
    variable("TRANSCRIBE_API_KEY", "", "sent to TRANSCRIBE_URL as a bearer token");
pub(super) const SPEECH_API_KEY: Variable = variable("SPEECH_API_KEY", "", "sent to SPEECH_URL as a bearer token");
pub(super) const INFERENCE_MODEL: Variable =
    variable("INFERENCE_MODEL", "", "the model of requests that name none; by default the first that the server lists");
pub(super) const EMBEDDINGS_MODEL: Variable = variable("EMBEDDINGS_MODEL", "", "the same for embeddings");
pub(super) const TRANSCRIBE_MODEL: Variable = variable("TRANSCRIBE_MODEL", "", "the same for speech to text");
pub(super) const SPEECH_MODEL: Variable = variable("SPEECH_MODEL", "", "the same for text to speech");
pub(super) const UPSTREAM_CONNECT_TIMEOUT: Variable =
    variable("UPSTREAM_CONNECT_TIMEOUT", "5", "seconds to connect to a model server");
pub(super) const UPSTREAM_TIMEOUT: Variable =
    variable("UPSTREAM_TIMEOUT", "600", "seconds that a call of a model server may take, its whole reply included");
pub(super) const AUDIO_URL_ALLOW: Variable = variable(
    "AUDIO_URL_ALLOW",
    "",
    "networks that audio_url may reach although they are not public, comma-separated; what answers there can be read \
     by every user, so on a public service leave it empty",
);
pub(super) const LOG_LEVEL: Variable =
    variable("LOG_LEVEL", "info", "off, error, warn, info (one line a request), debug or trace");
pub(super) const LOG_FORMAT: Variable = variable("LOG_FORMAT", "text", "text or json, on standard error");

/// All of them, in the order of the help.
pub const VARIABLES: &[Variable] = &[
    DATABASE_URL,
    DATABASE_LISTEN_URL,
    DATABASE_POOLER,
    USE_POSTGRES,
    WEB_ADDR,
    INFERENCE_ADDR,
    AUDIO_ADDR,
    PUBLIC_URL,
    INFERENCE_PUBLIC_URL,
    AUDIO_PUBLIC_URL,
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
    USAGE_RETENTION_MONTHS,
    INFERENCE_URL,
    INFERENCE_API_KEY,
    INFERENCE_MODEL,
    EMBEDDINGS_URL,
    EMBEDDINGS_API_KEY,
    EMBEDDINGS_MODEL,
    TRANSCRIBE_URL,
    TRANSCRIBE_API_KEY,
    TRANSCRIBE_MODEL,
    SPEECH_URL,
    SPEECH_API_KEY,
    SPEECH_MODEL,
    UPSTREAM_CONNECT_TIMEOUT,
    UPSTREAM_TIMEOUT,
    AUDIO_URL_ALLOW,
    LOG_LEVEL,
    LOG_FORMAT,
];
