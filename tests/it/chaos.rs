//! Faults under load, in a pseudo-random order: after each, all charges are exact and no acknowledged write is lost.
//! `make chaos` runs more of them; `SEED` repeats a run, as far as threads and clocks allow.

use std::path::PathBuf;
use std::sync::{Mutex, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::documents::save;
use crate::failover::End;
use crate::harness::{
    Address, Cluster, LoadRecord, Proxy, Random, Server, Signal, TestDb, Upstream, User, Way, assert_books_agree,
};

/// Recovery takes 2 s; the rest is for a busy machine, and for PostgreSQL's own crash recovery.
const RECOVERY: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Cut,
    Frozen,
    Lost,
    Slow,
    Killed,
    Stopped,
    Terminated,
    ReadOnly,
    ServerKilled,
    ServerKilledWithoutDatabase,
}

const FAULTS: [Fault; 10] = [
    Fault::Cut,
    Fault::Frozen,
    Fault::Lost,
    Fault::Slow,
    Fault::Killed,
    Fault::Stopped,
    Fault::Terminated,
    Fault::ReadOnly,
    Fault::ServerKilled,
    Fault::ServerKilledWithoutDatabase,
];

/// Two processes that share a database and a journal folder.
struct Site {
    servers: RwLock<Vec<Server>>,
    proxy: Proxy,
    db: TestDb,
    cluster: Cluster,
    journal: PathBuf,
    told: LoadRecord,
    upstream: Upstream,
    /// Secrets whose revocation was acknowledged.
    ended: Mutex<Vec<String>>,
}

impl Site {
    fn new() -> Site {
        let cluster = Cluster::start();
        let db = TestDb::existing(&cluster.url());
        let proxy = Proxy::to(&db);
        let journal = std::env::temp_dir().join(format!("textgen-chaos-{}", textgen::usage::new_id()));
        let site = Site {
            servers: RwLock::default(),
            proxy,
            db,
            cluster,
            journal,
            told: LoadRecord::default(),
            upstream: Upstream::counting(),
            ended: Mutex::default(),
        };
        for _ in 0..2 {
            let server = site.spawn();
            site.servers.write().unwrap().push(server);
        }
        site.wait_until_well(RECOVERY);
        site
    }

    fn spawn(&self) -> Server {
        Server::spawn_demo(
            &self.proxy.url(),
            &[
                ("JOURNAL_DIR", &self.journal.to_string_lossy()),
                ("LOG_LEVEL", "warn"),
                ("INFERENCE_URL", &self.upstream.url),
            ],
        )
    }

    fn web(&self, n: usize) -> Address {
        self.servers.read().unwrap()[n % 2].web.clone()
    }

    fn inference(&self, n: usize) -> Address {
        self.servers.read().unwrap()[n % 2].inference.clone()
    }

