//! What was charged, as the ledger has it.

use serde_json::Value;

use super::{Server, TestDb};

/// All charges so far, in their order.
pub fn charges(db: &TestDb, server: &Server) -> Vec<Value> {
    let mut client = db.connect();
    let there: bool = client.query_one("SELECT to_regclass('usage_events') IS NOT NULL", &[]).unwrap().get(0);
    if there {
        let rows = client.query("SELECT to_jsonb(e)::text FROM usage_events e ORDER BY created, id", &[]).unwrap();
        return rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect();
    }
    let log = server.log();
    let lines = log.lines().filter_map(|line| line.split_once(" charge {").map(|(_, rest)| format!("{{{rest}")));
    lines.filter_map(|line| serde_json::from_str(&line).ok()).collect()
}

/// The only charge, once it is there.
#[track_caller]
pub fn only_charge(db: &TestDb, server: &Server) -> Value {
    server.wait_until("a charge", || !charges(db, server).is_empty());
    let charges = charges(db, server);
    assert_eq!(charges.len(), 1, "{charges:?}");
    charges[0].clone()
}
