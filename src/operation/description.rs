//! What the API reference says about an operation. The OpenAPI document is derived from it.
//!
//! Schemas come from the types that handlers read and send; their doc comments are the words of the reference.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

/// Writes the schema of a type.
pub type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

/// The groups of the reference, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Sign-up, log-in and the user object.
    Accounts,
    /// API keys.
    Keys,
    /// Browser sessions.
    Sessions,
    /// Documents.
    Documents,
    /// Charges.
    Usage,
    /// Models that read and write text.
    Text,
    /// Speech to text and text to speech.
    Speech,
    /// Accounts and the catalogue of models, for administrators.
    Administration,
    /// Probes, for those who run the servers.
    Health,
}

impl Group {
    /// Every group.
    pub const ALL: [Group; 9] = [
        Group::Accounts,
        Group::Keys,
        Group::Sessions,
        Group::Documents,
        Group::Usage,
        Group::Text,
        Group::Speech,
        Group::Administration,
        Group::Health,
    ];

    /// Its name and what it is about.
    pub const fn words(self) -> (&'static str, &'static str) {
        match self {
            Group::Accounts => ("Accounts", "Sign-up, log-in, and user details."),
            Group::Keys => ("Keys", "API keys, whose secrets programs send."),
            Group::Sessions => ("Sessions", "Active sessions: the browsers that are signed in."),
            Group::Documents => ("Documents", "Texts that people and their programs share."),
            Group::Usage => ("Usage", "What was charged, and what is left of credit."),
            Group::Text => ("Text", "Models that read and write text."),
            Group::Speech => ("Speech", "Speech to text, and text to speech."),
            Group::Administration => ("Administration", "Accounts and the catalogue of models, for administrators."),
            Group::Health => ("Health", "For those who run the servers."),
        }
    }
}

/// Bytes of a file, in a multipart form.
pub struct File;

impl JsonSchema for File {
    fn schema_name() -> Cow<'static, str> {
        "File".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "contentMediaType": "application/octet-stream"})
    }
}

/// How the body of a request is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// A form, a multipart form or a JSON object, as its media type says.
    Fields,
    /// JSON.
    Json,
    /// A multipart form.
    Multipart,
}

/// What a reply of 200 contains.
#[derive(Clone, Copy)]
pub struct Content {
    /// Its media type.
    pub media_type: &'static str,
    /// Its schema.
    pub schema: SchemaOf,
}

/// A status that an operation may end with.
#[derive(Clone, Copy)]
pub struct Status {
    /// The status.
    pub status: u16,
    /// When it is sent.
    pub words: &'static str,
    /// The schema of its JSON, where that is not the operation's error.
    pub schema: Option<SchemaOf>,
}

/// The description of an operation.
#[derive(Clone)]
pub struct Description {
    /// The group of the reference that it is in.
    pub group: Group,
    /// What it does, in a few words.
    pub summary: &'static str,
    /// An object whose properties are the parameters in the query.
    pub query: Option<SchemaOf>,
    /// The body.
    pub body: Option<(Encoding, SchemaOf)>,
    /// What a reply of 200 contains; several where the request chooses.
    pub replies: Vec<Content>,
    /// Statuses beside those that follow from the operation, or with other words.
    pub statuses: Vec<Status>,
    /// Whether it calls a model server, and is charged.
    pub calls_model: bool,
    /// Whether a browser gets its form again, as a page, if the request is throttled or the servers are busy.
    pub shows_form_again: bool,
}

/// Begins a description.
pub fn summary(group: Group, summary: &'static str) -> Description {
    Description {
        group,
        summary,
        query: None,
        body: None,
        replies: Vec::new(),
        statuses: Vec::new(),
        calls_model: false,
        shows_form_again: false,
    }
}

impl Description {
    /// Takes the properties of `T` as parameters in the query.
    #[must_use]
    pub fn query<T: JsonSchema>(self) -> Description {
        Description { query: Some(T::json_schema), ..self }
    }

    /// Takes the properties of `T` as a form, a multipart form or a JSON object.
    #[must_use]
    pub fn fields<T: JsonSchema>(self) -> Description {
        Description { body: Some((Encoding::Fields, T::json_schema)), ..self }
    }

    /// Takes a `T` as JSON.
    #[must_use]
    pub fn json<T: JsonSchema>(self) -> Description {
        Description { body: Some((Encoding::Json, T::json_schema)), ..self }
    }

    /// Takes the properties of `T` as a multipart form.
    #[must_use]
    pub fn multipart<T: JsonSchema>(self) -> Description {
        Description { body: Some((Encoding::Multipart, T::json_schema)), ..self }
    }

    /// Replies with a `T` as JSON.
    #[must_use]
    pub fn reply<T: JsonSchema>(self) -> Description {
        self.reply_as::<T>("application/json")
    }

    /// Replies with a `T` of another media type.
    #[must_use]
    pub fn reply_as<T: JsonSchema>(mut self, media_type: &'static str) -> Description {
        self.replies.push(Content { media_type, schema: |generator| generator.subschema_for::<T>() });
        self
    }

    /// May also end with this status. The words replace those that the status has elsewhere.
    #[must_use]
    pub fn status(mut self, status: u16, words: &'static str) -> Description {
        self.statuses.push(Status { status, words, schema: None });
        self
    }

    /// May also end with this status and a `T` as JSON, where that is no error.
    #[must_use]
    pub fn status_with<T: JsonSchema>(mut self, status: u16, words: &'static str) -> Description {
        self.statuses.push(Status { status, words, schema: Some(SchemaGenerator::subschema_for::<T>) });
        self
    }

    /// Calls a model server, and is charged.
    #[must_use]
    pub fn calls_model(self) -> Description {
        Description { calls_model: true, ..self }
    }

    /// Shows a browser its form again, as a page, if the request is throttled or the servers are busy.
    #[must_use]
    pub fn shows_form_again(self) -> Description {
        Description { shows_form_again: true, ..self }
    }
}
