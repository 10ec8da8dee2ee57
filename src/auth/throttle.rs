//! Throttles the guessing of passwords, without letting an attacker lock out the owner of an account.
//!
//! A failed attempt counts against the pair of account and address, against the address, and against the account. The
//! first two stop an attacker with one address. The third stops many addresses that attack one account; it does not
//! apply to addresses from which the owner has signed in before. An attempt from a device from which the owner has signed
//! in counts against nothing but that device and account, so others behind its address cannot lock it out.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Digest;
use super::hasher::MAX_WAIT;
use crate::blocking::{self, Wait, network_of};
use crate::error::Error;

/// A burst of failures that is allowed, and the interval after which one more is.
pub(super) struct Allowance {
    pub(super) burst: u32,
    pub(super) refill: Duration,
}

const PAIR: Allowance = Allowance { burst: 5, refill: Duration::from_secs(60) };
const ADDRESS: Allowance = Allowance { burst: 30, refill: Duration::from_secs(10) };
const ACCOUNT: Allowance = Allowance { burst: 50, refill: Duration::from_secs(10) };

/// Codes of a second factor, which are far easier to guess than passwords: of a million codes, three are right. Who guesses
/// from outside knows the password already, so it does not matter that the owner is locked out for a while.
const CODE: Allowance = Allowance { burst: 10, refill: Duration::from_secs(600) };

/// Of those who are signed in to the account, and confirm something by its password.
const CONFIRMATION: Allowance = Allowance { burst: 10, refill: Duration::from_secs(60) };

/// Maximum number of counters. Beyond it, those that have expired are dropped or, if there are none, a tenth: those that
/// would expire first.
const MAX_COUNTERS: usize = 200_000;

/// Maximum number of attempts that wait for others to finish. Each of them occupies a thread.
const MAX_WAITING: usize = 128;

/// What a counter is for. Accounts are represented by digests, so that long names do not take more memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Pair(Digest, IpAddr),
    Address(IpAddr),
    Account(Digest),
    Device(Digest, Digest),
    Confirmation(Digest),
    Code(Digest),
}

impl Subject {
    fn allowance(&self) -> &'static Allowance {
        match self {
            Subject::Pair(..) | Subject::Device(..) => &PAIR,
            Subject::Address(_) => &ADDRESS,
            Subject::Account(_) => &ACCOUNT,
            Subject::Confirmation(_) => &CONFIRMATION,
            Subject::Code(_) => &CODE,
        }
    }
}

/// Counts recent failures, in this process only: with several web processes, the limits multiply.
#[derive(Default)]
pub struct Throttle {
    attempts: Mutex<Attempts>,
    finished: Condvar,
}

#[derive(Default)]
struct Attempts {
    /// When each subject will have its whole allowance again (generic cell rate algorithm).
    full_at: HashMap<Subject, Instant>,
    /// Attempts whose passwords are being checked.
    in_progress: HashMap<Subject, u32>,
    /// Attempts that wait for those in progress.
    waiting: usize,
}

/// Why an attempt is rejected.
#[derive(Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Too many have failed; one more is allowed after this time.
    TooManyFailures(Duration),
    /// As many attempts are in progress as may still fail, and none of them finished in time.
    Busy,
}

impl From<Rejection> for Error {
    fn from(rejection: Rejection) -> Error {
        match rejection {
            Rejection::TooManyFailures(wait) => Error::TooManyAttempts(wait),
            Rejection::Busy => Error::Busy,
        }
    }
}

/// An attempt in progress. It only counts if it [failed](Attempt::failed).
#[must_use]
pub struct Attempt<'t> {
    throttle: &'t Throttle,
    own: Vec<Subject>,
    /// Unless the account's counter does not apply.
    account: Option<Subject>,
    failed: bool,
}

