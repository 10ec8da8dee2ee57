//! Gets what a client's address points to, from the public internet only.
//!
//! A name is resolved once, what it resolves to is looked at, and the connection goes to that very address; so it is
//! for each redirect, and no answer of a name server in between changes anything.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::{Agent, Body, BodyReader};

use crate::error::{Error, Result};
use crate::version;

use super::address::is_public;
use super::buffers;
use super::transport::{client_left, connector};

/// How long a download may take, redirects included.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Most redirects that are followed.
const MAX_REDIRECTS: u32 = 5;
/// Most bytes of an address.
const MAX_URL_LENGTH: usize = 4096;

/// Gets files from the internet.
pub struct Fetcher(Agent);

/// A file on its way. Reading it fails past the limit.
pub struct Download {
    body: BodyReader<'static>,
    remaining: u64,
}

impl Fetcher {
    /// One that reaches the public internet, and `allowed` networks beside it.
    pub fn new(allowed: &[IpNet], connect_timeout: Duration) -> Fetcher {
        let config = Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .timeout_connect(Some(connect_timeout))
            .http_status_as_error(false)
            .max_redirects(MAX_REDIRECTS)
            // A proxy would connect to what it resolves itself.
            .proxy(None)
            .max_idle_connections(0)
            .input_buffer_size(buffers::MOST)
            .output_buffer_size(buffers::MOST)
            .user_agent(version::USER_AGENT)
            .build();
        Fetcher(Agent::with_parts(config, connector(TIMEOUT), PublicResolver::new(allowed)))
    }

    /// Starts to get a file of at most `limit` bytes. Waits for the other side, so it is to be called in a
    /// [`blocking::block_in_place`](crate::blocking::block_in_place).
    ///
    /// # Errors
    /// 400 with what is wrong with the address or with what is there, 413 when it says that it is too long.
    pub fn get(&self, url: &str, limit: u64) -> Result<Download> {
        let uri = checked(url)?;
        let response = self.0.get(uri).call().map_err(|e| refusal(&e))?;
        if !response.status().is_success() {
            return Err(Error::bad(format!("audio_url answers with status {}", response.status().as_u16())));
        }
        let body: Body = response.into_body();
        if body.content_length().is_some_and(|length| length > limit) {
            return Err(too_large(limit));
        }
        Ok(Download { body: body.into_reader(), remaining: limit })
    }
}

impl Read for Download {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.body.read(out)?;
        match self.remaining.checked_sub(n as u64) {
            Some(remaining) => self.remaining = remaining,
            None => return Err(io::Error::new(io::ErrorKind::FileTooLarge, "audio_url points to too large a file")),
        }
        Ok(n)
    }
}

fn too_large(limit: u64) -> Error {
    Error::TooLarge(usize::try_from(limit).unwrap_or(usize::MAX))
}

fn checked(url: &str) -> Result<Uri> {
    let is_plain = url.len() <= MAX_URL_LENGTH && url.bytes().all(|b| b.is_ascii_graphic());
    let uri = url.trim().parse::<Uri>().ok().filter(|_| is_plain);
    let uri = uri.ok_or(Error::bad("audio_url is not a valid address"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err(Error::bad("audio_url must start with http:// or https://"));
    }
    match uri.authority() {
        Some(authority) if !authority.as_str().contains('@') => Ok(uri),
        _ => Err(Error::bad("audio_url must not hold a user name")),
    }
}

fn refusal(e: &ureq::Error) -> Error {
    if client_left() {
        return Error::ClientLeft;
    }
    log::info!("an audio_url was not fetched: {e}");
    match e {
        ureq::Error::Other(e) if e.is::<NotPublic>() => Error::bad("audio_url leads to an address that is not public"),
        ureq::Error::Timeout(_) => Error::bad("audio_url does not answer in time"),
        ureq::Error::TooManyRedirects => Error::bad("audio_url redirects too often"),
        ureq::Error::HostNotFound => Error::bad("audio_url names a host that does not exist"),
        _ => Error::bad("audio_url cannot be fetched"),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("not a public address")]
struct NotPublic;

/// Resolves names to public and allowed addresses only.
#[derive(Debug)]
pub(super) struct PublicResolver {
    resolver: DefaultResolver,
    allowed: Vec<IpNet>,
}

impl Resolver for PublicResolver {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let resolved = self.resolver.resolve(uri, config, timeout)?;
        let mut allowed = self.empty();
        for address in resolved.iter().filter(|address| self.is_allowed(address)) {
            allowed.push(*address);
        }
        if allowed.is_empty() { Err(ureq::Error::Other(Box::new(NotPublic))) } else { Ok(allowed) }
    }
}

impl PublicResolver {
    /// One that resolves to `allowed` networks beside the public internet.
    pub(super) fn new(allowed: &[IpNet]) -> PublicResolver {
        PublicResolver { resolver: DefaultResolver::default(), allowed: allowed.to_vec() }
    }

    fn is_allowed(&self, address: &SocketAddr) -> bool {
        let ip = address.ip();
        is_public(ip) || self.allowed.iter().any(|net| net.contains(&ip.to_canonical()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_inner_network_is_fetched() {
        let fetcher = Fetcher::new(&[], Duration::from_secs(1));
        for url in [
            "http://127.0.0.1:1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0/",
            "http://localhost/a.wav",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://169.254.169.254/latest/meta-data/",
            "https://10.0.0.1/",
            "http://[fd00:ec2::254]/",
        ] {
            let e = fetcher.get(url, 1000).err().unwrap_or_else(|| panic!("{url} was fetched"));
            let text = e.message().into_owned();
            assert!(text.contains("not public") || text.contains("does not exist"), "{url}: {text}");
        }
        for url in [
            "file:///etc/passwd",
            "ftp://example.com/",
            "gopher://x",
            "//x/y",
            "x",
            "",
            "http://",
            "http://a@1.1.1.1/",
            "http://1.1.1.1/a b",
            "http://1.1.1.1/\r\nX: y",
        ] {
            assert_eq!(fetcher.get(url, 1000).err().map(|e| e.status()), Some(400), "{url}");
        }
    }
}
