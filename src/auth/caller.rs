//! An authenticated caller.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use time::OffsetDateTime;

use super::Scope;
use super::credential::Validity;
use crate::blocking::Party;
use crate::error::{Error, Result};
use crate::limits::{Budgets, RateIds};
use crate::store::User;
use crate::store::api_keys::KeyScope;

/// Why an account is refused that is limited to other addresses.
pub const ACCOUNT_ELSEWHERE: &str = "This account may not be used from this address";

/// An account, and the credential with which it was authenticated.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The account.
    pub user: User,
    /// The credential.
    pub via: Via,
    /// The budgets that the caller's charges count against; the balance only if work is paid for in advance.
    pub budgets: Budgets,
    /// Who shares its account's places among requests that wait.
    pub party: Party,
    /// The rate limits of the caller's requests.
    pub rates: RateIds,
    /// What the account is limited to, with each of its credentials, if it is.
    pub account_scope: Option<Arc<Scope>>,
    /// What the key is limited to, if it is.
    pub scope: Option<Arc<Scope>>,
    /// By which it is known later whether the credential still works.
    pub validity: Validity,
    /// The user object, serialised at most once while this caller is cached.
    json: OnceLock<Vec<u8>>,
}

/// A valid credential.
#[derive(Clone, Debug)]
pub enum Via {
    /// An API key.
    Key {
        /// The key's id.
        id: String,
        /// When it stops working.
        expires: Option<OffsetDateTime>,
    },
    /// A session cookie.
    Session {
        /// The session's id.
        id: String,
        /// When the user signed in.
        created: OffsetDateTime,
        /// When it ends unless it is used.
        expires: OffsetDateTime,
        /// When the cookie was last sent to the browser.
        renewed: OffsetDateTime,
    },
}

impl Caller {
    /// A caller with this account and credential.
    pub fn new(user: User, via: Via) -> Caller {
        let id = |id: &Option<String>| id.as_deref().map(Into::into);
        let (account, balance) = (id(&user.budget_id), id(&user.balance_id));
        let budgets = Budgets { account, balance, ..Budgets::default() };
        let party = Party::account(&user.id);
        let rates = RateIds { account: id(&user.rate_id), key: None };
        let validity = Validity::default();
        let account_scope = Scope::of_account(&user).map(Arc::new);
        Caller { user, via, budgets, party, rates, account_scope, scope: None, validity, json: OnceLock::new() }
    }

    /// The same, whose key has this budget and these rate limits, and is limited to this.
    #[must_use]
    pub fn with_limits(mut self, budget_id: Option<&str>, rate_id: Option<&str>, scope: KeyScope) -> Caller {
        self.budgets.key = budget_id.map(Into::into);
        self.rates.key = rate_id.map(Into::into);
        self.scope = Scope::of(scope).map(Arc::new);
        self
    }

    /// Checks that the account and the key may be used from this address.
    ///
    /// # Errors
    /// 403.
    pub fn check_address(&self, client: IpAddr) -> Result<()> {
        let admits = |scope: &Option<Arc<Scope>>| scope.as_ref().is_none_or(|scope| scope.admits(client));
        match (admits(&self.account_scope), admits(&self.scope)) {
            (false, _) => Err(Error::Forbidden(ACCOUNT_ELSEWHERE)),
            (true, false) => Err(Error::Forbidden("This key may not be used from this address")),
            (true, true) => Ok(()),
        }
    }

    /// Whether neither the account nor the key is limited to other models than the one of this name.
    pub fn may_call(&self, model: &str) -> bool {
        [&self.account_scope, &self.scope].into_iter().flatten().all(|scope| scope.has_model(model))
    }

    /// The user object as JSON.
    ///
    /// # Errors
    /// Serialisation fails, which is not expected.
    pub fn user_json(&self) -> std::result::Result<&[u8], serde_json::Error> {
        if let Some(json) = self.json.get() {
            return Ok(json);
        }
        let json = serde_json::to_vec(&self.user)?;
        Ok(self.json.get_or_init(|| json))
    }

    /// When the credential expires.
    pub fn expires(&self) -> Option<OffsetDateTime> {
        match &self.via {
            Via::Key { expires, .. } => *expires,
            Via::Session { expires, .. } => Some(*expires),
        }
    }

    /// The session's id, if the credential is a session cookie.
    pub fn session_id(&self) -> Option<&str> {
        match &self.via {
            Via::Session { id, .. } => Some(id),
            Via::Key { .. } => None,
        }
    }
}
