//! A database, or a network path to it, that accepts everything and answers nothing: no connection breaks, and yet no
//! request waits for long.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::documents::save;
use crate::harness::{Client, Proxy, Reply, Server, TestDb, User, charges};
use crate::outage::{expect_unavailable, known, strangers};

/// The longest that a request waits: until a silent connection is given up, plus the wait for a connection, plus what a
/// busy machine adds.
const LONGEST: Duration = Duration::from_secs(11 + 2 + 5);

/// The longest once something else has noticed the silence.
const NOTICED: Duration = Duration::from_secs(2 + 2 + 5);

/// How long a request that needs no database may take on a busy machine.
const QUICK: Duration = Duration::from_secs(3);

/// Recovery takes 2 s; the rest is for a busy machine.
const RECOVERY: Duration = Duration::from_secs(6);

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let done = work();
    (done, began.elapsed())
}

/// Sends `count` requests at once. Returns the longest wait.
fn all_refused(count: usize, send: impl Fn() -> Reply + Sync) -> Duration {
    let wait = |_| {
        let (reply, waited) = timed(&send);
        expect_unavailable(&reply);
        waited
    };
    crate::harness::at_once(count, wait).into_iter().max().unwrap()
}

/// Checks that requests that need no database are answered while `work` runs.
fn meanwhile<T>(server: &Server, known: &[Client], work: impl FnOnce() -> T) -> T {
    let is_over = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let (over, liveness) = (&is_over, server.web.anonymous());
        scope.spawn(move || {
            let mut longest = Duration::ZERO;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let (_, waited) = timed(|| liveness.get("/liveness_check").expect(200));
                longest = longest.max(waited);
                for client in known {
                    client.get("/api/current-user").expect(200);
                }
            }
            assert!(longest < QUICK, "{longest:?} for nothing");
        });
        let _end = crate::harness::End(&is_over);
        work()
    })
}

fn threads(server: &Server) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid()));
    tasks.map_or(0, Iterator::count)
}

/// A server behind a proxy, and a user whom it has cached.
struct Site {
    db: TestDb,
    proxy: Proxy,
    server: Server,
    user: User,
    document: String,
}

impl Site {
    fn new(settings: &[(&str, &str)]) -> Site {
        let db = TestDb::new();
        let proxy = Proxy::to(&db);
        let server = Server::spawn_demo(&proxy.url(), settings);
        server.wait_until_listening();
        let user = server.sign_up("ann@example.com");
        let document = save(&user.browser, &json!({"content": "text"}));
        for client in known(&server, &user) {
            client.get("/api/current-user").expect(200);
        }
        Site { db, proxy, server, user, document }
    }

    fn read(&self) -> Reply {
        self.user.browser.get(&format!("/api/docs/get?id={}", self.document))
    }

    /// Ends the silence and waits until a document can be saved. Returns how long that took.
    fn restore(&self) -> Duration {
        let (browser, body) = (&self.user.browser, json!({"id": self.document, "content": "more"}));
        let ((), took) = timed(|| {
            self.proxy.restore();
            self.server.wait_until("the way back", || browser.post("/api/docs/save", &body).status == 200);
        });
        assert!(took < RECOVERY, "{took:?}: {}", self.server.log());
        took
    }
}

#[test]
fn waiting_for_a_silent_database_is_bounded() {
    let site = Site::new(&[("POOL_SIZE", "4")]);
    let known = known(&site.server, &site.user);
    for (n, cut) in [Proxy::freeze, Proxy::lose].into_iter().enumerate() {
        let before = threads(&site.server);
        cut(&site.proxy);
        let (first, later) = meanwhile(&site.server, &known, || {
            let first = all_refused(24, || site.read());
            let later = all_refused(24, || site.read());
            for client in strangers(&site.server, n) {
                expect_unavailable(&client.get("/api/current-user"));
            }
            (first, later)
        });
        // The listener's heartbeat noticed the silence, so no request waited for the full statement timeout.
        assert!(first < NOTICED, "{first:?}");
        assert!(later <= first + QUICK, "{later:?} after {first:?}");
        let reason = site.server.web.anonymous().get("/readyz").expect(503).json()["reason"].clone();
        assert!(reason.as_str().unwrap().contains("database"), "{reason}");
        let after = threads(&site.server);
        assert!(after < before + 40, "{before} threads, then {after}");
        let took = site.restore();
        println!("refused after {first:?}, then {later:?}; back after {took:?}; {before} threads, then {after}");
        site.server.wait_until_listening();
    }
    assert!(!site.server.log().contains("ERROR"), "{}", site.server.log());
}

#[test]
fn waiting_is_bounded_even_if_the_listener_does_not_notice() {
    let db = TestDb::new();
    let site = Site::new(&[("DATABASE_LISTEN_URL", &db.url()), ("POOL_SIZE", "2")]);
    let known = known(&site.server, &site.user);
    site.proxy.freeze();
    let first = meanwhile(&site.server, &known, || all_refused(8, || site.read()));
    assert!(first < LONGEST, "{first:?}");
    let later = all_refused(8, || site.read());
    let took = site.restore();
    println!("refused after {first:?}, then {later:?}; back after {took:?}");
}

#[test]
fn charges_do_not_wait_for_a_silent_database() {
    let site = Site::new(&[]);
    let client = site.user.program(&site.server.inference);
    let ask = || client.post("/v1/completions", &json!({"prompt": "Good morning", "max_tokens": 2})).expect(200);
    ask();
    let mut asked = 1;
    for cut in [Proxy::freeze, Proxy::lose] {
        cut(&site.proxy);
        let longest = (0..20).map(|_| timed(ask).1).max().unwrap();
        asked += 20;
        assert!(longest < NOTICED, "{longest:?}");
        let took = site.restore();
        site.server.wait_until("the charges", || charges(&site.db).len() >= asked);
        println!("charged after {longest:?}; back after {took:?}");
    }
    ask();
    site.server.wait_until("the last one", || charges(&site.db).len() > asked);
    assert_eq!(charges(&site.db).len(), asked + 1, "each once");
}

#[test]
fn waiting_for_a_slow_database_is_bounded() {
    let site = Site::new(&[]);
    let known = known(&site.server, &site.user);
    site.proxy.slow(Duration::from_secs(5));
    meanwhile(&site.server, &known, || {
        let replies = crate::harness::at_once(8, |_| timed(|| site.read()));
        for (reply, waited) in replies {
            assert!(reply.status == 200 || reply.status == 503, "{}", reply.text());
            assert!(waited < LONGEST, "{waited:?}");
        }
        let saved = site.user.browser.post("/api/docs/save", &json!({"id": site.document, "content": "slowly"}));
        assert!(saved.status == 200 || saved.status == 503, "{}", saved.text());
        for client in strangers(&site.server, 0) {
            let status = client.get("/api/current-user").status;
            assert!(status == 503 || status == 401, "{status}");
        }
    });
    println!("back after {:?}", site.restore());
}
