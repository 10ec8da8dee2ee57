//! Tests of one lease.

use super::lease::*;
use super::*;

const SECOND: Micros = 1_000_000;

fn grant(granted: Picos) -> Grant {
    Grant { granted, returned: 0, window_starts: 0, is_short: false, collects: false, valid_for: None }
}

#[test]
fn what_is_set_aside_cannot_be_set_aside_again() {
    let mut lease = Lease::default();
    lease.receive(&grant(100), 0);
    let first = reserve(&mut [&mut lease], 60, 0).unwrap();
    assert_eq!(reserve(&mut [&mut lease], 41, 0), None);
    lease.settle(&first, 35);
    assert_eq!(lease.free(), 65);
    let second = reserve(&mut [&mut lease], 65, 0).unwrap();
    lease.release(&second);
    assert_eq!(lease.free(), 65);
}

#[test]
fn a_refusal_by_one_lease_leaves_the_other_untouched() {
    let (mut account, mut key) = (Lease::default(), Lease::default());
    account.receive(&grant(100), 0);
    key.receive(&grant(10), 0);
    assert_eq!(reserve(&mut [&mut account, &mut key], 11, 0), None);
    assert_eq!((account.free(), key.free()), (100, 10));
}

#[test]
fn parts_of_a_reservation_are_settled_and_released_on_their_own() {
    let mut lease = Lease::default();
    lease.receive(&grant(100), 0);
    let mut whole = reserve(&mut [&mut lease], 60, 0).unwrap();
    whole.add(reserve(&mut [&mut lease], 10, 0).unwrap());
    let part = whole.split(45);
    lease.settle(&part, 40);
    assert_eq!((whole.worst(), lease.free()), (25, 35));
    lease.take_back(40);
    lease.release(&whole);
    assert_eq!((lease.free(), whole.split(26).worst()), (100, 25));
}

#[test]
fn what_was_granted_before_a_credit_expired_goes_back() {
    let mut lease = Lease::default();
    lease.receive(&Grant { valid_for: Some(SECOND), ..grant(100) }, SECOND / 2);
    let running = reserve(&mut [&mut lease], 30, SECOND).unwrap();
    let late = reserve(&mut [&mut lease], 20, SECOND).unwrap();
    assert_eq!(reserve(&mut [&mut lease], 1, SECOND * 3 / 2), None);
    let ask = lease.ask(10, 0, false, SECOND * 3 / 2).unwrap();
    assert_eq!((ask.at_least, ask.at_most, ask.returned), (100, 100, 50));
    // An answer that was lost had granted something.
    lease.receive(&grant(120), SECOND * 3 / 2);
    assert_eq!(reserve(&mut [&mut lease], 1, SECOND * 3 / 2), None);
    let ask = lease.ask(10, 0, false, SECOND * 3 / 2).unwrap();
    assert_eq!((ask.at_least, ask.returned), (130, 70));
    lease.receive(&grant(130), SECOND * 3 / 2);
    let new = reserve(&mut [&mut lease], 10, 2 * SECOND).unwrap();
    lease.settle(&running, 25);
    lease.release(&late);
    assert_eq!((lease.free(), lease.ask(0, 0, false, 2 * SECOND).unwrap().returned), (0, 95));
    lease.release(&new);
    assert_eq!(lease.free(), 10);
}

#[test]
fn an_answer_that_comes_when_a_lift_is_over_does_not_prolong_it() {
    let mut lease = Lease::default();
    lease.receive(&Grant { valid_for: Some(SECOND), ..grant(100) }, 0);
    // It was asked for before the time was over, and answered after it.
    lease.receive(&grant(100), SECOND - 1);
    assert_eq!(reserve(&mut [&mut lease], 1, SECOND), None);
    assert_eq!(lease.ask(0, 0, false, SECOND).unwrap().returned, 100);
    lease.receive(&Grant { returned: 100, ..grant(100) }, SECOND);
    lease.ask(10, 0, false, SECOND).unwrap();
    lease.receive(&Grant { returned: 100, ..grant(110) }, SECOND);
    assert!(reserve(&mut [&mut lease], 10, SECOND).is_some());
}

#[test]
fn repeated_and_late_answers_count_once() {
    let mut lease = Lease::default();
    for granted in [100, 50, 100] {
        lease.receive(&grant(granted), 0);
    }
    assert_eq!(lease.free(), 100);
}

#[test]
fn an_idle_lease_goes_back_but_for_what_runs() {
    let mut lease = Lease::default();
    lease.receive(&grant(100), 0);
    let running = reserve(&mut [&mut lease], 30, 0).unwrap();
    lease.return_if_idle(SECOND);
    assert_eq!(lease.free(), 70);
    lease.return_if_idle(3 * SECOND);
    assert_eq!(lease.free(), 0);
    assert_eq!(lease.ask(0, 0, false, 3 * SECOND).unwrap().returned, 70);
    lease.release(&running);
    assert_eq!(lease.free(), 30);
}

#[test]
fn it_asks_for_what_is_lacking_and_for_as_much_as_was_used_lately() {
    let mut lease = Lease::default();
    assert_eq!(lease.ask(0, 0, false, 0), None);
    let ask = lease.ask(10, 5, false, 0).unwrap();
    assert_eq!((ask.at_least, ask.at_most), (10, 15));
    lease.receive(&grant(100), 0);
    for _ in 0..9 {
        let reservation = reserve(&mut [&mut lease], 10, 0).unwrap();
        lease.settle(&reservation, 10);
    }
    assert_eq!(lease.ask(0, 0, false, PAUSE - 1), None);
    let ask = lease.ask(0, 0, false, PAUSE).unwrap();
    assert_eq!((ask.at_least, ask.at_most), (100, 100 + 4 * 90 - 10));
}

#[test]
fn whoever_collects_tells_when_it_needs_no_more() {
    let mut lease = Lease::default();
    lease.receive(&Grant { collects: true, ..grant(100) }, 0);
    let ask = lease.ask(0, 0, false, 0).unwrap();
    assert_eq!((ask.at_least, ask.partial), (100, false));
    lease.receive(&grant(100), 0);
    assert_eq!(lease.ask(0, 0, false, 0), None);
}

#[test]
fn a_recall_leaves_what_is_being_collected() {
    let mut lease = Lease::default();
    lease.receive(&Grant { collects: true, ..grant(100) }, 0);
    lease.recall(30);
    assert_eq!((lease.free(), lease.ask(40, 0, false, 0).unwrap().returned), (30, 70));
}

#[test]
fn a_recall_finds_a_grant_whose_answer_was_lost() {
    let mut lease = Lease::default();
    lease.recall(0);
    assert_eq!(lease.ask(0, 0, false, 0).unwrap().returned, 0);
    lease.receive(&grant(100), 0);
    assert_eq!(lease.ask(0, 0, false, 0).unwrap().returned, 100);
    lease.receive(&Grant { returned: 100, ..grant(100) }, 0);
    assert_eq!(lease.ask(0, 0, false, 0), None);
}
