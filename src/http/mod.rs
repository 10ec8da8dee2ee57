//! HTTP messages: requests, bodies, forms, and responses. Nothing here opens a socket or a database.
//!
//! [`Method`] and [`StatusCode`] come from the `http` crate, which `ureq` uses too. Header names are plain text, because
//! the server sends them exactly as they are written here. `tiny_http` is no longer a dependency: its listener starves
//! connections, and its `raw_print` cannot flush a response in pieces, as streams need.

pub mod body;
pub mod cookie;
pub mod deferred;
mod flat_object;
pub mod form;
pub mod head;
pub mod multipart;
pub mod object;
pub mod parts;
pub mod request;
pub mod request_fields;
pub mod request_ids;
pub mod response;
pub mod security_headers;
pub mod sse;

pub use ::http::{Method, StatusCode};
pub use body::{Body, BodyError};
pub use deferred::{Completion, Deferred, Notifier, Postponed, StartWaiting};
pub use head::{Framing, Head, HeadError, Parsed};
pub use request::Request;
pub use response::{Content, Response};
