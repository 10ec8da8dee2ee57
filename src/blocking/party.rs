//! On whose behalf a thread waits.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};

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
}
