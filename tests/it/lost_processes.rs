//! Processes that stop, that are lost with all they know, or that the database has lost.

use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use crate::budgets::{chat, key_with, obedient, set_price, settled, start};
use crate::budgets_at_once::{charged, spent};
use crate::harness::{Client, Server, Signal, TestDb, done, refused, run, soon};
use crate::rates::{CHAT, patient, rated, stream};

fn status(client: &Client, tokens: i64) -> u16 {
    client.post(CHAT, &chat(tokens)).status
}

#[test]
fn a_process_that_the_database_has_lost_begins_anew_and_passes_no_budget() {
    let (db, server, user) = start(&obedient(), &[]);
    let (_, client) = key_with(&user, &server, 50);
    assert_eq!(status(&client, 10), 200);
    for _ in 0..2 {
        let holder = "SELECT min(id) FROM lease_holders WHERE ended IS NULL";
        let id = |db: &TestDb| db.connect().query_one(holder, &[]).unwrap().get::<_, Option<String>>(0);
        let before = id(&db).unwrap();
        // As after a fail-over to a standby that had not heard of the process.
        db.run("DELETE FROM lease_holders; UPDATE budgets SET leased_picos = 0");
        soon("the process to be another", || {
            assert!([200, 402, 503].contains(&status(&client, 1)));
            id(&db).is_some_and(|id| id != before)
        });
    }
    // The same where it has lost only what was granted last.
    db.run("UPDATE leases SET granted_picos = returned_picos + settled_picos; UPDATE budgets SET leased_picos = 0");
    // A request may be refused while the process begins anew, which takes a moment.
    soon("all of the budget to be spent", || {
        assert!([200, 402, 503].contains(&status(&client, 10)));
        charged(&db) == 50
    });
    soon("the charges to be settled", || spent(&db) == 50);
    assert_eq!((status(&client, 1), charged(&db)), (402, 50));
}

#[test]
fn a_grant_that_is_lost_before_its_charge_is_settled_leaves_nothing_set_aside() {
    let (db, server, user) = start(&obedient(), &[]);
    let (_, client) = key_with(&user, &server, 50);
    db.run(
        "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no settlements now'; END $$;
        CREATE TRIGGER fails BEFORE INSERT OR UPDATE ON budget_windows FOR EACH ROW EXECUTE FUNCTION fails()",
    );
    assert_eq!(status(&client, 10), 200);
    assert_eq!(db.count("SELECT count(*) FROM unsettled"), 1);
    db.run(
        "SELECT FROM budgets FOR UPDATE; DROP TRIGGER fails ON budget_windows;
        UPDATE leases SET granted_picos = returned_picos + settled_picos; UPDATE budgets SET leased_picos = 0",
    );
    settled(&db);
    soon("all of the budget to be spent", || {
        assert!([200, 402, 503].contains(&status(&client, 10)));
        charged(&db) == 50
    });
    soon("the charges to be settled", || spent(&db) == 50);
    assert_eq!((status(&client, 1), charged(&db)), (402, 50));
}

#[test]
fn an_operator_ends_a_process_that_was_lost_with_its_folder() {
    let db = TestDb::new();
    set_price(&db);
    let (upstream, over) = patient();
    let serve = || {
        let folder = std::env::temp_dir().join(format!("textgen-lost-{}", textgen::usage::new_id()));
        let settings = [("INFERENCE_URL", upstream.url.as_str()), ("JOURNAL_DIR", folder.to_str().unwrap())];
        let server = Server::start_with(&db, &settings);
        server.wait_until_listening();
        (server, folder)
    };
    let ((lost, lost_folder), (server, folder)) = (serve(), serve());
    let user = server.sign_up("ann@example.com");
    let budget = serde_json::json!({"name": "k", "budget": {"limit_micros": 1000}});
    let key = user.browser.post("/api/keys", &budget).expect(200).json();
    let secret = key["secret"].as_str().unwrap();
    let client = server.inference.with_secret(secret);
    let textgen = |args: &[&str]| run(args, &[("DATABASE_URL", &db.url())], "");
    let list = || done(textgen(&["process", "list"]));
    // The id of the process for which all of the budget is set aside.
    let holder = || {
        let text = list();
        let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.find(|fields| fields[2..4] == ["1", "1000"]).map(|fields| fields[0].to_owned())
    };
    thread::scope(|scope| {
        let doomed = lost.inference.with_secret(secret);
        scope.spawn(move || doomed.try_send("POST", CHAT, Some("application/json"), stream().to_string().as_bytes()));
        soon("all of the budget to be set aside", || holder().is_some());
        lost.signal(Signal::KILL);
    });
    std::fs::remove_dir_all(lost_folder).unwrap();
    over.store(true, SeqCst);
    assert_eq!(status(&client, 1), 402, "nobody knows what the lost journal holds");
    let id = holder().unwrap();
    let said = done(textgen(&["process", "end", &id]));
    assert!(said.contains("1000 micro-dollars of 1 budgets"), "{said}");
    soon("the budget to be free", || status(&client, 1) == 200);
    refused(textgen(&["process", "end", &id]), "no such process");
    assert!(!list().contains(&id));
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'end process'"), 1);
    done(textgen(&["user", "promote", &user.email]));
    server.wait_until("the promotion to be seen", || user.browser.get("/admin").status == 200);
    let page = user.browser.header("accept", "text/html").get("/admin").expect(200).text();
    assert!(page.contains("end process") || !page.contains("audit"), "{page}");
    drop(server);
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn a_process_that_stops_hands_back_the_permits_that_it_did_not_use() {
    let (db, server, user) = start(&obedient(), &[]);
    let (_, secret) = rated(&user, &serde_json::json!({"requests_per_minute": 100, "tokens_per_minute": 100_000}));
    let client = server.inference.with_secret(&secret);
    for _ in 0..3 {
        assert_eq!(status(&client, 5), 200);
    }
    assert!(db.count("SELECT sum(granted - returned)::bigint FROM rate_shares WHERE kind = 1") >= 3);
    server.stop();
    let cooling = |kind: i32| format!("SELECT sum(amount)::bigint FROM rate_cooling WHERE kind = {kind}");
    assert_eq!(db.count(&cooling(1)), 3);
    let tokens = db.count(&cooling(2));
    assert!((3..1000).contains(&tokens), "{tokens}");
}
