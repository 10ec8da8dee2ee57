//! Authentication before a handler runs.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

use super::{Handler, Operation, Refusal};
use crate::auth::{Caller, Via};
use crate::call::Call;
use crate::error::{Error, Result};
use crate::http::Response;

/// What is escaped in the path that `next` holds: everything that could end it.
const ESCAPED_IN_NEXT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_');

impl Operation {
    /// Authenticates the caller as far as the handler needs it, then runs the handler.
    ///
    /// # Errors
    /// 401 without a valid credential; 403 for callers who may not; 503 while the credential cannot be checked; those
    /// of the handler.
    pub fn run(&self, call: &mut Call<'_>) -> Result<Response> {
        match self.handler {
            Handler::Public(handler) => handler(call),
            Handler::Optional(handler) => {
                let caller = match call.authenticate() {
                    // It must work during an outage, in which nobody can be authenticated.
                    Err(_) if self.works_without_database => None,
                    caller => caller?,
                };
                handler(call, caller.as_deref())
            }
            Handler::Authenticated(handler) => match call.authenticate()? {
                Some(caller) => {
                    self.authorize(&caller)?;
                    handler(call, &caller)
                }
                None => self.refuse(call),
            },
        }
    }

    /// API keys are for programs, so an administrator's key does not make a program an administrator.
    fn authorize(&self, caller: &Caller) -> Result<()> {
        match self.is_administrative && !(caller.user.is_admin && matches!(caller.via, Via::Session { .. })) {
            true => Err(Error::Forbidden("Only administrators can see this page")),
            false => Ok(()),
        }
    }

    fn refuse(&self, call: &Call<'_>) -> Result<Response> {
        match self.refusal {
            Refusal::Unauthorized(message) => Err(Error::Unauthorized(message)),
            Refusal::LogIn => {
                let next = percent_encoding::utf8_percent_encode(call.request.path(), ESCAPED_IN_NEXT);
                Ok(Response::see_other(format!("/login?next={next}")))
            }
        }
    }
}
