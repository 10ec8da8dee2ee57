//! The settings for mail. Without them, none is sent.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::MAIL;
use super::parse::{plain, secret};

/// How the connection to the mail server is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SmtpTls {
    /// From its beginning.
    Always,
    /// After `STARTTLS`, without which nothing is sent.
    StartTls,
    /// After `STARTTLS`, if the server offers it.
    IfOffered,
}

/// A mail server.
#[derive(Clone, PartialEq, Eq)]
pub struct SmtpServer {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User name and password, if it asks for them.
    pub login: Option<(String, String)>,
    /// How the connection is encrypted.
    pub tls: SmtpTls,
}

/// Leaves out the password.
impl fmt::Debug for SmtpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SmtpServer { host, port, tls, .. } = self;
        f.debug_struct("SmtpServer").field("host", host).field("port", port).field("tls", tls).finish_non_exhaustive()
    }
}

/// How mails are sent.
#[derive(Clone, Debug, Args)]
pub struct MailConfig {
    /// The mail server, such as `smtps://user:password@smtp.example.com` (TLS from the start, port 465) or
    /// `smtp://user:password@smtp.example.com:587` (STARTTLS, which is required unless the server is on this machine or
    /// `?tls=optional` is added). Without it, no mail is sent
    #[arg(long, env, hide_env_values = true, value_parser = secret(smtp_url), help_heading = MAIL)]
    pub smtp_url: Option<SmtpServer>,

    /// The sender of mails, such as `Example <no-reply@example.com>`. Required with SMTP_URL, as is PUBLIC_URL
    #[arg(long, env, value_parser = plain(mail_address), help_heading = MAIL)]
    pub mail_from: Option<lettre::message::Mailbox>,

    /// Without SMTP_URL: a folder into which mails are written as `.eml` files, for development
    #[arg(long, env, value_parser = plain(super::path), help_heading = MAIL)]
    pub mail_folder: Option<PathBuf>,
}

/// The sender of mails, with or without a name.
fn mail_address(value: &str) -> Result<lettre::message::Mailbox, String> {
    value.parse().map_err(|_| "expected an address such as Example <no-reply@example.com>".to_owned())
}

/// A mail server as a URL.
fn smtp_url(value: &str) -> Result<SmtpServer, String> {
    const EXPECTED: &str = "expected a URL such as smtps://user:password@smtp.example.com, with user name and password \
        percent-encoded";
    let value = value.trim();
    let (is_tls, rest) = match (value.strip_prefix("smtps://"), value.strip_prefix("smtp://")) {
        (Some(rest), _) => (true, rest),
        (None, Some(rest)) => (false, rest),
        (None, None) => return Err(EXPECTED.to_owned()),
    };
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, query)| (rest, query));
    let (login, place) = match rest.trim_end_matches('/').rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, rest.trim_end_matches('/')),
    };
    let decoded =
        |text: &str| percent_encoding::percent_decode_str(text).decode_utf8().map(std::borrow::Cow::into_owned);
    let login = match login.map(|login| login.split_once(':')) {
        None => None,
        Some(Some((user, password))) => match (decoded(user), decoded(password)) {
            (Ok(user), Ok(password)) if !user.is_empty() => Some((user, password)),
            _ => return Err(EXPECTED.to_owned()),
        },
        Some(None) => return Err("expected a user name and a password, separated by a colon".to_owned()),
    };
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let usual = if is_tls { 465 } else { 587 };
    let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, Some(usual)),
        Some((host, after)) => (host, after.strip_prefix(':').and_then(port)),
        None => place.split_once(':').map_or((place, Some(usual)), |(host, number)| (host, port(number))),
    };
    let is_host = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:_".contains(&b));
    let Some(port) = port.filter(|_| is_host) else { return Err(EXPECTED.to_owned()) };
    let is_near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let tls = match (is_tls, query) {
        (true, "") => SmtpTls::Always,
        (false, "tls=optional") => SmtpTls::IfOffered,
        (false, "") if is_near => SmtpTls::IfOffered,
        (false, "" | "tls=required") => SmtpTls::StartTls,
        _ => return Err("after the ?, only tls=required or tls=optional may stand, and only with smtp://".to_owned()),
    };
    Ok(SmtpServer { host: host.to_owned(), port, login, tls })
}
