//! Charges over HTTP, on several processes and while servers are killed: the ledger, the totals and the clients' own counts
//! agree to the micro-dollar. At full size:
//! `EXACT=4,50,2000 KILLS=30 cargo test --release --test it exactness -- --nocapture`.

use std::collections::HashMap;
use std::env;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Address, Client, End, Reply, Server, Signal, TestDb, Upstream, at_once, run, wait_until};

/// Micro-dollars per prompt token, completion token and request.
const PRICE: (i64, i64, i64) = (3, 7, 11);
const CHAT: &str = "/v1/chat/completions";

fn set_price(db: &TestDb) {
    let (prompt, completion) = (PRICE.0.to_string(), PRICE.1.to_string());
    let request = format!("0.{:06}", PRICE.2);
    let args = ["price", "set", "default", "--prompt", &prompt, "--completion", &completion, "--request", &request];
    assert_eq!(run(&args, &[("DATABASE_URL", &db.url())], "").code, 0);
}

/// What a reply costs according to its usage.
fn cost(reply: &Reply) -> i64 {
    let count = |name: &str| reply.json()["usage"][name].as_i64().unwrap();
    PRICE.0 * count("prompt_tokens") + PRICE.1 * count("completion_tokens") + PRICE.2
}

/// Creates users: `(id, secret)`.
fn users(db: &TestDb, count: usize) -> Vec<(String, String)> {
    (0..count)
        .map(|n| {
            let made = run(&["user", "create", &format!("u{n}@example.com")], &[("DATABASE_URL", &db.url())], "");
            let word = |name: &str| {
                let line = made.out.lines().find_map(|line| line.trim().strip_prefix(name));
                line.unwrap_or_else(|| panic!("{made:?}")).trim().to_owned()
            };
            (word("id"), word("secret"))
        })
        .collect()
}

/// Asserts that the ledger, its ids, the daily totals and the users' totals agree.
fn assert_books_agree(db: &TestDb) {
    let books = |sql: &str| -> HashMap<String, (i64, i64)> {
        let rows = db.connect().query(sql, &[]).unwrap();
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
    };
    const PICOS: &str = "(sum(cost_micros) * 1000000 + sum(cost_picos))::bigint";
    let ledger = books(&format!("SELECT user_id, count(*), {PICOS} FROM usage_events GROUP BY 1"));
    let daily = books(&format!("SELECT user_id, sum(events)::bigint, {PICOS} FROM usage_daily GROUP BY 1"));
    let totals = books(
        "SELECT id, (SELECT count(*) FROM usage_events WHERE user_id = users.id),
             charges_monthly * 1000000 + charges_picos
         FROM users WHERE charges_monthly > 0",
    );
    assert_eq!(daily, ledger);
    assert_eq!(totals, ledger);
    assert_eq!(db.count("SELECT count(DISTINCT id) FROM usage_events"), db.count("SELECT count(*) FROM usage_events"));
}

fn from_env(name: &str, otherwise: &[usize]) -> Vec<usize> {
    env::var(name).map_or_else(|_| otherwise.to_vec(), |text| text.split(',').map(|n| n.parse().unwrap()).collect())
}

#[test]
fn charges_counted_by_clients_match_the_ledger() {
    let [processes, clients, requests] = from_env("EXACT", &[3, 8, 40])[..] else { panic!("EXACT=4,50,2000") };
    let db = TestDb::new();
    set_price(&db);
    let users = users(&db, 10);
    let servers: Vec<_> = (0..processes).map(|_| Server::start_demo(&db, &[("LOG_LEVEL", "warn")])).collect();
    let spent: Vec<AtomicI64> = users.iter().map(|_| AtomicI64::new(0)).collect();
    let began = Instant::now();
    at_once(processes * clients, |n| {
        let who = n % users.len();
        let client = servers[n % processes].inference.with_secret(&users[who].1);
        for i in 0..requests {
            let content = "word ".repeat(1 + (n + i) % 9);
            let reply = client.post(CHAT, &json!({"messages": [{"role": "user", "content": content}]})).expect(200);
            spent[who].fetch_add(cost(&reply), Relaxed);
        }
    });
    let all = processes * clients * requests;
    println!("{all} charged requests in {:.1} s", began.elapsed().as_secs_f64());
    assert_books_agree(&db);
    assert_eq!(db.count("SELECT count(*) FROM usage_events"), i64::try_from(all).unwrap());
    for ((id, _), spent) in users.iter().zip(&spent) {
        let total = db.count(&format!("SELECT charges_monthly FROM users WHERE id = '{id}'"));
        assert_eq!(total, spent.load(Relaxed), "{id}");
    }
}

/// A server that is killed and started again at the same addresses, with the same journal.
struct Restartable {
    db_url: String,
    journal: PathBuf,
    addresses: [Address; 3],
    upstream: Upstream,
    server: Option<Server>,
}

