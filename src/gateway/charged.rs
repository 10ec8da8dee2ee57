//! The wrapper of every charged handler.
//!
//! The caller is authenticated already. Before the handler's work, it checks that the meter could record a charge,
//! validates the `Idempotency-Key` and reads the body. After it, it charges for the outcome, and defers the response
//! until the charge is durable.

use crate::auth::Caller;
use crate::blocking::block_in_place;
use crate::call::Call;
use crate::engine::{Engine, client_left};
use crate::error::{Error, Result};
use crate::http::{Request, Response};

use super::charging::ChargeContext;
use super::digest::RequestDigest;
use super::reply_stream::{self, ReplyStream};
use super::upload::{FileHead, Upload};

pub use super::charging::ModelUsage;

/// A request whose body was read.
pub struct Work<'a> {
    /// The request; its body is in `body`.
    pub request: &'a Request,
    /// The path's segments that stood for `{…}`, still percent-encoded.
    pub segments: &'a [String],
    /// The whole body.
    pub body: Vec<u8>,
    /// Whether a client that disconnects while a reply is streamed, or made of a stream, ends the model's work. Replies
    /// that come in one piece are made to their end in any case, as only then it is known what they used.
    pub cancel_on_disconnect: bool,
    /// The digest of the request so far, for handlers that fetch more input for it.
    pub digest: &'a mut RequestDigest,
}

/// A request with a recording, which the handler reads.
pub struct UploadWork<'a> {
    /// The recording.
    pub upload: Upload<'a>,
    /// The name of its file, and the fields before it.
    pub head: FileHead,
    /// Whether all of the body is in memory already.
    pub is_buffered: bool,
}

/// The result of a handler's work.
pub enum Outcome {
    /// A complete response.
    Reply(Response, ModelUsage),
    /// A response that several models contributed to, and what was used of each. If it is an error, that is charged
    /// nevertheless, but a repetition of the request will be charged again.
    PerModel(Result<Response>, Vec<ModelUsage>),
    /// A response without content, the model, and the stream that will be the content.
    Stream(Response, String, Box<dyn ReplyStream>),
}

/// Runs a handler that needs the whole body, of at most `max_body` bytes, and calls `engine`.
///
/// # Errors
/// 503 while no charge could be recorded or without an engine; 400 for a bad `Idempotency-Key`; 408 or 413 for the
/// body; those of `work`; 503 if the outcome cannot be charged.
pub fn charged(
    call: &mut Call<'_>,
    caller: &Caller,
    engine: &Engine,
    max_body: usize,
    work: impl FnOnce(Work<'_>) -> Result<Outcome>,
) -> Result<Response> {
    let mut context = begin(call, caller, engine)?;
    let body = call.request.body.into_bytes(max_body)?;
    context.digest.add(&body);
    let ChargeContext { cancel_on_disconnect, digest, .. } = &mut context;
    let (segments, cancel_on_disconnect) = (&call.segments[..], *cancel_on_disconnect);
    let outcome = work(Work { request: call.request, segments, body, cancel_on_disconnect, digest })?;
    settle(context, outcome)
}

/// Runs a handler that reads a recording, in the multipart field `file_field`, while it is uploaded. If the model server
/// replies before the upload is complete, the handler must fail: the request is not known then.
///
/// # Errors
/// As [`charged`].
pub fn charged_upload(
    call: &mut Call<'_>,
    caller: &Caller,
    engine: &Engine,
    file_field: &'static str,
    work: impl FnOnce(UploadWork<'_>) -> Result<Outcome>,
) -> Result<Response> {
    let mut context = begin(call, caller, engine)?;
    let is_buffered = call.request.body.is_buffered();
    let (upload, head) = Upload::open(call.request, file_field, &mut context.digest)?;
    let outcome = work(UploadWork { upload, head, is_buffered })?;
    settle(context, outcome)
}

fn begin(call: &Call<'_>, caller: &Caller, engine: &Engine) -> Result<ChargeContext> {
    let context = ChargeContext::new(call, caller)?;
    engine.check()?;
    Ok(context)
}

fn settle(context: ChargeContext, outcome: Outcome) -> Result<Response> {
    match outcome {
        Outcome::Reply(response, usage) => context.charge_and_defer(response, usage),
        Outcome::PerModel(response, usages) => {
            for usage in usages {
                match response.is_ok() {
                    true => context.charge_for_model(usage)?,
                    false => context.charge_part(usage)?,
                }
            }
            response
        }
        Outcome::Stream(_, model, stream) if client_left() => {
            block_in_place(|| reply_stream::settle_for_nobody(context, model, stream))?;
            Err(Error::ClientLeft)
        }
        Outcome::Stream(response, model, stream) => Ok(reply_stream::attach(response, context, model, stream)),
    }
}
