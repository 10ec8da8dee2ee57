//! The budget, its shares, and what one request reserves.

use proptest::prelude::*;

use super::*;
use std::sync::atomic::Ordering::Relaxed;

fn filled(budget: &Arc<MemoryBudget>, party: Party, piece: usize) -> (Reservation, Refused) {
    let mut reservation = Reservation::new(budget, party);
    loop {
        if let Err(refused) = reservation.grow(piece) {
            return (reservation, refused);
        }
    }
}

#[test]
fn one_party_has_two_thirds_and_others_what_it_leaves() {
    let budget = Arc::new(MemoryBudget::new(9_000_000));
    let (first, refused) = filled(&budget, Party::Account(1), 1000);
    assert_eq!((first.0.get().bytes, refused), (6_000_000, Refused::ShareIsUsed));
    let (second, refused) = filled(&budget, Party::network("10.0.0.1".parse().unwrap()), 1000);
    assert_eq!((second.0.get().bytes, refused), (2_000_000, Refused::Full));
    assert_eq!(budget.refused(), 0, "something is left");
    let mut small = Reservation::new(&budget, Party::Account(3));
    assert_eq!(small.grow(1_000_000), Ok(()), "whoever has nothing gets what there is");
    assert_eq!(Reservation::new(&budget, Party::Account(4)).grow(1), Err(Refused::Full));
    assert_eq!(budget.refused(), 1);
    drop((first, second, small));
    assert_eq!(budget.used(), 0);
    assert_eq!(filled(&budget, Party::Process, 1000).0.0.get().bytes, 9_000_000);
}

#[test]
fn all_addresses_of_a_site_have_together_what_one_has() {
    for addresses in [["10.0.0.1", "10.0.0.2", "10.0.0.3"], ["2001:db8:1:1::1", "2001:db8:1:2::1", "2001:db8:1:3::1"]] {
        let budget = Arc::new(MemoryBudget::new(9_000_000));
        let party = |address: &str| Party::network(address.parse().unwrap());
        let held: Vec<_> = addresses.iter().map(|address| filled(&budget, party(address), 1000).0).collect();
        assert_eq!(held.iter().map(|held| held.0.get().bytes).sum::<usize>(), 6_000_000);
        assert_eq!(filled(&budget, party("10.0.1.1"), 1000).0.0.get().bytes, 2_000_000);
        drop(held);
        assert_eq!((budget.used(), filled(&budget, party(addresses[2]), 1000).0.0.get().bytes), (0, 6_000_000));
    }
}

