//! Who pays for a request, and under which ids its charges are made.

use std::sync::Arc;

use crate::auth::{Caller, Via};
use crate::call::Call;
use crate::error::{Result, Shape};
use crate::http::{Content, Response};
use crate::limits::Admission;
use crate::logging;
use crate::traces::{self, Span};
use crate::usage::{Charge, ChargeId, Meter, new_id};

pub use crate::usage::ModelUsage;

use super::caller_check::CallerCheck;
use super::digest::RequestDigest;
use super::idempotency::Idempotency;
use super::kept;
use super::request_rate::RequestRate;
use super::worst_case::{self, RequestLimits};

/// Most bytes of a response that is deferred until its charge is durable. A larger one keeps a thread waiting instead;
/// there are few threads, so few large responses are in memory at once.
const MAX_DEFERRED: usize = 256 * 1024;

/// What the charges of one request have in common.
pub(super) struct ChargeContext {
    pub(super) meter: Arc<Meter>,
    /// What is set aside for it, if its account or key has a budget.
    admission: Option<Arc<Admission>>,
    /// Its rate limits, if its account or key has some.
    pub(super) rate: Option<Arc<RequestRate>>,
    /// Whether its stream may go on.
    pub(super) caller_check: CallerCheck,
    user_id: String,
    key_id: Option<String>,
    server: &'static str,
    route: &'static str,
    shape: Shape,
    /// The request's key and the claim to it, if it has an `Idempotency-Key`.
    pub(super) idempotency: Option<Idempotency>,
    /// The digest of what was read of the request so far.
    pub(super) digest: RequestDigest,
}

impl ChargeContext {
    /// Checks that a charge of `caller` could be recorded. Call it before the body is read.
    ///
    /// # Errors
    /// 503 while a charge could not be recorded, 400 for an invalid `Idempotency-Key`.
    pub(super) fn new(call: &mut Call<'_>, caller: &Caller) -> Result<ChargeContext> {
        call.app.meter.admit()?;
        let idempotency = Idempotency::of(call, &caller.user.id)?;
        let key_id = match &caller.via {
            Via::Key { id, .. } => Some(id.clone()),
            Via::Session { .. } => None,
        };
        let meter = &call.app.meter;
        let mut budgets = caller.budgets.clone();
        match call.app.config.billing.needs_balance(caller.user.is_subscribed) {
            true => budgets.lacks_balance = budgets.balance.is_none(),
            false => budgets.balance = None,
        }
        let limits = || Arc::clone(meter.limits());
        let admission = (!budgets.is_empty()).then(|| Admission::new(limits(), budgets));
        Ok(ChargeContext {
            meter: Arc::clone(meter),
            caller_check: CallerCheck::of(caller, call.client(), &call.app.resolver, admission.as_ref()),
            admission,
            rate: RequestRate::of(caller, meter.limits().rates()),
            user_id: caller.user.id.clone(),
            key_id,
            server: call.role.name(),
            route: call.charged_as,
            shape: call.shape,
            digest: RequestDigest::new(call.request, idempotency.is_some()),
            idempotency,
        })
    }

    /// The calls of models that this thread makes count against the caller's limits until the result is dropped.
    pub(super) fn enter_limits(&self) -> worst_case::Guard {
        let has_limits = self.admission.is_some() || self.rate.is_some();
        let limits = has_limits.then(|| {
            let (admission, rate, meter) = (self.admission.clone(), self.rate.clone(), Arc::clone(&self.meter));
            Arc::new(RequestLimits { admission, rate, meter })
        });
        worst_case::enter(limits.into())
    }

    /// Charges for a request, `parts` being what other models did of it, and defers its response until the charge is
    /// durable. With an `Idempotency-Key`, the response
    /// is kept.
    ///
    /// # Errors
    /// As [`ChargeContext::charge`].
    pub(super) fn charge_and_defer(
        &self,
        mut response: Response,
        usage: ModelUsage,
        parts: Vec<ModelUsage>,
    ) -> Result<Response> {
        if matches!(&response.content, Content::Bytes(bytes) if bytes.len() > MAX_DEFERRED) {
            let reply = self.idempotency.is_some().then(|| kept::reply_of(&response));
            return self.charge_now(self.charge_of(usage, parts, reply)).map(|()| response);
        }
        let (route, shape) = (self.route, self.shape);
        let reply = self.idempotency.is_some().then(|| kept::reply_of(&response));
        let charge = self.charge_of(usage, parts, reply);
        let span = span_of(&charge);
        let id = logging::request_id();
        let deferred = self.meter.charge_deferred(charge, move |e, response| {
            let _id = logging::set_request_id(id);
            log::warn!("{route}: a response was discarded because it could not be charged: {e}");
            replace(response, e.reply(shape))
        })?;
        response.deferred = Some(match span {
            Some(span) => deferred.map(|response| {
                drop(span);
                response
            }),
            None => deferred,
        });
        Ok(response)
    }