impl Restartable {
    fn new(db: &TestDb) -> Restartable {
        let journal = env::temp_dir().join(format!("textgen-phoenix-{}", textgen::usage::new_id()));
        let upstream = Upstream::counting();
        let settings =
            [("JOURNAL_DIR", journal.to_str().unwrap()), ("LOG_LEVEL", "warn"), ("INFERENCE_URL", &upstream.url)];
        let server = Server::start_with(db, &settings);
        let addresses = [server.web.clone(), server.inference.clone(), server.audio.clone()];
        Restartable { db_url: db.url(), journal, addresses, upstream, server: Some(server) }
    }

    fn inference(&self, secret: &str) -> Client {
        self.addresses[1].with_secret(secret)
    }

    fn kill_and_restart(&mut self, db: &TestDb) {
        let server = self.server.take().unwrap();
        server.signal(Signal::KILL);
        drop(server);
        let [web, inference, audio] = self.addresses.each_ref().map(Address::socket);
        let settings = [
            ("JOURNAL_DIR", self.journal.to_str().unwrap()),
            ("LOG_LEVEL", "warn"),
            ("INFERENCE_URL", &self.upstream.url),
            ("WEB_ADDR", web),
            ("INFERENCE_ADDR", inference),
            ("AUDIO_ADDR", audio),
        ];
        assert_eq!(self.db_url, db.url());
        self.server = Some(Server::start_with(db, &settings));
    }
}

impl Drop for Restartable {
    fn drop(&mut self) {
        self.server = None;
        let _ = std::fs::remove_dir_all(&self.journal);
    }
}

/// Every complete reply is charged exactly once, however often a server is killed.
#[test]
fn killed_servers_lose_no_charge_and_duplicate_none() {
    let [rounds] = from_env("KILLS", &[4])[..] else { panic!("KILLS=30") };
    let db = TestDb::new();
    set_price(&db);
    let users = users(&db, 4);
    let mut servers = [Restartable::new(&db), Restartable::new(&db)];
    let programs: Vec<Client> = (0..16).map(|n| servers[n % 2].inference(&users[n % 4].1)).collect();
    let (over, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
    let answered = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let told: HashMap<i64, i64> = thread::scope(|scope| {
        let (over, refused, answered) = (&over, &refused, &answered);
        let clients: Vec<_> = programs
            .iter()
            .enumerate()
            .map(|(n, program)| scope.spawn(move || ask_until(over, refused, &answered[n % 2], program, n)))
            .collect();
        let end = End(over);
        for round in 0..rounds {
            // Both have answered since the last kill. No two rounds interrupt them at the same point of their work.
            let enough: [usize; 2] = [0, 1].map(|n| answered[n].load(Relaxed) + 5 + round * 7 % 40);
            wait_until("replies of both servers", || (0..2).all(|n| answered[n].load(Relaxed) >= enough[n]));
            servers[round % 2].kill_and_restart(&db);
        }
        drop(end);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    for server in &mut servers {
        assert_eq!(server.server.take().unwrap().stop(), 0);
    }
    assert_books_agree(&db);
    // Each request uses another number of prompt tokens.
    let sql = "SELECT prompt_tokens, count(*), sum(cost_micros)::bigint FROM usage_events GROUP BY 1";
    let rows = db.connect().query(sql, &[]);
    let booked: HashMap<i64, (i64, i64)> =
        rows.unwrap().iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    println!(
        "{rounds} kills: {} replies had whole, {} charges, {} refused",
        told.len(),
        booked.len(),
        refused.load(Relaxed)
    );
    assert!(told.len() > rounds, "too few requests were answered");
    for (number, cost) in &told {
        assert_eq!(booked.get(number), Some(&(1, *cost)), "{number}");
    }
    // A charge without a complete reply belongs to a request in flight when its server was killed.
    assert!(booked.values().all(|(count, _)| *count == 1));
    assert!(booked.len() <= told.len() + rounds * programs.len(), "{} and {}", booked.len(), told.len());
}

/// Sends request after request; the numbers in the prompts of those that were answered in full, and what each cost.
fn ask_until(
    over: &AtomicBool,
    refused: &AtomicUsize,
    answered: &AtomicUsize,
    program: &Client,
    n: usize,
) -> Vec<(i64, i64)> {
    let mut told = Vec::new();
    let mut number = i64::try_from(n).unwrap() * 1_000_000;
    while !over.load(Relaxed) {
        number += 1;
        let body: Value = json!({"messages": [{"role": "user", "content": number.to_string()}]});
        match program.try_send("POST", CHAT, Some("application/json"), body.to_string().as_bytes()) {
            Ok(reply) if reply.status == 200 => {
                told.push((number, cost(&reply)));
                answered.fetch_add(1, Relaxed);
            }
            Ok(reply) => {
                // A server that has just started may not have read the schema or opened its journal yet.
                assert_eq!(reply.status, 503, "{}", reply.text());
                refused.fetch_add(1, Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    told
}
