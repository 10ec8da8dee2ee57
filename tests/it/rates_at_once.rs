//! Rate limits hold when many processes and clients use them at once and things break.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::budgets::{chat, obedient, set_price};
use crate::budgets_at_once::{Fleet, PROCESSES};
use crate::harness::{Address, End, Proxy, Signal, TestDb, Upstream, User, soon};
use crate::rates::{CHAT, patient, rated, stream};

/// Clients of each process.
const CLIENTS: usize = 4;

fn start(upstream: &Upstream) -> (TestDb, Fleet, User) {
    let db = TestDb::new();
    set_price(&db);
    let fleet = Fleet::start(&db.url(), upstream, &[]);
    let user = fleet.servers[0].sign_up("ann@example.com");
    (db, fleet, user)
}

/// Whether a request was admitted; not if it was refused or could not be decided.
fn ask(address: &Address, secret: &str) -> bool {
    let client = address.with_secret(secret);
    match client.try_send("POST", CHAT, Some("application/json"), chat(1).to_string().as_bytes()) {
        Ok(reply) if reply.status == 200 => true,
        Ok(reply) => {
            assert!([429, 503].contains(&reply.status), "{}", reply.text());
            assert!(reply.header("retry-after").is_some());
            false
        }
        Err(_) => false,
    }
}

/// All clients ask as fast as they can until told to stop.
fn flood(addresses: &[Address], secrets: &[String], admitted: &AtomicUsize, is_over: &AtomicBool) {
    thread::scope(|scope| {
        for n in 0..PROCESSES * CLIENTS {
            scope.spawn(move || {
                while !is_over.load(SeqCst) {
                    if ask(&addresses[n % addresses.len()], &secrets[n % secrets.len()]) {
                        admitted.fetch_add(1, SeqCst);
                    } else {
                        thread::sleep(Duration::from_millis(5));
                    }
                }
            });
        }
    });
}

/// Floods until nothing was admitted for some time.
fn flood_until_refused(addresses: &[Address], secrets: &[String]) -> usize {
    let (admitted, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let _end = End(&is_over);
        scope.spawn(|| flood(addresses, secrets, &admitted, &is_over));
        let (mut last, mut since) = (0, Instant::now());
        while since.elapsed() < Duration::from_secs(3) {
            let now = admitted.load(SeqCst);
            if now != last {
                (last, since) = (now, Instant::now());
            }
            thread::sleep(Duration::from_millis(20));
        }
    });
    admitted.load(SeqCst)
}

#[test]
fn no_more_requests_are_admitted_in_a_minute_than_the_limit_and_no_fewer() {
    let (_db, fleet, user) = start(&obedient());
    let (_, secret) = rated(&user, &json!({"requests_per_minute": 120}));
    let began = Instant::now();
    let admitted = flood_until_refused(&fleet.inference(), &[secret]);
    assert!(began.elapsed() < Duration::from_secs(60), "the machine is too slow for this test");
    assert_eq!(admitted, 120);
}

#[test]
fn keys_share_the_rate_of_their_account() {
    let (db, fleet, user) = start(&obedient());
    let secrets: Vec<String> = (0..16).map(|_| rated(&user, &json!({"requests_per_minute": 500})).1).collect();
    let settings = [("DATABASE_URL", db.url())];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let args = ["limit", "set", "ann@example.com", "--requests-per-minute", "100"];
    crate::harness::done(crate::harness::run(&args, &settings, ""));
    soon("the limit to hold everywhere", || {
        fleet.servers.iter().all(|server| {
            let reply = server.inference.with_secret(&secrets[0]).get("/v1/models");
            reply.header("x-ratelimit-limit-requests").is_some() || {
                ask(&server.inference, &secrets[0]);
                false
            }
        })
    });
    let before = usize::try_from(db.count("SELECT count(*) FROM usage_events")).unwrap();
    assert!(before < 100, "{before}");
    let began = Instant::now();
    let admitted = flood_until_refused(&fleet.inference(), &secrets);
    assert!(began.elapsed() < Duration::from_secs(50), "the machine is too slow for this test");
    // Some of those before may have come before the limit.
    assert!((100 - before..=100).contains(&admitted), "{admitted} and {before}");
}

#[test]
fn a_small_limit_is_used_up_wherever_requests_come() {
    let (_db, fleet, user) = start(&obedient());
    let (_, secret) = rated(&user, &json!({"requests_per_minute": 6}));
    let addresses = fleet.inference();
    // Whoever asks first holds some that the others need.
    let admitted: Vec<bool> = (0..8).map(|n| ask(&addresses[n % PROCESSES], &secret)).collect();
    assert_eq!(admitted, [true, true, true, true, true, true, false, false]);
}

