//! Parsers for the settings' values. Their errors say what was expected.

use std::ffi::OsStr;
use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};
use ipnet::IpNet;
use log::LevelFilter;

use super::{LogFormat, database};

/// A clap parser whose error is one line that names the variable, and shows the value unless it is a secret.
#[derive(Clone)]
pub(super) struct SettingParser<F> {
    parse: F,
    is_secret: bool,
}

/// Parses the trimmed value.
pub(super) fn plain<T, F: Fn(&str) -> Result<T, String>>(parse: F) -> SettingParser<F> {
    SettingParser { parse, is_secret: false }
}

/// Parses a value that errors must not show. It is not trimmed: a blank may be part of a secret.
pub(super) fn secret<T, F: Fn(&str) -> Result<T, String>>(parse: F) -> SettingParser<F> {
    SettingParser { parse, is_secret: true }
}

impl<T, F> TypedValueParser for SettingParser<F>
where
    T: Clone + Send + Sync + 'static,
    F: Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(&self, _: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, Error> {
        let name = arg.map(|arg| arg.get_id().as_str().to_uppercase()).unwrap_or_default();
        let invalid = |problem: String| Error::raw(ErrorKind::ValueValidation, problem + "\n");
        let text = value.to_str().ok_or_else(|| invalid(format!("{name}: the value is not UTF-8")))?;
        if self.is_secret {
            return (self.parse)(text).map_err(|why| invalid(format!("{name}: {why}")));
        }
        let text = text.trim();
        (self.parse)(text).map_err(|why| {
            // Control characters could break the line or confuse a terminal.
            invalid(format!("{name}={text}: {why}").chars().filter(|c| !c.is_control()).collect())
        })
    }
}

/// A whole number within bounds.
pub(super) fn number<T>(bounds: RangeInclusive<T>) -> SettingParser<impl Fn(&str) -> Result<T, String> + Clone>
where
    T: FromStr + PartialOrd + Display + Clone,
{
    plain(move |text| {
        let number = text.parse().ok().filter(|number| bounds.contains(number));
        number.ok_or_else(|| format!("expected a whole number from {} to {}", bounds.start(), bounds.end()))
    })
}

/// A number, or `None` (written 0) where the program chooses. The alias keeps clap from taking the `Option` of a field
/// for an argument without a default.
pub type OrAutomatic = Option<usize>;

/// A whole number up to `most`, or 0 to let the program choose.
pub(super) fn or_automatic(most: usize) -> SettingParser<impl Fn(&str) -> Result<OrAutomatic, String> + Clone> {
    let number = number(0..=most);
    plain(move |text| (number.parse)(text).map(|number| Some(number).filter(|n| *n > 0)))
}

/// A whole number from `least` to `most`, or 0 to let the program choose.
pub(super) fn or_automatic_from(
    least: usize,
    most: usize,
) -> SettingParser<impl Fn(&str) -> Result<OrAutomatic, String> + Clone> {
    plain(move |text| match text.parse() {
        Ok(0) => Ok(None),
        Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => Err(format!("expected 0, or a whole number from {least} to {most}")),
    })
}

/// A duration in whole seconds.
pub(super) fn seconds(bounds: RangeInclusive<u64>) -> SettingParser<impl Fn(&str) -> Result<Duration, String> + Clone> {
    let number = number(bounds);
    plain(move |text| (number.parse)(text).map(Duration::from_secs))
}

/// Any text.
pub(super) fn text(value: &str) -> Result<String, String> {
    Ok(value.to_owned())
}

/// `true` or `false`.
pub(super) fn boolean(value: &str) -> Result<bool, String> {
    value.parse().map_err(|_| "expected true or false".to_owned())
}

/// A URL, or a list of `name=value`, as libpq accepts them.
pub(super) fn database_url(value: &str) -> Result<String, String> {
    database::parse(value).map(|_| value.to_owned())
}

/// The switch of older deployments that could choose between databases.
pub(super) fn use_postgres(value: &str) -> Result<bool, String> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Err("only PostgreSQL is supported; unset it or use True".to_owned()),
        _ => Err("expected True".to_owned()),
    }
}

/// `address:port` with an IP address; `:port`, `port` and `localhost:port` mean loopback.
pub(super) fn address(value: &str) -> Result<SocketAddr, String> {
    let loopback = |port: &str| port.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    let named = value.strip_prefix("localhost:").and_then(loopback);
    let port_only = loopback(value.strip_prefix(':').unwrap_or(value));
    named
        .or(port_only)
        .or_else(|| value.parse().ok())
        .ok_or_else(|| "expected an address such as 127.0.0.1:8083 or 0.0.0.0:8083".to_owned())
}

