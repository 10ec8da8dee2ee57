//! Who pays for a request, and under which id.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::accounts::random;
use crate::auth::Via;
use crate::blocking;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::usage::{Charge, Meter, Receipt, Units};

/// The header by which a client says that a request is the same as one before.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Most bytes of its value.
const LONGEST_KEY: usize = 255;
/// Random letters of an id.
const RANDOM: usize = 16;

/// A request that is going to be charged.
pub struct Bill {
    meter: Arc<Meter>,
    user_id: String,
    key_id: Option<String>,
    server: &'static str,
    route: &'static str,
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
        Ok(Bill { meter: Arc::clone(&call.app.meter), user_id, key_id, server, route, key, content: Sha256::new() })
    }

    /// Takes note of what the request says. The same `Idempotency-Key` with something else is another request.
    pub fn note(&mut self, content: &[u8]) {
        if self.key.is_some() {
            self.content.update(content);
        }
    }

    /// Charges a request that was answered whole; returns when that is durable. A repeated one costs nothing again.
    ///
    /// # Errors
    /// It cannot be kept: the reply must not go out whole.
    pub fn charge(&self, model: &str, units: Units, latency_micros: i64) -> Result<Receipt> {
        let id = match &self.key {
            Some(key) => self.id_of(key),
            None => new_id()?,
        };
        self.charge_as(id, model, units, latency_micros)
    }

    /// [`Bill::charge`], of a request that has one charge for each of several models.
    ///
    /// # Errors
    /// As there.
    pub fn charge_for_model(&self, model: &str, units: Units, latency_micros: i64) -> Result<Receipt> {
        let id = match &self.key {
            Some(key) => self.id_of(&format!("{key}\0{model}")),
            None => new_id()?,
        };
        self.charge_as(id, model, units, latency_micros)
    }

    /// Charges what was made for a client that has left, under an id of its own: the whole answer to a repeated
    /// request is not had for the price of its first word.
    ///
    /// # Errors
    /// It cannot be kept.
    pub fn charge_part(&self, model: &str, units: Units, latency_micros: i64) -> Result<Receipt> {
        self.charge_as(new_id()?, model, units, latency_micros)
    }

    fn charge_as(&self, id: String, model: &str, units: Units, latency_micros: i64) -> Result<Receipt> {
        let charge = Charge {
            id,
            user_id: self.user_id.clone(),
            key_id: self.key_id.clone(),
            server: self.server,
            route: self.route,
            model: model.to_owned(),
            units,
            latency_micros,
        };
        blocking::section(|| self.meter.charge(charge))?
    }

    fn id_of(&self, key: &str) -> String {
        let mut hasher = Sha256::new();
        for part in [self.user_id.as_bytes(), self.route.as_bytes(), key.as_bytes()] {
            hasher.update(part.len().to_le_bytes());
            hasher.update(part);
        }
        hasher.update(self.content.clone().finalize());
        hasher.finalize().iter().fold("idem_".to_owned(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// An id that nobody else has. Ids of one time stand together in an index.
fn new_id() -> Result<String> {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
    Ok(format!("{millis:012x}_{}", random(RANDOM)?))
}