impl Throttle {
    /// Begins an attempt. While as many are in progress as may still fail, it waits for one of them to finish.
    /// `device` is one from which the owner has signed in. `is_known_address` returns whether the owner has signed in from
    /// this address; it is only called if that matters.
    ///
    /// # Errors
    /// Those of `is_known_address`; the inner error says why the attempt is rejected.
    pub fn attempt<E>(
        &self,
        account: &str,
        address: IpAddr,
        device: Option<Digest>,
        is_known_address: impl FnOnce() -> Result<bool, E>,
    ) -> Result<Result<Attempt<'_>, Rejection>, E> {
        let (account, address) = (Digest::of(account), network_of(address));
        if let Some(device) = device {
            let own = vec![Subject::Device(account, device)];
            return Ok(self.begin(&own).map(|()| Attempt { throttle: self, own, account: None, failed: false }));
        }
        let own = [Subject::Pair(account, address), Subject::Address(address)];
        let target = Subject::Account(account);
        let wait = self.attempts.lock().wait(&target, Instant::now());
        if let Some(wait) = wait
            && !is_known_address()?
        {
            return Ok(Err(Rejection::TooManyFailures(wait)));
        }
        let account = Some(target).filter(|_| wait.is_none());
        Ok(self.begin(&own).map(|()| Attempt { throttle: self, own: own.into(), account, failed: false }))
    }

    /// Begins an attempt of a client that is signed in to the account. Neither those who guess at it from outside nor
    /// others behind the same address can lock the client out.
    ///
    /// # Errors
    /// Why it is rejected.
    pub fn confirmation(&self, account: &str) -> Result<Attempt<'_>, Rejection> {
        let own = vec![Subject::Confirmation(Digest::of(account))];
        self.begin(&own).map(|()| Attempt { throttle: self, own, account: None, failed: false })
    }

    /// Begins an attempt at a code of the account's second factor, by who has entered the password or is signed in.
    /// `is_known` returns whether the owner has signed in from this device or address; it is only called if that matters.
    ///
    /// # Errors
    /// As [`Throttle::attempt`].
    pub fn code<E>(
        &self,
        account: &str,
        is_known: impl FnOnce() -> Result<bool, E>,
    ) -> Result<Result<Attempt<'_>, Rejection>, E> {
        let target = Subject::Code(Digest::of(account));
        let wait = self.attempts.lock().wait(&target, Instant::now());
        let own = match wait {
            Some(wait) if !is_known()? => return Ok(Err(Rejection::TooManyFailures(wait))),
            // What is guessed from there counts against the device or the address.
            Some(_) => Vec::new(),
            None => vec![target],
        };
        Ok(self.begin(&own).map(|()| Attempt { throttle: self, own, account: None, failed: false }))
    }

    fn begin(&self, own: &[Subject]) -> Result<(), Rejection> {
        if let Some(outcome) = self.attempts.lock().admit(own, Instant::now()) {
            return outcome;
        }
        blocking::block_in_place(Wait::LogIn, || self.wait_for_others(own)).unwrap_or(Err(Rejection::Busy))
    }

    fn wait_for_others(&self, own: &[Subject]) -> Result<(), Rejection> {
        let deadline = Instant::now() + MAX_WAIT;
        let mut attempts = self.attempts.lock();
        if attempts.waiting >= MAX_WAITING {
            return Err(Rejection::Busy);
        }
        attempts.waiting += 1;
        let outcome = loop {
            if let Some(outcome) = attempts.admit(own, Instant::now()) {
                break outcome;
            }
            if self.finished.wait_until(&mut attempts, deadline).timed_out() {
                break Err(Rejection::Busy);
            }
        };
        attempts.waiting -= 1;
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
        let mut attempts = self.throttle.attempts.lock();
        if self.failed {
            attempts.count(self.own.iter().chain(&self.account), Instant::now());
        }
        attempts.finish(&self.own);
        drop(attempts);
        self.throttle.finished.notify_all();
    }
}

impl Attempts {
    /// The time until another attempt is allowed; `None` if it is allowed now.
    fn wait(&self, subject: &Subject, now: Instant) -> Option<Duration> {
        remaining_wait(*self.full_at.get(subject)?, subject.allowance(), now)
    }

    /// How many more attempts may fail now.
    fn remaining(&self, subject: &Subject, now: Instant) -> u32 {
        let Allowance { burst, refill } = subject.allowance();
        let used = self.full_at.get(subject).map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let failed = used.as_nanos().div_ceil(refill.as_nanos());
        burst.saturating_sub(u32::try_from(failed).unwrap_or(u32::MAX))
    }

