//! Whether a reply that is being streamed may go on: not once the account is suspended, the credential revoked, or the
//! budget lowered so that nothing of it is left. A piece costs a look at two counters in memory.

use std::io::{self, Write};
use std::sync::Arc;

use crate::auth::{Caller, Resolver, Validity};
use crate::error::{Error, Result};
use crate::limits::Admission;

/// The caller of a stream, as it was known when the request came.
pub(super) struct CallerCheck {
    resolver: Arc<Resolver>,
    validity: Validity,
    /// The budgets, if there are any, and the number of those that were found to be used up.
    admission: Option<(Arc<Admission>, u64)>,
}

impl CallerCheck {
    pub(super) fn of(caller: &Caller, resolver: &Arc<Resolver>, admission: Option<&Arc<Admission>>) -> CallerCheck {
        CallerCheck {
            resolver: Arc::clone(resolver),
            validity: caller.validity.clone(),
            admission: admission.map(|admission| (Arc::clone(admission), admission.exhaustions())),
        }
    }

    /// Checks that the stream may go on. It asks the database only if something of the account has changed.
    ///
    /// # Errors
    /// 401: the credential is not valid any more. 402: nothing is left of a budget.
    fn check(&mut self) -> Result<()> {
        if !self.resolver.is_still_valid(&mut self.validity) {
            return Err(Error::Unauthorized("The credential of this request does not work any more"));
        }
        let is_emptied = self.admission.as_mut().is_some_and(|(admission, seen)| admission.is_emptied(seen));
        if is_emptied { Err(Error::BudgetExhausted) } else { Ok(()) }
    }
}

/// The client of a stream, which gets nothing more once the stream may not go on: each write fails then.
pub(super) struct CheckedClient<'a> {
    out: &'a mut dyn Write,
    caller: &'a mut CallerCheck,
    /// Why it may not.
    pub(super) ended: Option<Error>,
}

impl<'a> CheckedClient<'a> {
    pub(super) fn new(out: &'a mut dyn Write, caller: &'a mut CallerCheck) -> CheckedClient<'a> {
        CheckedClient { out, caller, ended: None }
    }
}

impl Write for CheckedClient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.ended.is_none() {
            self.ended = self.caller.check().err();
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
