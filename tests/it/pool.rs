//! The pool of connections, when those that it has are lost.

use std::sync::mpsc;
use std::thread;

use textgen::db::{ConnectConfig, Database, Error, Executor};

use crate::harness::{TestDb, soon};

/// How often it is tried on a busy machine, on which those that wait may give up first.
const TRIES: usize = 5;

/// A pool that is full makes no connection for those that come then. When the connections that it has are lost, it does, and
/// not only when somebody else comes.
#[test]
fn those_who_wait_for_a_connection_get_a_new_one_when_it_is_lost() {
    let db = TestDb::new();
    for round in 1..=TRIES {
        let pool = Database::new(ConnectConfig::new(&db.url(), "waiters").unwrap(), true, 2);
        pool.open();
        let mut held = [(); 2].map(|()| pool.session().unwrap());
        let (waiter, outcomes) = mpsc::channel();
        for _ in 0..4 {
            let (pool, waiter) = (pool.clone(), waiter.clone());
            thread::spawn(move || {
                let outcome = pool.session().and_then(|mut session| session.query_one("SELECT 1", &[]).map(drop));
                waiter.send(outcome).unwrap();
            });
        }
        soon("four to wait", || pool.pool_state().waiting == 4);
        db.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'waiters'");
        for session in &mut held {
            // The second one shows that the connection is closed, so that the pool drops it.
            assert!((0..2).all(|_| session.query_one("SELECT 1", &[]).is_err()));
        }
        drop(held);
        let outcomes: Vec<Result<(), Error>> = outcomes.iter().take(4).collect();
        if outcomes.iter().all(Result::is_ok) {
            return;
        }
        println!("{outcomes:?} in round {round}");
    }
    panic!("nobody was served");
}
