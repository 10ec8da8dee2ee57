//! Sends a mail to a mail server, and tells what its refusal means: that depends on which command it refuses.

use std::time::Duration;

use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{SmtpConnection, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};

use super::message::Mime;
use super::outcome::Outcome;
use crate::config::{SmtpServer, SmtpTls};

/// For how long each reply of the server is waited for. RFC 5321 (section 4.5.3.2) wants minutes; mails are few, and one that
/// takes longer is sent again.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A mail server.
pub(super) struct Smtp {
    server: SmtpServer,
    tls: Option<TlsParameters>,
    name: ClientId,
}

impl Smtp {
    /// This server, to which we introduce ourselves by the host of `site`.
    ///
    /// # Errors
    /// A line for the operator: certificates cannot be read.
    pub(super) fn new(server: &SmtpServer, site: &str) -> Result<Smtp, String> {
        let is_optional = server.tls == SmtpTls::IfOffered;
        // A connection that may as well not be encrypted needs no certificate that anybody knows.
        let parameters =
            TlsParameters::builder(server.host.clone()).dangerous_accept_invalid_certs(is_optional).build_rustls();
        let tls = match parameters {
            Ok(tls) => Some(tls),
            Err(_) if is_optional => None,
            Err(e) => return Err(format!("SMTP_URL: TLS cannot be used: {e}")),
        };
        let host = site.split_once("://").map_or(site, |(_, place)| place);
        let host = host.split_once(':').map_or(host, |(host, _)| host);
        let is_name = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        let name = if is_name { ClientId::Domain(host.to_owned()) } else { ClientId::default() };
        Ok(Smtp { server: server.clone(), tls, name })
    }

    /// Sends a mail.
    pub(super) fn send(&self, mime: &Mime) -> Outcome {
        let mut connection = match self.connect() {
            Ok(connection) => connection,
            Err(e) => return Outcome::Unavailable(format!("no connection to the mail server: {}", in_words(&e))),
        };
        let outcome = transfer(&mut connection, mime);
        // The mail is sent or not by now, whatever is said to this.
        let _ = connection.quit();
        outcome
    }

    /// Connects, and logs in if that is wanted.
    ///
    /// # Errors
    /// In words for the operator.
    pub(super) fn probe(&self) -> Result<(), String> {
        let mut connection = self.connect().map_err(|e| in_words(&e))?;
        // It works, whatever is said to this.
        let _ = connection.quit();
        Ok(())
    }

    fn connect(&self) -> Result<SmtpConnection, Error> {
        let SmtpServer { host, port, login, tls } = &self.server;
        let at_once = self.tls.as_ref().filter(|_| *tls == SmtpTls::Always);
        let mut connection = SmtpConnection::connect((host.as_str(), *port), Some(TIMEOUT), &self.name, at_once, None)?;
        let later = self.tls.as_ref().filter(|_| *tls == SmtpTls::StartTls || connection.can_starttls());
        if let Some(parameters) = later.filter(|_| at_once.is_none()) {
            connection.starttls(parameters, &self.name)?;
        }
        if let Some((user, password)) = login {
            let credentials = Credentials::new(user.clone(), password.clone());
            connection.auth(&[Mechanism::Plain, Mechanism::Login], &credentials)?;
        }
        Ok(connection)
    }
}

/// What the refusal of a command means.
fn refused(e: &Error, what: &str) -> Outcome {
    let problem = format!("{what}: {}", in_words(e));
    if e.is_permanent() { Outcome::Refused(problem) } else { Outcome::Again(problem) }
}

fn transfer(connection: &mut SmtpConnection, mime: &Mime) -> Outcome {
    let mut parameters = Vec::new();
    let is_ascii = |address: &lettre::Address| AsRef::<str>::as_ref(address).is_ascii();
    if !mime.envelope.to().iter().chain(mime.envelope.from()).all(is_ascii) {
        if !connection.server_info().supports_feature(Extension::SmtpUtfEight) {
            return Outcome::Refused("the mail server does not take such an address (SMTPUTF8)".to_owned());
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    if !mime.bytes.is_ascii() {
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    // Who refuses the sender refuses all mails.
    if let Err(e) = connection.command(Mail::new(mime.envelope.from().cloned(), parameters)) {
        return Outcome::Unavailable(format!("the mail server refuses the sender: {}", in_words(&e)));
    }
    for recipient in mime.envelope.to() {
        if let Err(e) = connection.command(Rcpt::new(recipient.clone(), Vec::new())) {
            return refused(&e, "the mail server refuses the recipient");
        }
    }
    if let Err(e) = connection.command(Data) {
        return refused(&e, "the mail server refuses the mail");
    }
    match connection.message(&mime.bytes) {
        Ok(_) => Outcome::Sent,
        Err(e) => refused(&e, "the mail server refuses the text, or did not say whether it took it"),
    }
}

/// The code of a reply, or what broke. Never what the server wrote, which may repeat the address, or the mail with its link.
fn in_words(e: &Error) -> String {
    match e.status() {
        Some(code) => code.to_string(),
        None if e.is_timeout() => "timed out".to_owned(),
        None if e.is_response() => "an unknown reply".to_owned(),
        None => e.to_string(),
    }
}
