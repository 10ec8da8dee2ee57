//! Behind PgBouncer in transaction mode, where every transaction may run on a different connection.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::documents::save;
use crate::harness::{
    Bouncer, Raw, Server, Signal, TestDb, Upstream, at_once, charges, refused_soon, retry_while_unavailable,
};
use crate::outage::{expect_unavailable, known};

/// Connections from PgBouncer to PostgreSQL. The servers have many more to PgBouncer.
const CONNECTIONS: u32 = 3;

fn start(bouncer: &Bouncer, db: &TestDb) -> Server {
    start_with(bouncer, db, &[])
}

fn start_with(bouncer: &Bouncer, db: &TestDb, settings: &[(&str, &str)]) -> Server {
    let direct = db.url();
    let mut all = vec![("DATABASE_POOLER", "transaction"), ("DATABASE_LISTEN_URL", &*direct), ("POOL_SIZE", "32")];
    all.extend(settings);
    let server = Server::spawn_demo(&bouncer.url(), &all);
    server.wait_until_listening();
    server
}

/// A statement timeout set for the database: a pooler does not pass on those of its clients.
fn set_timeout(db: &TestDb) {
    db.run(&format!("ALTER DATABASE {} SET statement_timeout = '10s'", db.name()));
}

#[test]
fn everything_works_through_a_pooler() {
    let db = TestDb::new();
    set_timeout(&db);
    let bouncer = Bouncer::to(&db, CONNECTIONS);
    let (one, two) = (start(&bouncer, &db), start(&bouncer, &db));
    let user = one.sign_up("ann@example.com");
    let second = one.sign_in("ann@example.com", crate::harness::PASSWORD);
    second.get("/api/current-user").expect(200);

    let saved = at_once(64, |n| {
        let client = user.browser_of(if n % 2 == 0 { &one } else { &two });
        let id = retry_while_unavailable(|| client.post("/api/docs/save", &json!({"content": n.to_string()})))
            .expect(200)
            .json()["id"]
            .as_str()
            .unwrap()
            .to_owned();
        for turn in 1..4 {
            let body = json!({"id": id, "content": format!("{n} {turn}"), "version": turn});
            retry_while_unavailable(|| client.post("/api/docs/save", &body)).expect(200);
        }
        (n, id)
    });
    for (n, id) in saved {
        let document = user.browser_of(&two).get(&format!("/api/docs/get?id={id}")).expect(200).json();
        assert_eq!((document["content"].as_str(), document["version"].as_i64()), (Some(&*format!("{n} 3")), Some(4)));
    }
    let through = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
        AND application_name IN ('textgen-all', '')";
    assert!(db.count(through) <= i64::from(CONNECTIONS) + 1, "the pooler opened more connections than allowed");

    let programs = [&one, &two].map(|server| user.program(&server.inference));
    at_once(32, |n| {
        let body = json!({"prompt": "Good morning", "max_tokens": 2});
        retry_while_unavailable(|| programs[n % 2].post("/v1/completions", &body)).expect(200);
    });
    one.wait_until("the charges", || charges(&db).len() == 32);

    let key = user.browser.get("/api/keys").expect(200).json()["keys"][0]["id"].clone();
    let made = user.browser.post("/api/keys/rotate", &json!({"id": key})).expect(200).json();
    for client in &programs {
        refused_soon(client);
    }
    two.audio.with_secret(made["secret"].as_str().unwrap()).get("/api/current-user").expect(200);
    for server in [&one, &two] {
        assert!(!server.log().contains(" ERROR "), "{}", server.log());
    }
}

#[test]
fn keys_work_through_a_pooler() {
    const CHAT: &str = "/v1/chat/completions";
    let db = TestDb::new();
    set_timeout(&db);
    let bouncer = Bouncer::to(&db, CONNECTIONS);
    let calls = AtomicUsize::new(0);
    let upstream = Upstream::start(move |seen, wire| {
        let n = calls.fetch_add(1, Relaxed);
        let is_first = n == 0 && seen.json()["messages"][0]["content"] == "killed";
        if is_first {
            wire.is_left_within(60);
            return;
        }
        let usage = json!({"prompt_tokens": 1, "completion_tokens": 2});
        wire.json(200, &json!({"choices": [{"message": {"content": format!("answer {n}")}}], "usage": usage}));
    });
    let settings = [("INFERENCE_URL", &*upstream.url)];
    let (killed, one) = (start_with(&bouncer, &db, &settings), start_with(&bouncer, &db, &settings));
    let user = killed.sign_up("ann@example.com");
    let body = |text: &str| json!({"model": "m", "messages": [{"role": "user", "content": text}]});
    let keyed = |server: &Server, key: &str| user.program(&server.inference).header("idempotency-key", key);

    // The key of a process that was killed at work.
    let text = body("killed").to_string();
    let media_type = "application/json\r\nIdempotency-Key: killed";
    let mut raw = Raw::head(&killed.inference, &user.secret, CHAT, media_type, text.len());
    raw.write(text.as_bytes());
    killed.wait_until("the call", || !upstream.seen().is_empty());
    keyed(&one, "killed").post(CHAT, &body("killed")).expect(409);
    killed.signal(Signal::KILL);
    killed.wait();
    one.wait_until("the key", || keyed(&one, "killed").post(CHAT, &body("killed")).status == 200);

    let two = start_with(&bouncer, &db, &settings);
    let answers = at_once(32, |n| {
        let (key, server) = (format!("k{}", n % 8), if n % 3 == 0 { &one } else { &two });
        loop {
            let reply = keyed(server, &key).post(CHAT, &body(&key));
            match reply.status {
                200 => return (key, reply.text()),
                409 | 503 => std::thread::sleep(Duration::from_millis(10)),
                _ => panic!("{} {}", reply.status, reply.text()),
            }
        }
    });
    for (key, answer) in &answers {
        assert!(answers.iter().all(|(other, text)| other != key || text == answer), "{key} has several answers");
    }
    one.wait_until("the charges", || charges(&db).len() == 9);
    assert_eq!((upstream.seen().len(), db.count("SELECT count(*) FROM kept_replies")), (10, 9));
    for server in [&one, &two] {
        assert!(!server.log().contains(" ERROR "), "{}", server.log());
    }
}

#[test]
fn a_pooler_that_hangs_or_dies_counts_as_an_outage() {
    let db = TestDb::new();
    set_timeout(&db);
    let mut bouncer = Bouncer::to(&db, CONNECTIONS);
    let server = start(&bouncer, &db);
    let user = server.sign_up("ann@example.com");
    let id = save(&user.browser, &json!({"content": "text"}));
    let known = known(&server, &user);
    let all_known = || known.iter().for_each(|client| drop(client.get("/api/current-user").expect(200)));
    let back = |what: &str| {
        let began = Instant::now();
        let body = json!({"id": id, "content": what});
        server.wait_until("the way back", || user.browser.post("/api/docs/save", &body).status == 200);
        println!("{what}: back after {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(2 + 4), "{:?}", began.elapsed());
    };
    all_known();

    bouncer.signal(Signal::STOP);
    // The listener bypasses the pooler and notices nothing, so the first request waits for the full statement timeout.
    let began = Instant::now();
    for reply in at_once(16, |_| user.browser.get("/api/docs/list")) {
        expect_unavailable(&reply);
    }
    println!("refused after {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(11 + 2 + 5), "{:?}", began.elapsed());
    all_known();
    bouncer.signal(Signal::CONT);
    back("hung");

    bouncer.restart();
    back("killed");
    all_known();
}
