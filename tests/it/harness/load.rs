//! Clients that charge and save for as long as they are let, and what must be true of all they were told.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Address, Client, Server, TestDb, User};

/// What the clients of a load were told.
#[derive(Default)]
pub struct Told {
    stopped: AtomicBool,
    /// Replies that came whole.
    pub charged: AtomicUsize,
    /// Requests whose reply did not come whole: they may be charged, or not.
    pub uncertain: AtomicUsize,
    /// Saves that were acknowledged.
    pub saved: AtomicUsize,
    /// How often each status came, by what was asked.
    pub statuses: Mutex<BTreeMap<(&'static str, u16), usize>>,
}

/// A document, and what its only writer was told of it.
struct Written {
    id: String,
    version: i64,
    /// The number in its content that was acknowledged last.
    acknowledged: usize,
    tried: usize,
}

impl Told {
    /// Lets the clients end.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn note(&self, what: &'static str, status: u16) {
        *self.statuses.lock().unwrap().entry((what, status)).or_default() += 1;
    }

    pub fn charged(&self) -> usize {
        self.charged.load(Ordering::Relaxed)
    }

    pub fn saved(&self) -> usize {
        self.saved.load(Ordering::Relaxed)
    }

    /// Nobody was told anything else than this.
    #[track_caller]
    pub fn assert_statuses(&self, allowed: &[u16]) {
        let statuses = self.statuses.lock().unwrap();
        assert!(statuses.keys().all(|(_, status)| allowed.contains(status)), "{statuses:?}");
    }

    /// Every whole reply is charged once, to one of these users, and nothing that was not asked for. Waits until what is in
    /// journals has come.
    #[track_caller]
    pub fn assert_charged(&self, db: &TestDb, users: &[&str]) {
        let list = users.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(",");
        let sql = format!("SELECT count(*) FROM usage_events WHERE user_id IN ({list})");
        let events = || usize::try_from(db.count(&sql)).unwrap();
        let charged = self.charged();
        super::wait_until("the charges", || events() >= charged);
        let most = charged + self.uncertain.load(Ordering::Relaxed);
        let events = events();
        assert!(events <= most, "{events} charges for {charged} whole replies of {most}");
    }

    /// Asks for short completions, one after the other, of an address that may change.
    pub fn charge(&self, address: impl Fn() -> Address, secret: &str) {
        while !self.is_stopped() {
            let client = address().with_secret(secret);
            let body = json!({"prompt": "Good morning", "max_tokens": 2}).to_string();
            match client.try_send("POST", "/v1/completions", Some("application/json"), body.as_bytes()) {
                Ok(reply) => {
                    self.note("charge", reply.status);
                    let counter = if reply.status == 200 { &self.charged } else { &self.uncertain };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                Err(_) => drop(self.uncertain.fetch_add(1, Ordering::Relaxed)),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Saves one document, again and again, and at the end checks that nothing acknowledged was lost.
    pub fn save(&self, address: impl Fn() -> Address, secret: &str, id: &str) {
        let mut document = Written { id: id.to_owned(), version: 1, acknowledged: 0, tried: 0 };
        while !self.is_stopped() {
            let client = address().with_secret(secret);
            document.tried += 1;
            let body = json!({"id": id, "content": document.tried.to_string(), "version": document.version});
            let sent = client.try_send("POST", "/api/docs/save", Some("application/json"), body.to_string().as_bytes());
            if let Ok(reply) = sent {
                self.note("save", reply.status);
                match reply.status {
                    200 => {
                        document.version = reply.json()["version"].as_i64().unwrap();
                        document.acknowledged = document.tried;
                        self.saved.fetch_add(1, Ordering::Relaxed);
                    }
                    // One that was not acknowledged was made all the same.
                    409 => document.version = document.check(&reply.json()["document"]),
                    _ => {}
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
        let client = address().with_secret(secret);
        super::wait_until("the document", || client.get(&format!("/api/docs/get?id={id}")).status == 200);
        document.check(&client.get(&format!("/api/docs/get?id={id}")).json());
    }
}

impl Written {
    /// What is there is what was acknowledged last, or one of those tried since; its version.
    #[track_caller]
    fn check(&self, there: &Value) -> i64 {
        let number: usize = there["content"].as_str().unwrap_or_else(|| panic!("{there}")).parse().unwrap();
        assert!((self.acknowledged..=self.tried).contains(&number), "{number}, {} was acknowledged", self.acknowledged);
        there["version"].as_i64().unwrap()
    }
}

/// The ledger, the ids, the totals of days and of users say the same.
#[track_caller]
pub fn assert_books_agree(db: &TestDb) {
    let ledger = "SELECT user_id, count(*) AS events, sum(cost_micros) AS micros FROM usage_events GROUP BY user_id";
    let days = "SELECT user_id, sum(events) AS events, sum(cost_micros) AS micros FROM usage_daily GROUP BY user_id";
    let differ = format!(
        "SELECT count(*) FROM ({ledger}) a FULL JOIN ({days}) b USING (user_id)
        WHERE (a.events, a.micros) IS DISTINCT FROM (b.events, b.micros)"
    );
    assert_eq!(db.count(&differ), 0, "the days' totals are not the ledger's");
    let differ = format!(
        "SELECT count(*) FROM users u LEFT JOIN ({ledger}) a ON a.user_id = u.id
        WHERE u.charges_monthly IS DISTINCT FROM coalesce(a.micros, 0)"
    );
    assert_eq!(db.count(&differ), 0, "the users' totals are not the ledger's");
    let events = db.count("SELECT count(*) FROM usage_events");
    assert_eq!(db.count("SELECT count(*) FROM usage_events JOIN charge_ids USING (id, created)"), events);
    assert_eq!(db.count("SELECT count(*) FROM charge_ids"), events, "an id without its charge");
}
