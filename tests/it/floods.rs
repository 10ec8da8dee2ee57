//! Floods of sign-ups and log-ins: they are throttled by address and by network, and others log in meanwhile.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Address, PASSWORD, Reply, Server, TestDb, at_once, retry_while_unavailable};

/// How soon a client of a flood tries again that was refused. All clients and the server share the processors here: without
/// a pause, the passwords of others would wait for a turn on one, not for a turn at the server.
pub const REFUSED_PAUSE: Duration = Duration::from_millis(50);

const PROXY: (&str, &str) = ("TRUSTED_PROXIES", "127.0.0.0/8");

fn post(web: &Address, from: &str, path: &str, email: &str) -> Reply {
    let client = web.anonymous().header("X-Forwarded-For", from);
    client.post(path, &json!({"email": email, "password": PASSWORD}))
}

fn sign_up(web: &Address, from: &str, email: &str) -> Reply {
    post(web, from, "/api/signup", email)
}

#[track_caller]
fn assert_held_back(reply: &Reply) {
    assert_eq!(reply.status, 429, "{}", reply.text());
    assert_eq!(reply.json(), json!({"detail": "Too many accounts were created from your network, try again later"}));
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3600).contains(&wait), "{wait}");
    assert_eq!(reply.header("set-cookie"), None);
}

#[test]
fn sign_ups_from_one_address_are_limited_exactly_and_other_addresses_go_on() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[PROXY, ("SIGNUPS_PER_ADDRESS", "5")]);
    let web = &server.web;
    let replies = at_once(20, |n| retry_while_unavailable(|| sign_up(web, "6.6.6.6", &format!("a{n}@x"))));
    assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 5);
    replies.iter().filter(|reply| reply.status != 200).for_each(assert_held_back);
    assert_eq!(db.count("SELECT count(*) FROM users"), 5);
    // Whether or not there is an account, and whatever the password.
    let mine: String = db.connect().query_one("SELECT email FROM users LIMIT 1", &[]).unwrap().get(0);
    assert_held_back(&sign_up(web, "6.6.6.6", &mine));
    assert_held_back(&sign_up(web, "6.6.6.6", "nobody@x"));
    // A form is shown again.
    let form = web.anonymous().header("X-Forwarded-For", "6.6.6.6");
    let page = form.form("/api/signup", &[("email", "new@x"), ("password", PASSWORD)]).expect(429);
    assert!(page.header("retry-after").is_some());
    assert!(page.text().contains("Too many accounts were created from your network"), "{}", page.text());
    // Who has an account logs in.
    post(web, "6.6.6.6", "/api/login", &mine).expect(200);
    sign_up(web, "6.6.6.7", "neighbour@x").expect(200);
    assert_eq!(db.count("SELECT count(*) FROM users"), 6);
}

#[test]
fn sign_ups_from_one_network_are_limited() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[PROXY, ("SIGNUPS_PER_ADDRESS", "3"), ("SIGNUPS_PER_NETWORK", "6")]);
    for (network, other) in [("6.6.6.", "6.6.7.1"), ("2001:db8:1:", "2001:db8:2::1")] {
        let is_v6 = network.contains(':');
        let address = |n: usize| format!("{network}{n}{}", if is_v6 { "::1" } else { "" });
        let enter = |n: usize| sign_up(&server.web, &address(n), &format!("{n}.{is_v6}@x"));
        let replies = at_once(20, |n| retry_while_unavailable(|| enter(n)));
        assert_eq!(replies.iter().filter(|reply| reply.status == 200).count(), 6);
        replies.iter().filter(|reply| reply.status != 200).for_each(assert_held_back);
        sign_up(&server.web, other, &format!("other.{is_v6}@x")).expect(200);
    }
    assert_eq!(db.count("SELECT count(*) FROM users"), 14);
}

