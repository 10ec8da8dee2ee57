//! What was charged, according to the ledger.

use serde_json::Value;

use super::{Server, TestDb};

/// All charges so far, the oldest first.
pub fn charges(db: &TestDb) -> Vec<Value> {
    let mut client = db.connect();
    let rows = client.query("SELECT to_jsonb(e)::text FROM usage_events e ORDER BY created, id", &[]).unwrap();
    rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
}

/// Waits for the first charge, and fails the test if there is another.
#[track_caller]
pub fn only_charge(db: &TestDb, server: &Server) -> Value {
    server.wait_until("a charge", || !charges(db).is_empty());
    let charges = charges(db);
    assert_eq!(charges.len(), 1, "{charges:?}");
    charges[0].clone()
}

/// Stops the server, which writes all its charges before it exits, and returns all charges in the ledger. Only then is it
/// certain that no more will follow.
#[track_caller]
pub fn final_charges(db: &TestDb, server: Server) -> Vec<Value> {
    assert_eq!(server.stop(), 0);
    charges(db)
}
