//! A primary dies and its standby takes over: nothing acknowledged is lost, and servers continue without help.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::documents::save;
use crate::harness::{Cluster, LoadRecord, Server, TestDb, Upstream, assert_books_agree, refused_soon};

/// Writes resume within 5 s; the rest is for a busy machine.
const RESUMPTION: Duration = Duration::from_secs(5 + 4);

/// Stops the clients, also if the test fails, so that their threads can be joined.
pub struct End<'t>(pub &'t LoadRecord);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

#[test]
fn a_standby_takes_over_and_nothing_acknowledged_is_lost() {
    let cluster = Cluster::start();
    drop(TestDb::existing(&cluster.url()));
    let standby = cluster.standby();
    let server = Server::spawn(&standby.either_url(), &[("INFERENCE_URL", &Upstream::counting().url)]);
    server.wait_until_listening();
    let (user, other) = (server.sign_up("ann@example.com"), server.sign_up("bob@example.com"));
    let revoked = other.program(&server.inference);
    revoked.get("/api/current-user").expect(200);
    let documents: Vec<String> = (0..3).map(|_| save(&user.browser, &json!({"content": "0"}))).collect();
    let told = LoadRecord::default();
    let resumed = thread::scope(|scope| {
        let end = End(&told);
        for id in &documents {
            scope.spawn(|| told.save(|| server.web.clone(), &user.secret, id));
            scope.spawn(|| told.charge(|| server.inference.clone(), &user.secret));
        }
        server.wait_until("work", || told.saved() > 30 && told.charged() > 30);
        cluster.kill();
        let charged = told.charged();
        server.wait_until("charges without a database", || told.charged() > charged + 10);
        revoked.get("/api/current-user").expect(200);
        standby.promote();
        let (promoted, saved) = (Instant::now(), told.saved());
        let mut client = postgres::Client::connect(&standby.url(), postgres::NoTls).unwrap();
        client.execute("UPDATE api_keys SET revoked = now() WHERE user_id = $1", &[&other.id]).unwrap();
        server.wait_until("saves by the new primary", || told.saved() > saved);
        let resumed = promoted.elapsed();
        refused_soon(&revoked);
        let saved = told.saved();
        server.wait_until("more of them", || told.saved() > saved + 30);
        drop(end);
        resumed
    });
    println!("saves went on {resumed:?} after the promotion; {:?}", told.statuses.lock().unwrap());
    assert!(resumed < RESUMPTION, "{resumed:?}");
    told.assert_statuses(&[200, 409, 503]);
    let db = TestDb::existing(&standby.url());
    told.assert_charged(&db, &[&user.id]);
    assert_books_agree(&db);
    user.browser.get("/api/current-user").expect(200);
    assert!(!server.log().contains(" ERROR "), "{}", server.log());
}
