//! Budgets hold, and can be used up, when many processes and clients use them at once and things break.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::budgets::{chat, key_with, obedient, set_price};
use crate::harness::{Address, Cluster, Proxy, Server, Signal, TestDb, Upstream, User, soon};

/// Tokens, and micro-dollars, of each request.
pub const EACH: i64 = 20;
/// Room for 1,000.5 requests.
pub const LIMIT: i64 = 1000 * EACH + EACH / 2;
pub const PROCESSES: usize = 4;
const CLIENTS: usize = 50;
/// How long clients go on at most. Without a bound, those of a test that fails would make all others slow, without end.
const PATIENCE: Duration = Duration::from_secs(120);

/// Several processes on one database, which share a folder of journals.
pub struct Fleet {
    pub servers: Vec<Server>,
    folder: std::path::PathBuf,
}

impl Fleet {
    pub fn start(url: &str, upstream: &Upstream, more: &[(&str, &str)]) -> Fleet {
        let folder = std::env::temp_dir().join(format!("textgen-fleet-{}", textgen::usage::new_id()));
        let settings = [("INFERENCE_URL", upstream.url.as_str()), ("JOURNAL_DIR", folder.to_str().unwrap())];
        let settings = [&settings, more].concat();
        let servers: Vec<Server> = (0..PROCESSES).map(|_| Server::spawn(url, &settings)).collect();
        servers.iter().for_each(Server::wait_until_listening);
        Fleet { servers, folder }
    }

