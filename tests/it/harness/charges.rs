//! What was charged, as the ledger has it.

use serde_json::Value;

use super::{Server, TestDb};

/// All charges so far, in their order.
pub fn charges(db: &TestDb) -> Vec<Value> {
    let mut client = db.connect();
    let rows = client.query("SELECT to_jsonb(e)::text FROM usage_events e ORDER BY created, id", &[]).unwrap();
    rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
}

/// The only charge, once it is there.
#[track_caller]
pub fn only_charge(db: &TestDb, server: &Server) -> Value {
    server.wait_until("a charge", || !charges(db).is_empty());
    let charges = charges(db);
    assert_eq!(charges.len(), 1, "{charges:?}");
    charges[0].clone()
}
