//! `Idempotency-Key`: the key of a request, and its claim while the request runs.

use std::sync::Arc;

use crate::call::Call;
use crate::error::{Error, Result};
use crate::store::replies::KeptReply;
use crate::usage::{Claim, Claiming, Keep, KeyState, Meter};

use super::digest::RequestDigest;
use super::kept::{Kept, Reply};

/// The header by which a client marks a request as a repetition of an earlier one.
const HEADER: &str = "idempotency-key";
/// Most bytes of its value.
const MAX_KEY: usize = 255;

/// A request's key. Keys belong to an account.
pub(super) struct Idempotency {
    meter: Arc<Meter>,
    key: String,
    claiming: Option<Begun>,
    claim: Option<Arc<Claim>>,
}

impl Idempotency {
    /// The key of a request of this user, if it has one. It begins to be claimed. If the request's body is in memory,
    /// the request is postponed meanwhile.
    ///
    /// # Errors
    /// 400 for one that is no key, 503 while the database cannot tell.
    pub(super) fn of(call: &mut Call<'_>, user_id: &str) -> Result<Option<Idempotency>> {
        let Some(key) = call.request.header(HEADER) else { return Ok(None) };
        if !(1..=MAX_KEY).contains(&key.len()) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::bad("Idempotency-Key must have 1 to 255 visible ASCII characters"));
        }
        let (key, meter) = (key.to_owned(), Arc::clone(&call.app.meter));
        let begun = call.begun.take().and_then(|begun| begun.downcast::<Begun>().ok());
        if let Some(begun) = begun.filter(|begun| begun.0.is_for(user_id, &key)) {
            return Ok(Some(Idempotency { meter, key, claiming: Some(*begun), claim: None }));
        }
        meter.knows_kept_replies()?;
        let claiming = call.app.claims.begin(user_id, &key);
        let begun = Begun(Arc::clone(&claiming));
        if call.request.body.is_buffered() {
            return Err(call.postpone(Box::new(begun), Box::new(move |notifier| claiming.notify(notifier))));
        }
        Ok(Some(Idempotency { meter, key, claiming: Some(begun), claim: None }))
    }

    /// Claims the key, unless a reply is kept for it, which is returned.
    ///
    /// # Errors
    /// 409 while another request with the key is running, 503 while the database cannot tell.
    pub(super) fn claim(&mut self) -> Result<Option<Kept>> {
        let Some(Begun(claiming)) = &self.claiming else { return Ok(None) };
        claiming.wait()?;
        self.meter.knows_kept_replies()?;
        match claiming.take()? {
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
    pub(super) fn release(mut self) {
        // Otherwise it is a charge that still needs it.
        if let Some(claim) = self.claim.take().and_then(Arc::into_inner) {
            claim.release();
        }
    }
}

/// A key that is being claimed. If the answer was not taken, because the request was refused before, the key is freed
/// when this is dropped.
struct Begun(Arc<Claiming>);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.release();
    }
}
