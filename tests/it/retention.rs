//! Retention of the ledger.

use crate::harness::{Server, TestDb, soon};

/// Inserts a charge in the middle of an earlier month, with its id and daily total.
fn charge_months_ago(db: &TestDb, months: i32) {
    let at = format!("date_trunc('month', now() AT TIME ZONE 'UTC') - interval '{months} months' + interval '14 days'");
    db.run(&format!(
        "INSERT INTO usage_events SELECT {at}, 0, 0, 0, 0, 0, 1, 9, 0, 'id{months}', 'u', NULL, 's', 'r', 'm';
         INSERT INTO charge_ids SELECT 'id{months}', {at};
         INSERT INTO usage_daily SELECT 'u', ({at})::date, 's', 'r', 'm', '', 1, 0, 0, 0, 0, 0, 1, 9"
    ));
}

fn kept(db: &TestDb) -> Vec<String> {
    let rows = db.connect().query("SELECT id FROM usage_events ORDER BY created DESC", &[]).unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn old_months_are_dropped_if_configured() {
    let db = TestDb::new();
    for months in 0..5 {
        db.run(&format!(
            "SELECT textgen_make_usage_partition((date_trunc('month', now() AT TIME ZONE 'UTC')
                - interval '{months} months')::date)"
        ));
        charge_months_ago(&db, months);
    }
    // Older than any partition.
    charge_months_ago(&db, 40);
    let all = ["id0", "id1", "id2", "id3", "id4", "id40"];

    // The server drops old partitions right after it creates future ones, and finishes both before it exits.
    let next = "usage_events_' || to_char((now() AT TIME ZONE 'UTC') + interval '1 month', 'YYYY_MM')";
    db.run(&format!("DO $$ BEGIN EXECUTE 'DROP TABLE {next}; END $$"));
    let server = Server::start(&db);
    server.wait_until("the next month", || db.count(&format!("SELECT count(to_regclass('{next}))")) == 1);
    assert_eq!(server.stop(), 0);
    assert_eq!(kept(&db), all, "by default nothing is dropped");

    // While a reader holds a lock, charges must not queue behind the server's attempt to drop partitions.
    let mut reader = db.connect();
    let mut reading = reader.transaction().unwrap();
    reading.query("SELECT * FROM usage_events", &[]).unwrap();
    let server = Server::start_with(&db, &[("USAGE_RETENTION_MONTHS", "2")]);
    server.wait_until("a line about it", || server.log().contains("cannot maintain the ledger's partitions"));
    assert_eq!(kept(&db), all);
    reading.commit().unwrap();
    drop(server);

    let server = Server::start_with(&db, &[("USAGE_RETENTION_MONTHS", "2")]);
    soon("the old months to be dropped", || kept(&db) == ["id0", "id1", "id2"]);
    server.wait_until("a line about it", || {
        server.log().contains("dropped old months of the ledger (USAGE_RETENTION_MONTHS=2): 2")
    });
    assert_eq!(db.count("SELECT count(*) FROM usage_daily"), 6, "daily totals are kept");
    assert_eq!(db.count("SELECT count(*) FROM charge_ids"), 6, "ids supplied by clients are kept");
}

#[test]
fn keys_are_deleted_a_month_after_they_have_ended() {
    let db = TestDb::new();
    db.run(
        "INSERT INTO users (id, email) VALUES ('u', 'ann@example.com');
         INSERT INTO api_keys (id, user_id, name, digest, prefix, revoked, expires)
         SELECT k.id, 'u', k.id, sha256(k.id::bytea), 'tg_', now() - k.revoked, now() - k.expires FROM (VALUES
            ('works', NULL, NULL), ('lasts', NULL, interval '-90 days'),
            ('revoked lately', interval '29 days', NULL), ('revoked long ago', interval '31 days', interval '-90 days'),
            ('expired lately', NULL, interval '29 days'), ('expired long ago', NULL, interval '31 days')
         ) AS k (id, revoked, expires)",
    );
    let server = Server::start(&db);
    let left = || -> Vec<String> {
        let rows = db.connect().query("SELECT id FROM api_keys ORDER BY id", &[]).unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    server.wait_until("the keys to be deleted", || left().len() == 4);
    assert_eq!(left(), ["expired lately", "lasts", "revoked lately", "works"]);
}