#[test]
fn what_is_there_already_is_counted_in_any_case() {
    let budget = Arc::new(MemoryBudget::new(100));
    let mut unread = Reservation::new(&budget, Party::Account(1));
    unread.set(150);
    assert!(budget.is_exceeded());
    unread.set(90);
    unread.pass_to(Party::Account(2));
    assert_eq!(Reservation::new(&budget, Party::Account(1)).grow(10), Ok(()), "it holds nothing any more");
    drop(unread);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_request_holds_what_was_reserved_until_it_is_taken() {
    std::thread::spawn(|| {
        assert_eq!(reserve(1000), Ok(()), "without a budget nothing is counted");
        let budget = Arc::new(MemoryBudget::new(1000));
        install(Arc::clone(&budget));
        crate::blocking::set_party(Party::Account(7));
        assert_eq!((reserve(400), reserve(200)), (Ok(()), Ok(())));
        assert_eq!(reserve(200), Err(Refused::ShareIsUsed));
        release(300);
        assert_eq!((budget.used(), reserve(300)), (300, Ok(())));
        count(500);
        assert!(budget.is_exceeded() && budget.used() == 1100);
        release(500);
        identify(Party::Account(8));
        let taken = take().unwrap();
        assert_eq!((taken.0.get().bytes, taken.0.get().party, budget.used()), (600, Party::Account(8), 600));
        put(taken);
        assert_eq!(reserve(10), Ok(()));
        drop(take());
        assert_eq!(budget.used(), 0);
    })
    .join()
    .unwrap();
}

#[test]
fn other_threads_count_for_the_request_too() {
    thread::spawn(|| {
        let budget = Arc::new(MemoryBudget::new(1_000_000));
        install(Arc::clone(&budget));
        crate::blocking::set_party(Party::Account(7));
        assert_eq!(reserve(1000), Ok(()));
        let helpers = Helpers::of_request();
        thread::scope(|scope| {
            for n in 1..=4 {
                let helpers = &helpers;
                scope.spawn(move || helpers.work(|| count(n * 10_000)));
            }
        });
        assert_eq!((budget.used(), budget.held_by(Party::Account(7))[0]), (101_000, 101_000));
        helpers.join();
        assert_eq!((budget.used(), holder().unwrap().held().bytes), (101_000, 101_000));
        shrink_to(200_000);
        assert_eq!(budget.used(), 101_000);
        shrink_to(500);
        assert_eq!(budget.used(), 500);
        drop(take());
        assert_eq!(budget.used(), 0);
    })
    .join()
    .unwrap();
}

#[test]
fn whoever_waits_for_memory_gets_it_when_others_have_given_it_back() {
    let budget = Arc::new(MemoryBudget::new(9_000_000));
    let (first, _) = filled(&budget, Party::Account(1), 1000);
    let refused = budget.take_shortages();
    assert_eq!(refused.iter().map(|each| (each.bytes, each.total)).collect::<Vec<_>>(), [(1000, 6_001_000)]);
    assert!(!first.holder().held().is_above(&refused[0], 0), "it would not take from itself");
    let asks = {
        let budget = Arc::clone(&budget);
        thread::spawn(move || {
            let mut second = Reservation::new(&budget, Party::Account(2));
            (second.grow_in_time(4_000_000), second)
        })
    };
    let asked = loop {
        match budget.take_shortages().pop() {
            Some(shortage) => break shortage,
            None => thread::sleep(PAUSE),
        }
    };
    assert_eq!((asked.party, asked.total, asked.total_of_group), (Party::Account(2), 4_000_000, 4_000_000));
    assert!(first.holder().held().is_above(&asked, 0));
    // 3 MB are free, 4 and half as much again are needed.
    assert_eq!(budget.missing(&asked, 500_000), 2_500_000);
    budget.promise(&asked);
    drop(first);
    assert_eq!(Reservation::new(&budget, Party::Account(3)).grow(5_500_000), Err(Refused::Full), "it is promised");
    let (outcome, second) = asks.join().unwrap();
    assert_eq!(outcome, Ok(()));
    let mut third = Reservation::new(&budget, Party::Account(3));
    assert_eq!((budget.used(), third.grow(5_000_000)), (4_000_000, Ok(())), "nothing is promised any more");
    drop(second);
}

#[test]
fn whoever_holds_the_most_does_not_wait() {
    let budget = Arc::new(MemoryBudget::new(9_000_000));
    let (_first, _) = filled(&budget, Party::Account(1), 1000);
    budget.take_shortages();
    let asks = {
        let budget = Arc::clone(&budget);
        thread::spawn(move || (Instant::now(), Reservation::new(&budget, Party::Account(2)).grow_in_time(8_000_000)))
    };
    let asked = loop {
        match budget.take_shortages().pop() {
            Some(shortage) => break shortage,
            None => thread::sleep(PAUSE),
        }
    };
    asked.refuse();
    assert_eq!(asks.join().unwrap().1, Err(Refused::Full));
}

#[test]
fn all_networks_of_a_site_together_are_above_one_of_another() {
    let budget = Arc::new(MemoryBudget::new(9_000_000));
    let party = |address: &str| Party::network(address.parse().unwrap());
    let mut held: Vec<_> = (1..=4).map(|n| Reservation::new(&budget, party(&format!("10.0.0.{n}")))).collect();
    for each in &mut held {
        each.set(1_500_000);
    }
    for (asks, bytes, is_above) in
        [("10.0.1.1", 2_000_000, true), ("10.0.1.1", 6_500_000, false), ("10.0.0.5", 2_000_000, false)]
    {
        let shortage = budget.note_shortage(party(asks), bytes, false);
        assert!(held.iter().all(|each| each.holder().held().is_above(&shortage, 0) == is_above), "{asks} {bytes}");
    }
}

proptest! {
    #[test]
    fn whatever_parties_do(most in 1_usize..5000, steps in prop::collection::vec((0_u64..5, 0_usize..2000, any::<bool>()), 1..200)) {
        let budget = Arc::new(MemoryBudget::new(most));
        let mut held: Vec<Reservation> = (0..5).map(|n| Reservation::new(&budget, Party::Account(n))).collect();
        for (party, bytes, grows) in steps {
            let reservation = &mut held[usize::try_from(party).unwrap()];
            if grows {
                let _ = reservation.grow(bytes);
            } else {
                reservation.set(bytes.min(reservation.0.get().bytes));
            }
            let sum: usize = held.iter().map(|reservation| reservation.0.get().bytes).sum();
            prop_assert_eq!(budget.used(), sum);
            prop_assert!(sum <= most);
        }
        held.clear();
        for table in &budget.held {
            prop_assert!(table.counters.iter().all(|counter| counter.load(Relaxed) == 0));
        }
    }
}
