//! A meter on a database of the test's own, and what the books must say.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use textgen::db::{self, Database};
use textgen::store::usage::Event;
use textgen::units::{Unit, Units};
use textgen::usage::{Charge, ChargeId, Connections, Meter, Receipt};

use crate::harness::TestDb;

/// The least that a journal may hold.
pub const SMALLEST_JOURNAL: u64 = 1 << 20;

/// A folder of the test's own.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Folder {
        let path = std::env::temp_dir().join(format!("textgen-metering-{}", textgen::usage::new_id()));
        std::fs::create_dir(&path).unwrap();
        Folder(path)
    }

    /// The journals in it.
    pub fn journals(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(&self.0).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|e| e == "journal")).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A meter that is ready for work.
pub fn meter(url: &str, folder: &Path) -> Arc<Meter> {
    meter_with(url, folder, 64 << 20)
}

pub fn meter_with(url: &str, folder: &Path, journal: u64) -> Arc<Meter> {
    let db = Connections::new(url, "metering").unwrap();
    let meter = Meter::new(db, folder.to_owned(), journal);
    meter.open();
    meter.start().unwrap();
    wait_until("the meter to be ready", || meter.admit().is_ok() && meter.stats().has_journal_room);
    meter
}

#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Makes users `u0`, `u1` and so on.
pub fn make_users(db: &TestDb, count: usize) {
    db.run(&format!(
        "INSERT INTO users (id, email) SELECT 'u' || n, 'u' || n || '@example.com' FROM generate_series(0, {count} - 1) n"
    ));
}

/// The ids of these tests that count as chosen by clients; the others were made for their charges.
fn is_chosen(id: &str) -> bool {
    id.ends_with('0') || id.contains(':')
}

/// The same in SQL.
const CHOSEN: &str = "(id LIKE '%0' OR id LIKE '%:%')";

/// A charge of `micros` micro-dollars, where a token of `model` costs a thousandth of one.
pub fn charge(id: &str, user: usize, micros: i64) -> Charge {
    Charge {
        id: if is_chosen(id) { ChargeId::ClientSupplied(id.to_owned()) } else { ChargeId::Generated(id.to_owned()) },
        user_id: format!("u{user}"),
        key_id: user.is_multiple_of(2).then(|| format!("key_{user}")),
        server: "inference",
        route: if micros % 2 == 0 { "/v1/completions" } else { "/v1/chat/completions" },
        model: "thousandth".to_owned(),
        units: Units::of([(Unit::PromptTokens, micros * 1000), (Unit::Requests, 1)]),
        estimated: false,
        latency_micros: 5,
        keep: None,
        admission: None,
        parts: Vec::new(),
    }
}

/// The price that [`charge`] counts on.
pub fn set_price(db: &TestDb) {
    db.run("INSERT INTO prices (model, prompt_per_million) VALUES ('thousandth', 1000)");
}

/// What the books say: charges, and micro-dollars, by user.
pub fn ledger(db: &TestDb) -> HashMap<String, (i64, i64)> {
    by_user(db, "SELECT user_id, count(*), sum(cost_micros)::bigint FROM usage_events GROUP BY user_id")
}

fn by_user(db: &TestDb, sql: &str) -> HashMap<String, (i64, i64)> {
    let rows = db.connect().query(sql, &[]).unwrap();
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

/// The ledger, the ids, the daily totals and the users' totals say the same.
#[track_caller]
pub fn assert_books_agree(db: &TestDb) {
    let ledger = ledger(db);
    let daily = "SELECT user_id, sum(events)::bigint, sum(cost_micros)::bigint FROM usage_daily GROUP BY user_id";
    assert_eq!(by_user(db, daily), ledger);
    let totals = by_user(db, "SELECT id, 0::bigint, charges_monthly FROM users WHERE charges_monthly > 0");
    for (user, (_, micros)) in totals {
        assert_eq!(ledger[&user].1, micros, "{user}");
    }
    let known = "SELECT count(*) FROM usage_events WHERE user_id IN (SELECT id FROM users WHERE charges_monthly = 0)
        AND cost_micros > 0";
    assert_eq!(db.count(known), 0);
    let events = db.count("SELECT count(*) FROM usage_events");
    assert_eq!(db.count("SELECT count(DISTINCT id) FROM usage_events"), events);
    let chosen = db.count(&format!("SELECT count(*) FROM usage_events WHERE {CHOSEN}"));
    assert_eq!(db.count("SELECT count(*) FROM usage_events JOIN charge_ids USING (id, created)"), chosen);
    assert_eq!(db.count("SELECT count(*) FROM charge_ids"), chosen);
    let tokens = "SELECT coalesce(sum(prompt_tokens), 0)::bigint FROM";
    assert_eq!(db.count(&format!("{tokens} usage_daily")), db.count(&format!("{tokens} usage_events")));
}

/// Everything that somebody was told of stands in the ledger, once, at its price.
#[track_caller]
pub fn assert_charged(db: &TestDb, told: &HashMap<String, i64>) {
    let rows = db.connect().query("SELECT id, cost_micros FROM usage_events", &[]).unwrap();
    let booked: HashMap<String, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let lost: Vec<&String> = told.keys().filter(|id| !booked.contains_key(*id)).collect();
    assert!(lost.is_empty(), "{} of {} lost, such as {}", lost.len(), told.len(), lost[0]);
    for (id, micros) in told {
        assert_eq!(booked[id], *micros, "{id}");
    }
}

/// A key that the database does not know; with it, somebody else forges a journal.
pub const OTHER_KEY: &[u8] = b"a key of somebody else";

/// A journal with these charges, as a server on this database writes it.
pub fn signed_journal(key: &[u8], events: &[Event]) -> Vec<u8> {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key);
    let mut bytes = b"textgen charges2".to_vec();
    for event in events {
        let payload = serde_json::to_vec(event).unwrap();
        bytes.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        bytes.extend(crc32fast::hash(&payload).to_le_bytes());
        bytes.extend(ring::hmac::sign(&key, &payload).as_ref());
        bytes.extend(payload);
    }
    bytes
}

/// The key of the journals of a database.
pub fn journal_key(db: &TestDb) -> Vec<u8> {
    db.connect().query_one("SELECT journal_key FROM installation", &[]).unwrap().get(0)
}

/// Leaves a journal with these charges, as a process that died does. `like` is one of the same database.
pub fn leave_journal(db: &TestDb, folder: &Path, like: &Path, events: &[Event]) -> PathBuf {
    leave_file(folder, like, &signed_journal(&journal_key(db), events))
}

/// Leaves a file that is named like a journal of the same database as `like`.
pub fn leave_file(folder: &Path, like: &Path, bytes: &[u8]) -> PathBuf {
    let place = unused_name(folder, like);
    let draft = folder.join("draft");
    std::fs::write(&draft, bytes).unwrap();
    std::fs::rename(draft, &place).unwrap();
    place
}

/// A name for another journal of the same database as `like`.
pub fn unused_name(folder: &Path, like: &Path) -> PathBuf {
    let prefix = like.file_name().unwrap().to_str().unwrap().split_once('-').unwrap().0;
    folder.join(format!("{prefix}-{}.journal", textgen::usage::new_id()))
}
