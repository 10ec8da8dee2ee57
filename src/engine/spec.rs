//! What is known of a provider before it is called: where it is, how it is reached, and what it may be asked.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A text that is never shown: an API key, or a header's value that may hold one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Hidden {
        Hidden(text.into())
    }

    /// The text, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A group of API routes that a provider may or may not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `/chat/completions` and `/completions`.
    Chat,
    /// `/responses`.
    Responses,
    /// `/messages`.
    Messages,
    /// `/embeddings`.
    Embeddings,
    /// `/audio/…`.
    Audio,
    /// `/images/…`.
    Images,
    /// `/rerank`.
    Rerank,
    /// `/moderations`.
    Moderations,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Protocol; 8] = [
        Protocol::Chat,
        Protocol::Responses,
        Protocol::Messages,
        Protocol::Embeddings,
        Protocol::Audio,
        Protocol::Images,
        Protocol::Rerank,
        Protocol::Moderations,
    ];

    /// What a provider speaks that does not say it. A request in another protocol for text is translated to chat, which
    /// every server knows.
    pub const USUAL: [Protocol; 3] = [Protocol::Chat, Protocol::Embeddings, Protocol::Audio];

    /// Its name in a catalogue.
    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Chat => "chat",
            Protocol::Responses => "responses",
            Protocol::Messages => "messages",
            Protocol::Embeddings => "embeddings",
            Protocol::Audio => "audio",
            Protocol::Images => "images",
            Protocol::Rerank => "rerank",
            Protocol::Moderations => "moderations",
        }
    }

    /// The fields that bound the output in any of them, in tokens.
    pub const OUTPUT_LIMITS: [&str; 3] = ["max_tokens", "max_completion_tokens", "max_output_tokens"];

    /// The fields of its requests that bound the output, in tokens. The first is the one to add where there is none.
    pub const fn output_limits(self) -> &'static [&'static str] {
        match self {
            Protocol::Responses => &["max_output_tokens"],
            Protocol::Messages => &["max_tokens"],
            _ => &["max_tokens", "max_completion_tokens"],
        }
    }

    /// The protocol of this name.
    pub fn named(name: &str) -> Option<Protocol> {
        Protocol::ALL.into_iter().find(|protocol| protocol.name() == name)
    }
}

/// A set of [`Protocol`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protocols(u8);

impl Protocols {
    /// All protocols.
    pub const ALL: Protocols = Protocols(u8::MAX);

    /// Whether the set has this one.
    pub fn has(self, protocol: Protocol) -> bool {
        self.0 & (1 << protocol as u8) != 0
    }

    /// Those in the set.
    pub fn iter(self) -> impl Iterator<Item = Protocol> {
        Protocol::ALL.into_iter().filter(move |protocol| self.has(*protocol))
    }
}

impl FromIterator<Protocol> for Protocols {
    fn from_iter<I: IntoIterator<Item = Protocol>>(protocols: I) -> Protocols {
        Protocols(protocols.into_iter().fold(0, |set, protocol| set | (1 << protocol as u8)))
    }
}

/// How long a provider is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection, TLS and the resolution of the name included.
    pub connect: Duration,
    /// From the end of the request to the head of the reply.
    pub first_byte: Duration,
    /// Between two pieces of the reply.
    pub idle: Duration,
    /// For a whole call with all its attempts, unless the reply is a stream.
    pub total: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            connect: Duration::from_secs(5),
            first_byte: Duration::from_secs(600),
            idle: Duration::from_secs(300),
            total: Duration::from_secs(600),
        }
    }
}

/// An API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderSpec {
    /// Its name in the log.
    pub name: String,
    /// Its address, to which a path such as `/chat/completions` is appended.
    pub base_url: String,
    /// Sent as a bearer token.
    pub api_key: Option<Hidden>,
    /// Sent with each request.
    pub headers: Vec<(String, Hidden)>,
    /// A file with the certificates (PEM) that its own is checked against, in place of the public ones.
    pub ca_file: Option<PathBuf>,
    /// What it may be asked.
    pub protocols: Protocols,
    /// How long it is waited for.
    pub timeouts: Timeouts,
    /// Most calls at once; `None` for no limit.
    pub max_concurrent: Option<u32>,
}

impl ProviderSpec {
    /// A provider with the usual settings at an address.
    pub fn new(name: impl Into<String>, base_url: impl Into<String>) -> ProviderSpec {
        ProviderSpec {
            name: name.into(),
            base_url: base_url.into(),
            api_key: None,
            headers: Vec::new(),
            ca_file: None,
            protocols: Protocols::ALL,
            timeouts: Timeouts::default(),
            max_concurrent: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let mut spec = ProviderSpec::new("a", "http://b/v1");
        spec.api_key = Some(Hidden::new("sk-hunter2"));
        spec.headers = vec![("X-Key".into(), Hidden::new("hunter2"))];
        assert!(!format!("{spec:?}").contains("hunter2"));
    }

    #[test]
    fn protocols_are_a_set() {
        let set = Protocols::from_iter([Protocol::Chat, Protocol::Audio, Protocol::Chat]);
        assert!(set.has(Protocol::Chat) && set.has(Protocol::Audio) && !set.has(Protocol::Responses));
        assert_eq!(set.iter().collect::<Protocols>(), set);
        assert_eq!(Protocol::ALL.into_iter().collect::<Protocols>(), Protocols::ALL);
        for protocol in Protocol::ALL {
            assert_eq!(Protocol::named(protocol.name()), Some(protocol));
        }
    }
}
