//! Throttles requests that make the server send mails, so that nobody fills somebody's mailbox, or the outbox.
//!
//! What is counted does not depend on which addresses have accounts: neither do the answers.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Digest;
use super::throttle::{Allowance, count_each, remaining_wait};
use crate::blocking::{network_of, site_of};

/// For one mail address or account, from one network.
const PAIR: Allowance = Allowance { burst: 5, refill: Duration::from_secs(600) };
/// From one network, for all mail addresses.
const NETWORK: Allowance = Allowance { burst: 20, refill: Duration::from_secs(120) };
/// From one site.
const SITE: Allowance = Allowance { burst: 60, refill: Duration::from_secs(60) };

/// What a counter is for. Mail addresses are represented by digests, so that long ones do not take more memory.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Subject {
    Pair(Digest, IpAddr),
    /// See [`network_of`].
    Network(IpAddr),
    /// See [`site_of`].
    Site(IpAddr),
}

impl Subject {
    fn allowance(&self) -> &'static Allowance {
        match self {
            Subject::Pair(..) => &PAIR,
            Subject::Network(_) => &NETWORK,
            Subject::Site(_) => &SITE,
        }
    }
}

/// Counts recent requests, in this process only: with several web processes, the limits multiply. How many mails an address
/// gets is limited in the database too.
#[derive(Default)]
pub struct MailRequests(Mutex<HashMap<Subject, Instant>>);

impl MailRequests {
    /// Counts a request for a mail to, or for, `whom` by a client at `address`.
    ///
    /// # Errors
    /// The time after which another is allowed.
    pub fn ask(&self, whom: &str, address: IpAddr) -> Result<(), Duration> {
        let (now, network) = (Instant::now(), network_of(address));
        let subjects =
            [Subject::Pair(Digest::of(whom), network), Subject::Network(network), Subject::Site(site_of(address))];
        let mut full_at = self.0.lock();
        let wait = |subject: &Subject| remaining_wait(*full_at.get(subject)?, subject.allowance(), now);
        if let Some(longest) = subjects.iter().filter_map(wait).max() {
            return Err(longest);
        }
        let counted = subjects.into_iter().map(|subject| {
            let allowance = subject.allowance();
            (subject, allowance)
        });
        count_each(&mut full_at, counted, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(requests: &MailRequests, whom: &str, address: &str) -> bool {
        requests.ask(whom, address.parse().unwrap()).is_ok()
    }

    #[test]
    fn one_person_asks_so_often_and_one_network_too() {
        let requests = MailRequests::default();
        assert!((0..PAIR.burst).all(|_| ask(&requests, "ann@x", "10.0.0.1")));
        assert!(!ask(&requests, "ann@x", "10.0.0.1"));
        assert!(ask(&requests, "ann@x", "10.0.0.2"), "the owner elsewhere");
        let others = (0..100).filter(|n| ask(&requests, &format!("{n}@x"), "10.0.0.1")).count();
        assert_eq!(u32::try_from(others).unwrap(), NETWORK.burst - PAIR.burst);
        let site = (3..200).filter(|n| ask(&requests, "bob@x", &format!("10.0.0.{n}"))).count();
        assert_eq!(u32::try_from(site).unwrap(), SITE.burst - NETWORK.burst - 1);
        assert!(ask(&requests, "bob@x", "10.0.1.1"));
    }
}
