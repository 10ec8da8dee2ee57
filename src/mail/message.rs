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
        let to = address(recipient).ok_or_else(|| "the recipient's address is not valid".to_owned())?;
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

/// An address with its domain in ASCII, which every mail server takes. What is before the `@` has no other form.
fn address(text: &str) -> Option<Address> {
    let (local, domain) = text.rsplit_once('@')?;
    Address::new(local, idna::domain_to_ascii(domain).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_sent_in_ascii() {
        let sent = |text: &str| address(text).map(|address| address.to_string());
        assert_eq!(sent("ann@example.com").as_deref(), Some("ann@example.com"));
        assert_eq!(sent("j\u{f6}rg@ex\u{e4}mple.de").as_deref(), Some("j\u{f6}rg@xn--exmple-cua.de"));
        for bad in ["", "ann", "ann@", "@x", "ann@x\r\nBcc: bob@x", "a b@x", "ann@x>,<bob@x"] {
            assert_eq!(sent(bad), None, "{bad}");
        }
    }
}
