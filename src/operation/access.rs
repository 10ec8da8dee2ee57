//! Authentication before a handler runs.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

use super::{Group, Handler, Operation, Refusal};
use crate::auth::{Caller, Permission, Via};
use crate::call::Call;
use crate::error::{Error, Result};
use crate::http::Response;

/// What is escaped in the path and query that `next` holds: everything that could end them.
const ESCAPED_IN_NEXT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_');

/// The most bytes of a path with its query that a log-in leads back to.
pub const LONGEST_NEXT: usize = 2048;

/// The paths at which a caller learns who it is.
const IDENTITY: [&str; 4] =
    ["/api/current-user", "/api/get-user", "/api/get-user/stripe-usage", "/api/subscription-status"];

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
                match caller.as_deref().map(|caller| self.check_scope(call, caller)) {
                    // A restricted caller gets what everybody gets.
                    Some(Err(refusal)) => handler(call, None).map_err(|_| refusal),
                    _ => handler(call, caller.as_deref()),
                }
            }
            Handler::Authenticated(handler) => match call.authenticate()? {
                Some(caller) => {
                    self.check_scope(call, &caller)?;
                    self.authorize(call, &caller)?;
                    handler(call, &caller)
                }
                None => self.refuse(call),
            },
        }
    }

    /// Checks what a restricted account and a restricted key are limited to.
    fn check_scope(&self, call: &Call<'_>, caller: &Caller) -> Result<()> {
        caller.check_address(call.client())?;
        let Some(scope) = &caller.scope else { return Ok(()) };
        match self.permission() {
            Some(permission) if !scope.permits(permission) => {
                Err(Error::Forbidden("This key may not be used for this"))
            }
            _ => Ok(()),
        }
    }

    /// Whether it calls models.
    pub fn calls_models(&self) -> bool {
        self.permission() == Some(Permission::Models)
    }

    /// What a key must be permitted to; nothing for what every caller may see.
    fn permission(&self) -> Option<Permission> {
        if self.is_administrative {
            return Some(Permission::Admin);
        }
        match self.description.as_ref().map(|description| description.group) {
            Some(Group::Text | Group::Speech) => Some(Permission::Models),
            Some(Group::Documents) => Some(Permission::Documents),
            Some(Group::Health) => None,
            Some(_) if IDENTITY.contains(&self.path) => None,
            // Pages show all of the account.
            Some(_) | None => Some(Permission::Account),
        }
    }

    /// API keys are for programs, so an administrator's key does not make a program an administrator, unless it was made
    /// for that.
    fn authorize(&self, call: &Call<'_>, caller: &Caller) -> Result<()> {
        let is_made_for_it = caller.scope.as_ref().is_some_and(|scope| scope.permits(Permission::Admin));
        let may_administrate = matches!(caller.via, Via::Session { .. }) || is_made_for_it;
        if !self.is_administrative {
            return Ok(());
        }
        if !(caller.user.is_admin && may_administrate) {
            return Err(Error::Forbidden("Only administrators can see this page"));
        }
        // A key of such an account too: it would do without a second factor what its owner may do only with one.
        match call.app.config.log_in.admin_2fa && !caller.user.has_second_factor {
            true => Err(Error::SecondFactorNeeded),
            false => Ok(()),
        }
    }

    fn refuse(&self, call: &Call<'_>) -> Result<Response> {
        match self.refusal {
            Refusal::Unauthorized(message) => Err(Error::Unauthorized(message)),
            Refusal::LogIn => {
                let next = call.request.path_and_query(LONGEST_NEXT);
                let next = percent_encoding::utf8_percent_encode(&next, ESCAPED_IN_NEXT);
                Ok(Response::see_other(format!("/login?next={next}")))
            }
        }
    }
}
