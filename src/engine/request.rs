//! What providers are asked.

use std::io::Read;

use crate::http::object::Object;

/// A request to a provider.
pub struct UpstreamRequest<'a> {
    /// The path behind a provider's base address, such as `/chat/completions`.
    pub path: &'static str,
    /// The body's media type.
    pub media_type: &'a str,
    /// The body.
    pub body: Body<'a>,
}

/// The body of an [`UpstreamRequest`].
pub enum Body<'a> {
    /// A JSON object; its `model` is replaced by the name that the provider knows the model by.
    Json(&'a Object<'a>),
    /// In memory, so it can be sent again to another provider.
    Bytes(&'a [u8]),
    /// Read while it is sent. After the first read, no other provider can be tried.
    Stream(&'a mut dyn Read),
}
