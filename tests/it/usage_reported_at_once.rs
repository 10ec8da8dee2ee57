//! Thousands of charges of a hundred accounts by three processes, of which the senders are killed at random while every
//! fifth request to Stripe fails: what Stripe has counted for each customer is what the ledger has, to the micro-dollar.
//! `make chaos` runs more of it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::stripe::{Faults, Stripe};
use crate::harness::{Process, Random, Server, Signal, TestDb, assert_books_agree, done, kill, run};

const PROCESSES: usize = 3;
const ACCOUNTS: usize = 100;
const CLIENTS: usize = 12;
const FAULTS_PERCENT: u64 = 20;
const METER: &str = "api_usage";
/// Charges in each run of `make test`, and of `make chaos`.
const FEW: usize = 2_500;
const MANY: usize = 10_000;

#[test]
fn what_stripe_counts_is_what_was_charged() {
    bill(1, FEW);
}

#[test]
fn what_stripe_counts_is_what_was_charged_again() {
    bill(2, FEW);
}

#[test]
#[ignore = "make chaos runs it"]
fn many_seeds() {
    let first = std::env::var("SEED").map_or(1, |seed| seed.parse().unwrap());
    let seeds = std::env::var("SEEDS").map_or(10, |seeds| seeds.parse().unwrap());
    for seed in first..first + seeds {
        bill(seed, MANY);
    }
}

fn secret(account: usize) -> String {
    format!("tg_{account:0>43}")
}

/// Accounts with a customer each. Returns the ids of the customers.
fn accounts(db: &TestDb, stripe: &Stripe) -> Vec<String> {
    let customers: Vec<String> = (0..ACCOUNTS).map(|n| stripe.customer(&format!("{n}@example.com"))).collect();
    for (n, customer) in customers.iter().enumerate() {
        db.run(&format!(
            "INSERT INTO users (id, email, stripe_id) VALUES ('user{n}', '{n}@example.com', '{customer}');
            INSERT INTO api_keys (id, user_id, name, prefix, digest, is_default)
            VALUES ('key{n}', 'user{n}', 'default', 'tg_0', sha256('{}'), true)",
            secret(n)
        ));
        crate::usage_reported::subscribed(db, &format!("user{n}"));
    }
    customers
}

struct Run {
    db: TestDb,
    servers: Vec<Mutex<Server>>,
    next: AtomicUsize,
    charges: usize,
    kills: AtomicUsize,
}

impl Run {
    fn is_over(&self) -> bool {
        self.next.load(Relaxed) >= self.charges
    }

