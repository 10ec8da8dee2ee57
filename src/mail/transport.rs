//! Where mails go: to a mail server, or into a folder.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use lettre::Address;
use lettre::message::Mailbox;

use super::message::Mime;
use super::outcome::Outcome;
use super::smtp::Smtp;
use crate::config::SmtpServer;

/// Where mails go.
pub(super) enum Transport {
    Smtp(Box<Smtp>),
    Folder(PathBuf),
}

/// The sender's address where none is set, as mails are only written to a folder.
pub(super) fn local_address() -> Address {
    Address::new("textgen", "localhost").unwrap_or_else(|e| unreachable!("{e}"))
}

impl Transport {
    /// A mail server.
    ///
    /// # Errors
    /// A line for the operator.
    pub(super) fn smtp(server: &SmtpServer, site: &str) -> Result<Transport, String> {
        Ok(Transport::Smtp(Box::new(Smtp::new(server, site)?)))
    }

    /// A folder, which is made.
    ///
    /// # Errors
    /// A line for the operator.
    pub(super) fn folder(folder: &Path) -> Result<Transport, String> {
        let refused = |e: io::Error| format!("MAIL_FOLDER: {}: {e}", folder.display());
        fs::create_dir_all(folder).map_err(refused)?;
        Ok(Transport::Folder(fs::canonicalize(folder).map_err(refused)?))
    }

    /// The folder.
    pub(super) fn as_folder(&self) -> Option<&Path> {
        match self {
            Transport::Folder(folder) => Some(folder),
            Transport::Smtp(_) => None,
        }
    }

    /// Checks that mails can be sent, without sending one.
    ///
    /// # Errors
    /// In words for the operator.
    pub(super) fn probe(&self) -> Result<(), String> {
        match self {
            Transport::Smtp(smtp) => smtp.probe(),
            Transport::Folder(_) => Ok(()),
        }
    }

    /// Sends a mail. May take as long as a mail server takes, two minutes at most for each of its replies.
    pub(super) fn send(&self, id: &str, kind: &str, from: &Mailbox, mime: &Mime) -> Outcome {
        debug_assert!(mime.envelope.from() == Some(&from.email));
        match self {
            Transport::Smtp(smtp) => smtp.send(mime),
            Transport::Folder(folder) => match write(folder, &format!("{kind}-{id}.eml"), &mime.bytes) {
                Ok(()) => Outcome::Sent,
                Err(e) => Outcome::Unavailable(format!("MAIL_FOLDER: {e}")),
            },
        }
    }
}

/// Writes a file that is whole once it has its name.
fn write(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft = folder.join(format!(".{name}"));
    // Its link lets somebody in.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(bytes)?;
    fs::rename(&draft, folder.join(name))
}
