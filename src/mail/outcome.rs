//! What becomes of attempts to send mails.

/// What became of an attempt to send a mail.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was sent.
    Sent,
    /// It is not known whether it was sent, or it was not and may be later.
    Again(String),
    /// No mail can be sent now.
    Unavailable(String),
    /// It is refused for good.
    Refused(String),
}
