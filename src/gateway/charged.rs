//! The wrapper of every charged handler.
//!
//! The caller is authenticated already. Before the handler's work, it checks that the meter could record a charge,
//! validates the `Idempotency-Key` and reads the body. After it, it charges for the outcome, and defers the response
//! until the charge is durable. What the handler's calls may cost is set aside meanwhile (`worst_case`).

use std::io::{self, Read};

use crate::auth::Caller;
use crate::blocking::{self, ClientGuard, block_in_place};
use crate::call::Call;
use crate::engine::fetch::Download;
use crate::engine::{Engine, client_left};
use crate::error::{Error, Result};
use crate::http::{Request, Response};

use super::MAX_RECORDING;
use super::charging::ChargeContext;
use super::forward::{AudioSource, upload_error};
use super::kept;
use super::reply_stream::{self, ReplyStream};
use super::upload::{DigestedSource, FileHead, Upload};

pub use super::charging::ModelUsage;

/// A request whose body was read.
pub struct Work<'a> {
    /// The request; its body is in `body`.
    pub request: &'a Request,
    /// The path's segments that stood for `{…}`, still percent-encoded.
    pub segments: &'a [String],
    /// The whole body.
    pub body: Vec<u8>,
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
    /// A response that several models contributed to, and what was used of each, which is one charge. If it is an error, that is charged
    /// nevertheless, but nothing is kept, and a repetition of the request will be charged again.
    PerModel(Result<Response>, Vec<ModelUsage>),
    /// A response without content, the model, and the stream that will be the content.
    Stream(Response, String, Box<dyn ReplyStream>),
}

/// Runs a handler that needs the whole body, of at most `max_body` bytes, and calls `engine`.
///
/// # Errors
/// 503 while no charge could be recorded or without an engine; 400 for a bad `Idempotency-Key`; 408 or 413 for the
/// body; those of `work`, of which 402 is one if a budget cannot pay for it; 503 if the outcome cannot be charged.
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
    if let Some(kept) = context.claim_key()? {
        return kept.replay(&context.digest);
    }
    let (_watch, _budget) = (context.watch(), context.enter_budget());
    let outcome = work(Work { request: call.request, segments: &call.segments, body });
    settle(context, outcome)
}

/// As [`charged`], for a handler whose request names a recording to be fetched. `read` reads the request from the body,
/// and `fetch` begins to fetch the recording. That is a part of the request: if there is another recording at the same
/// place later, that is another request.
///
/// # Errors
/// As [`charged`]; those of `read` and `fetch`.
pub fn charged_download<T>(
    call: &mut Call<'_>,
    caller: &Caller,
    engine: &Engine,
    max_body: usize,
    read: impl FnOnce(&[u8]) -> Result<T>,
    fetch: impl FnOnce(&T) -> Result<Download>,
    work: impl FnOnce(T, &mut DigestedSource<'_, Download>) -> Result<Outcome>,
) -> Result<Response> {
    let mut context = begin(call, caller, engine)?;
    let body = call.request.body.into_bytes(max_body)?;
    context.digest.add(&body);
    let request = read(&body)?;
    if let Some(kept) = context.claim_key()? {
        let mut source = DigestedSource::new(fetch(&request)?, &mut context.digest);
        read_to_end(&mut source)?;
        return kept.replay(&context.digest);
    }
    let (_watch, _budget) = (context.watch(), context.enter_budget());
    let digest = &mut context.digest;
    let outcome = fetch(&request).and_then(|download| work(request, &mut DigestedSource::new(download, digest)));
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
    // The recording is compared with that of the first request once all of it was read.
    let kept = context.claim_key()?;
    if let Some(kept) = kept {
        let (mut upload, _) = Upload::open(call.request, file_field, &mut context.digest)?;
        read_to_end(&mut upload)?;
        upload.trailing_fields()?;
        return kept.replay(&context.digest);
    }
    let (_watch, _budget) = (context.watch(), context.enter_budget());
    let opened = Upload::open(call.request, file_field, &mut context.digest);
    let outcome = opened.and_then(|(upload, head)| work(UploadWork { upload, head, is_buffered }));
    settle(context, outcome)
}

fn read_to_end(recording: &mut impl Read) -> Result<()> {
    let read = io::copy(&mut recording.take(MAX_RECORDING + 1), &mut io::sink()).map_err(|e| upload_error(&e))?;
    if read > MAX_RECORDING { Err(upload_error(&io::ErrorKind::FileTooLarge.into())) } else { Ok(()) }
}

impl ChargeContext {
    /// Claims the request's key, if it has one; the reply if one is kept for it.
    fn claim_key(&mut self) -> Result<Option<kept::Kept>> {
        self.idempotency.as_mut().map_or(Ok(None), super::idempotency::Idempotency::claim)
    }

    /// A reply that is kept is made to its end, whether or not the client waits for it.
    fn watch(&self) -> Option<ClientGuard> {
        self.idempotency.is_some().then(|| blocking::set_client(None))
    }
}

fn begin(call: &Call<'_>, caller: &Caller, engine: &Engine) -> Result<ChargeContext> {
    let context = ChargeContext::new(call, caller)?;
    engine.check()?;
    Ok(context)
}

fn settle(mut context: ChargeContext, outcome: Result<Outcome>) -> Result<Response> {
    let settled = outcome.and_then(|outcome| charge_for(&mut context, outcome));
    match settled {
        Ok(Settled::Response(response)) => Ok(response),
        Ok(Settled::Stream(_, model, stream)) if client_left() => {
            block_in_place(|| reply_stream::settle_without_client(context, model, stream))?;
            Err(Error::ClientLeft)
        }
        Ok(Settled::Stream(response, model, stream)) => Ok(reply_stream::attach(response, context, model, stream)),
        Err(e) => {
            context.release_key();
            Err(e)
        }
    }
}

/// What is left to do.
enum Settled {
    Response(Response),
    Stream(Response, String, Box<dyn ReplyStream>),
}

fn charge_for(context: &mut ChargeContext, outcome: Outcome) -> Result<Settled> {
    Ok(Settled::Response(match outcome {
        Outcome::Reply(response, usage) => context.charge_and_defer(response, usage, Vec::new())?,
        Outcome::PerModel(response, mut parts) => match (parts.pop(), response) {
            (Some(usage), Ok(response)) => context.charge_and_defer(response, usage, parts)?,
            (usage, response) => {
                if let Some(usage) = usage {
                    context.charge_part(usage, parts)?;
                }
                context.release_key();
                response?
            }
        },
        Outcome::Stream(response, model, stream) => return Ok(Settled::Stream(response, model, stream)),
    }))
}