#[test]
fn requests_that_come_evenly_are_admitted_through_all_processes() {
    let (_db, fleet, user) = start(&obedient());
    let (_, secret) = rated(&user, &json!({"requests_per_minute": 240}));
    let (addresses, began) = (fleet.inference(), Instant::now());
    let admitted = (0..40_u32).filter(|n| {
        thread::sleep((Duration::from_millis(250) * *n).saturating_sub(began.elapsed()));
        ask(&addresses[usize::try_from(*n).unwrap() % PROCESSES], &secret)
    });
    assert_eq!(admitted.count(), 40);
}

#[test]
fn requests_at_once_are_counted_over_all_processes_and_places_of_a_killed_one_are_free_again() {
    let (upstream, is_over) = patient();
    let (_db, mut fleet, user) = start(&upstream);
    let (_, secret) = rated(&user, &json!({"concurrent": 4}));
    let addresses = fleet.inference();
    thread::scope(|scope| {
        for address in &addresses {
            let client = address.with_secret(&secret);
            scope.spawn(move || {
                drop(client.try_send("POST", CHAT, Some("application/json"), stream().to_string().as_bytes()));
            });
        }
        soon("four streams", || upstream.seen().len() == 4);
        assert!(addresses.iter().all(|address| !ask(address, &secret)));
        fleet.servers[3].signal(Signal::KILL);
        let killed = Instant::now();
        soon("the place of the killed process", || ask(&addresses[0], &secret));
        assert!(killed.elapsed() < Duration::from_secs(15), "{:?}", killed.elapsed());
        is_over.store(true, SeqCst);
    });
    fleet.servers.truncate(3);
    // All places can be used through one process.
    is_over.store(false, SeqCst);
    let before = upstream.seen().len();
    thread::scope(|scope| {
        for _ in 0..4 {
            let client = addresses[1].with_secret(&secret);
            scope.spawn(move || client.post(CHAT, &stream()).expect(200));
        }
        soon("four streams of one process", || upstream.seen().len() == before + 4);
        assert!(!ask(&addresses[0], &secret));
        is_over.store(true, SeqCst);
    });
}

#[test]
fn a_limit_that_is_lowered_holds_at_once_and_one_that_is_raised_too() {
    let (db, fleet, user) = start(&obedient());
    let (id, secret) = rated(&user, &json!({"requests_per_minute": 10_000}));
    let (admitted, is_over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (addresses, secrets) = (fleet.inference(), [secret]);
    let update = |limit: i64| {
        let body = json!({"id": id, "rate": {"requests_per_minute": limit}});
        user.browser.post("/api/keys/update", &body).expect(200);
    };
    thread::scope(|scope| {
        let _end = End(&is_over);
        scope.spawn(|| flood(&addresses, &secrets, &admitted, &is_over));
        soon("some requests", || admitted.load(SeqCst) > 200);
        update(50);
        thread::sleep(Duration::from_millis(100));
        let lowered = db.count("SELECT count(*) FROM usage_events");
        thread::sleep(Duration::from_secs(2));
        let later = db.count("SELECT count(*) FROM usage_events");
        // Those that were admitted before may still have been under way.
        assert!(later - lowered <= i64::try_from(PROCESSES * CLIENTS).unwrap(), "{lowered} {later}");
        let before = admitted.load(SeqCst);
        update(10_000);
        soon("more requests", || admitted.load(SeqCst) > before + 100);
    });
}

#[test]
fn a_rate_limit_holds_while_the_database_is_away() {
    let db = TestDb::new();
    set_price(&db);
    let proxy = Proxy::to(&db);
    let fleet = Fleet::start(&proxy.url(), &obedient(), &[]);
    let user = fleet.servers[0].sign_up("ann@example.com");
    let (_, secret) = rated(&user, &json!({"requests_per_minute": 100}));
    let (addresses, began) = (fleet.inference(), Instant::now());
    let mut admitted = (0..40).filter(|n| ask(&addresses[n % PROCESSES], &secret)).count();
    assert_eq!(admitted, 40);
    proxy.cut();
    let cut = flood_until_refused(&addresses, std::slice::from_ref(&secret));
    assert!(cut > 0, "what is held can be used");
    admitted += cut;
    proxy.restore();
    soon("the rest", || {
        admitted += usize::from(ask(&addresses[0], &secret));
        admitted >= 100
    });
    assert!(began.elapsed() < Duration::from_secs(60), "the machine is too slow for this test");
    assert!(addresses.iter().all(|address| !ask(address, &secret)));
}