    /// Admits or rejects an attempt; `None` if that depends on those in progress.
    fn admit(&mut self, own: &[Subject], now: Instant) -> Option<Result<(), Rejection>> {
        if let Some(longest) = own.iter().filter_map(|subject| self.wait(subject, now)).max() {
            return Some(Err(Rejection::TooManyFailures(longest)));
        }
        let is_full =
            |subject| self.in_progress.get(subject).is_some_and(|count| *count >= self.remaining(subject, now));
        if own.iter().any(is_full) {
            return None;
        }
        for subject in own {
            *self.in_progress.entry(subject.clone()).or_default() += 1;
        }
        Some(Ok(()))
    }

    fn finish(&mut self, own: &[Subject]) {
        for subject in own {
            if let Some(count) = self.in_progress.get_mut(subject) {
                *count -= 1;
                if *count == 0 {
                    self.in_progress.remove(subject);
                }
            }
        }
    }

    fn count<'s>(&mut self, failed: impl Iterator<Item = &'s Subject>, now: Instant) {
        count_each(&mut self.full_at, failed.map(|subject| (subject.clone(), subject.allowance())), now);
    }
}

/// One more of each subject's allowance is used.
pub(super) fn count_each<'a, S: Eq + Hash>(
    full_at: &mut HashMap<S, Instant>,
    subjects: impl Iterator<Item = (S, &'a Allowance)>,
    now: Instant,
) {
    make_room(full_at, now, MAX_COUNTERS);
    for (subject, allowance) in subjects {
        let at = full_at.entry(subject).or_insert(now);
        *at = (*at).max(now) + allowance.refill;
    }
}

/// `None` if another attempt is allowed.
pub(super) fn remaining_wait(full_at: Instant, allowance: &Allowance, now: Instant) -> Option<Duration> {
    let used = full_at.saturating_duration_since(now);
    let allowed = allowance.refill * (allowance.burst - 1);
    used.checked_sub(allowed).filter(|wait| !wait.is_zero())
}

