//! Throttles sign-ups, so that nobody fills the database with accounts, or the hashing threads with their passwords.
//!
//! An account that is created counts against the address and against the site that it is in. While it is being created
//! it counts already; whatever creates none is taken back.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::throttle::{Allowance, count_each, remaining_wait};
use crate::blocking::{network_of, site_of};

const HOUR: Duration = Duration::from_secs(3600);

/// What a counter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subject {
    /// See [`network_of`].
    Address(IpAddr),
    /// See [`site_of`].
    Site(IpAddr),
}

/// Counts recent sign-ups, in this process only: with several web processes, the limits multiply.
pub struct SignUps {
    /// `None` for no limit.
    of_address: Option<Allowance>,
    of_site: Option<Allowance>,
    /// When each subject will have its whole allowance again (generic cell rate algorithm).
    full_at: Mutex<HashMap<Subject, Instant>>,
}

/// A sign-up in progress. It only counts if it [created](SignUp::created) an account.
#[must_use]
pub struct SignUp<'s> {
    sign_ups: &'s SignUps,
    address: IpAddr,
    counts: bool,
}

impl SignUps {
    /// Allows so many an hour from one address and from one site; 0 for any number.
    pub fn new(of_address: u32, of_site: u32) -> SignUps {
        let allowance = |burst| (burst > 0).then(|| Allowance { burst, refill: HOUR / burst });
        SignUps { of_address: allowance(of_address), of_site: allowance(of_site), full_at: Mutex::default() }
    }

    /// Begins a sign-up from this address.
    ///
    /// # Errors
    /// The time after which another is allowed.
    pub fn begin(&self, address: IpAddr) -> Result<SignUp<'_>, Duration> {
        let now = Instant::now();
        let mut full_at = self.full_at.lock();
        let wait =
            |(subject, allowance): (Subject, &Allowance)| remaining_wait(*full_at.get(&subject)?, allowance, now);
        if let Some(longest) = self.subjects(address).filter_map(wait).max() {
            return Err(longest);
        }
        count_each(&mut full_at, self.subjects(address), now);
        Ok(SignUp { sign_ups: self, address, counts: false })
    }

    /// What a sign-up from this address counts against.
    fn subjects(&self, address: IpAddr) -> impl Iterator<Item = (Subject, &Allowance)> {
        let address_and_site = [
            (Subject::Address(network_of(address)), &self.of_address),
            (Subject::Site(site_of(address)), &self.of_site),
        ];
        address_and_site.into_iter().filter_map(|(subject, allowance)| Some((subject, allowance.as_ref()?)))
    }
}

impl SignUp<'_> {
    /// An account was created.
    pub fn created(mut self) {
        self.counts = true;
    }
}

impl Drop for SignUp<'_> {
    fn drop(&mut self) {
        if self.counts {
            return;
        }
        let mut full_at = self.sign_ups.full_at.lock();
        for (subject, allowance) in self.sign_ups.subjects(self.address) {
            if let Some(at) = full_at.get_mut(&subject) {
                *at = at.checked_sub(allowance.refill).unwrap_or(*at);
                if *at <= Instant::now() {
                    full_at.remove(&subject);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin<'s>(sign_ups: &'s SignUps, address: &str) -> Result<SignUp<'s>, Duration> {
        sign_ups.begin(address.parse().unwrap())
    }

    #[test]
    fn an_address_and_its_site_have_so_many_an_hour() {
        let sign_ups = SignUps::new(3, 5);
        for _ in 0..3 {
            begin(&sign_ups, "10.0.0.1").unwrap().created();
        }
        let wait = begin(&sign_ups, "::ffff:10.0.0.1").map(drop).unwrap_err();
        assert!(wait > HOUR / 4 && wait <= HOUR / 3, "{wait:?}");
        for address in ["10.0.0.2", "10.0.0.3"] {
            begin(&sign_ups, address).unwrap().created();
        }
        assert!(begin(&sign_ups, "10.0.0.4").is_err(), "the site has had its five");
        assert!(begin(&sign_ups, "10.0.1.1").is_ok());
        for n in 0..5 {
            begin(&sign_ups, &format!("2001:db8:1:{n}::1")).unwrap().created();
        }
        assert!(begin(&sign_ups, "2001:db8:1:ffff::1").is_err());
        assert!(begin(&sign_ups, "2001:db8:2:ffff::1").is_ok());
    }

    #[test]
    fn what_creates_no_account_counts_only_while_it_is_in_progress() {
        let sign_ups = SignUps::new(2, 0);
        let in_progress = [begin(&sign_ups, "10.0.0.1").unwrap(), begin(&sign_ups, "10.0.0.1").unwrap()];
        assert!(begin(&sign_ups, "10.0.0.1").is_err());
        drop(in_progress);
        assert!(sign_ups.full_at.lock().is_empty());
        begin(&sign_ups, "10.0.0.1").unwrap().created();
        drop(begin(&sign_ups, "10.0.0.1").unwrap());
        begin(&sign_ups, "10.0.0.1").unwrap().created();
        assert!(begin(&sign_ups, "10.0.0.1").is_err());
    }

    #[test]
    fn nothing_is_kept_where_there_is_no_limit() {
        let sign_ups = SignUps::new(0, 0);
        for _ in 0..100 {
            begin(&sign_ups, "10.0.0.1").unwrap().created();
        }
        assert!(sign_ups.full_at.lock().is_empty());
    }
}
