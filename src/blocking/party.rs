//! On whose behalf a thread waits.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who shares places with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// An account, with all its keys and sessions, by a digest of its id.
    Account(u64),
    /// Everybody in a network who has not said who they are.
    Network(IpAddr),
    /// This process itself.
    Process,
}

impl Party {
    /// The account with this id.
    pub fn account(id: &str) -> Party {
        // Ids are made here, so nobody can choose one that collides with another.
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        Party::Account(hasher.finish())
    }

    /// The network that this address is in.
    pub fn network(address: IpAddr) -> Party {
        Party::Network(network_of(address))
    }

    /// The party that shares with others as one, however many parties it is made of: for a network, the
    /// [site](site_of) that it is in.
    #[must_use]
    pub fn group(self) -> Party {
        match self {
            Party::Network(network) => Party::Network(site_of(network)),
            other => other,
        }
    }
}

/// The IPv4 address, or the first 64 bits of the IPv6 address: whoever has one usually has all of them.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The addresses that one owner easily has several of: the /24 of an IPv4 address, the /48 of an IPv6 address, which is
/// what a site is given (RFC 6177).
pub fn site_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            Ipv4Addr::new(a, b, c, 0).into()
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let network = |text: &str| network_of(text.parse().unwrap());
        assert_eq!(network("2001:db8:0:1::1"), network("2001:db8:0:1:ffff::2"));
        assert_ne!(network("2001:db8:0:1::1"), network("2001:db8:0:2::1"));
        assert_eq!(network("::ffff:1.2.3.4"), network("1.2.3.4"));
    }

    #[test]
    fn networks_of_one_site_are_a_group_and_an_account_is_its_own() {
        let group = |text: &str| Party::network(text.parse().unwrap()).group();
        for (one, same, other) in
            [("1.2.3.4", "::ffff:1.2.3.200", "1.2.4.4"), ("2001:db8:1:1::1", "2001:db8:1:ffff::1", "2001:db8:2:1::1")]
        {
            assert_eq!(group(one), group(same));
            assert_ne!(group(one), group(other));
        }
        assert_eq!(Party::Account(1).group(), Party::Account(1));
    }
}