/// Forgets counters once there are as many as `most`; see [`MAX_COUNTERS`].
fn make_room<S>(full_at: &mut HashMap<S, Instant>, now: Instant, most: usize) {
    if full_at.len() < most {
        return;
    }
    full_at.retain(|_, at| *at > now);
    if full_at.len() >= most {
        let mut times: Vec<Instant> = full_at.values().copied().collect();
        let (_, last, _) = times.select_nth_unstable(most / 10);
        let last = *last;
        full_at.retain(|_, at| *at > last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin<'t>(
        throttle: &'t Throttle,
        account: &str,
        address: [u8; 4],
        known: bool,
    ) -> Result<Attempt<'t>, Rejection> {
        throttle.attempt(account, IpAddr::from(address), None, || Ok::<_, ()>(known)).unwrap()
    }

    fn fail(throttle: &Throttle, account: &str, address: [u8; 4], known: bool) -> Result<(), Rejection> {
        begin(throttle, account, address, known).map(Attempt::failed)
    }

    #[test]
    fn one_attacker_is_stopped_and_the_owner_elsewhere_is_not() {
        let throttle = Throttle::default();
        for _ in 0..PAIR.burst {
            fail(&throttle, "a", [1, 1, 1, 1], false).unwrap();
        }
        let Err(Rejection::TooManyFailures(wait)) = fail(&throttle, "a", [1, 1, 1, 1], false) else { panic!() };
        assert!(wait > Duration::from_secs(50) && wait <= PAIR.refill);
        assert!(begin(&throttle, "a", [2, 2, 2, 2], false).is_ok());
        assert!(begin(&throttle, "b", [1, 1, 1, 1], false).is_ok());
    }

    #[test]
    fn many_attackers_of_one_account_do_not_lock_out_its_owner() {
        let throttle = Throttle::default();
        for n in 0..ACCOUNT.burst {
            fail(&throttle, "a", [9, 9, 0, u8::try_from(n).unwrap()], false).unwrap();
        }
        assert!(begin(&throttle, "a", [8, 8, 8, 8], false).is_err());
        assert!(begin(&throttle, "a", [8, 8, 8, 8], true).is_ok());
    }

    #[test]
    fn one_attacker_of_many_accounts_is_stopped() {
        let throttle = Throttle::default();
        for n in 0..ADDRESS.burst {
            fail(&throttle, &n.to_string(), [1, 1, 1, 1], false).unwrap();
        }
        assert!(begin(&throttle, "x", [1, 1, 1, 1], false).is_err());
    }

    #[test]
    fn a_device_of_the_owner_has_attempts_of_its_own() {
        let throttle = Throttle::default();
        for n in 0..ADDRESS.burst {
            fail(&throttle, &n.to_string(), [1, 1, 1, 1], false).unwrap();
        }
        let by = |account, device: &str| {
            throttle
                .attempt(account, IpAddr::from([1, 1, 1, 1]), Some(Digest::of(device)), || Ok::<_, ()>(false))
                .unwrap()
        };
        assert!(begin(&throttle, "a", [1, 1, 1, 1], false).is_err());
        for _ in 0..PAIR.burst {
            by("a", "device").unwrap().failed();
        }
        assert!(by("a", "device").is_err(), "its guesses are limited too");
        assert!(by("a", "another").is_ok() && by("b", "device").is_ok());
    }

    #[test]
    fn only_failures_count() {
        let throttle = Throttle::default();
        for _ in 0..100 {
            drop(begin(&throttle, "a", [1, 1, 1, 1], false).unwrap());
        }
        let attempts = throttle.attempts.lock();
        assert!(attempts.full_at.is_empty() && attempts.in_progress.is_empty() && attempts.waiting == 0);
    }

    #[test]
    fn guesses_of_someone_signed_in_are_limited_for_the_account() {
        let throttle = Throttle::default();
        for n in 0..ADDRESS.burst {
            fail(&throttle, &n.to_string(), [1, 1, 1, 1], false).unwrap();
        }
        assert!(begin(&throttle, "a", [1, 1, 1, 1], false).is_err());
        for _ in 0..CONFIRMATION.burst {
            throttle.confirmation("a").unwrap().failed();
        }
        let Err(Rejection::TooManyFailures(wait)) = throttle.confirmation("a").map(drop) else { panic!() };
        assert!(wait > Duration::from_secs(50) && wait <= CONFIRMATION.refill);
        assert!(begin(&throttle, "a", [2, 2, 2, 2], false).is_ok(), "the owner elsewhere");
    }

    #[test]
    fn guesses_of_codes_are_limited_for_the_account_but_where_the_owner_is_known() {
        let throttle = Throttle::default();
        let code = |account, known| throttle.code(account, || Ok::<_, ()>(known)).unwrap();
        for _ in 0..CODE.burst {
            code("a", false).unwrap().failed();
        }
        let Err(Rejection::TooManyFailures(wait)) = code("a", false).map(drop) else { panic!() };
        assert!(wait > Duration::from_secs(590) && wait <= CODE.refill);
        assert!(code("a", true).is_ok() && code("b", false).is_ok());
    }

    #[test]
    fn what_would_be_forgotten_first_makes_room() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let address = |n: u8| Subject::Address(IpAddr::from([1, 1, 1, n]));
        let mut full_at: HashMap<Subject, Instant> =
            (0..100).map(|n| (address(n), now + second * (1 + u32::from(n)))).collect();
        make_room(&mut full_at, now, 101);
        assert_eq!(full_at.len(), 100);
        make_room(&mut full_at, now, 100);
        assert!((85..95).contains(&full_at.len()), "{}", full_at.len());
        assert!(full_at.contains_key(&address(99)) && !full_at.contains_key(&address(0)));
        make_room(&mut full_at, now + second * 50, 85);
        assert!(full_at.len() == 50 && !full_at.contains_key(&address(49)));
    }

    #[test]
    fn further_attempts_wait_while_as_many_are_in_progress_as_may_fail() {
        let throttle = Throttle::default();
        fail(&throttle, "a", [1, 1, 1, 1], false).unwrap();
        let mut in_progress: Vec<_> =
            (1..PAIR.burst).map(|_| begin(&throttle, "a", [1, 1, 1, 1], false).unwrap()).collect();
        let own = in_progress[0].own.clone();
        assert!(throttle.attempts.lock().admit(&own, Instant::now()).is_none());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| begin(&throttle, "a", [1, 1, 1, 1], false).map(drop));
            drop(in_progress.pop());
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
        for attempt in in_progress {
            attempt.failed();
        }
        fail(&throttle, "a", [1, 1, 1, 1], false).unwrap();
        assert!(begin(&throttle, "a", [1, 1, 1, 1], false).is_err());
    }
}
