//! Places, and how they are shared out between parties.
//!
//! A party may hold as many places as [`SHARE`] times those that are free (the dynamic threshold of shared buffers,
//! Choudhury and Hahne 1998). So one that is alone can have two thirds, of `n` that want all they can get each has
//! `2 / (2 n + 1)`, and something is left for whoever comes next. The same bound holds for all parties of a group
//! together, so nobody gets more by having many addresses.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Refused;
use super::party::Party;

/// Places that a party may hold for each one that is free.
const SHARE: usize = 2;

/// A number of places.
#[derive(Clone)]
pub struct Bulkhead(Arc<Mutex<Shares>>);

/// A place that is held until it is dropped.
#[must_use]
pub struct Place {
    bulkhead: Bulkhead,
    party: Party,
}

impl Bulkhead {
    /// One with so many places.
    pub fn new(places: usize) -> Bulkhead {
        Bulkhead::with_most(places, usize::MAX)
    }

    /// One with so many places, of which no party may hold more than `most`.
    pub fn with_most(places: usize, most: usize) -> Bulkhead {
        Bulkhead(Arc::new(Mutex::new(Shares { most, ..Shares::new(places) })))
    }

    /// Takes a place.
    ///
    /// # Errors
    /// There is none for this party.
    pub fn enter(&self, party: Party) -> Result<Place, Refused> {
        self.0.lock().take(party)?;
        Ok(Place { bulkhead: self.clone(), party })
    }

    /// How many places are taken.
    pub fn used(&self) -> usize {
        self.0.lock().used
    }

    /// How often there was none so far.
    pub fn refused(&self) -> u64 {
        self.0.lock().refused
    }
}

impl Place {
    /// Makes it this party's.
    ///
    /// # Errors
    /// There is none for this party; it stays the other's.
    pub fn pass_to(&mut self, party: Party) -> Result<(), Refused> {
        if self.party != party {
            let mut shares = self.bulkhead.0.lock();
            shares.give_back(self.party);
            if let Err(refused) = shares.take(party) {
                shares.put(self.party);
                return Err(refused);
            }
            self.party = party;
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bulkhead.0.lock().give_back(self.party);
    }
}

/// How many places each party holds.
pub(super) struct Shares {
    places: usize,
    /// Places that one party may hold, if it would have a share of more.
    most: usize,
    used: usize,
    refused: u64,
    /// By party, none with 0.
    held: HashMap<Party, usize>,
    /// By group, none with 0.
    groups: HashMap<Party, usize>,
}

impl Shares {
    pub(super) fn new(places: usize) -> Shares {
        Shares { places, most: usize::MAX, used: 0, refused: 0, held: HashMap::new(), groups: HashMap::new() }
    }

    /// Changes how many places there are, and returns whether there are more than before.
    pub(super) fn set_places(&mut self, places: usize) -> bool {
        std::mem::replace(&mut self.places, places) < places
    }

    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Takes a place. The process itself may have all that are free.
    ///
    /// # Errors
    /// There is none for this party.
    pub(super) fn take(&mut self, party: Party) -> Result<(), Refused> {
        let held = self.held.get(&party).copied().unwrap_or(0);
        let free = self.places.saturating_sub(self.used);
        // Whoever has none gets the last one.
        let share = SHARE * free.saturating_sub(1);
        let held_by_group = self.groups.get(&party.group()).copied().unwrap_or(0);
        let is_within_share =
            (held == 0 || held < share.min(self.most)) && (held_by_group == 0 || held_by_group < share);
        if free > 0 && (is_within_share || party == Party::Process) {
            self.put(party);
            return Ok(());
        }
        self.refused += 1;
        let is_above_average = held * self.held.len() > self.places;
        match party {
            Party::Account(_) if free > 0 || is_above_average => Err(Refused::ShareIsUsed),
            _ => Err(Refused::Full),
        }
    }

    fn put(&mut self, party: Party) {
        self.used += 1;
        *self.held.entry(party).or_default() += 1;
        *self.groups.entry(party.group()).or_default() += 1;
    }