    /// Waits until both are ready, listen for revocations and have empty journals.
    #[track_caller]
    fn wait_until_well(&self, patience: Duration) {
        let began = Instant::now();
        for n in 0..2 {
            let client = self.web(n).anonymous();
            loop {
                let reply = client.get("/readyz");
                if reply.status == 200 && reply.json()["listening"] == true && reply.json()["journal"]["charges"] == 0 {
                    break;
                }
                let log = self.servers.read().unwrap()[n].log();
                assert!(began.elapsed() < patience, "server {n} is not well: {}: {log}", reply.text());
                thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Kills one process and starts another in its place.
    fn replace(&self, n: usize, meanwhile: impl FnOnce()) {
        self.servers.read().unwrap()[n].signal(Signal::KILL);
        meanwhile();
        let new = self.spawn();
        self.servers.write().unwrap()[n] = new;
    }

    fn suffer(&self, fault: Fault, random: &mut Random) {
        let pause = random.millis(300, 1500);
        let n = random.place(2);
        let between = |begin: &dyn Fn(), end: &dyn Fn()| {
            begin();
            thread::sleep(pause);
            end();
        };
        let mend = || self.proxy.restore();
        match fault {
            Fault::Cut => between(&|| self.proxy.cut(), &mend),
            Fault::Frozen => between(&|| self.proxy.freeze(), &mend),
            Fault::Lost => between(&|| self.proxy.lose(), &mend),
            Fault::Slow => between(&|| self.proxy.slow(Duration::from_millis(700)), &mend),
            Fault::Killed => between(&|| self.cluster.kill(), &|| drop(self.cluster.launch())),
            Fault::Stopped => between(&|| self.cluster.stop(), &|| drop(self.cluster.launch())),
            Fault::Terminated => self.terminate(),
            Fault::ReadOnly => {
                between(&|| self.cluster.set("default_transaction_read_only = on"), &|| self.write_again());
            }
            Fault::ServerKilled => self.replace(n, || ()),
            Fault::ServerKilledWithoutDatabase => between(&|| self.proxy.cut(), &|| self.replace(n, mend)),
        }
    }

    fn terminate(&self) {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE application_name LIKE 'textgen%' AND pid <> pg_backend_pid()";
        self.db.connect().execute(sql, &[]).unwrap();
    }

    fn write_again(&self) {
        let mut client = self.cluster.connect();
        client.batch_execute("SET default_transaction_read_only = off").unwrap();
        client.batch_execute("ALTER SYSTEM RESET default_transaction_read_only").unwrap();
        client.batch_execute("SELECT pg_reload_conf()").unwrap();
    }

    /// A client that creates, uses and revokes keys.
    fn turn_keys(&self, user: &User) {
        for n in 0.. {
            if self.told.is_stopped() {
                return;
            }
            let post = |path: &str, body| {
                let client = self.web(n).with_cookie(&user.token);
                let sent = client.try_send(
                    "POST",
                    path,
                    Some("application/json"),
                    serde_json::Value::to_string(&body).as_bytes(),
                );
                sent.ok()
            };
            let mut made = None;
            self.told.once("key", || {
                made = post("/api/keys", json!({"name": "n"}));
                made.as_ref().map(|reply| reply.status)
            });
            let Some(made) = made.filter(|reply| reply.status == 200) else { continue };
            let (id, secret) = (made.json()["id"].clone(), made.json()["secret"].as_str().unwrap().to_owned());
            self.told.once("new key", || {
                let used = self.inference(n + 1).with_secret(&secret).try_send("GET", "/api/current-user", None, b"");
                used.ok().map(|reply| reply.status)
            });
            loop {
                let status = self
                    .told
                    .once("end of a key", || post("/api/keys/revoke", json!({"id": id})).map(|reply| reply.status));
                // 404: an earlier attempt succeeded without being acknowledged.
                if status == 200 || status == 404 {
                    self.ended.lock().unwrap().push(secret);
                    break;
                }
                if self.told.is_stopped() {
                    return;
                }
            }
        }
    }

    /// Starts the clients, each of which uses both processes in turn.
    fn load<'s>(&'s self, scope: &'s thread::Scope<'s, '_>, users: &'s [User], documents: &'s [String]) {
        for (n, user) in users.iter().enumerate().take(users.len() - 1) {
            let way = [Way::Whole, Way::Streamed, Way::Left][n % 3];
            scope.spawn(move || {
                for turn in n.. {
                    if self.told.is_stopped() {
                        return;
                    }
                    self.told.charge_once(&self.inference(turn), &user.secret, way);
                }
            });
        }
        for (n, id) in documents.iter().enumerate() {
            scope.spawn(move || self.told.save(|| self.web(n), &users[n].secret, id));
        }
        // Changing keys evicts their user from the caches, so this user must not be one of the others.
        scope.spawn(|| self.turn_keys(&users[users.len() - 1]));
    }

    /// With all requests held back: what was acknowledged to the clients is in the database.
    fn check(&self, fault: Fault, users: &[User]) {
        let _held = self.told.hold();
        self.wait_until_well(RECOVERY);
        let ids: Vec<&str> = users.iter().map(|user| user.id.as_str()).collect();
        self.told.assert_charged(&self.db, &ids);
        assert_books_agree(&self.db);
        for secret in self.ended.lock().unwrap().drain(..).rev().take(10) {
            for n in 0..2 {
                self.web(n).with_secret(&secret).get("/api/current-user").expect(401);
            }
        }
        for user in users {
            for n in 0..2 {
                self.web(n).with_secret(&user.secret).get("/api/current-user").expect(200);
            }
        }
        let kills = matches!(fault, Fault::ServerKilled | Fault::ServerKilledWithoutDatabase);
        let statuses = self.told.take_statuses();
        for (what, status) in statuses.keys() {
            let allowed: &[u16] = match *what {
                "save" => &[200, 409, 503],
                "end of a key" => &[200, 404, 503],
                // Cached callers are served; a process that has just started has neither callers nor prices cached.
                "charge" if !kills => &[200],
                _ => &[200, 503],
            };
            // A connection breaks when its server is killed, and only then.
            assert!(allowed.contains(status) || (*status == 0 && kills), "{fault:?}: {statuses:?}");
        }
        println!("{fault:?}: {statuses:?}");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.servers.write().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        let _ = std::fs::remove_dir_all(&self.journal);
    }
}

/// Runs `rounds` faults. Each kind comes once before any comes twice.
fn run(seed: u64, rounds: usize) {
    println!("SEED={seed} ROUNDS={rounds}");
    let mut random = Random(seed.max(1));
    let site = Site::new();
    let first = Server::sign_up;
    let users: Vec<User> =
        (0..7).map(|n| first(&site.servers.read().unwrap()[n % 2], &format!("u{n}@example.com"))).collect();
    let documents: Vec<String> = users
        .iter()
        .take(2)
        .map(|user| save(&site.web(0).with_secret(&user.secret), &json!({"content": "0"})))
        .collect();
    let mut bag = Vec::new();
    thread::scope(|scope| {
        let _end = End(&site.told);
        site.load(scope, &users, &documents);
        for _ in 0..rounds {
            if bag.is_empty() {
                bag = FAULTS.to_vec();
            }
            let at = random.place(bag.len());
            let fault = bag.swap_remove(at);
            thread::sleep(random.millis(200, 600));
            site.suffer(fault, &mut random);
            site.wait_until_well(RECOVERY);
            thread::sleep(random.millis(50, 300));
            site.check(fault, &users);
        }
    });
    let _held = site.told.hold();
    assert!(site.told.charged() > rounds && site.told.saved() > rounds, "no request was sent");
    for server in site.servers.read().unwrap().iter() {
        assert!(!server.log().contains("ERROR"), "{}", server.log());
    }
}

#[test]
fn a_few_faults() {
    // With this seed the most severe faults come first.
    run(20_261_311, 5);
}

#[test]
#[ignore = "run by make chaos"]
fn many_faults() {
    let number = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
    let seed = number("SEED").unwrap_or_else(|| u64::from(std::process::id()) * 2_654_435_761);
    run(seed, usize::try_from(number("ROUNDS").unwrap_or(50)).unwrap());
}
