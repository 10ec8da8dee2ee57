//! The wrapper of every charged handler.
//!
//! The caller is authenticated already. Before the handler's work, it checks that the meter could record a charge,
//! validates the `Idempotency-Key` and reads the body. The handler then finds the model that the request means. If
//! there is none, a reply that is kept for the key is given all the same, else the key stays free. After the work, it
//! charges for the outcome, and defers the response until the charge is durable. What the handler's calls may cost is
//! set aside meanwhile (`worst_case`).

use std::io::{self, Read};

use crate::auth::Caller;
use crate::blocking::{self, ClientGuard, Wait, block_in_place};
use crate::call::Call;
use crate::catalogue::Purpose;
use crate::engine::client_left;
use crate::engine::fetch::Download;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::http::form::FORM_LIMIT;

use super::MAX_RECORDING;
use super::charging::ChargeContext;
use super::forward::{AudioSource, upload_error};
use super::idempotency::Idempotency;
use super::kept::Kept;
use super::reply_stream::{self, ReplyStream};
use super::request_rate::RequestRate;
use super::upload::{DigestedSource, ReceivedUpload};

pub use super::charging::ModelUsage;

/// A request whose body was read, and on which no work was done yet.
pub struct ChargedRequest(ChargeContext);

/// The result of a handler's work.
pub enum Outcome {
    /// A complete response.
    Reply(Response, ModelUsage),
    /// A response that several models contributed to, and what was used of each, which is one charge. If it is an
    /// error, that is charged nevertheless, but nothing is kept, and a repetition of the request will be charged again.
    PerModel(Result<Response>, Vec<ModelUsage>),
    /// A response without content, the model, and the stream that will be the content.
    Stream(Response, String, Box<dyn ReplyStream>),
}

impl ChargedRequest {
    /// Reads the whole body, of at most `max_body` bytes, of a request that calls a model.
    ///
    /// # Errors
    /// 503 while no charge could be recorded or no model can be called; 400 for a bad `Idempotency-Key`; 408 or 413 for
    /// the body.
    pub fn read(
        call: &mut Call<'_>,
        caller: &Caller,
        purpose: Purpose,
        max_body: usize,
    ) -> Result<(ChargedRequest, Vec<u8>)> {
        let mut context = begin(call, caller, purpose)?;
        let body = call.request.body.into_bytes(max_body)?;
        context.digest.add(&body);
        Ok((ChargedRequest(context), body))
    }

    /// Does the work for a request that was `prepared`: its model was found, and what else it says is right. Charges
    /// for the outcome. If a reply is kept for the request, it is given instead, also where the request cannot be
    /// prepared any more, such as when its model was removed.
    ///
    /// # Errors
    /// That of `prepared`; those of `work`, of which 402 is one if a budget cannot pay for it; 429 if the rate limits
    /// do not admit it; 409 and 422 for an `Idempotency-Key` that is in use; 503 if the outcome cannot be charged.
    pub fn run<T>(self, prepared: Result<T>, work: impl FnOnce(T) -> Result<Outcome>) -> Result<Response> {
        let ChargedRequest(mut context) = self;
        let prepared = match claim_key(&mut context.idempotency, prepared)? {
            Claimed::First(prepared) => prepared,
            Claimed::Kept(kept) => return kept.replay(&context.digest),
        };
        let _guards = (watch(context.idempotency.as_ref()), context.enter_limits());
        let outcome = admit(context.rate.as_deref()).and_then(|()| work(prepared));
        settle(context, outcome)
    }
}

