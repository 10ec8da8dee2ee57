//! `/readyz` of a server that serves, while charges need the operator.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::budgets::{chat, obedient, start};
use crate::harness::charges;

#[test]
fn a_server_that_has_set_a_charge_aside_says_so_until_the_operator_has_seen_to_it() {
    let folder = std::env::temp_dir().join(format!("textgen-degraded-{}", textgen::usage::new_id()));
    let upstream = obedient();
    let (db, server, user) = start(&upstream, &[("JOURNAL_DIR", folder.to_str().unwrap())]);
    let readiness = || -> Value { server.web.anonymous().get("/readyz").expect(200).json() };
    server.wait_until("the server to be ready", || readiness()["status"] == "ready");
    db.run(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF new.completion_tokens = 13 THEN RAISE EXCEPTION 'not 13'; END IF; RETURN new; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON usage_events FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    let client = user.program(&server.inference);
    for tokens in [12, 13, 14] {
        client.post("/v1/chat/completions", &chat(tokens)).expect(200);
    }
    server.wait_until("the server to say what is aside", || readiness()["status"] == "degraded");
    let said = readiness();
    assert!(said["reason"].as_str().unwrap().contains("rejected.jsonl"), "{said}");
    assert_eq!(said["journal"]["set_aside"], 1, "{said}");
    assert_eq!(charges(&db).len(), 2, "the others are made");
    let aside = std::fs::read_to_string(folder.join("rejected.jsonl")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(aside.trim()).unwrap()["completion_tokens"], json!(13), "{aside}");
    std::fs::remove_file(folder.join("rejected.jsonl")).unwrap();
    server.wait_until("the server to be ready", || readiness()["status"] == "ready");
    // And of what another process has left, and cannot be read.
    std::fs::create_dir(unused_name(&folder)).unwrap();
    server.wait_until("the server to say what is stuck", || readiness()["journal"]["journals_stuck"] == 1);
    let said = readiness();
    assert_eq!((&said["status"], said["reason"].is_string()), (&json!("degraded"), true), "{said}");
    client.post("/v1/chat/completions", &chat(15)).expect(200);
    drop(server);
    std::fs::remove_dir_all(folder).unwrap();
}

/// The name of a journal of another process.
fn unused_name(folder: &Path) -> PathBuf {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let journal = names.into_iter().find(|name| name.ends_with(".journal")).expect("the server's own journal");
    folder.join(format!("{}-{}.journal", journal.split_once('-').unwrap().0, textgen::usage::new_id()))
}
