//! Mail: an outbox in the database (table `mails`), and one thread in each process that sends what is due. `docs/mail.md`
//! explains it.
//!
//! A row says what a mail is about. Its text is made when it is sent, and so is the token of its link, of which only the
//! digest is stored. Nothing is queued or sent where mail is not set up. No database connection is held while a mail server
//! is spoken to.

mod events;
mod kind;
mod letter;
mod message;
mod outcome;
mod sender;
mod smtp;
mod transport;

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use lettre::message::Mailbox;
use parking_lot::Mutex;
use serde_json::Value;

use crate::auth::secret;
use crate::config::Config;
use crate::db::Executor;
use crate::error::{Error, Result};
use crate::store::mails::{self, NewMail};
use crate::store::unsent::Unsent;
use crate::store::{User, users};

pub use kind::{Kind, LINK_LIFETIME};
pub use sender::follow;
use transport::Transport;

/// Length of a mail's id.
const ID_LENGTH: usize = 24;

/// What is counted of mails in this process.
#[derive(Debug, Default)]
pub struct Counts {
    /// Mails that were sent.
    pub sent: AtomicU64,
    /// Attempts after which a mail is tried again.
    pub retried: AtomicU64,
    /// Mails that were put aside.
    pub put_aside: AtomicU64,
}

/// How mails are sent, if they are.
pub struct Mail {
    transport: Option<Transport>,
    from: Mailbox,
    /// The address of the web server, of which links are made.
    site: OnceLock<String>,
    usual_site: String,
    /// What was counted.
    pub counts: Counts,
    unsent: Mutex<Option<Unsent>>,
}

impl Mail {
    /// As the settings have it.
    ///
    /// # Errors
    /// A line for the operator.
    pub fn of(config: &Config) -> std::result::Result<Mail, String> {
        let mail = &config.mail;
        let site = OnceLock::new();
        if !config.public_url.is_empty() {
            let _ = site.set(config.public_url.clone());
        }
        let usual = || Mailbox::new(Some("textgen".to_owned()), transport::local_address());
        let (transport, from) = match (&mail.smtp_url, &mail.mail_folder) {
            (Some(_), _) if mail.mail_from.is_none() => {
                return Err("SMTP_URL is set, but MAIL_FROM is not: set it to the sender of mails, such as Example \
                            <no-reply@example.com>"
                    .to_owned());
            }
            (Some(_), _) if config.public_url.is_empty() => {
                return Err(
                    "SMTP_URL is set, but PUBLIC_URL is not: links in mails must lead to this web server. Set it to \
                            the address that browsers use, such as https://example.com"
                        .to_owned(),
                );
            }
            (Some(server), _) => (Some(Transport::smtp(server, &config.public_url)?), mail.mail_from.clone()),
            (None, Some(folder)) => (Some(Transport::folder(folder)?), mail.mail_from.clone()),
            (None, None) => (None, None),
        };
        Ok(Mail {
            transport,
            from: from.unwrap_or_else(usual),
            site,
            usual_site: format!("http://{}", config.web_addr),
            counts: Counts::default(),
            unsent: Mutex::default(),
        })
    }

    /// Whether mails are sent, or at least written to a folder.
    pub fn is_set_up(&self) -> bool {
        self.transport.is_some()
    }

    /// Checks that mails are sent.
    ///
    /// # Errors
    /// 503 if they are not.
    pub fn check(&self) -> Result<()> {
        if self.is_set_up() { Ok(()) } else { Err(Error::MailNotConfigured) }
    }

    /// Connects to the mail server and logs in, without sending anything. `None` where mail is not set up.
    ///
    /// # Errors
    /// In words for the operator.
    pub fn probe(&self) -> Option<std::result::Result<(), String>> {
        self.transport.as_ref().map(Transport::probe)
    }

    /// The folder that mails are written to, if they are not sent.
    pub fn folder(&self) -> Option<&Path> {
        self.transport.as_ref().and_then(Transport::as_folder)
    }

    /// The address of the web server, of which links are made. Never that of a request's `Host`, which strangers choose.
    pub fn site(&self) -> &str {
        self.site.get().unwrap_or(&self.usual_site)
    }

    /// Tells where the web server listens, which is used unless `PUBLIC_URL` is set.
    pub fn listens_at(&self, address: std::net::SocketAddr) {
        let _ = self.site.set(format!("http://{address}"));
    }

    /// Queues a mail to an account, at its address, unless mail is not set up or it got too many of these lately. To be
    /// called in the transaction that does what the mail tells of. Returns whether it was queued.
    ///
    /// # Errors
    /// Those of the database.
    pub fn queue(&self, db: &mut impl Executor, kind: Kind, user: &User, details: &Value) -> Result<bool> {
        self.queue_to(db, kind, &user.id, &user.email, details)
    }

    /// The same to another address of the account, or, without an account's id, to whoever has the address when the mail is
    /// sent.
    ///
    /// # Errors
    /// Those of the database.
    pub fn queue_to(
        &self,
        db: &mut impl Executor,
        kind: Kind,
        user_id: &str,
        recipient: &str,
        details: &Value,
    ) -> Result<bool> {
        if !self.is_set_up() {
            return Ok(false);
        }
        let id = secret::random_text(ID_LENGTH).map_err(|e| Error::Internal(format!("no randomness: {e}")))?;
        let new = NewMail {
            id: &id,
            kind: kind.name(),
            user_id,
            recipient,
            details: &details.to_string(),
            lifetime_seconds: kind.lifetime().whole_seconds(),
            most_an_hour: kind.most_an_hour(),
        };
        Ok(mails::insert(db, &new)?)
    }

    /// What waits to be sent, as it was lately; `None` before it was looked at.
    pub fn unsent(&self) -> Option<Unsent> {
        *self.unsent.lock()
    }
}

/// Ends an account's links that let somebody in, also those of mails that were not sent yet. To be called in a transaction
/// that has locked the account.
///
/// # Errors
/// Those of the database.
pub fn end_links(db: &mut impl Executor, user: &User) -> Result<()> {
    let kinds: Vec<&str> = Kind::ALL.into_iter().filter(|kind| kind.lets_in()).map(Kind::name).collect();
    // In this order: a mail that is being sent has its row locked until its link is stored.
    mails::cancel(db, &user.id, &user.email, &kinds)?;
    crate::store::account_links::end(db, &user.id)?;
    Ok(())
}

/// The account that a mail is about: that of its id, or of its address.
fn account_of(db: &mut impl Executor, user_id: &str, recipient: &str) -> Result<Option<User>> {
    Ok(match user_id {
        "" => users::by_email(db, recipient)?.map(|(user, _)| user),
        id => users::by_id(db, id)?,
    })
}