#[test]
fn what_creates_no_account_is_not_counted() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[PROXY, ("SIGNUPS_PER_ADDRESS", "2")]);
    let web = &server.web;
    sign_up(web, "6.6.6.6", "ann@x").expect(200);
    for _ in 0..10 {
        sign_up(web, "6.6.6.6", "ann@x").expect(200);
        sign_up(web, "6.6.6.6", "no address").expect(400);
    }
    sign_up(web, "6.6.6.6", "bob@x").expect(200);
    assert_held_back(&sign_up(web, "6.6.6.6", "eve@x"));
}

/// So many clients go on sending what `flood` sends, which takes the number of a client and of its request, while another's
/// log-ins must all succeed. Returns how many of each status the flood has got: of 200, of 429, of 503.
fn log_ins_during(server: &Server, clients: usize, flood: impl Fn(usize, usize) -> Reply + Sync) -> [usize; 3] {
    const LOG_INS: usize = 8;
    let is_over = AtomicBool::new(false);
    let (started, seen) = (AtomicUsize::new(0), [200, 429, 503].map(|status| (status, AtomicUsize::new(0))));
    at_once(clients + 1, |client| {
        if client == clients {
            server.wait_until("the flood", || started.load(SeqCst) >= clients);
            let log_in = |n: usize| post(&server.web, &format!("9.9.9.{n}"), "/api/login", "ann@x");
            // Where the processors are busy with other things, one may have waited in vain. Two in a row would be unfair.
            let twice = |n: usize| Some(log_in(n)).filter(|reply| reply.status != 503).unwrap_or_else(|| log_in(n));
            let outcomes: Vec<_> = (0..LOG_INS).map(twice).collect();
            is_over.store(true, SeqCst);
            for reply in outcomes {
                reply.expect(200);
            }
            return;
        }
        for n in (0..).take_while(|n| *n < 1 || !is_over.load(SeqCst)) {
            let status = flood(client, n).status;
            let (_, count) = seen.iter().find(|(known, _)| *known == status).unwrap_or_else(|| panic!("{status}"));
            count.fetch_add(1, SeqCst);
            started.fetch_add(usize::from(n == 0), SeqCst);
            if status != 200 {
                thread::sleep(REFUSED_PAUSE);
            }
        }
    });
    seen.map(|(_, count)| count.into_inner())
}

fn start(settings: &[(&str, &str)]) -> (TestDb, Server) {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[&[PROXY, ("POOL_SIZE", "8")], settings].concat());
    server.sign_up("ann@x");
    (db, server)
}

#[test]
fn a_log_in_succeeds_while_one_address_floods_sign_ups() {
    let (db, server) = start(&[("SIGNUPS_PER_ADDRESS", "30")]);
    let seen = log_ins_during(&server, 16, |client, n| sign_up(&server.web, "6.6.6.6", &format!("{client}.{n}@x")));
    assert!(seen[0] == 30 && seen[1] > 0, "{seen:?}");
    assert_eq!(db.count("SELECT count(*) FROM users"), 31);
}

/// Also where sign-ups are not limited: the hashing is shared.
#[test]
fn hashing_is_shared_between_networks() {
    let (_db, server) = start(&[("MAX_WAITING", "24")]);
    let from = |client: usize, n: usize| match client % 3 {
        0 => "6.6.6.6".to_owned(),
        1 => format!("7.7.7.{}", (client + 5 * n) % 256),
        _ => format!("2001:db8:1:{client}{}::1", n % 1000),
    };
    let seen =
        log_ins_during(&server, 48, |client, n| sign_up(&server.web, &from(client, n), &format!("{client}.{n}@x")));
    assert!(seen[0] > 0 && seen[1] == 0, "{seen:?}");
}

#[test]
fn a_log_in_succeeds_while_one_address_floods_log_ins() {
    let (_db, server) = start(&[]);
    for n in 0..32 {
        server.sign_up(&format!("eve{n}@x"));
    }
    let log_in = |client: usize, _| post(&server.web, "6.6.6.6", "/api/login", &format!("eve{}@x", client % 32));
    let seen = log_ins_during(&server, 24, log_in);
    assert!(seen[0] > 0, "{seen:?}");
}
