//! What holds guessers of passwords back, without letting them lock an owner out.
//!
//! A failure counts three times: against the pair of account and address, against the address, and against the
//! account. The first two stop one guesser, wherever the owner is. The third stops many addresses that share one
//! target; an address from which the owner has signed in before is exempt from it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Attempts allowed at once, and the time in which one more is allowed.
struct Allowance {
    burst: u32,
    refill: Duration,
}

const PAIR: Allowance = Allowance { burst: 5, refill: Duration::from_secs(60) };
const ADDRESS: Allowance = Allowance { burst: 30, refill: Duration::from_secs(10) };
const ACCOUNT: Allowance = Allowance { burst: 50, refill: Duration::from_secs(10) };

/// Counters kept; past it the ones that are full again go, and then all.
const MOST: usize = 200_000;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Pair(String, IpAddr),
    Address(IpAddr),
    Account(String),
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
    /// When each subject will have its whole allowance back (a generic cell rate algorithm).
    full_at: Mutex<HashMap<Subject, Instant>>,
}

/// An attempt that was let through and counts as failed unless it is [forgiven](Throttle::forgive).
#[derive(Debug)]
#[must_use]
pub struct Attempt(Vec<Subject>);

impl Throttle {
    /// Lets an attempt through, counting it, or says how long to wait. `is_known_address` tells whether the owner has
    /// signed in from there; it is asked only when it matters.
    ///
    /// # Errors
    /// The time to wait, or what `is_known_address` failed with.
    pub fn attempt<E>(
        &self,
        account: &str,
        address: IpAddr,
        is_known_address: impl FnOnce() -> Result<bool, E>,
    ) -> Result<Result<Attempt, Duration>, E> {
        let address = network_of(address);
        let own = vec![Subject::Pair(account.to_owned(), address), Subject::Address(address)];
        let everyone = Subject::Account(account.to_owned());
        let now = Instant::now();
        let mut subjects = own;
        if let Some(wait) = self.wait(&everyone, now) {
            if !is_known_address()? {
                return Ok(Err(wait));
            }
        } else {
            subjects.push(everyone);
        }
        Ok(self.take(subjects, now))
    }

    /// A right password: the attempt does not count.
    pub fn forgive(&self, attempt: Attempt) {
        let mut full_at = self.full_at.lock();
        for subject in attempt.0 {
            let refill = subject.allowance().refill;
            if let Some(at) = full_at.get_mut(&subject) {
                *at = at.checked_sub(refill).unwrap_or(*at);
            }
        }
    }

    fn wait(&self, subject: &Subject, now: Instant) -> Option<Duration> {
        wait_of(*self.full_at.lock().get(subject)?, subject.allowance(), now)
    }

    fn take(&self, subjects: Vec<Subject>, now: Instant) -> Result<Attempt, Duration> {
        let mut full_at = self.full_at.lock();
        let waits = subjects.iter().filter_map(|s| wait_of(*full_at.get(s)?, s.allowance(), now));
        if let Some(longest) = waits.max() {
            return Err(longest);
        }
        make_room(&mut full_at, now);
        for subject in &subjects {
            let at = full_at.entry(subject.clone()).or_insert(now);
            *at = (*at).max(now) + subject.allowance().refill;
        }
        Ok(Attempt(subjects))
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

/// One person's IPv6 addresses are a /64.
fn network_of(address: IpAddr) -> IpAddr {
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

    fn try_it(throttle: &Throttle, account: &str, address: [u8; 4], known: bool) -> Result<Attempt, Duration> {
        throttle.attempt(account, IpAddr::from(address), || Ok::<_, ()>(known)).unwrap()
    }

    #[test]
    fn one_guesser_is_stopped_and_the_owner_elsewhere_is_not() {
        let throttle = Throttle::default();
        for _ in 0..PAIR.burst {
            let _ = try_it(&throttle, "a", [1, 1, 1, 1], false).unwrap();
        }
        let wait = try_it(&throttle, "a", [1, 1, 1, 1], false).unwrap_err();
        assert!(wait > Duration::from_secs(50) && wait <= PAIR.refill);
        assert!(try_it(&throttle, "a", [2, 2, 2, 2], false).is_ok());
        assert!(try_it(&throttle, "b", [1, 1, 1, 1], false).is_ok());
    }

    #[test]
    fn many_addresses_with_one_target_do_not_stop_its_owner() {
        let throttle = Throttle::default();
        for n in 0..ACCOUNT.burst {
            let _ = try_it(&throttle, "a", [9, 9, 0, u8::try_from(n).unwrap()], false).unwrap();
        }
        assert!(try_it(&throttle, "a", [8, 8, 8, 8], false).is_err());
        assert!(try_it(&throttle, "a", [8, 8, 8, 8], true).is_ok());
    }

    #[test]
    fn one_address_with_many_targets_is_stopped() {
        let throttle = Throttle::default();
        for n in 0..ADDRESS.burst {
            let _ = try_it(&throttle, &n.to_string(), [1, 1, 1, 1], false).unwrap();
        }
        assert!(try_it(&throttle, "x", [1, 1, 1, 1], false).is_err());
    }

    #[test]
    fn a_right_password_does_not_count() {
        let throttle = Throttle::default();
        for _ in 0..100 {
            let attempt = try_it(&throttle, "a", [1, 1, 1, 1], false).unwrap();
            throttle.forgive(attempt);
        }
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one() {
        let network = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(network("2001:db8:0:1::1"), network("2001:db8:0:1:ffff::2"));
        assert_ne!(network("2001:db8:0:1::1"), network("2001:db8:0:2::1"));
        assert_eq!(network("::ffff:1.2.3.4"), network("1.2.3.4"));
    }
}
