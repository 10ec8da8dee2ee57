//! Processes that die.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::harness::TestDb;
use crate::proxy::Proxy;
use crate::support::{Folder, assert_books_agree, assert_charged, charge, make_users, meter, set_price, wait_until};

/// Set in a process that is to be killed: where its database, its journal and its list of receipts are.
const VICTIM: &str = "METERING_TEST_VICTIM";

/// Not a test: what runs in a process that is to be killed. It charges as fast as it can, and writes down each receipt.
#[test]
#[ignore = "run by the tests of this file in processes of their own"]
fn victim() {
    let Ok(settings) = std::env::var(VICTIM) else { return };
    let [url, folder, receipts]: [&str; 3] = settings.split('|').collect::<Vec<_>>().try_into().unwrap();
    let meter = meter(url, Path::new(folder));
    thread::scope(|scope| {
        for t in 0..8_usize {
            let meter = &meter;
            let mut receipts = OpenOptions::new().append(true).create(true).open(receipts).unwrap();
            scope.spawn(move || {
                for n in 0_i64.. {
                    let id = textgen::usage::new_id();
                    if let Ok(receipt) = meter.charge(charge(&id, t % 3, 1 + n % 7)) {
                        receipts.write_all(format!("{id} {}\n", receipt.cost_micros).as_bytes()).unwrap();
                    }
                }
            });
        }
    });
}

fn spawn_victim(url: &str, folder: &Path, receipts: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["crash::victim", "--exact", "--ignored"])
        .env(VICTIM, format!("{url}|{}|{}", folder.display(), receipts.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What the victims were told. A line that the kill cut short was told to nobody.
fn receipts(path: &Path) -> HashMap<String, i64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    lines.filter_map(|line| line.split_once(' ')).map(|(id, micros)| (id.to_owned(), micros.parse().unwrap())).collect()
}

#[test]
fn killed_processes_lose_no_acknowledged_charge() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 3);
    set_price(&db);
    let (proxy, url) = Proxy::new(&db.url());
    let list = folder.0.join("receipts");
    let mut before = 0;
    for round in 0..8 {
        let mut victims = [spawn_victim(&url, &folder.0, &list), spawn_victim(&url, &folder.0, &list)];
        // No two rounds interrupt them at the same point of their work.
        wait_until("the first receipts", || receipts(&list).len() > before + 20 + round * 13);
        if round % 2 == 1 {
            // They die with charges in their journals.
            proxy.cut();
            let now = receipts(&list).len();
            wait_until("receipts of the journal", || receipts(&list).len() > now + 50);
        }
        for victim in &mut victims {
            victim.kill().unwrap();
            victim.wait().unwrap();
        }
        proxy.mend();
        before = receipts(&list).len();
    }
    let told = receipts(&list);
    assert!(!folder.journals().is_empty());
    let survivor = meter(&url, &folder.0);
    wait_until("the journals of the dead", || folder.journals().len() == 1);
    assert!(survivor.stats().replayed > 0);
    assert_charged(&db, &told);
    assert_books_agree(&db);
}

#[test]
fn a_journal_with_an_incomplete_last_record_is_replayed_once() {
    let (db, folder) = (TestDb::new(), Folder::new());
    make_users(&db, 3);
    set_price(&db);
    let (proxy, url) = Proxy::new(&db.url());
    let first = meter(&url, &folder.0);
    proxy.cut();
    let mut told = HashMap::new();
    for n in 0..50 {
        let id = format!("j{n}");
        told.insert(id.clone(), first.charge(charge(&id, 0, n)).unwrap().cost_micros);
    }
    first.stop();
    let journal = folder.journals().pop().unwrap();
    let mut bytes = std::fs::read(&journal).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // A record that was being written when the process died.
    let torn = bytes[16..200].to_vec();
    bytes[end..end + torn.len()].copy_from_slice(&torn);
    let torn_bytes = bytes[..end + torn.len()].to_vec();
    std::fs::write(&journal, &torn_bytes).unwrap();
    proxy.mend();
    let second = meter(&url, &folder.0);
    wait_until("the journal of the dead", || second.stats().replayed == 50);
    wait_until("its end", || !journal.exists());
    // The same file again, as if the process had died before it could remove it.
    std::fs::write(&journal, &torn_bytes).unwrap();
    wait_until("its end", || !journal.exists());
    assert_eq!(db.count("SELECT count(*) FROM usage_events"), 50);
    assert_charged(&db, &told);
    assert_books_agree(&db);
}

#[test]
fn a_journal_of_another_database_is_left_alone() {
    let (db, other, folder) = (TestDb::new(), TestDb::new(), Folder::new());
    make_users(&db, 1);
    set_price(&db);
    make_users(&other, 1);
    set_price(&other);
    for (db, id) in [(&db, "one"), (&other, "two")] {
        let (proxy, url) = Proxy::new(&db.url());
        let meter = meter(&url, &folder.0);
        proxy.cut();
        meter.charge(charge(id, 0, 3)).unwrap();
        meter.stop();
    }
    assert_eq!(folder.journals().len(), 2);
    // One look at the folder finds both journals.
    let meter = meter(&other.url(), &folder.0);
    wait_until("the journal of its own database", || meter.stats().replayed == 1);
    meter.stop();
    assert_eq!(other.count("SELECT count(*) FROM usage_events WHERE id = 'two'"), 1);
    assert_eq!(other.count("SELECT count(*) FROM usage_events"), 1);
    assert_eq!(folder.journals().len(), 1);
}
