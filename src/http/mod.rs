//! The wire code: requests, bodies, forms, replies and the route table. Knows no socket and no database.
//!
//! The vocabulary ([`Method`], [`StatusCode`]) is `tiny_http`'s.

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
pub use tiny_http::{Method, StatusCode};
