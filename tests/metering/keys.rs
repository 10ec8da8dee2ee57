//! Charges with one `Idempotency-Key` whose days differ: one of them is made.

use std::thread;

use textgen::db::{self, Database, Error, Session};
use textgen::store::usage::charges::{self, Event};
use time::{Duration, OffsetDateTime};

use crate::harness::TestDb;
use crate::support::wait_until;

fn pool(db: &TestDb) -> Database {
    let pool = Database::new(db::ConnectConfig::new(&db.url(), "test").unwrap(), true, 4);
    pool.open();
    pool
}

/// A charge whose reply is kept under the key `k`.
fn event(id: &str, created: OffsetDateTime) -> Event {
    let micros = created.unix_timestamp() * 1_000_000;
    let event = serde_json::json!({"id": id, "may_repeat": false, "user_id": "u", "key_id": "", "server": "audio",
        "route": "/r", "model": "m", "prompt_tokens": 0, "completion_tokens": 0, "embedding_tokens": 0,
        "audio_millis": 0, "characters": 0, "requests": 1, "cost_micros": 7, "latency_micros": 0, "created": micros,
        "reply": {"key": "k", "fingerprint": "", "status": 200, "headers": "", "body": null, "bytes": 0}});
    serde_json::from_value(event).unwrap()
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}

/// So early that it was yesterday, and not a day ago.
fn yesterday() -> OffsetDateTime {
    now() - Duration::hours(23) - Duration::minutes(59)
}

fn charge(session: &mut Session, event: &Event) -> Result<Vec<String>, Error> {
    charges::charge(session, event.created.date(), &[event])
}

fn charge_new(session: &mut Session, event: &Event) -> Result<(), Error> {
    charges::charge_new(session, event.created.date(), &[event])
}

#[test]
fn a_charge_of_yesterday_and_its_repetition_are_not_both_made() {
    let db = TestDb::new();
    let pool = pool(&db);
    let (old, new) = (event("old", yesterday()), event("new", now()));
    let made = || db.count("SELECT count(*) FROM usage_events");
    let clear = || db.run("TRUNCATE usage_events, usage_daily, kept_replies");
    let mut session = pool.session().unwrap();

    // The journal of yesterday is replayed, then the repetition is charged; and the other way round.
    assert!(charge(&mut session, &old).unwrap().is_empty());
    assert!(matches!(charge_new(&mut session, &new), Err(Error::Unique(_))));
    assert_eq!(charge(&mut session, &new).unwrap(), ["new"]);
    assert_eq!(made(), 1);
    clear();
    charge_new(&mut session, &new).unwrap();
    assert_eq!(charge(&mut session, &old).unwrap(), ["old"]);
    assert_eq!(made(), 1);

    // One is not committed yet when the other begins: neither sees the other.
    let wait = |what: &str| {
        let waits = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database OR l.database IS NULL
            JOIN pg_stat_activity a USING (pid) WHERE NOT l.granted AND a.datname = current_database()
            AND d.datname = current_database()";
        wait_until(what, || db.count(waits) > 0);
    };
    for is_new_first_try in [true, false] {
        clear();
        let mut transaction = session.transaction().unwrap();
        assert!(charges::charge(&mut transaction, old.created.date(), &[&old]).unwrap().is_empty());
        thread::scope(|scope| {
            let repetition = scope.spawn(|| {
                let mut session = pool.session().unwrap();
                match is_new_first_try {
                    true => charge_new(&mut session, &new).map(|()| Vec::new()),
                    false => charge(&mut session, &new),
                }
            });
            wait("the repetition");
            transaction.commit().unwrap();
            let outcome = repetition.join().unwrap();
            assert!(matches!(&outcome, Err(Error::Unique(_))) || outcome.is_ok_and(|earlier| earlier == ["new"]));
        });
        assert_eq!(made(), 1);
    }
}

#[test]
fn a_key_is_free_after_a_day() {
    let db = TestDb::new();
    let pool = pool(&db);
    let mut session = pool.session().unwrap();
    let (old, new) = (event("old", now() - Duration::hours(25)), event("new", now()));
    assert!(charge(&mut session, &old).unwrap().is_empty());
    charge_new(&mut session, &new).unwrap();
    let later = event("later", now() - Duration::hours(26));
    assert_eq!(charge(&mut session, &later).unwrap(), ["later"], "that of an hour later was made");
    assert_eq!(db.count("SELECT count(*) FROM usage_events"), 2);
}
