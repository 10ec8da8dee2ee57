//! Whether a reply that is being streamed may go on: not once the account is suspended, the credential revoked, the
//! account or the key limited to other models or addresses, or the budget lowered below what was made. A piece costs a look
//! at two counters in memory.

use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::Arc;

use crate::auth::{Caller, Resolver, Standing, Validity};
use crate::error::{Error, Result};
use crate::limits::{Admission, LimitWatch};
use crate::units::Units;
use crate::usage::{Meter, cost};

/// The caller of a stream, as it was known when the request came.
pub(super) struct CallerCheck {
    resolver: Arc<Resolver>,
    validity: Validity,
    /// Where it is.
    client: IpAddr,
    /// The budgets, if there are any, and what is known of their limits.
    admission: Option<(Arc<Admission>, LimitWatch)>,
}

impl CallerCheck {
    pub(super) fn of(
        caller: &Caller,
        client: IpAddr,
        resolver: &Arc<Resolver>,
        admission: Option<&Arc<Admission>>,
    ) -> CallerCheck {
        CallerCheck {
            resolver: Arc::clone(resolver),
            validity: caller.validity.clone(),
            client,
            admission: admission.map(|admission| (Arc::clone(admission), admission.watch())),
        }
    }

    /// Checks that the stream of this model may go on. It asks the database only if something of the account has changed.
    ///
    /// # Errors
    /// 401: the credential is not valid any more. 403 and 404: it may not be used any more from this address, or for this
    /// model. 402: nothing is left of a budget.
    fn check(&mut self, model: &str) -> Result<()> {
        match self.resolver.standing(&mut self.validity) {
            Standing::Unchanged => {}
            Standing::Changed(caller) => {
                caller.check_address(self.client)?;
                if !caller.may_call(model) {
                    return Err(Error::ModelNotFound(Some(model.to_owned())));
                }
            }
            Standing::Invalid => {
                return Err(Error::Unauthorized("The credential of this request does not work any more"));
            }
        }
        self.check_budgets(|| 0)
    }

    fn check_budgets(&mut self, made: impl FnOnce() -> i128) -> Result<()> {
        let has_passed = self.admission.as_mut().is_some_and(|(admission, watch)| admission.has_passed(watch, made));
        if has_passed { Err(Error::BudgetExhausted) } else { Ok(()) }
    }
}

/// The client of a stream of which it is told what was made.
pub trait StreamClient: Write {
    /// So much was made, the next piece included. If a budget was lowered so that it cannot pay for that, each write fails
    /// from now on. `made` is called only if a limit was lowered.
    fn note_made(&mut self, made: &mut dyn FnMut() -> Units);
}

/// The client of a stream, which gets nothing more once the stream may not go on: each write fails then.
pub(super) struct CheckedClient<'a> {
    out: &'a mut dyn Write,
    caller: &'a mut CallerCheck,
    meter: &'a Meter,
    model: &'a str,
    /// Why it may not.
    pub(super) ended: Option<Error>,
}

impl<'a> CheckedClient<'a> {
    /// For a stream of this model.
    pub(super) fn new(
        out: &'a mut dyn Write,
        caller: &'a mut CallerCheck,
        meter: &'a Meter,
        model: &'a str,
    ) -> CheckedClient<'a> {
        CheckedClient { out, caller, meter, model, ended: None }
    }
}

impl StreamClient for CheckedClient<'_> {
    fn note_made(&mut self, made: &mut dyn FnMut() -> Units) {
        if self.ended.is_none() {
            let (meter, model) = (self.meter, self.model);
            let cost = || meter.price(model).map_or(0, |price| cost(&price, &made()).total_picos());
            self.ended = self.caller.check_budgets(cost).err();
        }
    }
}

impl Write for CheckedClient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.ended.is_none() {
            self.ended = self.caller.check(self.model).err();
        }
        match self.ended {
            Some(_) => Err(io::ErrorKind::ConnectionAborted.into()),
            None => self.out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