/// The origin of a server, without a slash at the end; may be empty.
pub(super) fn public_url(value: &str) -> Result<String, String> {
    let value = value.trim_end_matches('/');
    let host = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
    let is_valid =
        |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'"');
    match host {
        _ if value.is_empty() => Ok(String::new()),
        Some(host) if is_valid(host) => Ok(value.to_owned()),
        _ => Err("expected a URL such as https://example.com, without a path".to_owned()),
    }
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Comma-separated networks. The alias keeps clap from splitting the value into one argument per item.
pub type Networks = Vec<IpNet>;

/// Comma-separated addresses and networks.
pub(super) fn networks(value: &str) -> Result<Networks, String> {
    let network = |item: &str| item.parse().ok().or_else(|| item.parse::<IpAddr>().ok().map(IpNet::from));
    list(value).map(|item| network(item).ok_or_else(|| format!("{item} is not an address or network"))).collect()
}

/// Comma-separated URLs; an alias for the same reason as [`Networks`].
pub type Urls = Vec<String>;

/// Among the allowed origins, stands for all of them.
pub const ANY_ORIGIN: &str = "*";

/// Comma-separated origins (scheme, host and port).
pub(super) fn origins(value: &str) -> Result<Urls, String> {
    let origin = |item: &str| if item == ANY_ORIGIN { Ok(item.to_owned()) } else { public_url(item) };
    list(value).map(origin).collect()
}

/// Comma-separated base URLs of model servers.
pub(super) fn engine_urls(value: &str) -> Result<Urls, String> {
    list(value).map(engine_url).collect()
}

/// With or without the `/v1` that all paths start with.
fn engine_url(value: &str) -> Result<String, String> {
    let base = value.trim_end_matches('/');
    let base = base.strip_suffix("/v1").unwrap_or(base);
    let host = base.strip_prefix("https://").or_else(|| base.strip_prefix("http://")).unwrap_or("");
    let has_valid_bytes = base.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}?#@".contains(&b));
    match !host.is_empty() && !host.starts_with('/') && has_valid_bytes && base.parse::<ureq::http::Uri>().is_ok() {
        true => Ok(base.to_owned()),
        false => Err("expected URLs such as http://127.0.0.1:8000, without a user name".to_owned()),
    }
}

/// The base URL of a service's API, without a slash at the end.
pub(super) fn service_url(value: &str) -> Result<String, String> {
    match engine_url(value) {
        Ok(url) => Ok(url),
        Err(_) => Err("expected a URL such as https://api.example.com, without a user name".to_owned()),
    }
}

/// Comma-separated secrets; an alias for the same reason as [`Networks`].
pub type Secrets = Vec<String>;

/// Comma-separated secrets, without blanks in them.
pub(super) fn secrets(value: &str) -> Result<Secrets, String> {
    list(value).map(api_key).collect()
}

/// The id of an object at Stripe.
pub(super) fn stripe_id(value: &str) -> Result<String, String> {
    match !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        true => Ok(value.to_owned()),
        false => Err("expected an id such as price_1A2b3C4d".to_owned()),
    }
}

/// A key for AES-256-GCM.
#[derive(Clone)]
pub struct EncryptionKey([u8; 32]);

impl EncryptionKey {
    /// The key, for the one place that encrypts.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for EncryptionKey {
    fn from(bytes: [u8; 32]) -> EncryptionKey {
        EncryptionKey(bytes)
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// 32 bytes in base64.
pub(super) fn encryption_key(value: &str) -> Result<EncryptionKey, String> {
    let bytes = BASE64.decode(value.trim()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes
        .map(EncryptionKey)
        .ok_or_else(|| "expected 32 bytes in base64, as `openssl rand -base64 32` prints".to_owned())
}

/// A key that fits into an `Authorization` header.
pub(super) fn api_key(value: &str) -> Result<String, String> {
    let key = value.trim();
    match key.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(key.to_owned()),
        false => Err("a key must not contain blanks or control characters".to_owned()),
    }
}
pub(super) fn log_level(value: &str) -> Result<LevelFilter, String> {
    value.parse().map_err(|_| "expected off, error, warn, info, debug or trace".to_owned())
}

pub(super) fn log_format(value: &str) -> Result<LogFormat, String> {
    match value {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("expected text or json".to_owned()),
    }
}
