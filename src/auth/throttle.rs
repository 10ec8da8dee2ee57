//! What holds guessers of passwords back, without letting them lock an owner out.
//!
//! A failure counts three times: against the pair of account and address, against the address, and against the
//! account. The first two stop one guesser, wherever the owner is. The third stops many addresses that share one
//! target; an address from which the owner has signed in before is exempt from it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Digest;
use super::hasher::LONGEST_WAIT;
use crate::blocking;
use crate::error::Error;

/// Failures allowed at once, and the time in which one more is allowed.
struct Allowance {
    burst: u32,
    refill: Duration,
}

const PAIR: Allowance = Allowance { burst: 5, refill: Duration::from_secs(60) };
const ADDRESS: Allowance = Allowance { burst: 30, refill: Duration::from_secs(10) };
const ACCOUNT: Allowance = Allowance { burst: 50, refill: Duration::from_secs(10) };

/// Counters kept; past it the ones that are full again go, and then all.
const MOST: usize = 200_000;

/// How many may wait for those under way to end; beyond them, threads are for better things.
const MOST_WAITING: usize = 128;

/// Whose failures are counted. Accounts stand here as digests, so that a long name takes no more room than a short one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Pair(Digest, IpAddr),
    Address(IpAddr),
    Account(Digest),
}

impl Subject {
    fn allowance(&self) -> &'static Allowance {
        match self {
            Subject::Pair(..) => &PAIR,
            Subject::Address(_) => &ADDRESS,
            Subject::Account(_) => &ACCOUNT,
        }
    }
}

/// Failures of late. One process's own: several web processes allow as many times more.
#[derive(Default)]
pub struct Throttle {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Default)]
struct State {
    /// When each subject will have its whole allowance back (a generic cell rate algorithm).
    full_at: HashMap<Subject, Instant>,
    /// Attempts that are being checked.
    under_way: HashMap<Subject, u32>,
    /// Attempts that wait for those.
    waiting: usize,
}

/// Why an attempt is not let through.
#[derive(Debug, PartialEq, Eq)]
pub enum Held {
    /// Too many have failed; after this time one more is allowed.
    TooOften(Duration),
    /// So many are being checked that, should they fail, they would be too many; and they did not end in time.
    UnderWay,
}

impl From<Held> for Error {
    fn from(held: Held) -> Error {
        match held {
            Held::TooOften(wait) => Error::TooManyRequests(wait),
            Held::UnderWay => Error::Busy,
        }
    }
}

/// An attempt that was let through. It counts only if it is said to have [failed](Attempt::failed): one whose password
/// was right, or never checked, tells a guesser nothing.
#[must_use]
pub struct Attempt<'t> {
    throttle: &'t Throttle,
    own: [Subject; 2],
    account: Option<Subject>,
    failed: bool,
}

impl Throttle {
    /// Lets an attempt through, or says why not. Where as many are under way as may still fail, it waits for one of
    /// them to end. `is_known_address` tells whether the owner has signed in from there; it is asked only when it
    /// matters.
    ///
    /// # Errors
    /// Why the attempt is not let through, or what `is_known_address` failed with.
    pub fn attempt<E>(
        &self,
        account: &str,
        address: IpAddr,
        is_known_address: impl FnOnce() -> Result<bool, E>,
    ) -> Result<Result<Attempt<'_>, Held>, E> {
        let (account, address) = (Digest::of(account), network_of(address));
        let own = [Subject::Pair(account, address), Subject::Address(address)];
        let everyone = Subject::Account(account);
        let wait = self.state.lock().wait(&everyone, Instant::now());
        if let Some(wait) = wait
            && !is_known_address()?
        {
            return Ok(Err(Held::TooOften(wait)));
        }
        let account = Some(everyone).filter(|_| wait.is_none());
        Ok(self.begin(&own).map(|()| Attempt { throttle: self, own, account, failed: false }))
    }

    fn begin(&self, own: &[Subject]) -> Result<(), Held> {
        if let Some(outcome) = self.state.lock().admit(own, Instant::now()) {
            return outcome;
        }
        blocking::block_in_place(|| self.wait_for_room(own)).unwrap_or(Err(Held::UnderWay))
    }

    fn wait_for_room(&self, own: &[Subject]) -> Result<(), Held> {
        let end = Instant::now() + LONGEST_WAIT;
        let mut state = self.state.lock();
        if state.waiting >= MOST_WAITING {
            return Err(Held::UnderWay);
        }
        state.waiting += 1;
        let outcome = loop {
            if let Some(outcome) = state.admit(own, Instant::now()) {
                break outcome;
            }
            if self.ended.wait_until(&mut state, end).timed_out() {
                break Err(Held::UnderWay);
            }
        };
        state.waiting -= 1;
        outcome
    }
}

impl Attempt<'_> {
    /// The password was wrong.
    pub fn failed(mut self) {
        self.failed = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut state = self.throttle.state.lock();
        if self.failed {
            state.count(self.own.iter().chain(&self.account), Instant::now());
        }
        state.end(&self.own);
        drop(state);
        self.throttle.ended.notify_all();
    }
}

impl State {
    /// The time until one more attempt is allowed, where none is now.
    fn wait(&self, subject: &Subject, now: Instant) -> Option<Duration> {
        wait_of(*self.full_at.get(subject)?, subject.allowance(), now)
    }

    /// How many attempts more may fail now.
    fn left(&self, subject: &Subject, now: Instant) -> u32 {
        let Allowance { burst, refill } = subject.allowance();
        let used = self.full_at.get(subject).map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let failed = used.as_nanos().div_ceil(refill.as_nanos());
        burst.saturating_sub(u32::try_from(failed).unwrap_or(u32::MAX))
    }

