//! The protocols for text beside OpenAI's chat.

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's Responses.
    Responses,
    /// Anthropic's Messages.
    Messages,
}

impl Dialect {
    /// The path of its route, which is the same on model servers.
    pub const fn path(self) -> &'static str {
        match self {
            Dialect::Responses => "/v1/responses",
            Dialect::Messages => "/v1/messages",
        }
    }

    /// The field of a request that holds the conversation.
    pub const fn prompt_field(self) -> &'static str {
        match self {
            Dialect::Responses => "input",
            Dialect::Messages => "messages",
        }
    }

    /// The field of a reply that holds what the model made.
    pub const fn output_field(self) -> &'static str {
        match self {
            Dialect::Responses => "output",
            Dialect::Messages => "content",
        }
    }
}
