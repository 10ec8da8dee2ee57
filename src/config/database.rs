//! How to reach the database: a URL or a list of `name=value` in libpq's syntax, and what it says about TLS, of which the
//! driver knows only a part.

use std::borrow::Cow;
use std::net::IpAddr;
use std::str::FromStr;

use postgres::config::{ChannelBinding, Host, SslNegotiation};

/// What is encrypted, and what of the server's certificate is checked. In this order each is stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Nothing is encrypted.
    Disable,
    /// Encrypted only if the server demands it; nothing is checked.
    Allow,
    /// Encrypted if the server can; nothing is checked.
    Prefer,
    /// Encrypted; nothing is checked.
    Require,
    /// The certificate is signed by an authority that is trusted.
    VerifyCa,
    /// It is also for the host name.
    VerifyFull,
}

impl FromStr for SslMode {
    type Err = String;

    fn from_str(text: &str) -> Result<SslMode, String> {
        match text {
            "disable" => Ok(SslMode::Disable),
            "allow" => Ok(SslMode::Allow),
            "prefer" => Ok(SslMode::Prefer),
            "require" => Ok(SslMode::Require),
            "verify-ca" => Ok(SslMode::VerifyCa),
            "verify-full" => Ok(SslMode::VerifyFull),
            _ => Err("sslmode: expected disable, allow, prefer, require, verify-ca or verify-full".to_owned()),
        }
    }
}

/// The authorities that may sign the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// Those that this machine trusts.
    System,
    /// Those in this PEM file.
    File(String),
}

/// A client's certificate: the paths of two PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, and those between it and its authority.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// What a connection string says about TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// What is encrypted and checked.
    pub mode: SslMode,
    /// The authorities that are trusted; always some from [`SslMode::VerifyCa`] on.
    pub authorities: Option<Authorities>,
    /// What to show to a server that asks for a certificate.
    pub client: Option<ClientCertificate>,
}

/// Parses a connection string.
///
/// # Errors
/// What is wrong with it, without any part of it but the names of settings.
pub fn parse(text: &str) -> Result<(postgres::Config, TlsSettings), String> {
    let mut found = Found::default();
    let rest = match ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
        true => found.take_from_url(text)?,
        false => found.take_from_list(text)?,
    };
    let config: postgres::Config = rest.parse().map_err(|e| malformed(&e))?;
    let is_default = found.mode.is_none();
    let mut tls = found.settings()?;
    // It costs time, and who can read what is sent on this machine can read the memory of both.
    let is_clear = is_default && is_local(&config) && config.get_channel_binding() != ChannelBinding::Require;
    if is_clear && tls.mode == SslMode::Prefer {
        tls.mode = SslMode::Allow;
    }
    check(&config, &tls)?;
    Ok((config, tls))
}

fn malformed(e: &postgres::Error) -> String {
    use std::error::Error as _;
    let problem = e.source().map(ToString::to_string).unwrap_or_default();
    // Any other message of the driver may show a part of the password.
    match problem.starts_with("invalid value for option") {
        true => problem,
        false => {
            "not a PostgreSQL URL such as postgresql://user:password@host:5432/textgen, or one with a setting that \
            is not supported"
                .to_owned()
        }
    }
}

