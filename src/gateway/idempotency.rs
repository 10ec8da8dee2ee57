//! `Idempotency-Key`: the key of a request, and its claim while the request runs.

use std::sync::Arc;

use crate::call::Call;
use crate::error::{Error, Result};
use crate::store::replies::KeptReply;
use crate::usage::{Claim, Claims, Keep, KeyState, Meter};

use super::digest::RequestDigest;
use super::kept::{Kept, Reply};

/// The header by which a client marks a request as a repetition of an earlier one.
const HEADER: &str = "idempotency-key";
/// Most bytes of its value.
const MAX_KEY: usize = 255;

/// A request's key. Keys belong to an account.
pub(super) struct Idempotency {
    claims: Arc<Claims>,
    meter: Arc<Meter>,
    user_id: String,
    key: String,
    claim: Option<Arc<Claim>>,
}

impl Idempotency {
    /// The key of a request of this user, if it has one.
    ///
    /// # Errors
    /// 400 for one that is no key.
    pub(super) fn of(call: &Call<'_>, user_id: &str) -> Result<Option<Idempotency>> {
        let Some(key) = call.request.header(HEADER) else { return Ok(None) };
        if !(1..=MAX_KEY).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::bad("Idempotency-Key must have 1 to 255 visible ASCII characters"));
        }
        let (claims, meter) = (Arc::clone(&call.app.claims), Arc::clone(&call.app.meter));
        Ok(Some(Idempotency { claims, meter, user_id: user_id.to_owned(), key: key.to_owned(), claim: None }))
    }

    /// Claims the key, unless a reply is kept for it, which is returned.
    ///
    /// # Errors
    /// 409 while another request with the key is running, 503 while the database cannot tell.
    pub(super) fn claim(&mut self) -> Result<Option<Kept>> {
        self.meter.knows_kept_replies()?;
        match self.claims.claim(&self.user_id, &self.key)? {
            KeyState::Claimed(claim) => {
                self.claim = Some(Arc::new(claim));
                Ok(None)
            }
            KeyState::Kept(reply) => Ok(Some(Kept(reply))),
            KeyState::Running => Err(Error::KeyInUse),
        }
    }

    /// What is given to the meter with the charge, so that the reply to the request with this digest is kept.
    pub(super) fn keep(&self, reply: Reply, digest: &RequestDigest) -> Option<Keep> {
        let claim = self.claim.clone()?;
        let reply = KeptReply { claimed: Some(claim.began()), ..reply.into_row(&self.key, digest) };
        Some(Keep { reply, claim })
    }

    /// Frees the key, before the client hears that nothing was charged.
    pub(super) fn release(self) {
        // Otherwise it is a charge that still needs it.
        if let Some(claim) = self.claim.and_then(Arc::into_inner) {
            claim.release();
        }
    }
}
