//! What others leave in the folder of journals, and charges that the database refuses.

use std::thread;

use textgen::store::usage::Event;
use textgen::usage::{Aside, Meter};

use crate::harness::TestDb;
use crate::proxy::Proxy;
use crate::support::{
    Folder, OTHER_KEY, assert_books_agree, charge, leave_file, leave_journal, ledger, make_users, meter, set_price,
    signed_journal, unused_name, wait_until,
};
use crate::totals::event;

/// The database refuses each charge of the model `refused`, as a trigger of the operator may.
const REFUSES: &str = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF new.model = 'refused' THEN RAISE EXCEPTION 'no such model'; END IF; RETURN new; END $$;
    CREATE TRIGGER refuse BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION refuse()";

fn set_aside(folder: &Folder) -> Vec<String> {
    let text = std::fs::read_to_string(folder.0.join("rejected.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str::<Event>(line).unwrap().id).collect()
}

fn wait_for_aside(meter: &Meter, aside: Aside) {
    wait_until("what is aside to be counted", || meter.aside() == aside);
}

fn unsigned(events: &[Event]) -> Vec<u8> {
    let mut bytes = b"textgen charges1".to_vec();
    for event in events {
        let payload = serde_json::to_vec(event).unwrap();
        bytes.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        bytes.extend(crc32fast::hash(&payload).to_le_bytes());
        bytes.extend(payload);
    }
    bytes
}

#[test]
fn a_charge_that_the_database_refuses_holds_up_no_other_of_its_batch() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 3);
    set_price(&db);
    let meter = meter(&db.url(), &folder.0);
    db.run(REFUSES);
    thread::scope(|scope| {
        for t in 0..8_usize {
            let meter = &meter;
            scope.spawn(move || {
                for n in 0..20 {
                    let mut charge = charge(&format!("{t}-{n}"), t % 3, 1 + n % 7);
                    if n == 10 {
                        charge.model = "refused".to_owned();
                    }
                    meter.charge(charge).unwrap();
                }
            });
        }
    });
    let mut aside = set_aside(&folder);
    aside.sort();
    assert_eq!(aside, (0..8).map(|t| format!("{t}-10")).collect::<Vec<_>>());
    assert_eq!(
        (meter.stats().journaled, meter.stats().is_database_available),
        (0, true),
        "at once, not by the journal"
    );
    assert_eq!(db.count("SELECT count(*) FROM usage_events"), 8 * 19);
    assert_books_agree(&db);
    wait_for_aside(&meter, Aside { charges: 8, ..Aside::default() });
    assert!(meter.aside().reason().unwrap().contains("rejected.jsonl"));
    std::fs::remove_file(folder.0.join("rejected.jsonl")).unwrap();
    wait_for_aside(&meter, Aside::default());
}

#[test]
fn a_refused_charge_in_a_journal_is_set_aside_and_the_others_are_replayed() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 3);
    set_price(&db);
    let (proxy, url) = Proxy::new(&db.url());
    let meter = meter(&url, &folder.0);
    db.run(REFUSES);
    proxy.cut();
    for n in 0..50_usize {
        let mut charge = charge(&format!("j{n}"), n % 3, 2);
        if n == 20 {
            charge.model = "refused".to_owned();
        }
        meter.charge(charge).unwrap();
    }
    proxy.mend();
    wait_until("the journal to be empty", || meter.stats().is_database_available && meter.stats().journal_charges == 0);
    assert_eq!((set_aside(&folder), meter.stats().replayed), (vec!["j20".to_owned()], 49));
    assert_books_agree(&db);
}