/// The settings that the driver does not know, or not in all their values.
#[derive(Default)]
struct Found {
    mode: Option<SslMode>,
    root: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Found {
    /// Takes a setting; false if it is for the driver.
    fn take(&mut self, name: &str, value: &str) -> Result<bool, String> {
        const UNSUPPORTED: [&str; 9] = [
            "sslcertmode",
            "sslcrl",
            "sslcrldir",
            "sslpassword",
            "sslsni",
            "ssl_min_protocol_version",
            "ssl_max_protocol_version",
            "require_auth",
            "requirepeer",
        ];
        let text = Some(value.to_owned()).filter(|value| !value.is_empty());
        match name {
            "sslmode" => self.mode = Some(value.parse()?),
            "sslrootcert" => self.root = text,
            "sslcert" => self.certificate = text,
            "sslkey" => self.key = text,
            _ => match UNSUPPORTED.iter().find(|known| **known == name) {
                Some(known) => return Err(format!("{known} is not supported")),
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    /// The URL without what was taken from it.
    fn take_from_url(&mut self, url: &str) -> Result<String, String> {
        let after_credentials = url.find('@').map_or(0, |at| at + 1);
        let Some(question) = url[after_credentials..].find('?') else { return Ok(url.to_owned()) };
        let (place, query) = url.split_at(after_credentials + question);
        let mut kept = Vec::new();
        for pair in query[1..].split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = |text| -> Cow<'_, str> { percent_encoding::percent_decode_str(text).decode_utf8_lossy() };
            if !self.take(&decoded(name), &decoded(value))? {
                kept.push(pair);
            }
        }
        Ok(if kept.is_empty() { place.to_owned() } else { format!("{place}?{}", kept.join("&")) })
    }

    /// The list without what was taken from it. What is malformed is left to the driver.
    fn take_from_list(&mut self, list: &str) -> Result<String, String> {
        let (mut kept, mut rest) = (String::new(), list.trim_start());
        while let Some((name, after)) = rest.split_once('=') {
            let after = after.trim_start();
            let Some((value, length)) = list_value(after) else { break };
            if !self.take(name.trim(), &value)? {
                kept += &format!("{name}={} ", &after[..length]);
            }
            rest = after[length..].trim_start();
        }
        Ok(kept + rest)
    }

    fn settings(self) -> Result<TlsSettings, String> {
        let authorities = self.root.map(|root| match root.as_str() {
            "system" => Authorities::System,
            _ => Authorities::File(root),
        });
        let is_system = authorities == Some(Authorities::System);
        let mode = self.mode.unwrap_or(if is_system { SslMode::VerifyFull } else { SslMode::Prefer });
        let mode = match (mode, &authorities) {
            (SslMode::Disable, _) => mode,
            (_, Some(Authorities::System)) if mode < SslMode::VerifyFull => {
                return Err("sslrootcert=system needs sslmode=verify-full".to_owned());
            }
            (SslMode::Allow | SslMode::Prefer, Some(_)) => {
                return Err("sslrootcert is set, but no certificate is checked: set sslmode=verify-full".to_owned());
            }
            // As in libpq.
            (SslMode::Require, Some(_)) => SslMode::VerifyCa,
            (SslMode::VerifyCa | SslMode::VerifyFull, None) => {
                return Err(
                    "this sslmode needs sslrootcert: a file with the authority's certificate, or system".to_owned()
                );
            }
            _ => mode,
        };
        let client = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
            (None, None) => None,
            (Some(_), None) => return Err("sslcert needs sslkey, the file with its private key".to_owned()),
            (None, Some(_)) => return Err("sslkey needs sslcert, the file with its certificate".to_owned()),
        };
        Ok(TlsSettings { mode, authorities, client })
    }
}

/// The value that a list begins with, and the length of what it is written as; `None` if it is malformed.
fn list_value(text: &str) -> Option<(String, usize)> {
    let is_quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(is_quoted));
    while let Some((at, c)) = characters.next() {
        match c {
            '\'' if is_quoted => return Some((value, at + 1)),
            _ if c.is_whitespace() && !is_quoted => return Some((value, at)),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            _ => value.push(c),
        }
    }
    (!is_quoted).then_some((value, text.len()))
}

/// Whether a host name or an address means this machine, whoever is asked.
pub fn is_loopback(host: &str) -> bool {
    host.parse().map_or_else(|_| host.eq_ignore_ascii_case("localhost"), |address: IpAddr| address.is_loopback())
}

/// Whether all of these databases are on this machine.
fn is_local(config: &postgres::Config) -> bool {
    let is_local = |host: &Host| match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => is_loopback(name),
    };
    match config.get_hostaddrs() {
        [] => config.get_hosts().iter().all(is_local),
        addresses => addresses.iter().all(IpAddr::is_loopback),
    }
}

/// What must not be combined.
fn check(config: &postgres::Config, tls: &TlsSettings) -> Result<(), String> {
    let is_socket = |host: &Host| matches!(host, Host::Unix(_));
    let hosts = config.get_hosts();
    let refused = |why: &str| Err(why.to_owned());
    if hosts.iter().all(is_socket) && !hosts.is_empty() {
        return Ok(()); // All of it is ignored for Unix sockets, as by libpq.
    }
    let is_mixed = hosts.iter().any(is_socket);
    // Of hosts on this machine, nothing is encrypted unless it is asked for.
    let may_be_clear = tls.mode == SslMode::Disable || tls.mode == SslMode::Allow && is_local(config);
    if is_mixed && !may_be_clear {
        return refused(
            "sslmode: a list of hosts that may be encrypted cannot hold Unix sockets, which are not: list only the one or \
            the other kind, or set sslmode=disable",
        );
    }
    if config.get_ssl_negotiation() == SslNegotiation::Direct && tls.mode < SslMode::Require {
        return refused("sslnegotiation=direct needs sslmode=require or stricter");
    }
    if config.get_channel_binding() == ChannelBinding::Require && tls.mode == SslMode::Disable {
        return refused("channel_binding=require needs TLS, which sslmode=disable excludes");
    }
    Ok(())
}

#[cfg(test)]
#[path = "database_tests.rs"]
mod tests;
