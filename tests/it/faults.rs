//! Every way in which PostgreSQL can fail: cached callers are served, others get 503, no acknowledged write is lost, and
//! everything works again within 2 s of its return.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use serde_json::json;

use crate::documents::save;
use crate::failover::End;
use crate::harness::{
    Cluster, LoadRecord, Reply, Server, TestDb, Upstream, User, assert_books_agree, charges, is_root,
};
use crate::outage::{expect_unavailable, in_need, known, strangers};

/// Recovery takes 2 s; the rest is for a busy machine.
const RECOVERY: Duration = Duration::from_secs(2 + 4);

/// How long a request that needs no database may take on a busy machine.
const QUICK: Duration = Duration::from_secs(3);

/// A server on a PostgreSQL of its own, and a user whom it has cached.
struct Site {
    server: Server,
    cluster: Cluster,
    user: User,
    document: String,
    strangers: usize,
}

/// What still works during a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Neither reads nor writes.
    Away,
    /// Reads.
    ReadOnly,
}

impl Site {
    fn new() -> Site {
        Site::with(&[("INFERENCE_URL", &Upstream::counting().url)])
    }

    fn with(settings: &[(&str, &str)]) -> Site {
        let cluster = Cluster::start();
        drop(TestDb::existing(&cluster.url()));
        // An ordinary role, as some connections are reserved for superusers.
        let mut client = cluster.connect();
        client.batch_execute("CREATE ROLE ordinary LOGIN PASSWORD 'ordinary'").unwrap();
        client.batch_execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO ordinary").unwrap();
        let url = cluster.url();
        let url = format!("postgresql://ordinary:ordinary@{}", url.rsplit_once('@').unwrap().1);
        let server = Server::spawn_demo(&url, settings);
        server.wait_until_listening();
        let user = server.sign_up("ann@example.com");
        let document = save(&user.browser, &json!({"content": "text"}));
        Site { server, cluster, user, document, strangers: 0 }
    }

    fn db(&self) -> TestDb {
        TestDb::existing(&self.cluster.url())
    }

    fn write(&self) -> Reply {
        self.user.browser.post("/api/docs/autosave", &json!({"id": self.document, "content": "more"}))
    }

    /// Causes a fault, checks what must work during it, removes it, and checks the recovery.
    fn suffer(&mut self, name: &str, fault: Fault, begin: impl FnOnce(&Site), end: impl FnOnce(&Site)) {
        self.server.wait_until_listening();
        for client in known(&self.server, &self.user) {
            client.get("/api/current-user").expect(200);
        }
        let written = save(&self.user.browser, &json!({"content": name}));
        begin(self);
        self.server.wait_until("the fault to be felt", || self.write().status == 503);
        self.meanwhile(fault);
        end(self);
        let ended = Instant::now();
        self.server.wait_until("writes", || self.write().status == 200);
        let took = ended.elapsed();
        println!("{name}: back after {took:?}");
        assert!(took < RECOVERY, "{name}: {took:?}: {}", self.server.log());
        self.server.wait_until_ready();
        let kept = self.user.browser.get(&format!("/api/docs/get?id={written}")).expect(200).json();
        assert_eq!(kept["content"], name);
        for client in strangers(&self.server, self.strangers) {
            client.get("/api/current-user").expect(401);
        }
    }

    fn meanwhile(&mut self, fault: Fault) {
        let (server, nobody) = (&self.server, self.server.web.anonymous());
        for _ in 0..3 {
            for client in known(server, &self.user) {
                assert_eq!(client.get("/api/current-user").expect(200).json()["id"], json!(self.user.id));
            }
            let began = Instant::now();
            nobody.get("/liveness_check").expect(200);
            nobody.get("/nowhere").expect(404);
            assert!(began.elapsed() < QUICK, "{:?}", began.elapsed());
        }
        expect_unavailable(&self.write());
        if fault == Fault::ReadOnly {
            self.user.browser.get(&format!("/api/docs/get?id={}", self.document)).expect(200);
            return;
        }
        self.strangers += 1;
        for client in strangers(server, self.strangers) {
            expect_unavailable(&client.get("/api/current-user"));
        }
        for reply in in_need(server, &self.user, &self.document) {
            expect_unavailable(&reply);
        }
        let reason = nobody.get("/readyz").expect(503).json()["reason"].clone();
        assert!(reason.as_str().unwrap().contains("database"), "{reason}");
    }
}

