//! A database with few connections: the servers live with those that it grants, and leave some to others.

use std::thread;
use std::time::{Duration, Instant};

use postgres::{Client, NoTls};
use serde_json::json;

use crate::harness::{Cluster, Server, TestDb, Upstream, User, assert_books_agree, charges, retry_while_unavailable};

/// How long servers may take to share out what connections there are, on a busy machine: one that is idle is closed within a
/// minute.
const PATIENCE: Duration = Duration::from_secs(180);

#[track_caller]
fn wait_for(what: &str, servers: &[Server], mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        let logs = || servers.iter().map(Server::log).collect::<Vec<_>>().join("\n\n");
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}: {}", logs());
        thread::sleep(Duration::from_millis(50));
    }
    println!("{what} after {:?}", began.elapsed());
}

#[test]
fn three_processes_share_twenty_connections() {
    let cluster = Cluster::start();
    let db = TestDb::existing(&cluster.url());
    // An ordinary role: three of the twenty are reserved for superusers.
    db.run(
        "CREATE ROLE ordinary LOGIN PASSWORD 'ordinary'; GRANT ALL ON ALL TABLES IN SCHEMA public TO ordinary;
         GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO ordinary",
    );
    cluster.set("max_connections = 20");
    cluster.stop();
    cluster.launch();
    let url = format!("postgresql://ordinary:ordinary@{}", cluster.url().rsplit_once('@').unwrap().1);
    let upstream = Upstream::counting();
    let settings = [("POOL_SIZE", "16"), ("INFERENCE_URL", upstream.url.as_str())];
    let servers: Vec<Server> = (0..3).map(|_| Server::spawn(&url, &settings)).collect();
    for server in &servers {
        let client = server.web.anonymous();
        wait_for("a server that is ready and listens", &servers, || {
            let reply = client.get("/readyz");
            reply.status == 200 && reply.json()["listening"] == true
        });
    }
    // An operator gets a connection too.
    wait_for("a connection of somebody else", &servers, || Client::connect(&url, NoTls).is_ok());
    let users: Vec<User> = servers.iter().enumerate().map(|(n, s)| s.sign_up(&format!("u{n}@example.com"))).collect();
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "3"}]});
    thread::scope(|scope| {
        for (server, user) in servers.iter().zip(&users) {
            for _ in 0..8 {
                scope.spawn(|| {
                    for n in 0..10 {
                        // On a busy machine, one may wait in vain for its turn.
                        let document = json!({"content": n.to_string()});
                        retry_while_unavailable(|| user.browser.post("/api/docs/save", &document)).expect(200);
                        let program = user.program(&server.inference);
                        retry_while_unavailable(|| program.post("/v1/chat/completions", &chat)).expect(200);
                    }
                });
            }
        }
    });
    wait_for("the charges", &servers, || charges(&db).len() == 240);
    assert_books_agree(&db);
    for server in &servers {
        let log = server.log();
        assert!(log.matches("grants no more connections").count() <= 1, "{log}");
        assert!(!log.contains("cannot be reached"), "{log}");
    }
    wait_for("a connection of somebody else", &servers, || Client::connect(&url, NoTls).is_ok());
}
