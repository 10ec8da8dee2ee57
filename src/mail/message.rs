//! A mail as it is sent.

use lettre::Address;
use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message, MultiPart};

use super::letter::Letter;

/// A mail as it is sent.
pub(super) struct Mime {
    /// From whom and to whom.
    pub(super) envelope: Envelope,
    /// Headers and parts.
    pub(super) bytes: Vec<u8>,
}

impl Mime {
    /// Puts a mail together. The same `id` always makes the same Message-ID, by which mail servers and readers know a mail
    /// that they got twice.
    ///
    /// # Errors
    /// Why it cannot be sent: the recipient's address is none, for example. The text does not repeat it.
    pub(super) fn new(from: &Mailbox, recipient: &str, id: &str, letter: Letter) -> Result<Mime, String> {
        let to: Address = recipient.parse().map_err(|_| "the recipient's address is not valid".to_owned())?;
        let auto = HeaderValue::new(HeaderName::new_from_ascii_str("Auto-Submitted"), "auto-generated".to_owned());
        let message = Message::builder()
            .from(from.clone())
            .to(Mailbox::new(None, to))
            .subject(letter.subject)
            .message_id(Some(format!("<{id}@{}>", from.email.domain())))
            .date_now()
            .raw_header(auto)
            .multipart(MultiPart::alternative_plain_html(letter.text, letter.html))
            .map_err(|e| e.to_string())?;
        Ok(Mime { envelope: message.envelope().clone(), bytes: message.formatted() })
    }
}
