//! HTTP messages: requests, bodies, forms, responses and the route table. Nothing here opens a socket or a database.
//!
//! [`Method`] and [`StatusCode`] are those of the `http` crate, which `ureq` uses too; names of headers are plain text,
//! as the server writes them as they are. `tiny_http` does not serve our requests: its listener lets connections starve
//! and it cannot flush a response piece by piece, so the server layer has a listener of its own. As an HTTP
//! server that we did not write, it is what the tests check our client against.

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
pub mod router;
pub mod sse;

pub use body::{Body, BodyError};
pub use deferred::{Completion, Deferred, Notifier};
pub use head::{Framing, Head, HeadError, Parsed};
pub use request::Request;
pub use response::{Content, Response};
pub use router::{Route, Router};

pub use ::http::{Method, StatusCode};
