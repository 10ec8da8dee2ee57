//! What the text of a setting may be. Errors say what was expected.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;

/// With or without the `/v1` that all paths start with.
pub(super) fn engine_url(value: &str) -> Result<String, String> {
    let base = value.trim_end_matches('/');
    let base = base.strip_suffix("/v1").unwrap_or(base);
    let host = base.strip_prefix("https://").or_else(|| base.strip_prefix("http://")).unwrap_or("");
    let sane = base.bytes().all(|b| b.is_ascii_graphic() && !b"\"<>\\^`{|}?#@".contains(&b));
    match !host.is_empty() && !host.starts_with('/') && sane && base.parse::<ureq::http::Uri>().is_ok() {
        true => Ok(base.to_owned()),
        false => Err("addresses such as http://127.0.0.1:8000, without a user name, are needed".to_owned()),
    }
}

pub(super) fn use_postgres(value: &str) -> Result<(), String> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(()),
        "false" | "0" | "no" | "off" => {
            Err("there is no other database than PostgreSQL; unset it or say True".to_owned())
        }
        _ => Err("True is the only value".to_owned()),
    }
}

/// `host:port`, an IP address only; `:port` and `port` alone mean loopback.
pub(super) fn address(value: &str) -> Result<SocketAddr, String> {
    let loopback = |port: &str| port.parse().ok().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    let named = value.strip_prefix("localhost:").and_then(loopback);
    let port_only = loopback(value.strip_prefix(':').unwrap_or(value));
    named
        .or(port_only)
        .or_else(|| value.parse().ok())
        .ok_or_else(|| "an address such as 127.0.0.1:8083 or 0.0.0.0:8083 is needed".to_owned())
}

pub(super) fn public_url(value: &str) -> Result<String, String> {
    let value = value.trim_end_matches('/');
    let host = value.strip_prefix("https://").or_else(|| value.strip_prefix("http://"));
    let sane = |host: &str| !host.is_empty() && host.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b'"');
    match host {
        _ if value.is_empty() => Ok(String::new()),
        Some(host) if sane(host) => Ok(value.to_owned()),
        _ => Err("an address such as https://example.com, without a path, is needed".to_owned()),
    }
}

pub(super) fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

pub(super) fn networks(value: &str) -> Result<Vec<IpNet>, String> {
    let network = |item: &str| item.parse().ok().or_else(|| item.parse::<IpAddr>().ok().map(IpNet::from));
    list(value).map(|item| network(item).ok_or_else(|| format!("{item} is no address and no network"))).collect()
}

pub(super) fn origins(value: &str) -> Result<Vec<String>, String> {
    list(value).map(public_url).collect()
}