/// Makes charges and saves documents while `work` runs, then compares what was acknowledged with the database.
fn under_load(site: &mut Site, work: impl FnOnce(&mut Site)) {
    let other = site.server.sign_up("bob@example.com");
    let id = save(&other.browser, &json!({"content": "0"}));
    let (web, inference) = (site.server.web.clone(), site.server.inference.clone());
    let told = LoadRecord::default();
    thread::scope(|scope| {
        let _end = End(&told);
        scope.spawn(|| told.save(|| web.clone(), &other.secret, &id));
        scope.spawn(|| told.charge(|| inference.clone(), &other.secret));
        scope.spawn(|| told.charge(|| inference.clone(), &other.secret));
        work(site);
        let charged = told.charged();
        site.server.wait_until("charges", || told.charged() > charged + 10);
    });
    println!("{:?}", told.statuses.lock().unwrap());
    told.assert_statuses(&[200, 409, 503]);
    let db = site.db();
    told.assert_charged(&db, &[&other.id]);
    assert_books_agree(&db);
    assert!(!site.server.log().contains(" ERROR "), "{}", site.server.log());
}

#[test]
fn postgresql_stopped_killed_and_restarted() {
    let mut site = Site::new();
    under_load(&mut site, |site| {
        site.suffer("stopped", Fault::Away, |site| site.cluster.stop(), |site| drop(site.cluster.launch()));
        site.suffer("killed", Fault::Away, |site| site.cluster.kill(), |site| drop(site.cluster.launch()));
        site.cluster.stop();
        site.cluster.launch();
        let ended = Instant::now();
        site.server.wait_until("writes", || site.write().status == 200);
        println!("restarted: back after {:?}", ended.elapsed());
        assert!(ended.elapsed() < RECOVERY);
    });
}

#[test]
fn out_of_connections() {
    let mut site = Site::new();
    site.cluster.set("max_connections = 40");
    site.cluster.stop();
    site.cluster.launch();
    // Takes all connections that are not reserved for superusers, including the servers' own.
    let hold = |url: &str| {
        let mut held: Vec<Client> = Vec::new();
        while let Ok(client) = Client::connect(url, NoTls) {
            held.push(client);
        }
        held
    };
    under_load(&mut site, |site| {
        let held = std::cell::RefCell::new(Vec::new());
        let url = site.cluster.url();
        let ordinary = format!("postgresql://ordinary:ordinary@{}", url.rsplit_once('@').unwrap().1);
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE usename = 'ordinary' AND application_name LIKE 'textgen%'";
        let take = |site: &Site| {
            // Opened first, so that the test has a connection.
            let mut admin = site.cluster.connect();
            let count = "SELECT current_setting('max_connections')::int
                - current_setting('superuser_reserved_connections')::int - 1";
            let all: i32 = admin.query_one(count, &[]).unwrap().get(0);
            // The servers keep reconnecting, so this is repeated until none of the connections is theirs.
            site.server.wait_until("all to be taken", || {
                admin.query(kill, &[]).unwrap();
                held.borrow_mut().extend(hold(&ordinary));
                held.borrow().len() == usize::try_from(all).unwrap()
            });
            // Its end would make room for one of theirs.
            held.borrow_mut().push(admin);
        };
        site.suffer("out of connections", Fault::Away, take, |_| held.borrow_mut().clear());
    });
}

#[test]
fn read_only() {
    let mut site = Site::new();
    let turn = |site: &Site, to: &str| {
        site.cluster.set(&format!("default_transaction_read_only = {to}"));
    };
    under_load(&mut site, |site| {
        let begin = |site: &Site| turn(site, "on");
        let end = |site: &Site| {
            let mut client = site.cluster.connect();
            client.batch_execute("SET default_transaction_read_only = off").unwrap();
            client.batch_execute("ALTER SYSTEM RESET default_transaction_read_only").unwrap();
            client.batch_execute("SELECT pg_reload_conf()").unwrap();
        };
        site.suffer("read-only", Fault::ReadOnly, begin, end);
    });
}

