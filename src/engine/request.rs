//! What providers are asked.

use std::fmt;
use std::io::Read;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::http::object::Object;

/// A request to a provider.
pub struct UpstreamRequest<'a> {
    /// The path, from the `/v1` on that a provider's base address stands for, such as `/v1/chat/completions`.
    pub path: &'static str,
    /// The body's media type.
    pub media_type: &'a str,
    /// Headers that belong to the protocol, beside those that the provider always gets.
    pub headers: &'a [(&'static str, String)],
    /// The body.
    pub body: Body<'a>,
}

impl<'a> UpstreamRequest<'a> {
    /// One whose body is a JSON object, with these headers of the protocol.
    pub fn json(
        path: &'static str,
        headers: &'a [(&'static str, String)],
        object: &'a Object<'a>,
    ) -> UpstreamRequest<'a> {
        UpstreamRequest { path, media_type: "application/json", headers, body: Body::Json(object) }
    }
}

/// The path on which a provider counts tokens, for nothing. What it answers there says nothing of how it does its work, so it
/// closes it for nobody: else one account could, as such requests are not charged.
pub const COUNT_TOKENS: &str = "/v1/messages/count_tokens";

const STREAM_OPTIONS: &str = "stream_options";

/// The option of a stream that asks for its usage behind its last piece.
pub const INCLUDE_USAGE: &str = "include_usage";
/// The option of a stream that asks for its usage with each of its pieces.
pub const CONTINUOUS_USAGE: &str = "continuous_usage_stats";
/// The field `stream_options` that asks for the usage of a stream with each of its pieces.
pub const USAGE_WITH_EACH_PIECE: &str = r#"{"include_usage":true,"continuous_usage_stats":true}"#;

/// The body of an [`UpstreamRequest`].
pub enum Body<'a> {
    /// A JSON object.
    Json(&'a Object<'a>),
    /// A form in memory.
    Form(&'a mut dyn Form),
    /// A form that is read while it is sent. After the first read, no other provider can be tried.
    Stream(&'a mut dyn StreamedForm),
}

/// A form that can be sent several times.
pub trait Form {
    /// What of [`Extensions`] it makes use of.
    fn extensions(&self) -> Extensions;

    /// The model that it names.
    fn model(&self) -> String;

    /// The form as this provider is to get it.
    fn to_bytes(&mut self, variant: &Variant<'_>) -> &[u8];
}

/// A form that is composed while it is read.
pub trait StreamedForm: Read {
    /// What of [`Extensions`] it makes use of, as far as it was read.
    fn extensions(&self) -> Extensions;

    /// The model that it is for.
    fn model(&self) -> String;

    /// Says which provider reads it from now on.
    fn set_variant(&mut self, variant: &Variant<'_>);
}

/// How a request differs from provider to provider.
#[derive(Clone, Copy, Debug, Default)]
pub struct Variant<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// The provider's name of the model; `None` leaves the one in the request.
    pub model: Option<&'a str>,
    /// What the provider does not know.
    pub without: Extensions,
}

/// A set of things that OpenAI's servers know and others may refuse. A request is sent without them then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// The field `stream_options`, which asks for the usage of a stream.
    pub stream_options: bool,
    /// `continuous_usage_stats` in that field, which asks for usage with each piece of a stream. vLLM and others know it.
    pub continuous_usage: bool,
    /// The format `verbose_json` of a transcript, with its segments and duration; `json` is asked for in its place.
    pub verbose_json: bool,
}

impl Extensions {
    /// Those that the text of an error names.
    pub(super) fn named_in(text: &[u8]) -> Extensions {
        let names = |name: &str| memchr::memmem::find(text, name.as_bytes()).is_some();
        Extensions {
            stream_options: names("stream_options"),
            continuous_usage: names("continuous_usage_stats"),
            verbose_json: names("verbose_json") || names("response_format"),
        }
    }

    /// Those of either set.
    pub(super) fn or(self, other: Extensions) -> Extensions {
        Extensions {
            stream_options: self.stream_options || other.stream_options,
            continuous_usage: self.continuous_usage || other.continuous_usage,
            verbose_json: self.verbose_json || other.verbose_json,
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(self) -> bool {
        self == Extensions::default()
    }

    /// Those that are not in the other set.
    pub(super) fn except(self, other: Extensions) -> Extensions {
        Extensions {
            stream_options: self.stream_options && !other.stream_options,
            continuous_usage: self.continuous_usage && !other.continuous_usage,
            verbose_json: self.verbose_json && !other.verbose_json,
        }
    }

    /// Those of both sets.
    pub(super) fn and(self, other: Extensions) -> Extensions {
        Extensions {
            stream_options: self.stream_options && other.stream_options,
            continuous_usage: self.continuous_usage && other.continuous_usage,
            verbose_json: self.verbose_json && other.verbose_json,
        }
    }
}

impl fmt::Display for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.stream_options, "stream_options"),
            (self.continuous_usage, "continuous_usage_stats"),
            (self.verbose_json, "verbose_json"),
        ];
        let names: Vec<_> = names.into_iter().filter(|(is_in, _)| *is_in).map(|(_, name)| name).collect();
        f.write_str(&names.join(" and "))
    }
}

impl Variant<'_> {
    /// The value of a form's field for this provider.
    pub fn field<'v>(&'v self, name: &str, value: &'v str) -> &'v str {
        match (name, value) {
            ("model", value) => self.model.unwrap_or(value),
            ("response_format", "verbose_json") if self.without.verbose_json => "json",
            (_, value) => value,
        }
    }
}

impl Variant<'_> {
    /// A JSON body for this provider.
    pub(super) fn json(&self, object: &Object<'_>) -> Vec<u8> {
        let used = Body::Json(object).extensions();
        let without_each_piece = || {
            let mut options = object.read::<Map<String, Value>>(STREAM_OPTIONS)?;
            options.remove(CONTINUOUS_USAGE);
            serde_json::to_string(&options).ok()
        };
        let options = match (self.without.stream_options, self.without.continuous_usage) {
            (true, _) => Some(None),
            (_, true) if used.continuous_usage => Some(without_each_piece()),
            _ => None,
        };
        let options = options.as_ref().map(|options| (STREAM_OPTIONS, options.as_deref()));
        object.to_bytes_with(self.model, options)
    }
}

impl Body<'_> {
    /// What of [`Extensions`] it makes use of and can be sent without. Options that the client has written are not among
    /// them: if those are refused, the provider may well know the field.
    pub(super) fn extensions(&self) -> Extensions {
        match self {
            Body::Json(object) => {
                // What a client writes into a request that is not streamed tells nothing of what streams may ask for.
                let options = object.get(STREAM_OPTIONS).map(RawValue::get);
                let options = options.filter(|_| object.read::<bool>("stream") == Some(true));
                let asks = |name: &str| options.is_some_and(|options| options.contains(name));
                Extensions {
                    // Other options are the client's own.
                    stream_options: options == Some(USAGE_WITH_EACH_PIECE),
                    continuous_usage: asks(CONTINUOUS_USAGE),
                    verbose_json: false,
                }
            }
            Body::Form(form) => form.extensions(),
            Body::Stream(form) => form.extensions(),
        }
    }

    /// The model that it names.
    pub(super) fn model(&self) -> String {
        match self {
            Body::Json(object) => object.read("model").unwrap_or_default(),
            Body::Form(form) => form.model(),
            Body::Stream(form) => form.model(),
        }
    }
}
