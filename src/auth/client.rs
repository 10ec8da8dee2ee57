//! The IP address of the client, also behind trusted proxies.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use ipnet::IpNet;

use crate::http::Request;

/// The peer's address or, if the peer is a trusted proxy, the last address in `X-Forwarded-For` that is not a trusted
/// proxy itself. Addresses before that one may have been forged by the client.
pub fn address(request: &Request, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = request.peer.ip().to_canonical();
    if !is_trusted(&client) {
        note_ignored(request, client, trusted);
        return client;
    }
    let lines = request.head.headers().filter(|(name, _)| name.eq_ignore_ascii_case("x-forwarded-for"));
    let lines: Vec<&str> = lines.filter_map(|(_, value)| std::str::from_utf8(value).ok()).collect();
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        let Some(address) = parse(hop.trim()) else { break };
        client = address;
        if !is_trusted(&client) {
            break;
        }
    }
    client
}

/// Warns once if `X-Forwarded-For` is ignored: a proxy that is not trusted makes all its clients one, who are throttled
/// together. Strangers may send the header too, so more warnings would say nothing.
fn note_ignored(request: &Request, peer: IpAddr, trusted: &[IpNet]) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if WARNED.load(Relaxed) || request.header("x-forwarded-for").is_none() || WARNED.swap(true, Relaxed) {
        return;
    }
    let why = if trusted.is_empty() { "TRUSTED_PROXIES is not set" } else { "it is not in TRUSTED_PROXIES" };
    log::warn!(
        "X-Forwarded-For is ignored, as it comes from {peer} and {why}: if that is your proxy, all clients count as one"
    );
}

/// An address, with or without a port.
fn parse(hop: &str) -> Option<IpAddr> {
    let with_port = || hop.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    hop.parse().ok().or_else(with_port).or_else(bracketed).map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(peer: &str, forwarded: &str, trusted: &[&str]) -> String {
        let mut request = Request { peer: peer.parse().unwrap(), ..Request::default() };
        let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{forwarded}\r\n");
        request.head.parse(head.as_bytes()).unwrap();
        let trusted: Vec<IpNet> = trusted.iter().map(|t| t.parse().unwrap()).collect();
        address(&request, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_are_believed() {
        let line = "X-Forwarded-For: 6.6.6.6\r\n";
        assert_eq!(seen("10.0.0.1:9", line, &[]), "10.0.0.1");
        assert_eq!(seen("10.0.0.1:9", line, &["10.0.0.0/8"]), "6.6.6.6");
        assert_eq!(seen("[::ffff:10.0.0.1]:9", line, &["10.0.0.0/8"]), "6.6.6.6");
    }

    #[test]
    fn addresses_sent_by_the_client_are_ignored() {
        let line = "X-Forwarded-For: 1.1.1.1, 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7:80, 10.0.0.2\r\n";
        assert_eq!(seen("10.0.0.1:9", line, &["10.0.0.0/8"]), "7.7.7.7");
        assert_eq!(seen("10.0.0.1:9", "X-Forwarded-For: 6.6.6.6, garbage\r\n", &["10.0.0.0/8"]), "10.0.0.1");
    }
}
