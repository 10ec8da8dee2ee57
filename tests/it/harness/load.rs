//! Clients that make charges and save documents until they are stopped, and a record of what was acknowledged to them, to
//! be compared with the database.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Address, TestDb};

/// What was acknowledged to the clients.
#[derive(Default)]
pub struct LoadRecord {
    stopped: AtomicBool,
    /// Held for reading while a request is in flight.
    gate: RwLock<()>,
    /// The number in the prompt of the next request, by which that is found in the ledger: the model server is to be
    /// [`Upstream::counting`](super::Upstream::counting).
    next: AtomicUsize,
    charges: Mutex<Charges>,
    saved: AtomicUsize,
    /// How often each status was seen, by kind of request; 0 is a broken connection.
    pub statuses: Mutex<BTreeMap<(&'static str, u16), usize>>,
}

#[derive(Default)]
struct Charges {
    /// Requests whose reply was complete: each must be charged once.
    whole: HashSet<i64>,
    /// The others: each may be charged at most once.
    unsure: HashSet<i64>,
}

/// How a client reads a reply.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Unstreamed.
    Whole,
    /// Streamed, to the end.
    Streamed,
    /// Streamed; the client disconnects in the middle.
    Left,
}

/// A document with a single writer, and what was acknowledged to it.
struct TrackedDocument {
    id: String,
    version: i64,
    /// The last acknowledged content, a number.
    acknowledged: usize,
    tried: usize,
}

impl LoadRecord {
    /// Makes the clients stop.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn note(&self, what: &'static str, status: u16) {
        *self.statuses.lock().unwrap().entry((what, status)).or_default() += 1;
    }

    /// Waits until no request is in flight, and lets none start while the guard is held.
    pub fn hold(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap()
    }

    /// Sends one request and records its status; waits first while [`LoadRecord::hold`] holds requests back.
    pub fn once(&self, what: &'static str, send: impl FnOnce() -> Option<u16>) -> u16 {
        let gate = self.gate.read().unwrap();
        let status = send().unwrap_or(0);
        self.note(what, status);
        drop(gate);
        thread::sleep(Duration::from_millis(5));
        status
    }

    /// Returns the statuses seen since the last call.
    pub fn take_statuses(&self) -> BTreeMap<(&'static str, u16), usize> {
        std::mem::take(&mut *self.statuses.lock().unwrap())
    }

    pub fn charged(&self) -> usize {
        self.charges.lock().unwrap().whole.len()
    }

    pub fn saved(&self) -> usize {
        self.saved.load(Ordering::Relaxed)
    }

    /// Asserts that no other statuses were seen.
    #[track_caller]
    pub fn assert_statuses(&self, allowed: &[u16]) {
        let statuses = self.statuses.lock().unwrap();
        assert!(statuses.keys().all(|(_, status)| allowed.contains(status)), "{statuses:?}");
    }

    /// Asserts that every complete reply is charged exactly once and nothing else is charged. Waits until the charges in
    /// journals have been replayed.
    #[track_caller]
    pub fn assert_charged(&self, db: &TestDb, users: &[&str]) {
        let mut booked = HashMap::new();
        super::wait_until("the charges", || {
            booked = ledger(db, users);
            self.charges.lock().unwrap().whole.iter().all(|number| booked.contains_key(number))
        });
        let charges = self.charges.lock().unwrap();
        for (number, count) in booked {
            assert_eq!(count, 1, "{number} is charged more than once");
            assert!(charges.whole.contains(&number) || charges.unsure.contains(&number), "nobody asked for {number}");
        }
    }

    /// The numbers of the requests whose replies were complete so far.
    pub fn answered(&self) -> HashSet<i64> {
        self.charges.lock().unwrap().whole.clone()
    }

    /// Asserts that each of these requests is charged in this database, and everything at most once.
    #[track_caller]
    pub fn assert_holds(db: &TestDb, users: &[&str], numbers: &HashSet<i64>) {
        let booked = ledger(db, users);
        let missing: Vec<&i64> = numbers.iter().filter(|number| !booked.contains_key(number)).collect();
        assert!(missing.is_empty(), "{} of {} are missing: {missing:?}", missing.len(), numbers.len());
        let twice: Vec<&i64> = booked.iter().filter(|(_, count)| **count != 1).map(|(number, _)| number).collect();
        assert!(twice.is_empty(), "charged more than once: {twice:?}");
    }

    /// Requests completions one after the other, of an address that may change.
    pub fn charge(&self, address: impl Fn() -> Address, secret: &str) {
        while !self.is_stopped() {
            self.charge_once(&address(), secret, Way::Whole);
        }
    }

    /// Requests one completion. Returns the status.
    pub fn charge_once(&self, address: &Address, secret: &str, way: Way) -> u16 {
        let number = i64::try_from(self.next.fetch_add(1, Ordering::Relaxed)).unwrap();
        self.once("charge", || {
            let sent = match way {
                Way::Whole => ask(address, secret, number),
                _ => stream(address, secret, number, way == Way::Left),
            };
            let is_whole = matches!(sent, Ok((200, true)));
            let mut charges = self.charges.lock().unwrap();
            if is_whole {
                charges.whole.insert(number)
            } else {
                charges.unsure.insert(number)
            };
            sent.ok().map(|(status, _)| status)
        })
    }

    /// Saves one document repeatedly, and in the end checks that no acknowledged save was lost.
    pub fn save(&self, address: impl Fn() -> Address, secret: &str, id: &str) {
        let mut document = TrackedDocument { id: id.to_owned(), version: 1, acknowledged: 0, tried: 0 };
        while !self.is_stopped() {
            self.once("save", || document.save(&address(), secret, &self.saved));
        }
        let client = address().with_secret(secret);
        super::wait_until("the document", || client.get(&format!("/api/docs/get?id={id}")).status == 200);
        document.check(&client.get(&format!("/api/docs/get?id={id}")).json());
    }
}

