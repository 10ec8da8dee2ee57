//! Which version this is.

/// The version, as in Cargo.toml.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that a release was built from, or `unknown` where that could not be found out.
pub const COMMIT: &str = env!("TEXTGEN_COMMIT");

/// Both, for `textgen --version`.
pub const LONG: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("TEXTGEN_COMMIT"), ")");

/// How this program names itself to the servers that it calls.
pub const USER_AGENT: &str = concat!("textgen/", env!("CARGO_PKG_VERSION"));