    /// Makes charges until there are enough.
    fn charge(&self, client: usize) {
        let mut programs = HashMap::new();
        loop {
            let n = self.next.fetch_add(1, Relaxed);
            if n >= self.charges {
                return;
            }
            let account = n % ACCOUNTS;
            let prompt = "word ".repeat(1 + n % 7);
            let body = json!({"prompt": prompt, "max_tokens": 1 + n % 3}).to_string();
            for attempt in 0.. {
                assert!(attempt < 2000, "charge {n} is not made");
                let server = (client + attempt) % PROCESSES;
                let address = self.servers[server].lock().unwrap().inference.clone();
                let program = programs
                    .entry((account, address.0.clone()))
                    .or_insert_with(|| address.with_secret(&secret(account)));
                match program.try_send("POST", "/v1/completions", Some("application/json"), body.as_bytes()) {
                    Ok(reply) if reply.status == 200 => break,
                    Ok(reply) => assert_eq!(reply.status, 503, "{}", reply.text()),
                    // The process was killed; the charge may have been made.
                    Err(_) => {}
                }
                thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Sends what there is again and again, with commands of which many are killed.
    fn send(&self, mut random: Random, settings: &[(&str, &str)]) {
        while !self.is_over() {
            let sender = Process::start(&["billing", "send", "--until", "now"], settings);
            thread::sleep(random.millis(50, 4000));
            sender.signal(Signal::KILL);
            sender.wait();
            self.kills.fetch_add(1, Relaxed);
        }
    }

    /// Kills servers, and puts others in their places.
    fn kill_servers(&self, mut random: Random, settings: &[(&str, &str)]) {
        while !self.is_over() {
            let next = Server::start_demo(&self.db, settings);
            thread::sleep(random.millis(500, 3000));
            let place = random.place(PROCESSES);
            let killed = std::mem::replace(&mut *self.servers[place].lock().unwrap(), next);
            kill(killed.pid());
            killed.wait();
            self.kills.fetch_add(1, Relaxed);
        }
    }
}

fn bill(seed: u64, charges: usize) {
    let began = Instant::now();
    let (db, stripe) = (TestDb::new(), Stripe::start());
    stripe.meter(METER, Duration::ZERO);
    let customers = accounts(&db, &stripe);
    stripe.state().work_time = Duration::from_millis(2);
    let folder = std::env::temp_dir().join(format!("textgen-billed-{}", textgen::usage::new_id()));
    let (journal, url) = (folder.to_string_lossy().into_owned(), db.url());
    let settings: Vec<(&str, &str)> = stripe
        .settings()
        .into_iter()
        .chain([
            ("STRIPE_METER_EVENT", METER),
            ("LOG_LEVEL", "warn"),
            ("JOURNAL_DIR", &journal),
            ("DATABASE_URL", &url),
        ])
        .collect();
    let servers = (0..PROCESSES).map(|_| Mutex::new(Server::start_demo(&db, &settings))).collect();
    // Reporting begins before the first charge.
    done(run(&["billing", "send"], &settings, ""));
    stripe.inject(Faults::random(seed, FAULTS_PERCENT));
    let all = Run { db, servers, next: AtomicUsize::new(0), charges, kills: AtomicUsize::new(0) };
    thread::scope(|scope| {
        let (all, settings) = (&all, &settings);
        for client in 0..CLIENTS {
            scope.spawn(move || all.charge(client));
        }
        scope.spawn(move || all.send(Random(seed * 2 + 1), settings));
        scope.spawn(move || all.kill_servers(Random(seed * 3 + 2), settings));
    });
    let charged = began.elapsed();
    // Those that stop charge what is in journals; the last ones standing, what the killed ones left there.
    let Run { db, servers, kills, .. } = all;
    for server in servers {
        assert_eq!(server.into_inner().unwrap().stop(), 0);
    }
    let said = loop {
        let said = done(run(&["billing", "send", "--until", "now"], &settings, ""));
        if said.starts_with("waiting 0, ") {
            break said;
        }
        assert!(began.elapsed() < Duration::from_secs(300), "{said}");
    };
    assert!(said.ends_with("put aside 0\n"), "seed {seed}: {said}");
    assert_books_agree(&db);
    assert!(db.count("SELECT count(*) FROM usage_events") >= i64::try_from(charges).unwrap());
    let ledger = "SELECT u.stripe_id, div(sum(e.cost_micros::numeric * 1000000 + e.cost_picos), 1000000)::bigint
        FROM usage_events e JOIN users u ON u.id = e.user_id GROUP BY u.stripe_id";
    let ledger: HashMap<String, i64> =
        db.connect().query(ledger, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    for customer in &customers {
        assert_eq!(stripe.used(METER, customer), ledger[customer], "seed {seed}, customer {customer}");
    }
    stripe.inject(Faults::default());
    done(run(&["billing", "check"], &settings, ""));
    let calls = stripe.calls();
    let failed = calls.iter().filter(|call| call.status != 200 || !call.is_answered).count();
    println!(
        "seed {seed}: {} micro-dollars of {} charges in {} rows, {} calls of which {failed} failed, {} kills; charged in \
         {charged:?}, all in {:?}",
        ledger.values().sum::<i64>(),
        db.count("SELECT count(*) FROM usage_events"),
        db.count("SELECT count(*) FROM stripe_outbox"),
        calls.len(),
        kills.load(Relaxed),
        began.elapsed()
    );
    let _ = std::fs::remove_dir_all(folder);
}