/// The number of charges of these users by the number in the prompt.
fn ledger(db: &TestDb, users: &[&str]) -> HashMap<i64, i64> {
    let users: Vec<String> = users.iter().map(|id| (*id).to_owned()).collect();
    let sql = "SELECT prompt_tokens, count(*) FROM usage_events WHERE user_id = ANY ($1) GROUP BY 1";
    db.connect().query(sql, &[&users]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Requests an unstreamed completion: its status, and whether it was complete.
fn ask(address: &Address, secret: &str, number: i64) -> io::Result<(u16, bool)> {
    let body = json!({"prompt": number.to_string(), "max_tokens": 2}).to_string();
    let client = address.with_secret(secret);
    let reply = client.try_send("POST", "/v1/completions", Some("application/json"), body.as_bytes());
    reply.map(|reply| (reply.status, true)).map_err(io::Error::other)
}

/// The same streamed; disconnects at the first word if `leaves`.
fn stream(address: &Address, secret: &str, number: i64, leaves: bool) -> io::Result<(u16, bool)> {
    let body = json!({"prompt": number.to_string(), "stream": true}).to_string();
    let mut stream = TcpStream::connect(address.socket())?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nSecret: {secret}\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    let (mut got, mut piece) = (String::new(), [0; 4096]);
    loop {
        if leaves && got.contains("data: ") {
            stream.shutdown(Shutdown::Both)?;
            break;
        }
        match stream.read(&mut piece)? {
            0 => break,
            n => got += &String::from_utf8_lossy(&piece[..n]),
        }
    }
    let status = got.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
    Ok((status, got.contains("[DONE]") && got.ends_with("0\r\n\r\n")))
}

impl TrackedDocument {
    fn save(&mut self, address: &Address, secret: &str, saved: &AtomicUsize) -> Option<u16> {
        self.tried += 1;
        let body = json!({"id": self.id, "content": self.tried.to_string(), "version": self.version}).to_string();
        let client = address.with_secret(secret);
        let reply = client.try_send("POST", "/api/docs/save", Some("application/json"), body.as_bytes()).ok()?;
        match reply.status {
            200 => {
                self.version = reply.json()["version"].as_i64().unwrap();
                self.acknowledged = self.tried;
                saved.fetch_add(1, Ordering::Relaxed);
            }
            // A save that was not acknowledged may have happened.
            409 => self.version = self.check(&reply.json()["document"]),
            _ => {}
        }
        Some(reply.status)
    }

    /// Asserts that the content is the last acknowledged one, or one tried since. Returns its version.
    #[track_caller]
    fn check(&self, there: &Value) -> i64 {
        let number: usize = there["content"].as_str().unwrap_or_else(|| panic!("{there}")).parse().unwrap();
        assert!((self.acknowledged..=self.tried).contains(&number), "{number}, {} was acknowledged", self.acknowledged);
        there["version"].as_i64().unwrap()
    }
}

/// Asserts that the ledger, the ids, the daily totals and the users' totals agree.
#[track_caller]
pub fn assert_books_agree(db: &TestDb) {
    const PICOS: &str = "sum(cost_micros) * 1000000 + sum(cost_picos) AS picos";
    let ledger = format!("SELECT user_id, count(*) AS events, {PICOS} FROM usage_events GROUP BY user_id");
    let days = format!("SELECT user_id, sum(events) AS events, {PICOS} FROM usage_daily GROUP BY user_id");
    let differ = format!(
        "SELECT count(*) FROM ({ledger}) a FULL JOIN ({days}) b USING (user_id)
        WHERE (a.events, a.picos) IS DISTINCT FROM (b.events, b.picos)"
    );
    assert_eq!(db.count(&differ), 0, "the daily totals differ from the ledger");
    let differ = format!(
        "SELECT count(*) FROM users u LEFT JOIN ({ledger}) a ON a.user_id = u.id
        WHERE u.charges_monthly::numeric * 1000000 + u.charges_picos IS DISTINCT FROM coalesce(a.picos, 0)"
    );
    assert_eq!(db.count(&differ), 0, "the users' totals differ from the ledger");
    let events = db.count("SELECT count(*) FROM usage_events");
    assert_eq!(db.count("SELECT count(DISTINCT id) FROM usage_events"), events, "a request was charged twice");
    // Ids supplied by clients are remembered for ever.
    let chosen = db.count("SELECT count(*) FROM usage_events WHERE id LIKE 'idem\\_%'");
    assert_eq!(db.count("SELECT count(*) FROM usage_events JOIN charge_ids USING (id, created)"), chosen);
    assert_eq!(db.count("SELECT count(*) FROM charge_ids"), chosen, "an idempotency id has no charge in the ledger");
    let orphans = "SELECT count(*) FROM kept_replies WHERE charge_id NOT IN (SELECT id FROM usage_events)";
    assert_eq!(db.count(orphans), 0, "a kept reply has no charge in the ledger");
}
