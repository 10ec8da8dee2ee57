//! Claims without a database.

use super::*;

fn claims() -> Arc<Claims> {
    let config = db::ConnectConfig::new("postgresql://nobody@127.0.0.1:1/none", "test").unwrap();
    Claims::new(Database::new(config, true, 1), 7)
}

/// How long each claim stays, in seconds.
fn delays(claims: &Claims) -> Vec<u64> {
    // They were made a moment ago.
    let then = Instant::now().checked_sub(Duration::from_millis(500)).unwrap();
    claims.ended.lock().iter().map(|(due, _)| due.duration_since(then).as_secs()).collect()
}

#[test]
fn a_claim_stays_after_its_end_only_if_a_reply_may_be_kept() {
    let claims = claims();
    let answered = |answer| {
        let claiming = claims.begin("u", "k");
        claiming.answer(answer);
        claims.queue.lock().waiting.clear();
        claiming
    };
    let Ok(KeyState::Claimed(claim)) = answered(Answer::Given(ClaimState::Claimed)).take() else { panic!() };
    assert!(delays(&claims).is_empty(), "it has not ended");
    drop(claim);
    assert_eq!(delays(&claims), [RETAINED.as_secs()]);
    drop(answered(Answer::Given(ClaimState::Running)));
    drop(answered(Answer::Given(ClaimState::Claimed)));
    assert_eq!(delays(&claims), [RETAINED.as_secs(), 0], "the client has left");
    let failed = answered(Answer::Failed(stopping()));
    assert!(failed.take().is_err());
    drop(failed);
    assert_eq!(delays(&claims), [RETAINED.as_secs(), 0, 0, MAX_DELAY.as_secs()], "its statement may still run");
}

#[test]
fn whoever_waits_is_notified_once() {
    let claims = claims();
    let notified = Arc::new(AtomicI64::new(0));
    let count = || {
        let notified = Arc::clone(&notified);
        Box::new(move || {
            notified.fetch_add(1, Ordering::SeqCst);
        })
    };
    let claiming = claims.begin("u", "k");
    claiming.notify(count());
    assert_eq!(notified.load(Ordering::SeqCst), 0);
    assert!(claiming.take().is_err(), "there is no answer yet");
    claiming.answer(Answer::Given(ClaimState::Running));
    claiming.notify(count());
    assert_eq!(notified.load(Ordering::SeqCst), 2);
    assert_eq!(claiming.wait(), Ok(()));
    assert!(matches!(claiming.take(), Ok(KeyState::Running)));
    // When the process stops, nobody waits in vain.
    let (waiting, stopped) = (claims.begin("u", "l"), AtomicBool::new(true));
    claims.queue.lock().waiting.clear();
    claims.run_calls(&stopped);
    drop(waiting);
    assert!(claims.begin("u", "m").take().is_err());
}
