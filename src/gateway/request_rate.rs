//! The rate limits of one request. It is admitted once; its calls of models take the tokens that they may use.

use std::sync::{Arc, OnceLock};

use crate::auth::Caller;
use crate::error::{Error, Result};
use crate::limits::{Kind, Permit, RateIds, RateLimits, RateRefusal};
use crate::units::{Unit, Units};

/// The rate limits of one request.
pub(super) struct RequestRate {
    limits: Arc<RateLimits>,
    ids: RateIds,
    permit: OnceLock<Permit>,
}

impl RequestRate {
    /// Those of a caller; `None` if it has none.
    pub(super) fn of(caller: &Caller, limits: &Arc<RateLimits>) -> Option<Arc<RequestRate>> {
        if caller.rates.is_empty() {
            return None;
        }
        let (limits, ids) = (Arc::clone(limits), caller.rates.clone());
        Some(Arc::new(RequestRate { limits, ids, permit: OnceLock::new() }))
    }

    /// Admits the request.
    ///
    /// # Errors
    /// 429: there are too many. 503: that is unknown, as the database is away.
    pub(super) fn admit(&self) -> Result<()> {
        if self.permit.get().is_none() {
            let permit = self.limits.admit(&self.ids).map_err(refused)?;
            // There is none yet: a request is admitted once.
            let _ = self.permit.set(permit);
        }
        Ok(())
    }

    /// The most tokens that a request may use, if tokens are limited.
    pub(super) fn most_tokens(&self) -> Option<i64> {
        self.permit.get()?.most_tokens()
    }

    /// Takes as many tokens as a call of a model may use.
    ///
    /// # Errors
    /// As [`RequestRate::admit`]; 429 also if that is more than the limit.
    pub(super) fn take_tokens(&self, amount: i64) -> Result<()> {
        self.permit.get().map_or(Ok(()), |permit| permit.take_tokens(amount).map_err(refused))
    }

    /// So much was used of models.
    pub(super) fn note_use(&self, units: &Units) {
        if let Some(permit) = self.permit.get() {
            permit.use_tokens(tokens(units));
        }
    }

    /// The request is refused after all, so it uses nothing.
    pub(super) fn cancel(&self) {
        if let Some(permit) = self.permit.get() {
            permit.cancel();
        }
    }
}

/// The tokens that are limited: of prompts and replies.
pub(super) fn tokens(units: &Units) -> i64 {
    let counted = [
        Unit::PromptTokens,
        Unit::CachedInputTokens,
        Unit::CacheWriteTokens,
        Unit::CompletionTokens,
        Unit::EmbeddingTokens,
    ];
    counted.iter().fold(0, |sum: i64, unit| sum.saturating_add(units[*unit].max(0)))
}

fn refused(refusal: RateRefusal) -> Error {
    match refusal {
        RateRefusal::TooMany(Kind::Requests, wait) => {
            Error::RateLimited("Too many requests in a minute: the rate limit is reached", Some(wait))
        }
        RateRefusal::TooMany(Kind::Tokens, wait) => {
            Error::RateLimited("Too many tokens in a minute: the rate limit is reached", Some(wait))
        }
        RateRefusal::TooMany(Kind::Concurrent, wait) => {
            Error::RateLimited("Too many requests at once: the limit is reached", Some(wait))
        }
        RateRefusal::TooLarge(..) => {
            Error::RateLimited("The request may use more tokens than the rate limit admits in a minute", None)
        }
        RateRefusal::Unreachable => Error::Busy,
    }
}
