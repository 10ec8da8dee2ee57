//! HTTP messages: requests, bodies, forms, and responses. Nothing here opens a socket or a database.
//!
//! [`Method`] and [`StatusCode`] are those of the `http` crate, which `ureq` uses too; names of headers are plain text,
//! as the server writes them as they are. `tiny_http`, whose two enums served here before, is no dependency any more: its
//! listener lets connections starve. Nor can its `raw_print` flush a response piece by piece, as streams need.

pub mod body;
pub mod cookie;
pub mod deferred;
pub mod form;
pub mod head;
pub mod multipart;
pub mod object;
pub mod parts;
pub mod request;
pub mod response;
pub mod sse;

pub use ::http::{Method, StatusCode};
pub use body::{Body, BodyError};
pub use deferred::{Completion, Deferred, Notifier};
pub use head::{Framing, Head, HeadError, Parsed};
pub use request::Request;
pub use response::{Content, Response};