/// A sum that would not fit its column does not wrap: the charge is refused and set aside, and no other with it.
#[test]
fn a_charge_that_would_make_a_sum_overflow_is_set_aside_alone() {
    const MOST: &str = "9223372036854775807";
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 4);
    set_price(&db);
    let meter = meter(&db.url(), &folder.0);
    for user in 0..4 {
        meter.charge(charge(&format!("first {user}a"), user, 2)).unwrap();
    }
    db.run(&format!(
        "UPDATE users SET charges_monthly = {MOST} - 1 WHERE id = 'u0';
         UPDATE usage_daily SET cost_micros = {MOST} - 1 WHERE user_id = 'u1';
         UPDATE usage_daily SET prompt_tokens = {MOST} - 1 WHERE user_id = 'u2'"
    ));
    thread::scope(|scope| {
        for user in 0..4 {
            let meter = &meter;
            scope.spawn(move || meter.charge(charge(&format!("second {user}a"), user, 2)).unwrap());
        }
    });
    let mut aside = set_aside(&folder);
    aside.sort();
    assert_eq!(aside, ["second 0a", "second 1a", "second 2a"]);
    let sums = "SELECT count(*) FROM users u JOIN usage_daily d ON d.user_id = u.id
        WHERE (u.charges_monthly, d.cost_micros, d.prompt_tokens, d.events)";
    for (monthly, cost, tokens, events) in
        [(&*format!("{MOST} - 1"), "2", "2000", 1), ("2", &*format!("{MOST} - 1"), "2000", 1), ("4", "4", "4000", 2)]
    {
        assert_eq!(db.count(&format!("{sums} = ({monthly}, {cost}, {tokens}, {events})")), 1, "{monthly} {cost}");
    }
    // To the limit, there is room.
    meter.charge(charge("third 0a", 0, 1)).unwrap();
    assert_eq!(db.count(&format!("SELECT count(*) FROM users WHERE charges_monthly = {MOST}")), 1);
}

#[test]
fn files_that_are_no_journals_stop_nothing() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 3);
    let meter = meter(&db.url(), &folder.0);
    let own = folder.journals().pop().unwrap();
    let names = || unused_name(&folder.0, &own);
    std::fs::create_dir(names()).unwrap();
    std::os::unix::fs::symlink("/dev/zero", names()).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(names()).status().unwrap().success());
    leave_file(&folder.0, &own, b"of another version, or no journal at all");
    let left = leave_journal(&db, &folder.0, &own, &[event("late", 1, 30)]);
    wait_until("the journal of the dead", || !left.exists());
    assert_eq!(ledger(&db)["u1"].0, 1);
    wait_for_aside(&meter, Aside { stuck: 4, ..Aside::default() });
    assert_eq!(meter.aside().reason().unwrap(), "a journal cannot be replayed, the log says why");
    // The rest of the maintenance goes on.
    wait_until("the total", || db.count("SELECT count(*) FROM usage_days WHERE events > 0") == 1);
}

#[test]
fn a_forged_journal_is_put_aside() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 3);
    let meter = meter(&db.url(), &folder.0);
    let own = folder.journals().pop().unwrap();
    let forged = Event { cost_micros: -999_999_999, ..event("forged", 1, 30) };
    let left = [
        leave_file(&folder.0, &own, &signed_journal(OTHER_KEY, &[event("other", 1, 30)])),
        leave_file(&folder.0, &own, &unsigned(std::slice::from_ref(&forged))),
        // Even with the key of the database nobody gets money back.
        leave_journal(&db, &folder.0, &own, &[event("good", 1, 30), forged, event("better", 1, 30)]),
    ];
    wait_until("the journals of the dead", || left.iter().all(|path| !path.exists()));
    wait_for_aside(&meter, Aside { journals: 3, ..Aside::default() });
    let charged = "SELECT string_agg(id, ' ' ORDER BY id) FROM usage_events";
    let charged: String = db.connect().query_one(charged, &[]).unwrap().get(0);
    assert_eq!(charged, "better good");
}

#[test]
fn journals_of_the_release_before_are_replayed_during_an_upgrade_only() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 3);
    // As the migration does where there are accounts already.
    db.run("UPDATE installation SET unsigned_journals_until = now() + interval '7 days'");
    let meter = meter(&db.url(), &folder.0);
    let own = folder.journals().pop().unwrap();
    let impossible = Event { cost_micros: -999_999_999, ..event("forged", 1, 30) };
    let left = leave_file(&folder.0, &own, &unsigned(&[event("old", 1, 30), impossible]));
    wait_until("the journal of the dead", || !left.exists());
    wait_for_aside(&meter, Aside { journals: 1, ..Aside::default() });
    db.run("UPDATE installation SET unsigned_journals_until = now()");
    let left = leave_file(&folder.0, &own, &unsigned(&[event("too late", 1, 30)]));
    wait_until("the journal to be put aside", || left.with_extension("unsigned").exists());
    assert_eq!(db.count("SELECT count(*) FROM usage_events WHERE id = 'old'"), 1);
    assert_eq!(db.count("SELECT count(*) FROM usage_events"), 1);
}
