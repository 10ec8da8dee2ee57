//! Who pays for a request, and under which ids its charges are made.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::auth::{Caller, Via};
use crate::call::Call;
use crate::error::{Error, Result, Shape};
use crate::hex;
use crate::http::{Content, Response};
use crate::units::Units;
use crate::usage::{Charge, ChargeId, Meter, new_id};

use super::digest::{RequestDigest, add_with_length};

/// The header by which a client marks a request as a repetition of an earlier one.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Most bytes of its value.
const MAX_IDEMPOTENCY_KEY: usize = 255;
/// Most bytes of a response that is deferred until its charge is durable. A larger one keeps a thread waiting instead;
/// there are few threads, so few large responses are in memory at once.
const MAX_DEFERRED: usize = 256 * 1024;

/// What a request used of one model.
#[derive(Clone, Debug)]
pub struct ModelUsage {
    /// The model.
    pub model: String,
    /// What was used.
    pub units: Units,
    /// Whether that is an estimate, since the model server gave no numbers.
    pub estimated: bool,
    /// How long the model server took, in microseconds.
    pub latency_micros: i64,
}

/// What the charges of one request have in common.
pub(super) struct ChargeContext {
    meter: Arc<Meter>,
    user_id: String,
    key_id: Option<String>,
    server: &'static str,
    route: &'static str,
    shape: Shape,
    idempotency_key: Option<String>,
    /// Whether a client that disconnects ends the model's work, and pays for what was made. If not, the reply is made to
    /// its end and charged in full.
    pub(super) cancel_on_disconnect: bool,
    /// The digest of what was read of the request so far.
    pub(super) digest: RequestDigest,
}

impl ChargeContext {
    /// Checks that a charge of `caller` could be recorded. Call it before the body is read.
    ///
    /// # Errors
    /// 503 while a charge could not be recorded, 400 for an `Idempotency-Key` that is empty or too long.
    pub(super) fn new(call: &Call<'_>, caller: &Caller) -> Result<ChargeContext> {
        call.app.meter.admit()?;
        let idempotency_key = call.request.header(IDEMPOTENCY_KEY).map(str::to_owned);
        if idempotency_key.as_ref().is_some_and(|key| !(1..=MAX_IDEMPOTENCY_KEY).contains(&key.len())) {
            return Err(Error::bad("Idempotency-Key must have 1 to 255 characters"));
        }
        let key_id = match &caller.via {
            Via::Key { id, .. } => Some(id.clone()),
            Via::Session { .. } => None,
        };
        Ok(ChargeContext {
            meter: Arc::clone(&call.app.meter),
            user_id: caller.user.id.clone(),
            key_id,
            server: call.role.name(),
            route: call.charged_as,
            shape: call.shape,
            cancel_on_disconnect: true,
            digest: RequestDigest::new(call.request, idempotency_key.is_some()),
            idempotency_key,
        })
    }

    /// Charges for a request and defers its response until the charge is durable. A repeated request is not charged
    /// again.
    ///
    /// # Errors
    /// 503: it cannot be charged.
    pub(super) fn charge_and_defer(&self, mut response: Response, usage: ModelUsage) -> Result<Response> {
        if matches!(&response.content, Content::Bytes(bytes) if bytes.len() > MAX_DEFERRED) {
            return self.charge(usage).map(|()| response);
        }
        let (route, shape) = (self.route, self.shape);
        let charge = self.charge_of(self.request_id(), usage);
        response.deferred = Some(self.meter.charge_deferred(charge, move |e, response| {
            log::warn!("{route}: a response was discarded because it could not be charged: {e}");
            replace(response, e.reply(shape))
        })?);
        Ok(response)
    }

    /// Charges for a request that was answered completely; returns once the charge is durable. A repeated request is not
    /// charged again.
    ///
    /// # Errors
    /// 503: it cannot be charged, so the reply must not be sent completely.
    pub(super) fn charge(&self, usage: ModelUsage) -> Result<()> {
        self.meter.charge(self.charge_of(self.request_id(), usage)).map(drop)
    }

    /// As [`ChargeContext::charge`], for a request that is charged once for each of several models.
    ///
    /// # Errors
    /// As there.
    pub(super) fn charge_for_model(&self, usage: ModelUsage) -> Result<()> {
        let id = match &self.idempotency_key {
            Some(key) => self.idempotent_id(&format!("{key}\0{}", usage.model)),
            None => ChargeId::Generated(new_id()),
        };
        self.meter.charge(self.charge_of(id, usage)).map(drop)
    }

    /// Charges for a part of a reply, under an id of its own: if it had the id of the request, a client could
    /// disconnect after the first word and then get the whole reply, by the same `Idempotency-Key`, for that price.
    ///
    /// # Errors
    /// 503: it cannot be charged.
    pub(super) fn charge_part(&self, usage: ModelUsage) -> Result<()> {
        self.meter.charge(self.charge_of(ChargeId::Generated(new_id()), usage)).map(drop)
    }

    fn charge_of(&self, id: ChargeId, usage: ModelUsage) -> Charge {
        Charge {
            id,
            user_id: self.user_id.clone(),
            key_id: self.key_id.clone(),
            server: self.server,
            route: self.route,
            model: usage.model,
            units: usage.units,
            estimated: usage.estimated,
            latency_micros: usage.latency_micros,
        }
    }

    fn request_id(&self) -> ChargeId {
        self.idempotency_key.as_ref().map_or_else(|| ChargeId::Generated(new_id()), |key| self.idempotent_id(key))
    }

    fn idempotent_id(&self, key: &str) -> ChargeId {
        let mut hasher = Sha256::new();
        for part in [self.user_id.as_bytes(), self.route.as_bytes(), key.as_bytes()] {
            add_with_length(&mut hasher, part);
        }
        hasher.update(self.digest.value().unwrap_or_default());
        ChargeId::ClientSupplied(format!("idem_{}", hex::encode(&hasher.finalize())))
    }
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
