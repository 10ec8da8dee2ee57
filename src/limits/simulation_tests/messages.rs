//! What processes and the database say to each other, and the mistakes that can be planted.

use super::super::{Ask, Grant, Micros};
use super::process::Charge;

/// A mistake in the protocol, made on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// A dead process's leases end before its journal was charged.
    ForgetJournal,
    /// What is handed back counts again when the message is repeated.
    ReturnTwice,
    /// A charge bears the time of a clock that is behind the database's.
    TrustClock,
    /// A charge that a dead process had sent is made after its leases have ended.
    NoFence,
    /// A grant that was asked for again is given again.
    GrantTwice,
    /// Processes do not hand back what others lack.
    NoRecall,
    /// A request that was not charged keeps what was set aside for it.
    KeepReservation,
    /// A dead process's leases end before the charges that it has noted are settled.
    ForgetDeferred,
    /// A process goes on with what it holds when a budget is not lifted any more, or a credit has expired.
    IgnoreDeadline,
    /// A credit that expires goes, also what leases hold of it.
    ExpireLeased,
}

impl Fault {
    pub(super) const PLANTED: [Fault; 10] = [
        Fault::ForgetJournal,
        Fault::ReturnTwice,
        Fault::TrustClock,
        Fault::NoFence,
        Fault::GrantTwice,
        Fault::NoRecall,
        Fault::KeepReservation,
        Fault::ForgetDeferred,
        Fault::IgnoreDeadline,
        Fault::ExpireLeased,
    ];
}

#[derive(Clone, Debug)]
pub(super) enum ToDatabase {
    Register,
    /// Also when it was asked.
    Ask(usize, Ask, Micros),
    Charge(Charge),
    /// What this process has noted is to be settled.
    Settle,
    /// Credits that have expired are to be ended.
    ExpireCredits,
    Replay(u64, Vec<Charge>),
    End(u64),
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Registered,
    /// Also when it was asked for.
    Granted(usize, Grant, Micros),
    Charged(u64),
    Ended(u64),
    Replayed(u64, Vec<u64>),
    /// Of this budget, and whether it is because the limit has changed.
    Recall(usize, bool),
}