/// A small file system for a tablespace, unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    /// Needs root, to mount it.
    fn new() -> Disk {
        let path = std::env::temp_dir().join(format!("textgen-disk-{}", textgen::usage::new_id()));
        std::fs::create_dir(&path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m,mode=0777", "tmpfs"]).arg(&path).status();
        assert!(mounted.unwrap().success(), "mount: this test needs root");
        Disk(path)
    }

    /// Moves tables to it.
    fn take_tables(&self, cluster: &Cluster, tables: &[&str]) {
        // The folder must belong to the user that runs PostgreSQL.
        let place = self.0.join("tables");
        std::fs::create_dir(&place).unwrap();
        let mut client = cluster.connect();
        let owner: String = client.query_one("SELECT current_setting('data_directory')", &[]).unwrap().get(0);
        let owner = std::fs::metadata(owner).unwrap();
        chown(&place, Some(owner.uid()), Some(owner.gid())).unwrap();
        client.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{}'", place.display())).unwrap();
        for table in tables {
            client.batch_execute(&format!("ALTER TABLE {table} SET TABLESPACE small")).unwrap();
        }
    }

    /// Writes a file that takes all its room, and returns its path.
    fn fill(&self) -> PathBuf {
        let filler = self.0.join("filler");
        let filled = std::io::copy(&mut std::io::repeat(0), &mut File::create(&filler).unwrap()).unwrap_err();
        assert_eq!(filled.kind(), ErrorKind::StorageFull);
        filler
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn disk_full() {
    if !is_root() {
        // Only root can mount a small file system, and filling the machine's own is not an option.
        println!("NOT TESTED: a full disk, as only root may mount a small one");
        return;
    }
    let disk = Disk::new();
    let mut site = Site::new();
    disk.take_tables(&site.cluster, &["documents", "charge_ids", "usage_daily", "sessions", "api_keys", "users"]);
    // Every further write needs a new page.
    let grown = json!({"content": "x".repeat(20_000)});
    under_load(&mut site, |site| {
        let began = Instant::now();
        let written = save(&site.user.browser, &grown);
        let filler = disk.fill();
        let mut refused = 0;
        site.server.wait_until("the full disk to be felt", || {
            let reply = site.user.browser.post("/api/docs/save", &json!({"content": "y".repeat(2_000_000)}));
            assert!(reply.status == 200 || reply.status == 503, "{} {}", reply.status, reply.text());
            refused += usize::from(reply.status == 503);
            refused > 3
        });
        for _ in 0..10 {
            for client in known(&site.server, &site.user) {
                client.get("/api/current-user").expect(200);
            }
            site.user.browser.get(&format!("/api/docs/get?id={written}")).expect(200);
        }
        std::fs::remove_file(&filler).unwrap();
        let ended = Instant::now();
        site.server.wait_until("writes", || site.user.browser.post("/api/docs/save", &grown).status == 200);
        println!("disk full for {:?}: back after {:?}", ended - began, ended.elapsed());
        assert!(ended.elapsed() < RECOVERY);
        let kept = site.user.browser.get(&format!("/api/docs/get?id={written}")).expect(200).json();
        assert_eq!(kept["content"], grown["content"]);
    });
}

#[test]
fn replies_are_kept_or_refused_while_the_disk_is_full() {
    const CHAT: &str = "/v1/chat/completions";
    if !is_root() {
        println!("NOT TESTED: a full disk, as only root may mount a small one");
        return;
    }
    let calls = AtomicUsize::new(0);
    let upstream = Upstream::start(move |_, wire| {
        let answer = format!("{} {}", calls.fetch_add(1, Relaxed), "x".repeat(300_000));
        let usage = json!({"prompt_tokens": 1, "completion_tokens": 2});
        wire.json(200, &json!({"choices": [{"message": {"content": answer}}], "usage": usage}));
    });
    let disk = Disk::new();
    let site = Site::with(&[("INFERENCE_URL", &upstream.url)]);
    let mut client = site.cluster.connect();
    let rows = client
        .query("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'kept_replies'::regclass", &[]);
    let partitions: Vec<String> = rows.unwrap().iter().map(|row| row.get(0)).collect();
    disk.take_tables(&site.cluster, &partitions.iter().map(String::as_str).collect::<Vec<_>>());
    let ask = |n: usize| {
        let client = site.user.program(&site.server.inference).header("idempotency-key", &format!("k{n}"));
        client.post(CHAT, &json!({"model": "m", "messages": [{"role": "user", "content": format!("question {n}")}]}))
    };
    let mut answers = vec![ask(0).expect(200).text()];
    let filler = disk.fill();
    // Some replies still find room, the next goes to the journal, and then it cannot be known which keys were used.
    site.server.wait_until("the full disk to be felt", || {
        let reply = ask(answers.len());
        let is_kept = reply.status == 200;
        assert!(is_kept || reply.status == 503, "{} {}", reply.status, reply.text());
        if is_kept {
            answers.push(reply.text());
        }
        !is_kept
    });
    assert_eq!(upstream.seen().len(), answers.len(), "what is refused is refused before any work");
    assert_eq!(ask(0).status, 503);
    std::fs::remove_file(&filler).unwrap();
    for (n, answer) in answers.iter().enumerate() {
        let mut again = ask(n);
        site.server.wait_until("the kept reply", || {
            again = ask(n);
            again.status == 200
        });
        assert!(again.header("idempotent-replayed") == Some("true") && again.text() == *answer, "k{n}");
    }
    assert_eq!((upstream.seen().len(), charges(&site.db()).len()), (answers.len(), answers.len()));
    assert_books_agree(&site.db());
}