    /// Charges for a request that was answered completely, with this reply; returns once the charge is durable. With an
    /// `Idempotency-Key` there must be a reply, which is kept.
    ///
    /// # Errors
    /// 503: it cannot be charged, so the reply must not be sent completely. 409: another reply is kept under the key.
    pub(super) fn charge(&self, usage: ModelUsage, reply: Option<kept::Reply>) -> Result<()> {
        self.charge_now(self.charge_of(usage, Vec::new(), reply))
    }

    /// Charges for a part of a reply, for which nothing is kept: or else a client could disconnect after the first word
    /// and then get the whole reply, by the same `Idempotency-Key`, for that price.
    ///
    /// # Errors
    /// 503: it cannot be charged.
    pub(super) fn charge_part(&self, usage: ModelUsage, others: Vec<ModelUsage>) -> Result<()> {
        self.charge_now(self.charge_of(usage, others, None))
    }

    fn charge_now(&self, charge: Charge) -> Result<()> {
        let _span = span_of(&charge);
        self.meter.charge(charge).map(drop)
    }

    /// Frees the request's key, as it is not charged.
    pub(super) fn release_key(&mut self) {
        if let Some(idempotency) = self.idempotency.take() {
            idempotency.release();
        }
    }

    fn charge_of(&self, usage: ModelUsage, parts: Vec<ModelUsage>, reply: Option<kept::Reply>) -> Charge {
        parts.iter().chain([&usage]).for_each(|usage| logging::note_tokens(usage.units.tokens()));
        let keep = reply.zip(self.idempotency.as_ref());
        if let Some(rate) = &self.rate {
            parts.iter().chain([&usage]).for_each(|usage| rate.note_use(&usage.units));
        }
        Charge {
            id: ChargeId::Generated(new_id()),
            user_id: self.user_id.clone(),
            key_id: self.key_id.clone(),
            server: self.server,
            route: self.route,
            model: usage.model,
            units: usage.units,
            estimated: usage.estimated,
            latency_micros: usage.latency_micros,
            keep: keep.and_then(|(reply, idempotency)| idempotency.keep(reply, &self.digest)),
            admission: self.admission.clone(),
            parts,
        }
    }
}

/// A charge in the trace of its request: until it is durable.
fn span_of(charge: &Charge) -> Option<Span> {
    let span = traces::span("charge")?;
    span.describe(|span| {
        span.attribute("textgen.model", charge.model.clone());
        span.attribute("textgen.tokens", charge.units.tokens());
        span.attribute("textgen.estimated", charge.estimated);
    });
    Some(span)
}

/// Replaces a prepared response, but keeps the headers that the servers add to every response.
fn replace(prepared: Response, mut replacement: Response) -> Response {
    for (name, value) in prepared.headers {
        let describes_body = name.starts_with("Content-") && name != "Content-Security-Policy";
        if !describes_body && replacement.get_header(name).is_none() {
            replacement.headers.push((name, value));
        }
    }
    replacement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn a_replacement_keeps_the_headers_of_every_response() {
        let prepared = Response::with_body(200, "audio/wav", &b"RIFF"[..])
            .header("Content-Disposition", "attachment")
            .header("Content-Security-Policy", "default-src 'none'")
            .header("X-Request-Id", "7");
        let response = replace(prepared, Error::Busy.reply(Shape::OpenAi));
        let mut names: Vec<&str> = response.headers.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        assert_eq!(names, ["Content-Security-Policy", "Content-Type", "Retry-After", "X-Request-Id"]);
        assert_eq!((response.status.as_u16(), response.get_header("Content-Type")), (503, Some("application/json")));
    }
}