    pub(super) fn give_back(&mut self, party: Party) {
        self.used = self.used.saturating_sub(1);
        for (counts, whose) in [(&mut self.held, party), (&mut self.groups, party.group())] {
            if let Some(count) = counts.get_mut(&whose) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&whose);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fill(bulkhead: &Bulkhead, party: u64) -> (Vec<Place>, Refused) {
        let mut places = Vec::new();
        loop {
            match bulkhead.enter(Party::Account(party)) {
                Ok(place) => places.push(place),
                Err(refused) => return (places, refused),
            }
        }
    }

    #[test]
    fn one_party_has_two_thirds_and_others_what_it_leaves() {
        let bulkhead = Bulkhead::new(6144);
        let (first, refused) = fill(&bulkhead, 1);
        assert_eq!((first.len(), refused), (4096, Refused::ShareIsUsed));
        let (second, refused) = fill(&bulkhead, 2);
        assert_eq!((second.len(), refused), (1365, Refused::ShareIsUsed));
        assert!(bulkhead.enter(Party::Account(1)).is_err());
        drop(first);
        assert_eq!(bulkhead.used(), 1365);
        // What the first gave back is shared anew.
        let (more, _) = fill(&bulkhead, 2);
        assert_eq!(second.len() + more.len(), 4096);
    }

    #[test]
    fn few_places_are_given_to_whoever_has_none() {
        for places in 1..10 {
            let bulkhead = Bulkhead::new(places);
            let all: Vec<_> = (0..places as u64).map(|n| bulkhead.enter(Party::Account(n)).unwrap()).collect();
            assert_eq!(bulkhead.enter(Party::Account(99)).err(), Some(Refused::Full), "it has none");
            drop(all);
            assert_eq!(fill(&bulkhead, 1).0.len(), (2 * places / 3).max(1));
        }
    }

    #[test]
    fn a_party_may_be_bounded_to_fewer() {
        let bulkhead = Bulkhead::with_most(100, 2);
        for party in 0..50 {
            let (held, refused) = fill(&bulkhead, party);
            assert_eq!((held.len(), refused), (2, Refused::ShareIsUsed));
        }
    }

    #[test]
    fn a_network_is_not_told_that_it_is_too_many() {
        let bulkhead = Bulkhead::new(9);
        let network = Party::network("10.0.0.1".parse().unwrap());
        let held: Vec<_> = (0..6).map(|_| bulkhead.enter(network).unwrap()).collect();
        assert_eq!(bulkhead.enter(network).err(), Some(Refused::Full));
        drop(held);
    }

    #[test]
    fn many_addresses_of_one_site_have_no_more_than_one() {
        let bulkhead = Bulkhead::new(30);
        let party = |text: &str| Party::network(text.parse().unwrap());
        let mut held: Vec<_> = (0..200).filter_map(|n| bulkhead.enter(party(&format!("10.0.0.{n}"))).ok()).collect();
        assert_eq!(held.len(), 20);
        held.extend((0..200).filter_map(|n| bulkhead.enter(party(&format!("2001:db8:0:{n}::1"))).ok()));
        assert_eq!(held.len(), 26, "of what is left, the next one has two thirds again");
        held.push(bulkhead.enter(party("10.0.1.1")).unwrap());
        held.push(bulkhead.enter(Party::Account(1)).unwrap());
        drop(held);
        assert!(bulkhead.used() == 0 && bulkhead.0.lock().groups.is_empty());
    }

    #[test]
    fn a_place_passes_to_another_party_or_stays() {
        let bulkhead = Bulkhead::new(3);
        let (network, account) = (Party::network("::1".parse().unwrap()), Party::Account(1));
        let mut place = bulkhead.enter(network).unwrap();
        place.pass_to(account).unwrap();
        assert_eq!(bulkhead.0.lock().held, HashMap::from([(account, 1)]));
        let mut second = bulkhead.enter(account).unwrap();
        let mut third = bulkhead.enter(network).unwrap();
        assert_eq!(third.pass_to(account), Err(Refused::ShareIsUsed));
        assert_eq!(bulkhead.0.lock().held, HashMap::from([(account, 2), (network, 1)]));
        second.pass_to(account).unwrap();
        drop((place, second, third));
        assert_eq!((bulkhead.used(), bulkhead.0.lock().held.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn whatever_parties_do(places in 1_usize..60, steps in prop::collection::vec((0_u64..6, any::<bool>(), any::<usize>()), 1..400)) {
            let bulkhead = Bulkhead::new(places);
            let mut held: Vec<Place> = Vec::new();
            for (party, takes, which) in steps {
                let of = |held: &[Place], party| held.iter().filter(|place| place.party == party).count();
                let party = Party::Account(party);
                if takes {
                    let (free, own) = (places - held.len(), of(&held, party));
                    match bulkhead.enter(party) {
                        Ok(place) => held.push(place),
                        Err(Refused::Full) => prop_assert_eq!(free, 0, "room is for somebody"),
                        Err(Refused::ShareIsUsed) => prop_assert!(own > 0 && (free == 0 || own >= SHARE * (free - 1))),
                    }
                } else if !held.is_empty() {
                    drop(held.swap_remove(which % held.len()));
                }
                prop_assert_eq!(bulkhead.used(), held.len());
                prop_assert!(held.len() <= places);
                prop_assert!(bulkhead.0.lock().held.len() <= held.len());
            }
            held.clear();
            prop_assert!(bulkhead.0.lock().held.is_empty());
        }

        /// However unequal it is at first, those that always want more end up with about the same.
        #[test]
        fn shares_become_equal(parties in 2_u64..6, seed in any::<u64>()) {
            let bulkhead = Bulkhead::new(300);
            let mut held: Vec<Place> = fill(&bulkhead, 0).0;
            let mut random = seed;
            for _ in 0..20_000 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                drop(held.swap_remove((random >> 33) as usize % held.len()));
                for party in 0..parties {
                    held.extend(bulkhead.enter(Party::Account((party + random) % parties)));
                }
            }
            let shares = bulkhead.0.lock().held.clone();
            let (most, least) = (shares.values().max().unwrap(), shares.values().min().unwrap());
            prop_assert!(shares.len() as u64 == parties && most - least <= 300 / 5, "{shares:?}");
        }
    }
}
