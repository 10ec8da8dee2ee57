//! What charges take of budgets when they are refused.

use std::sync::Arc;

use textgen::limits::{Admission, Budgets};
use textgen::usage::{Charge, Meter};

use crate::harness::TestDb;
use crate::proxy::Proxy;
use crate::support::{Folder, SMALLEST_JOURNAL, charge, make_users, meter_with, set_price, wait_until};

/// Picodollars of a micro-dollar.
const MICRO: i128 = 1_000_000;

/// What the budget allows, in micro-dollars.
const LIMIT: i128 = 10;

fn database() -> TestDb {
    let db = TestDb::new();
    make_users(&db, 1);
    set_price(&db);
    let limit = LIMIT * MICRO;
    db.run(&format!("INSERT INTO budgets (id, user_id, limit_picos, period) VALUES ('b', 'u0', {limit}, 'total')"));
    db
}

fn admission(meter: &Meter) -> Arc<Admission> {
    let budgets = Budgets { account: Some("b".into()), ..Budgets::default() };
    Admission::new(Arc::clone(meter.limits()), budgets)
}

/// Waits until all of the budget can be set aside, which needs a process that holds leases.
#[track_caller]
fn set_all_aside(meter: &Meter) -> Arc<Admission> {
    let mut whole = None;
    wait_until("all of the budget to be free", || {
        let admission = admission(meter);
        let amount = admission.reserve(LIMIT * MICRO, LIMIT * MICRO);
        whole = amount.is_ok().then_some(admission);
        whole.is_some()
    });
    whole.unwrap()
}

/// A charge of all of the budget.
fn of_all(id: &str, admission: Arc<Admission>) -> Charge {
    Charge { admission: Some(admission), ..charge(id, 0, i64::try_from(LIMIT).unwrap()) }
}

#[test]
fn what_a_charge_took_is_free_again_if_its_response_is_never_sent() {
    let (db, folder) = (database(), Folder::new());
    let meter = meter_with(&db.url(), &folder.0, SMALLEST_JOURNAL);
    for n in 0..3 {
        let charge = of_all(&format!("dropped{n}"), set_all_aside(&meter));
        drop(meter.charge_deferred(charge, |_, response| response).unwrap());
    }
    meter.charge(of_all("made", set_all_aside(&meter))).unwrap();
    let nothing = admission(&meter).reserve(1, 1);
    assert!(nothing.is_err(), "all of it was charged");
    assert_eq!(db.count("SELECT count(*) FROM usage_events"), 1);
}

#[test]
fn what_a_charge_took_is_free_again_if_neither_database_nor_journal_takes_it() {
    let (db, folder) = (database(), Folder::new());
    let (proxy, url) = Proxy::new(&db.url());
    let meter = meter_with(&url, &folder.0, SMALLEST_JOURNAL);
    let admission = set_all_aside(&meter);
    proxy.cut();
    let is_refused = |n: i32| meter.charge(charge(&format!("n{n}"), 0, 1)).is_err();
    assert!((0..20_000).any(is_refused), "the journal is not full");
    meter.charge(of_all("refused", admission)).unwrap_err();
    proxy.mend();
    meter.charge(of_all("made", set_all_aside(&meter))).unwrap();
    assert_eq!(db.count("SELECT count(*) FROM usage_events WHERE cost_micros = 10"), 1);
}
