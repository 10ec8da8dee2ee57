//! Who pays for a request, and under which id.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::auth::Via;
use crate::call::Call;
use crate::error::{Error, Result, Shape};
use crate::http::{Content, Response};
use crate::usage::{Charge, Id, Meter, Receipt, Units, new_id};

/// The header by which a client says that a request is the same as one before.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Most bytes of its value.
const LONGEST_KEY: usize = 255;
/// Most bytes of a reply that is kept in memory while its charge is made; a larger one keeps a thread as well, of which
/// there are few.
const LARGEST_HELD: usize = 256 * 1024;

/// A request that is going to be charged.
pub struct Bill {
    meter: Arc<Meter>,
    user_id: String,
    key_id: Option<String>,
    server: &'static str,
    route: &'static str,
    shape: Shape,
    key: Option<String>,
    content: Sha256,
}

impl Bill {
    /// Knows the caller, and that a charge can be kept: the first thing to be done, before a body is read.
    ///
    /// # Errors
    /// 401 with these words, 503 while a charge could not be kept, 400 for an `Idempotency-Key` that is too long.
    pub fn open(call: &mut Call<'_>, route: &'static str, refusal: &'static str) -> Result<Bill> {
        let caller = call.caller_or(refusal)?;
        call.app.meter.admit()?;
        let key = call.request.header(IDEMPOTENCY_KEY).map(str::to_owned);
        if key.as_ref().is_some_and(|key| !(1..=LONGEST_KEY).contains(&key.len())) {
            return Err(Error::bad("Idempotency-Key must have 1 to 255 characters"));
        }
        let key_id = match &caller.via {
            Via::Key { id, .. } => Some(id.clone()),
            Via::Session { .. } => None,
        };
        let (server, user_id) = (call.role.name(), caller.user.id.clone());
        let (meter, content) = (Arc::clone(&call.app.meter), Sha256::new());
        Ok(Bill { meter, user_id, key_id, server, route, shape: call.shape, key, content })
    }

    /// Takes note of what the request says. The same `Idempotency-Key` with something else is another request.
    pub fn note(&mut self, content: &[u8]) {
        if self.key.is_some() {
            self.content.update(content);
        }
    }

    /// The reply to a request that was answered whole: it leaves once its charge is durable. A repeated request costs
    /// nothing again.
    ///
    /// # Errors
    /// 503: it cannot be charged.
    pub fn charged(&self, mut response: Response, model: &str, units: Units, latency_micros: i64) -> Result<Response> {
        if matches!(&response.content, Content::Bytes(bytes) if bytes.len() > LARGEST_HELD) {
            return self.charge(model, units, latency_micros).map(|_| response);
        }
        let (route, shape) = (self.route, self.shape);
        let charge = self.of(self.id(), model, units, latency_micros);
        response.deferred = Some(self.meter.charge_deferred(charge, move |e, response| {
            log::warn!("an answer of {route} was made and not sent: {e}");
            in_place_of(response, e.reply(shape))
        })?);
        Ok(response)
    }

    /// Charges a request that was answered whole; returns when that is durable. A repeated one costs nothing again.
    ///
    /// # Errors
    /// It cannot be kept: the reply must not go out whole.
    pub fn charge(&self, model: &str, units: Units, latency_micros: i64) -> Result<Receipt> {
        self.charge_as(self.id(), model, units, latency_micros)
    }

    /// [`Bill::charge`], of a request that has one charge for each of several models.
    ///
    /// # Errors
    /// As there.
    pub fn charge_for_model(&self, model: &str, units: Units, latency_micros: i64) -> Result<Receipt> {
        let id = match &self.key {
            Some(key) => self.id_of(&format!("{key}\0{model}")),
            None => Id::New(new_id()),
        };
        self.charge_as(id, model, units, latency_micros)
    }

    /// Charges what was made for a client that has left, under an id of its own: the whole answer to a repeated
    /// request is not had for the price of its first word.
    ///
    /// # Errors
    /// It cannot be kept.
    pub fn charge_part(&self, model: &str, units: Units, latency_micros: i64) -> Result<Receipt> {
        self.charge_as(Id::New(new_id()), model, units, latency_micros)
    }

    fn charge_as(&self, id: Id, model: &str, units: Units, latency_micros: i64) -> Result<Receipt> {
        self.meter.charge(self.of(id, model, units, latency_micros))
    }

    fn of(&self, id: Id, model: &str, units: Units, latency_micros: i64) -> Charge {
        Charge {
            id,
            user_id: self.user_id.clone(),
            key_id: self.key_id.clone(),
            server: self.server,
            route: self.route,
            model: model.to_owned(),
            units,
            latency_micros,
        }
    }

    fn id(&self) -> Id {
        self.key.as_ref().map_or_else(|| Id::New(new_id()), |key| self.id_of(key))
    }

    fn id_of(&self, key: &str) -> Id {
        let mut hasher = Sha256::new();
        for part in [self.user_id.as_bytes(), self.route.as_bytes(), key.as_bytes()] {
            hasher.update(part.len().to_le_bytes());
            hasher.update(part);
        }
        hasher.update(self.content.clone().finalize());
        Id::Chosen(hasher.finalize().iter().fold("idem_".to_owned(), |text, byte| text + &format!("{byte:02x}")))
    }
}

/// Another reply, with what the servers say in every one.
fn in_place_of(prepared: Response, mut reply: Response) -> Response {
    for (name, value) in prepared.headers {
        let about_the_body = name.starts_with("Content-") && name != "Content-Security-Policy";
        if !about_the_body && reply.get_header(name).is_none() {
            reply.headers.push((name, value));
        }
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_reply_keeps_what_is_said_in_every_one() {
        let prepared = Response::with_body(200, "audio/wav", &b"RIFF"[..])
            .header("Content-Disposition", "attachment")
            .header("Content-Security-Policy", "default-src 'none'")
            .header("X-Request-Id", "7");
        let reply = in_place_of(prepared, Error::Busy.reply(Shape::OpenAi));
        let mut names: Vec<&str> = reply.headers.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        assert_eq!(names, ["Content-Security-Policy", "Content-Type", "Retry-After", "X-Request-Id"]);
        assert_eq!((reply.status.0, reply.get_header("Content-Type")), (503, Some("application/json")));
    }
}
