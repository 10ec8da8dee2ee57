//! Two-factor authentication under races. The invariants are asked of the database.

use serde_json::json;

use crate::harness::{Authenticator, Client, PASSWORD, Server, TestDb, at_once};
use crate::two_factor::{log_in, with_app};

/// A client at an address of its own: wrong guesses are not what is tested here.
fn from(server: &Server, n: usize) -> Client {
    server.web.anonymous().header("X-Forwarded-For", &format!("10.0.{n}.1"))
}

fn two_servers(db: &TestDb) -> [Server; 2] {
    let proxied = [("TRUSTED_PROXIES", "127.0.0.1")];
    [Server::start_with(db, &proxied), Server::start_with(db, &proxied)]
}

#[test]
fn one_code_opens_one_session() {
    let db = TestDb::new();
    let servers = two_servers(&db);
    let (_, app, recovery) = with_app(&servers[0], "ann@x");
    for (round, code) in [app.code(1), recovery[0].clone(), recovery[1].clone()].into_iter().enumerate() {
        let before = db.count("SELECT count(*) FROM sessions");
        // Fewer than the wrong guesses that are allowed.
        let statuses = at_once(6, |n| log_in(&from(&servers[n % 2], round * 6 + n), "ann@x", Some(&code)).status);
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert!(statuses.iter().all(|status| [200, 401, 429].contains(status)), "{statuses:?}");
        assert_eq!(db.count("SELECT count(*) FROM sessions"), before + 1);
    }
    assert_eq!(db.count("SELECT count(*) FROM recovery_codes WHERE used IS NOT NULL"), 2);
}

#[test]
fn it_is_turned_on_once() {
    let db = TestDb::new();
    let servers = two_servers(&db);
    for round in 0..5 {
        let user = servers[0].sign_up(&format!("ann{round}@x"));
        let begun = user.browser.post("/api/totp/enable", &json!({})).expect(200).json();
        let app = Authenticator::new(begun["secret"].as_str().unwrap());
        let body = json!({"totp": app.code(0)});
        let replies = at_once(4, |n| user.browser_of(&servers[n % 2]).post("/api/totp/confirm", &body));
        let done: Vec<_> = replies.iter().filter(|reply| reply.status == 200).collect();
        assert_eq!(done.len(), 1, "{replies:?}");
        assert!(replies.iter().all(|reply| [200, 409].contains(&reply.status)), "{replies:?}");
        // The codes that were shown are those that work.
        let codes = done[0].json()["recovery_codes"].clone();
        let code = codes[9].as_str().unwrap();
        log_in(&from(&servers[1], round), &user.email, Some(code)).expect(200);
    }
    assert_eq!(db.count("SELECT count(*) FROM recovery_codes"), 50);
}

/// Setting it up anew takes the place of what was begun, or comes too late. What is on is what was shown last before.
#[test]
fn what_is_turned_on_was_shown() {
    let db = TestDb::new();
    let servers = two_servers(&db);
    for round in 0..6 {
        let user = servers[0].sign_up(&format!("ann{round}@x"));
        let begun = user.browser.post("/api/totp/enable", &json!({})).expect(200).json();
        let app = Authenticator::new(begun["secret"].as_str().unwrap());
        let body = json!({"totp": app.code(0)});
        let replies = at_once(2, |n| match n {
            0 => user.browser.post("/api/totp/confirm", &body),
            _ => user.browser_of(&servers[1]).post("/api/totp/enable", &json!({})),
        });
        let is_on = db.count(&format!(
            "SELECT count(*) FROM second_factors WHERE user_id = '{}' AND confirmed IS NOT NULL",
            user.id
        ));
        match (replies[0].status, replies[1].status) {
            (200, 409) => {
                assert_eq!(is_on, 1);
                log_in(&from(&servers[1], round), &user.email, Some(&app.code(1))).expect(200);
            }
            (401, 200) => assert_eq!(is_on, 0),
            // The session is cached by the other server, or was read before it was to be confirmed.
            other => panic!("{other:?}"),
        }
    }
}

/// A log-in without a code succeeds only when it is off; one with the code that turns it off uses it up, or does not.
#[test]
fn turning_it_off_and_logging_in_come_one_after_the_other() {
    let db = TestDb::new();
    let servers = two_servers(&db);
    for round in 0..6 {
        let (user, app, _) = with_app(&servers[0], &format!("ann{round}@x"));
        let code = app.code(1);
        let body = json!({"totp": code});
        let replies = at_once(3, |n| match n {
            0 => user.browser.post("/api/totp/disable", &body),
            1 => log_in(&from(&servers[1], round), &user.email, Some(&code)),
            _ => log_in(&from(&servers[0], round + 100), &user.email, None),
        });
        let count = |sql: &str| db.count(&format!("SELECT count(*) FROM {sql} user_id = '{}'", user.id));
        let (is_on, sessions) = (count("second_factors WHERE") == 1, count("sessions WHERE"));
        let [off, with_code, without] = [0, 1, 2].map(|n| replies[n].status);
        let seen = format!("off {off}, with the code {with_code}, without {without}, {sessions} sessions");
        // The code is used once, by whoever comes first; if that turns it off, the other log-in needs none.
        assert_eq!(is_on, off == 401, "{seen}");
        assert!(
            if is_on { with_code == 200 && without == 401 } else { with_code == 200 && [200, 401].contains(&without) },
            "{seen}"
        );
        assert_eq!(sessions, 2 + i64::from(without == 200), "{seen}");
    }
}

#[test]
fn a_code_deletes_the_account_or_opens_a_session() {
    let db = TestDb::new();
    let servers = two_servers(&db);
    for round in 0..6 {
        let (user, app, _) = with_app(&servers[0], &format!("ann{round}@x"));
        let code = app.code(1);
        let body = json!({"password": PASSWORD, "totp": code});
        let replies = at_once(2, |n| match n {
            0 => user.browser.post("/api/delete-account", &body).status,
            _ => log_in(&from(&servers[1], round), &user.email, Some(&code)).status,
        });
        let accounts = db.count(&format!("SELECT count(*) FROM users WHERE id = '{}'", user.id));
        match (replies[0], replies[1]) {
            (200, 400) => assert_eq!(accounts, 0),
            (401, 200) => assert_eq!(accounts, 1),
            other => panic!("{other:?}"),
        }
        db.run(&format!("DELETE FROM users WHERE id = '{}'", user.id));
    }
    assert_eq!(db.count("SELECT (SELECT count(*) FROM second_factors) + (SELECT count(*) FROM recovery_codes)"), 0);
}