/// Runs a handler whose request names a recording to be fetched. `read` reads the request from the body, `prepare`
/// finds its model; `fetch` begins to fetch the recording. That is a part of the request: if there is another recording
/// at the same place later, that is another request.
///
/// # Errors
/// As [`ChargedRequest::read`] and [`ChargedRequest::run`]; those of `read` and `fetch`.
pub fn charged_download<T, M>(
    call: &mut Call<'_>,
    caller: &Caller,
    purpose: Purpose,
    read: impl FnOnce(&[u8]) -> Result<T>,
    prepare: impl FnOnce() -> Result<M>,
    fetch: impl FnOnce(&T) -> Result<Download>,
    work: impl FnOnce(T, M, &mut DigestedSource<'_, Download>) -> Result<Outcome>,
) -> Result<Response> {
    let (ChargedRequest(mut context), body) = ChargedRequest::read(call, caller, purpose, FORM_LIMIT)?;
    let request = read(&body)?;
    let prepared = match claim_key(&mut context.idempotency, prepare())? {
        Claimed::First(prepared) => prepared,
        Claimed::Kept(kept) => {
            let mut source = DigestedSource::new(fetch(&request)?, &mut context.digest);
            read_to_end(&mut source)?;
            return kept.replay(&context.digest);
        }
    };
    let _guards = (watch(context.idempotency.as_ref()), context.enter_limits());
    let digest = &mut context.digest;
    let outcome = admit(context.rate.as_deref())
        .and_then(|()| fetch(&request))
        .and_then(|download| work(request, prepared, &mut DigestedSource::new(download, digest)));
    settle(context, outcome)
}

/// Runs a handler that reads a recording, in the multipart field `file_field`, while it is uploaded. `prepare` finds
/// the model by the fields that are known before the recording is; the field `needed` is one of them if the request has
/// it. If the model server replies before the upload is complete, the handler must fail: the request is not known then.
///
/// # Errors
/// As [`charged_download`].
pub fn charged_upload<T>(
    call: &mut Call<'_>,
    caller: &Caller,
    purpose: Purpose,
    file_field: &'static str,
    needed: Option<&'static str>,
    prepare: impl FnOnce(&ReceivedUpload<'_>) -> Result<T>,
    work: impl FnOnce(ReceivedUpload<'_>, T) -> Result<Outcome>,
) -> Result<Response> {
    let mut context = begin(call, caller, purpose)?;
    let _limits = context.enter_limits();
    let mut upload = ReceivedUpload::open(call.request, file_field, needed, &mut context.digest)?;
    let prepared = prepare(&upload);
    let prepared = match claim_key(&mut context.idempotency, prepared)? {
        Claimed::First(prepared) => prepared,
        // The recording is compared with that of the first request once all of it was read.
        Claimed::Kept(kept) => {
            read_to_end(&mut upload.source)?;
            upload.source.trailing_fields()?;
            return kept.replay(&context.digest);
        }
    };
    let _watch = watch(context.idempotency.as_ref());
    let outcome = admit(context.rate.as_deref()).and_then(|()| work(upload, prepared));
    settle(context, outcome)
}

fn read_to_end(recording: &mut impl Read) -> Result<()> {
    let read = io::copy(&mut recording.take(MAX_RECORDING + 1), &mut io::sink()).map_err(|e| upload_error(&e))?;
    if read > MAX_RECORDING { Err(upload_error(&io::ErrorKind::FileTooLarge.into())) } else { Ok(()) }
}

/// What is known of a request once its key is claimed, if it has one.
enum Claimed<T> {
    /// It is to be answered.
    First(T),
    /// It is the repetition of one that was, or should be.
    Kept(Kept),
}

/// Claims a request's key, if it has one. A request that could not be prepared may still be a repetition; if it is not,
/// the key is free again.
fn claim_key<T>(idempotency: &mut Option<Idempotency>, prepared: Result<T>) -> Result<Claimed<T>> {
    let kept = idempotency.as_mut().map_or(Ok(None), Idempotency::claim)?;
    match (kept, prepared) {
        (Some(kept), _) => Ok(Claimed::Kept(kept)),
        (None, Ok(prepared)) => Ok(Claimed::First(prepared)),
        (None, Err(e)) => {
            if let Some(idempotency) = idempotency.take() {
                idempotency.release();
            }
            Err(e)
        }
    }
}

/// Admits a request that has rate limits. One that is answered with a kept reply needs no permit.
fn admit(rate: Option<&RequestRate>) -> Result<()> {
    rate.map_or(Ok(()), RequestRate::admit)
}

/// Whether a request failed before a model was at work for it.
fn is_refusal(e: &Error) -> bool {
    !matches!(
        e,
        Error::Upstream(..) | Error::Relayed(_) | Error::ClientLeftModel | Error::Database(_) | Error::Internal(_)
    )
}

/// A reply that is kept is made to its end, whether or not the client waits for it.
fn watch(idempotency: Option<&Idempotency>) -> Option<ClientGuard> {
    idempotency.map(|_| blocking::set_client(None))
}

fn begin(call: &mut Call<'_>, caller: &Caller, purpose: Purpose) -> Result<ChargeContext> {
    let context = ChargeContext::new(call, caller)?;
    // A repetition needs no model.
    if context.idempotency.is_none() {
        call.app.models.check(purpose)?;
    }
    Ok(context)
}

fn settle(mut context: ChargeContext, outcome: Result<Outcome>) -> Result<Response> {
    let settled = outcome.and_then(|outcome| charge_for(&mut context, outcome));
    match settled {
        Ok(Settled::Response(response)) => Ok(response),
        Ok(Settled::Stream(_, model, stream)) if client_left() => {
            block_in_place(Wait::Model, || reply_stream::settle_without_client(context, model, stream))?;
            Err(Error::ClientLeft)
        }
        Ok(Settled::Stream(response, model, stream)) => Ok(reply_stream::attach(response, context, model, stream)),
        Err(e) => {
            if let Some(rate) = context.rate.as_ref().filter(|_| is_refusal(&e)) {
                rate.cancel();
            }
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
                    // It was no refusal: a model was at work.
                    context.rate = None;
                }
                context.release_key();
                response?
            }
        },
        Outcome::Stream(response, model, stream) => return Ok(Settled::Stream(response, model, stream)),
    }))
}
