//! What a request's charges count against.

use std::sync::Arc;

/// The budgets that a caller's charges count against, by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Budgets {
    /// The account's.
    pub account: Option<Arc<str>>,
    /// The key's.
    pub key: Option<Arc<str>>,
    /// The account's balance, if its work is paid for in advance.
    pub balance: Option<Arc<str>>,
    /// Whether it is, but the account never had any credit, so that nothing can be paid.
    pub lacks_balance: bool,
}

impl Budgets {
    /// Whether there is none, so that nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none() && !self.lacks_balance
    }

    /// Their ids.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<str>> {
        self.account.iter().chain(&self.key).chain(&self.balance)
    }
}