    pub fn inference(&self) -> Vec<Address> {
        self.servers.iter().map(|server| server.inference.clone()).collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.servers.clear();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What clients have received.
#[derive(Default)]
pub struct Received {
    whole: AtomicUsize,
    shortened: AtomicUsize,
    /// Of the shortened ones.
    tokens: AtomicUsize,
}

impl Received {
    pub fn all(&self) -> usize {
        self.whole.load(SeqCst) + self.shortened.load(SeqCst)
    }
}

/// All clients send requests, each with a secret, until the budget refuses them. One that is not answered, or with 503,
/// goes on with the next process.
pub fn spend(addresses: &[Address], secrets: &[String], received: &Received) {
    let began = Instant::now();
    thread::scope(|scope| {
        for n in 0..PROCESSES * CLIENTS {
            scope.spawn(move || {
                let mut place = n;
                while began.elapsed() < PATIENCE {
                    let client = addresses[place % addresses.len()].with_secret(&secrets[n % secrets.len()]);
                    let body = chat(EACH).to_string();
                    let sent =
                        client.try_send("POST", "/v1/chat/completions", Some("application/json"), body.as_bytes());
                    match sent {
                        Ok(reply) if reply.status == 200 => {
                            let made = reply.json()["usage"]["completion_tokens"].as_i64().unwrap();
                            if made == EACH {
                                received.whole.fetch_add(1, SeqCst);
                            } else {
                                received.shortened.fetch_add(1, SeqCst);
                                received.tokens.fetch_add(usize::try_from(made).unwrap(), SeqCst);
                            }
                        }
                        Ok(reply) if reply.status == 402 => return,
                        Ok(reply) => {
                            assert_eq!(reply.status, 503, "{}", reply.text());
                            thread::sleep(Duration::from_millis(20));
                            place += 1;
                        }
                        Err(_) => {
                            thread::sleep(Duration::from_millis(20));
                            place += 1;
                        }
                    }
                }
            });
        }
    });
}

/// All of the budget was answered, charged and spent, and not more. At its end, several processes may each hold a part
/// of what is left, so more than one request may be shortened.
pub fn assert_all_is_spent(db: &TestDb, received: &Received) {
    let [whole, shortened, tokens] = [&received.whole, &received.shortened, &received.tokens]
        .map(|count| i64::try_from(count.load(SeqCst)).unwrap());
    let counts = format!("{whole} whole, {shortened} shortened to {tokens} tokens");
    assert_eq!(whole * EACH + tokens, LIMIT, "{counts}");
    assert!((1..=2 * i64::try_from(PROCESSES).unwrap()).contains(&shortened), "{counts}");
    assert_eq!((charged(db), spent(db)), (LIMIT, LIMIT), "{counts}");
}

pub fn charged(db: &TestDb) -> i64 {
    db.count("SELECT coalesce(sum(cost_micros), 0)::bigint FROM usage_events")
}

pub fn spent(db: &TestDb) -> i64 {
    db.count("SELECT coalesce(sum(div(textgen_spent(id), 1000000)), 0)::bigint FROM budgets")
}

fn key(user: &User, server: &Server, limit: i64) -> (String, String) {
    let budget = json!({"limit_micros": limit});
    let key = user.browser.post("/api/keys", &json!({"name": "k", "budget": budget})).expect(200).json();
    let text = |name: &str| key[name].as_str().unwrap().to_owned();
    let _ = server;
    (text("id"), text("secret"))
}

fn start() -> (TestDb, Fleet, User) {
    let db = TestDb::new();
    set_price(&db);
    let fleet = Fleet::start(&db.url(), &obedient(), &[]);
    let user = fleet.servers[0].sign_up("ann@example.com");
    (db, fleet, user)
}

#[test]
fn exactly_what_there_is_room_for_is_answered() {
    let (db, fleet, user) = start();
    let (_, secret) = key(&user, &fleet.servers[0], LIMIT);
    let received = Received::default();
    spend(&fleet.inference(), &[secret], &received);
    assert_all_is_spent(&db, &received);
}

#[test]
fn keys_share_the_budget_of_their_account() {
    let (db, fleet, user) = start();
    let secrets: Vec<String> = (0..50)
        .map(|_| {
            let key = user.browser.post("/api/keys", &json!({"name": "k"})).expect(200).json();
            key["secret"].as_str().unwrap().to_owned()
        })
        .collect();
    let limit = textgen::money::in_dollars(LIMIT);
    let command = ["limit", "set", &user.email, "--budget", &limit, "--window", "total"];
    crate::harness::done(crate::harness::run(&command, &[("DATABASE_URL", &db.url())], ""));
    for server in &fleet.servers {
        let web = user.program(&server.web);
        soon("the budget to be known", || web.get("/api/current-user").status == 200);
    }
    let received = Received::default();
    spend(&fleet.inference(), &secrets, &received);
    assert_all_is_spent(&db, &received);
}

#[test]
fn a_limit_that_changes_on_the_way_holds() {
    let (db, fleet, user) = start();
    let (id, secret) = key(&user, &fleet.servers[0], 10 * LIMIT);
    let received = Received::default();
    thread::scope(|scope| {
        scope.spawn(|| spend(&fleet.inference(), &[secret], &received));
        soon("some requests", || received.all() > 300);
        let budget = json!({"limit_micros": LIMIT});
        user.browser.post("/api/keys/update", &json!({"id": id, "budget": budget})).expect(200);
    });
    assert_all_is_spent(&db, &received);
}

#[test]
fn a_budget_survives_killed_processes_and_can_be_used_up_soon_after() {
    let (db, mut fleet, user) = start();
    let (_, secret) = key(&user, &fleet.servers[0], LIMIT);
    let (addresses, received) = (fleet.inference(), Received::default());
    let secrets = [secret];
    thread::scope(|scope| {
        scope.spawn(|| spend(&addresses, &secrets, &received));
        for (requests, server) in [(200, 3), (500, 2)] {
            soon("some requests", || received.all() > requests);
            fleet.servers[server].signal(Signal::KILL);
        }
        db.run("CREATE TABLE killed AS SELECT clock_timestamp() AS at");
    });
    // What the dead processes held is free again.
    fleet.servers.truncate(2);
    soon("all of the budget to be spent", || {
        spend(&fleet.inference(), &secrets, &received);
        charged(&db) == LIMIT
    });
    assert_eq!(spent(&db), LIMIT);
    // By the database's clock, as the requests of this test take longer on a busy machine.
    assert_eq!(db.count("SELECT count(*) FROM lease_holders WHERE ended IS NOT NULL"), 2);
    let took = db.count("SELECT extract(epoch FROM max(h.ended) - max(k.at))::bigint FROM lease_holders h, killed k");
    assert!(took < 15, "{took} s until what they held was free");
    assert!(received.all() <= 1001 + PROCESSES, "{}", received.all());
}

#[test]
fn a_budget_holds_while_the_database_is_away() {
    let db = TestDb::new();
    set_price(&db);
    let proxy = Proxy::to(&db);
    let fleet = Fleet::start(&proxy.url(), &obedient(), &[]);
    let user = fleet.servers[0].sign_up("ann@example.com");
    let (_, secret) = key(&user, &fleet.servers[0], LIMIT);
    let (addresses, received, secrets) = (fleet.inference(), Received::default(), [secret]);
    thread::scope(|scope| {
        scope.spawn(|| spend(&addresses, &secrets, &received));
        soon("some requests", || received.all() > 300);
        proxy.cut();
        // Longer than what is leased lasts.
        let journaled = || fleet.servers.iter().any(|server| server.log().contains("to the journal"));
        soon("a charge in a journal", journaled);
        thread::sleep(Duration::from_secs(1));
        proxy.restore();
    });
    soon("all of the budget to be spent", || {
        spend(&addresses, &secrets, &received);
        charged(&db) == LIMIT
    });
    assert_eq!(spent(&db), LIMIT);
    assert!(received.all() >= 1000, "what was charged was answered: {}", received.all());
}

#[test]
fn a_budget_holds_while_postgresql_is_stopped_and_after_it_was_killed() {
    let cluster = Cluster::start();
    let db = TestDb::existing(&cluster.url());
    set_price(&db);
    let fleet = Fleet::start(&cluster.url(), &obedient(), &[]);
    let user = fleet.servers[0].sign_up("ann@example.com");
    let (_, secret) = key(&user, &fleet.servers[0], LIMIT);
    let (addresses, received, secrets) = (fleet.inference(), Received::default(), [secret]);
    let began_again = thread::scope(|scope| {
        scope.spawn(|| spend(&addresses, &secrets, &received));
        soon("some requests", || received.all() > 200);
        cluster.stop();
        // Longer than what is leased lasts.
        let journaled = || fleet.servers.iter().any(|server| server.log().contains("to the journal"));
        soon("a charge in a journal", journaled);
        thread::sleep(Duration::from_secs(1));
        cluster.launch();
        let before = received.all();
        soon("more requests", || received.all() > before + 10 || charged(&db) == LIMIT);
        cluster.kill();
        thread::sleep(Duration::from_millis(500));
        cluster.launch();
        Instant::now()
    });
    soon("all of the budget to be spent", || {
        spend(&addresses, &secrets, &received);
        charged(&db) == LIMIT
    });
    assert!(began_again.elapsed() < Duration::from_secs(30), "{:?}", began_again.elapsed());
    assert_eq!(spent(&db), LIMIT);
    // What was answered was charged, though not each client of what was charged got its answer.
    let [whole, tokens] = [&received.whole, &received.tokens].map(|count| i64::try_from(count.load(SeqCst)).unwrap());
    assert!(whole * EACH + tokens <= LIMIT, "{whole} whole, {tokens} tokens of shortened ones");
}