    /// Counts an attempt as under way, or says why not; `None` when that depends on those under way.
    fn admit(&mut self, own: &[Subject], now: Instant) -> Option<Result<(), Held>> {
        if let Some(longest) = own.iter().filter_map(|subject| self.wait(subject, now)).max() {
            return Some(Err(Held::TooOften(longest)));
        }
        let is_full = |subject| self.under_way.get(subject).is_some_and(|count| *count >= self.left(subject, now));
        if own.iter().any(is_full) {
            return None;
        }
        for subject in own {
            *self.under_way.entry(subject.clone()).or_default() += 1;
        }
        Some(Ok(()))
    }

    fn end(&mut self, own: &[Subject]) {
        for subject in own {
            if let Some(count) = self.under_way.get_mut(subject) {
                *count -= 1;
                if *count == 0 {
                    self.under_way.remove(subject);
                }
            }
        }
    }

    fn count<'s>(&mut self, failed: impl Iterator<Item = &'s Subject>, now: Instant) {
        make_room(&mut self.full_at, now);
        for subject in failed {
            let at = self.full_at.entry(subject.clone()).or_insert(now);
            *at = (*at).max(now) + subject.allowance().refill;
        }
    }
}

/// `None` while one more attempt is allowed.
fn wait_of(full_at: Instant, allowance: &Allowance, now: Instant) -> Option<Duration> {
    let used = full_at.saturating_duration_since(now);
    let allowed = allowance.refill * (allowance.burst - 1);
    used.checked_sub(allowed).filter(|wait| !wait.is_zero())
}

fn make_room(full_at: &mut HashMap<Subject, Instant>, now: Instant) {
    if full_at.len() >= MOST {
        full_at.retain(|_, at| *at > now);
    }
    if full_at.len() >= MOST {
        full_at.clear();
    }
}

/// What stands for the network that an address is in: itself, or the first of an IPv6 /64, which one client has whole.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin<'t>(throttle: &'t Throttle, account: &str, address: [u8; 4], known: bool) -> Result<Attempt<'t>, Held> {
        throttle.attempt(account, IpAddr::from(address), || Ok::<_, ()>(known)).unwrap()
    }

    fn fail(throttle: &Throttle, account: &str, address: [u8; 4], known: bool) -> Result<(), Held> {
        begin(throttle, account, address, known).map(Attempt::failed)
    }

    #[test]
    fn one_guesser_is_stopped_and_the_owner_elsewhere_is_not() {
        let throttle = Throttle::default();
        for _ in 0..PAIR.burst {
            fail(&throttle, "a", [1, 1, 1, 1], false).unwrap();
        }
        let Err(Held::TooOften(wait)) = fail(&throttle, "a", [1, 1, 1, 1], false) else { panic!() };
        assert!(wait > Duration::from_secs(50) && wait <= PAIR.refill);
        assert!(begin(&throttle, "a", [2, 2, 2, 2], false).is_ok());
        assert!(begin(&throttle, "b", [1, 1, 1, 1], false).is_ok());
    }

    #[test]
    fn many_addresses_with_one_target_do_not_stop_its_owner() {
        let throttle = Throttle::default();
        for n in 0..ACCOUNT.burst {
            fail(&throttle, "a", [9, 9, 0, u8::try_from(n).unwrap()], false).unwrap();
        }
        assert!(begin(&throttle, "a", [8, 8, 8, 8], false).is_err());
        assert!(begin(&throttle, "a", [8, 8, 8, 8], true).is_ok());
    }

    #[test]
    fn one_address_with_many_targets_is_stopped() {
        let throttle = Throttle::default();
        for n in 0..ADDRESS.burst {
            fail(&throttle, &n.to_string(), [1, 1, 1, 1], false).unwrap();
        }
        assert!(begin(&throttle, "x", [1, 1, 1, 1], false).is_err());
    }

    #[test]
    fn what_did_not_fail_does_not_count() {
        let throttle = Throttle::default();
        for _ in 0..100 {
            drop(begin(&throttle, "a", [1, 1, 1, 1], false).unwrap());
        }
        let state = throttle.state.lock();
        assert!(state.full_at.is_empty() && state.under_way.is_empty() && state.waiting == 0);
    }

    #[test]
    fn as_many_are_under_way_as_may_fail_and_further_ones_wait_for_them() {
        let throttle = Throttle::default();
        fail(&throttle, "a", [1, 1, 1, 1], false).unwrap();
        let mut under_way: Vec<_> =
            (1..PAIR.burst).map(|_| begin(&throttle, "a", [1, 1, 1, 1], false).unwrap()).collect();
        let own = under_way[0].own.clone();
        assert!(throttle.state.lock().admit(&own, Instant::now()).is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| begin(&throttle, "a", [1, 1, 1, 1], false).map(drop));
            drop(under_way.pop());
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
        for attempt in under_way {
            attempt.failed();
        }
        fail(&throttle, "a", [1, 1, 1, 1], false).unwrap();
        assert!(begin(&throttle, "a", [1, 1, 1, 1], false).is_err());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let network = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(network("2001:db8:0:1::1"), network("2001:db8:0:1:ffff::2"));
        assert_ne!(network("2001:db8:0:1::1"), network("2001:db8:0:2::1"));
        assert_eq!(network("::ffff:1.2.3.4"), network("1.2.3.4"));
    }
}
