//! Password guessing is throttled, owners are not locked out, and a flood of logins does not slow other requests.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Address, PASSWORD, Reply, Server, TestDb, at_once, retry_while_unavailable};

/// Wrong passwords that one IP address may send for one account in a burst.
const BURST: usize = 5;

/// Wrong passwords that sessions of one account may send in a burst.
const CONFIRMATIONS: usize = 10;

fn log_in(web: &Address, from: &str, email: &str, password: &str) -> Reply {
    let client = web.anonymous().header("X-Forwarded-For", from);
    client.post("/api/login", &json!({"email": email, "password": password}))
}

fn assert_held_back(reply: &Reply) {
    assert_eq!(reply.status, 429, "{}", reply.text());
    assert_eq!(reply.json(), json!({"detail": "Too many attempts, try again later"}));
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
}

#[test]
fn password_guessing_is_throttled_but_not_the_owner_elsewhere() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("TRUSTED_PROXIES", "127.0.0.0/8, 10.0.0.1")]);
    server.sign_up("ann@x");
    for _ in 0..BURST {
        log_in(&server.web, "6.6.6.6", "ann@x", "a guess").expect(400);
    }
    assert_held_back(&log_in(&server.web, "6.6.6.6", "ann@x", "a guess"));
    // Even the right password is refused, with any spelling of the e-mail address, and at signup too.
    assert_held_back(&log_in(&server.web, "6.6.6.6", "ann@x", PASSWORD));
    assert_held_back(&log_in(&server.web, "6.6.6.6", "  ANN@X", "a guess"));
    let guesser = server.web.anonymous().header("X-Forwarded-For", "6.6.6.6");
    assert_held_back(&guesser.post("/api/signup", &json!({"email": "ann@x", "password": "a long guess"})));
    // Forms get the error as a page.
    let reply = guesser.form("/api/login", &[("email", "ann@x"), ("password", "a guess")]).expect(429);
    assert!(reply.header("retry-after").is_some());
    assert!(reply.text().contains("Too many attempts") && reply.text().contains("login-form"), "{}", reply.text());
    // Another trusted proxy does not change the client's address, and forged entries before it are ignored.
    assert_held_back(&log_in(&server.web, "1.2.3.4, 6.6.6.6, 10.0.0.1", "ann@x", "a guess"));
    // The owner has another IP address.
    log_in(&server.web, "7.7.7.7", "ann@x", PASSWORD).expect(200);
    log_in(&server.web, "2001:db8::1", "ann@x", PASSWORD).expect(200);
    // Other accounts are not affected; unknown ones are treated alike.
    for _ in 0..BURST {
        log_in(&server.web, "6.6.6.6", "nobody@x", "a guess").expect(400);
    }
    assert_held_back(&log_in(&server.web, "6.6.6.6", "nobody@x", "a guess"));
}

#[test]
fn forwarded_addresses_are_not_trusted_by_default() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    for n in 0..BURST {
        log_in(&server.web, &format!("6.6.6.{n}"), "ann@x", "a guess").expect(400);
    }
    assert_held_back(&log_in(&server.web, "6.6.6.66", "ann@x", "a guess"));
    let sessions = user.browser.get("/api/sessions").expect(200).json();
    assert_eq!(sessions["sessions"][0]["address"], "127.0.0.1");
    // Sessions still work.
    user.program(&server.web).get("/api/current-user").expect(200);
}

#[test]
fn guesses_on_every_route_are_counted() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@x");
    let change = |password: &str| {
        let body = json!({"current_password": password, "new_password": "a new password"});
        user.browser.post("/api/change-password", &body)
    };
    for _ in 0..CONFIRMATIONS - 1 {
        change("a guess").expect(400);
    }
    user.browser.post("/api/delete-account", &json!({"password": "a guess"})).expect(400);
    assert_held_back(&change("a guess"));
    assert_held_back(&user.browser.post("/api/delete-account", &json!({"password": "a guess"})));
    // Whoever stole a session does not lock out the owner.
    log_in(&server.web, "", "ann@x", PASSWORD).expect(200);
}

#[test]
fn guessing_at_many_accounts_is_throttled() {
    let db = TestDb::new();
    let server = Server::start(&db);
    for n in 0..30 {
        log_in(&server.web, "", &format!("nobody{n}@x"), "a guess").expect(400);
    }
    // One more attempt is allowed every ten seconds, so sooner or later one is refused, however slow the machine.
    let held = (30..200).map(|n| log_in(&server.web, "", &format!("nobody{n}@x"), "a guess"));
    assert_held_back(&held.into_iter().find(|reply| reply.status != 400).unwrap());
}

/// Concurrent guesses count like consecutive ones.
#[test]
fn concurrent_guesses_are_counted() {
    let db = TestDb::new();
    let server = Server::start(&db);
    server.sign_up("ann@x");
    let statuses = at_once(40, |n| log_in(&server.web, "", "ann@x", &format!("guess number {n}")).status);
    let checked = statuses.iter().filter(|status| **status == 400).count();
    assert!(checked <= BURST, "{statuses:?}");
    assert!(statuses.iter().all(|status| [400, 429, 503].contains(status)), "{statuses:?}");
}

/// Correct passwords are not guesses: many users may share one IP address.
#[test]
fn concurrent_correct_passwords_are_all_accepted() {
    let db = TestDb::new();
    let server = Server::start(&db);
    server.sign_up("ann@x");
    let web = server.web.anonymous();
    let replies = at_once(40, |_| {
        retry_while_unavailable(|| web.post("/api/login", &json!({"email": "ann@x", "password": PASSWORD})))
    });
    for reply in &replies {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    assert_eq!(db.count("SELECT count(*) FROM sessions"), 41);
}

/// With more logins than can be hashed in time some get 503, and other requests are not affected.
#[test]
fn a_flood_of_logins_does_not_slow_other_requests() {
    let db = TestDb::new();
    let settings = [("TRUSTED_PROXIES", "127.0.0.1"), ("MAX_WAITING", "24"), ("POOL_SIZE", "8")];
    let server = Server::start_with(&db, &settings);
    let user = server.sign_up("ann@x");
    let program = user.program(&server.inference);
    program.get("/api/current-user").expect(200);
    let (refused, meanwhile) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (began, enough) = (Instant::now(), 50);
    let seen = || refused.load(Relaxed) >= enough && meanwhile.load(Relaxed) >= enough;
    let goes_on = || !seen() && began.elapsed() < Duration::from_secs(60);
    at_once(65, |n| {
        if n == 64 {
            while goes_on() {
                program.get("/api/current-user").expect(200);
                meanwhile.fetch_add(1, Relaxed);
            }
        }
        // Each with its own IP address and account, so that none is throttled.
        for round in (0..250).cycle().take_while(|_| goes_on()) {
            let reply = log_in(&server.web, &format!("10.{n}.{round}.1"), &format!("u{n}.{round}@x"), "a password");
            assert!([400, 503].contains(&reply.status), "{} {}", reply.status, reply.text());
            if reply.status == 503 {
                assert!(reply.header("retry-after").is_some());
                refused.fetch_add(1, Relaxed);
            }
        }
    });
    assert!(seen(), "{refused:?} refused, {meanwhile:?} answered meanwhile");
    // Once the flood is over, logins work.
    server.sign_in("ann@x", PASSWORD);
}

/// A login refused for overload does not count as a wrong password.
#[test]
fn an_overload_refusal_does_not_count_as_a_wrong_password() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("MAX_WAITING", "1")]);
    let web = server.web.anonymous();
    let body = json!({"email": "ann@x", "password": PASSWORD});
    retry_while_unavailable(|| web.post("/api/signup", &body)).expect(200);
    for _ in 0..3 {
        for reply in at_once(16, |_| web.post("/api/login", &body)) {
            assert!([200, 503].contains(&reply.status), "{} {}", reply.status, reply.text());
        }
    }
    retry_while_unavailable(|| web.post("/api/login", &body)).expect(200);
}

/// While many addresses guess at one account, its owner can sign in from networks used before.
#[test]
fn guessing_by_strangers_does_not_lock_out_the_owner() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("TRUSTED_PROXIES", "127.0.0.0/8")]);
    let from = |address: &str| server.web.anonymous().header("X-Forwarded-For", address);
    from("5.5.5.5").post("/api/signup", &json!({"email": "ann@x", "password": PASSWORD})).expect(200);
    let there = log_in(&server.web, "2001:db8:1:2::a", "ann@x", PASSWORD).expect(200).session_token();
    server.web.with_cookie(&there).post("/api/logout", &json!({})).expect(200);
    let signed_in = log_in(&server.web, "5.5.5.5", "ann@x", PASSWORD).expect(200).session_token();
    at_once(10, |t| {
        for n in 0..7 {
            retry_while_unavailable(|| log_in(&server.web, &format!("6.6.{t}.{n}"), "ann@x", "a guess"));
        }
    });
    log_in(&server.web, "9.9.9.9", "ann@x", PASSWORD).expect(429);
    log_in(&server.web, "5.5.5.5", "ann@x", PASSWORD).expect(200);
    log_in(&server.web, "2001:db8:1:2::b", "ann@x", PASSWORD).expect(200);
    log_in(&server.web, "2001:db8:1:3::a", "ann@x", PASSWORD).expect(429);
    // From a new network, an existing session still works.
    let browser = server.web.with_cookie(&signed_in).header("X-Forwarded-For", "8.8.8.8");
    let change = json!({"current_password": PASSWORD, "new_password": "a new password"});
    browser.post("/api/change-password", &change).expect(200);
}

#[test]
fn a_known_device_goes_on_when_others_behind_its_address_have_guessed() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("TRUSTED_PROXIES", "127.0.0.0/8")]);
    server.sign_up("ann@x");
    server.sign_up("bob@x");
    let first = log_in(&server.web, "6.6.6.6", "ann@x", PASSWORD).expect(200);
    let device = first.headers.iter().find_map(|(name, value)| {
        let cookie = name.eq_ignore_ascii_case("set-cookie").then(|| value.split_once(';').unwrap().0)?;
        cookie.starts_with("device=").then(|| cookie.to_owned())
    });
    let device = device.unwrap();
    // All guesses of the address, some of them at this account.
    for n in 0..40 {
        log_in(&server.web, "6.6.6.6", &format!("nobody{n}@x"), "a guess");
        log_in(&server.web, "6.6.6.6", "ann@x", "a guess");
    }
    assert_held_back(&log_in(&server.web, "6.6.6.6", "ann@x", PASSWORD));
    let with = |cookie: &str, email: &str, password: &str| {
        let client = server.web.anonymous().header("X-Forwarded-For", "6.6.6.6").header("Cookie", cookie);
        client.post("/api/login", &json!({"email": email, "password": password}))
    };
    with(&device, "ann@x", PASSWORD).expect(200);
    // It is that account's, and cannot be made up.
    assert_held_back(&with(&device, "bob@x", PASSWORD));
    let (value, last) = device.split_at(device.len() - 1);
    let forged = format!("{value}{}", if last == "0" { "1" } else { "0" });
    assert_held_back(&with(&forged, "ann@x", PASSWORD));
    // Nor does it allow more guesses than another.
    for _ in 0..BURST {
        with(&device, "ann@x", "a guess").expect(400);
    }
    assert_held_back(&with(&device, "ann@x", PASSWORD));
}
