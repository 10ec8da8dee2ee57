//! Getting in again, and changing the password or the e-mail address by links.

use serde_json::json;

use crate::harness::smtp::{Behaviour, ReceivedMail, Smtp, Stage};
use crate::harness::{Client, PASSWORD, Reply, Server, TestDb, at_once, wait_until};
use crate::two_factor::with_app;

const RESET: &str = "Choose a new password";
const CONFIRM: &str = "Confirm your new e-mail address";
const CHANGED: &str = "Your password was changed";
const NEW: &str = "another good password";

fn forgot(server: &Server, email: &str) -> Reply {
    server.web.anonymous().post("/api/forgot-password", &json!({"email": email}))
}

fn reset(server: &Server, token: &str, password: &str) -> Reply {
    server.web.anonymous().post("/api/reset-password", &json!({"token": token, "password": password}))
}

fn log_in(server: &Server, email: &str, password: &str) -> Reply {
    server.web.anonymous().post("/api/login", &json!({"email": email, "password": password}))
}

/// A link's token, of the `count`th mail to this address.
#[track_caller]
fn link(server: &Server, smtp: &Smtp, count: usize, email: &str) -> String {
    forgot(server, email).expect(200);
    smtp.wait_for(count, email, RESET).token()
}

fn waiting(db: &TestDb) -> i64 {
    db.count("SELECT count(*) FROM mails WHERE sent IS NULL AND put_aside IS NULL")
}

fn as_browser(client: &Client) -> Client {
    client.header("accept", "text/html")
}

#[test]
fn a_forgotten_password_is_replaced_by_forms_alone() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    let user = server.sign_up("ann@example.com");
    let other = server.sign_in("ann@example.com", PASSWORD);
    let web = as_browser(&server.web.anonymous());
    assert!(web.get("/login").expect(200).text().contains("href=\"/forgot-password\""));
    assert!(web.get("/forgot-password").expect(200).text().contains("action=\"/forgot-password\""));
    let reply = web.form("/forgot-password", &[("email", " Ann@Example.com ")]).expect(303);
    assert!(web.get(reply.header("location").unwrap()).expect(200).text().contains("Check your e-mail"));
    let mail = smtp.wait_for(1, "ann@example.com", RESET);
    let token = mail.token();
    let page = web.get(&format!("/reset-password?token={token}")).expect(200);
    assert_eq!(page.header("cache-control"), Some("no-store"));
    assert!(page.text().contains("For ann@example.com") && page.text().contains("There is 1 active key"));
    // What is wrong is said beside the form, and the link can still be used.
    let form = |password, confirm| {
        web.form("/reset-password", &[("token", &token), ("password", password), ("password_confirm", confirm)])
    };
    assert!(form(NEW, "another").expect(400).text().contains("The passwords don&#39;t match"));
    assert!(form("short", "short").expect(400).text().contains("at least 8 characters"));
    let done = form(NEW, NEW).expect(303);
    assert_eq!(done.header("location"), Some("/login?done=password"));
    // Nobody is signed in by that.
    assert!(done.header("set-cookie").is_none());
    assert!(web.get("/login?done=password").expect(200).text().contains("Password saved. Log in with it."));
    assert!(form(NEW, NEW).expect(400).text().contains("expired or was already used"));
    assert!(web.get(&format!("/reset-password?token={token}")).expect(400).text().contains("Send a new link"));
    for client in [&user.browser, &other] {
        client.get("/api/current-user").expect(401);
    }
    log_in(&server, "ann@example.com", PASSWORD).expect(400);
    log_in(&server, "ann@example.com", NEW).expect(200);
    user.program(&server.inference).get("/api/current-user").expect(200);
    let text = smtp.wait_for(1, "ann@example.com", CHANGED).part("text/plain");
    assert!(
        text.contains("password of ann@example.com at text.example was changed") && !text.contains("token"),
        "{text}"
    );
    let audited = "SELECT count(*) FROM audit WHERE action = 'reset password' AND actor = 'ann@example.com'
        AND user_id = actor_id AND detail = '2 sessions and 0 keys ended' AND address = '127.0.0.1'";
    assert_eq!(db.count(audited), 1);
    // Who gets mails at the address is its owner.
    assert_eq!(db.count("SELECT count(*) FROM users WHERE email_verified IS NOT NULL"), 1);
    assert!(!server.log().contains(&token));
}

#[test]
fn keys_are_revoked_if_that_is_asked_for() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    let user = server.sign_up("ann@example.com");
    user.browser.post("/api/keys", &json!({"name": "laptop"})).expect(200);
    let program = user.program(&server.audio);
    program.get("/api/current-user").expect(200);
    let token = link(&server, &smtp, 1, "ann@example.com");
    let body = json!({"token": token, "password": NEW, "revoke_keys": true});
    let reply = server.web.anonymous().post("/api/reset-password", &body).expect(200).json();
    assert_eq!((reply["sessions_ended"].clone(), reply["keys_revoked"].clone()), (json!(1), json!(2)));
    program.get("/api/current-user").expect(401);
    assert_eq!(db.count("SELECT count(*) FROM api_keys WHERE revoked IS NULL"), 0);
    let browser = server.sign_in("ann@example.com", NEW);
    assert_eq!(browser.get("/api/current-user").expect(200).json()["secret"], "");
    // The same by a change.
    let key = browser.post("/api/keys", &json!({"name": "new"})).expect(200).json();
    let program = server.web.with_secret(key["secret"].as_str().unwrap());
    program.get("/api/current-user").expect(200);
    let form = [("current_password", NEW), ("new_password", PASSWORD), ("revoke_keys", "true")];
    browser.form("/account/password", &form).expect(303);
    program.get("/api/current-user").expect(401);
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'change password'"), 1);
}

#[test]
fn nobody_learns_which_addresses_have_accounts() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    server.sign_up("ann@example.com");
    server.sign_up("sus@example.com");
    db.run("UPDATE users SET suspended = now() WHERE email = 'sus@example.com'");
    // Until they are sent, they are the same for everybody.
    smtp.set(Behaviour::Refuse(Stage::Greeting, "421 later".to_owned()));
    let addresses = ["ann@example.com", "nobody@example.com", "sus@example.com", "no address", ""];
    let replies = addresses.map(|address| forgot(&server, address).expect(200));
    for reply in &replies {
        assert_eq!(reply.text(), replies[0].text());
    }
    smtp.set(Behaviour::Accept);
    server.wait_until("all to be sent or dropped", || {
        db.run("UPDATE mails SET next_at = now() WHERE sent IS NULL");
        waiting(&db) == 0
    });
    let resets: Vec<ReceivedMail> = smtp.mails().into_iter().filter(|mail| mail.header("Subject") == RESET).collect();
    assert_eq!(resets.len(), 1, "{resets:?}");
    assert_eq!(db.count("SELECT count(*) FROM mails WHERE kind = 'reset'"), 1);
    // Who asks too often is told so, whether or not there is an account.
    for address in ["ann@example.com", "nobody@example.com"] {
        let statuses: Vec<u16> = (0..6).map(|_| forgot(&server, address).status).collect();
        assert_eq!(statuses, [200, 200, 200, 200, 429, 429], "{address}");
    }
    let refused = as_browser(&server.web.anonymous()).form("/forgot-password", &[("email", "ann@example.com")]);
    assert!(
        refused.clone().expect(429).text().contains("Too many attempts") && refused.header("retry-after").is_some()
    );
    let others = (0..30).map(|n| forgot(&server, &format!("{n}@example.com")).status).collect::<Vec<_>>();
    assert!(others.contains(&200) && others.last() == Some(&429), "{others:?}");
}

#[test]
fn an_address_gets_only_so_many_links_an_hour() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[("TRUSTED_PROXIES", "127.0.0.1")]);
    server.sign_up("ann@example.com");
    for n in 0..8 {
        let client = server.web.anonymous().header("x-forwarded-for", &format!("10.0.{n}.1"));
        client.post("/api/forgot-password", &json!({"email": "ann@example.com"})).expect(200);
    }
    wait_until("the mails", || waiting(&db) == 0);
    assert_eq!(smtp.about("ann@example.com", RESET).len(), 5);
}

#[test]
fn using_a_link_or_changing_the_password_ends_the_others() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    let user = server.sign_up("ann@example.com");
    let (first, second) = (link(&server, &smtp, 1, "ann@example.com"), link(&server, &smtp, 2, "ann@example.com"));
    assert_eq!(db.count("SELECT count(*) FROM account_links WHERE purpose = 'password'"), 2);
    reset(&server, &second, NEW).expect(200);
    reset(&server, &first, "yet another one").expect(400);
    let third = link(&server, &smtp, 3, "ann@example.com");
    // One that is not sent yet ends too.
    smtp.set(Behaviour::Refuse(Stage::Greeting, "421 later".to_owned()));
    forgot(&server, "ann@example.com").expect(200);
    server.wait_until("an attempt", || {
        db.count("SELECT count(*) FROM mails WHERE kind = 'reset' AND problem IS NOT NULL") == 1
    });
    let browser = server.sign_in("ann@example.com", NEW);
    let body = json!({"current_password": NEW, "new_password": PASSWORD});
    browser.post("/api/change-password", &body).expect(200);
    reset(&server, &third, NEW).expect(400);
    assert_eq!(db.count("SELECT count(*) FROM account_links WHERE purpose = 'password'"), 0);
    smtp.set(Behaviour::Accept);
    server.wait_until("the rest to be sent", || {
        db.run("UPDATE mails SET next_at = now() WHERE sent IS NULL");
        waiting(&db) == 0
    });
    assert_eq!(smtp.about("ann@example.com", RESET).len(), 3);
    user.program(&server.web).get("/api/current-user").expect(200);
}

#[test]
fn a_link_ends_after_half_an_hour() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    server.sign_up("ann@example.com");
    let token = link(&server, &smtp, 1, "ann@example.com");
    let lifetime =
        "SELECT extract(epoch FROM max(expires) - now())::bigint FROM account_links WHERE purpose = 'password'";
    assert!((1700..=1800).contains(&db.count(lifetime)), "{}", db.count(lifetime));
    db.run("UPDATE account_links SET expires = now()");
    reset(&server, &token, NEW).expect(400);
    for token in ["", "tl_", "nonsense", "' OR true --"] {
        reset(&server, token, NEW).expect(400);
    }
    // A link is good for one thing only.
    let verify = smtp.wait_for(1, "ann@example.com", "Confirm your e-mail address").token();
    db.run("UPDATE account_links SET expires = now() + interval '1 hour'");
    reset(&server, &verify, NEW).expect(400);
    server.web.anonymous().post("/api/confirm-email", &json!({"token": token})).expect(400);
    reset(&server, &token, NEW).expect(200);
}

#[test]
fn of_several_who_use_one_link_one_succeeds() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let servers = [smtp.server(&db, &[]), smtp.server(&db, &[])];
    servers[0].sign_up("ann@example.com");
    for round in 0..3 {
        let token = link(&servers[0], &smtp, round + 1, "ann@example.com");
        let password = |n: usize| format!("password number {round} of {n}");
        let replies = at_once(6, |n| reset(&servers[n % 2], &token, &password(n)).status);
        let winners: Vec<usize> = (0..6).filter(|n| replies[*n] == 200).collect();
        assert_eq!(winners.len(), 1, "{replies:?}");
        assert!(replies.iter().all(|status| [200, 400].contains(status)), "{replies:?}");
        log_in(&servers[0], "ann@example.com", &password(winners[0])).expect(200);
        log_in(&servers[1], "ann@example.com", &password((winners[0] + 1) % 6)).expect(400);
    }
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'reset password'"), 3);
    assert_eq!(db.count("SELECT count(*) FROM account_links WHERE purpose <> 'verify'"), 0);
}

#[test]
fn a_log_in_with_the_old_password_does_not_outlive_a_reset() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    // Each from elsewhere, as guesses are limited.
    let server = smtp.server(&db, &[("TRUSTED_PROXIES", "127.0.0.1")]);
    let log_in_from = |round: i32, n: usize, password: &str| {
        let client = server.web.anonymous().header("x-forwarded-for", &format!("10.0.{round}.{n}"));
        client.post("/api/login", &json!({"email": "ann@example.com", "password": password}))
    };
    server.sign_up("ann@example.com");
    let mut current = PASSWORD.to_owned();
    for round in 0..4 {
        let token = link(&server, &smtp, usize::try_from(round).unwrap() + 1, "ann@example.com");
        let next = format!("password number {round}");
        let done = at_once(5, |n| match n {
            0 => reset(&server, &token, &next).status,
            _ => log_in_from(round, n, &current).status,
        });
        assert_eq!(done[0], 200, "{done:?}");
        assert!(done[1..].iter().all(|status| [200, 400].contains(status)), "{done:?}");
        // Whoever came first: no session is left that began with the old password.
        assert_eq!(db.count("SELECT count(*) FROM sessions"), 0, "{done:?}");
        current = next;
    }
    log_in_from(9, 9, &current).expect(200);
}

#[test]
fn a_new_address_is_confirmed_and_both_are_told() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    let user = server.sign_up("ann@example.com");
    let change =
        |email: &str, password: &str| user.browser.form("/account/email", &[("email", email), ("password", password)]);
    assert!(change("new@example.com", "wrong").expect(400).text().contains("The password is incorrect"));
    assert!(change("nonsense", PASSWORD).expect(400).text().contains("Enter a valid e-mail address"));
    assert!(change("Ann@example.com", PASSWORD).expect(400).text().contains("your e-mail address already"));
    let reply = change(" New@Example.com", PASSWORD).expect(303);
    assert_eq!(reply.header("location"), Some("/account?done=email"));
    let token = smtp.wait_for(1, "new@example.com", CONFIRM).token();
    // Nothing has changed yet.
    log_in(&server, "new@example.com", PASSWORD).expect(400);
    let reset_token = link(&server, &smtp, 1, "ann@example.com");
    let web = as_browser(&server.web.anonymous());
    let page = web.get(&format!("/confirm-email?token={token}")).expect(200).text();
    assert!(page.contains("Use <strong>new@example.com</strong> as the address of your account?"), "{page}");
    let reply = web.form("/confirm-email", &[("token", &token)]).expect(303);
    assert!(web.get(reply.header("location").unwrap()).expect(200).text().contains("has its new e-mail address"));
    assert_eq!(user.browser.get("/api/current-user").expect(200).json()["email"], "new@example.com");
    log_in(&server, "ann@example.com", PASSWORD).expect(400);
    log_in(&server, "new@example.com", PASSWORD).expect(200);
    for address in ["ann@example.com", "new@example.com"] {
        let text = smtp.wait_for(1, address, "Your e-mail address was changed").part("text/plain");
        assert!(text.contains("Old: ann@example.com") && text.contains("New: new@example.com"), "{text}");
    }
    // Links that went to the old address are of no use.
    reset(&server, &reset_token, NEW).expect(400);
    let audited = "SELECT count(*) FROM audit WHERE action = 'change e-mail' AND user_email = 'ann@example.com'
        AND detail = 'to new@example.com'";
    assert_eq!(db.count(audited), 1);
    assert_eq!(db.count("SELECT count(*) FROM users WHERE email_verified IS NOT NULL"), 1);
}

#[test]
fn a_new_address_takes_a_code_of_the_second_factor() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    let (user, app, recovery) = with_app(&server, "ann@example.com");
    let asked = || db.count("SELECT count(*) FROM mails WHERE kind = 'confirm_email'");
    let mut body = json!({"email": "new@example.com", "password": PASSWORD});
    let refused = user.browser.post("/api/change-email", &body).expect(401).json();
    assert_eq!(refused, json!({"detail": "Code required", "code": "totp_required"}));
    body["totp"] = json!(app.wrong_code());
    assert_eq!(user.browser.post("/api/change-email", &body).expect(401).json()["code"], "totp_invalid");
    assert_eq!(asked(), 0);
    body["totp"] = json!(recovery[0]);
    user.browser.post("/api/change-email", &body).expect(200);
    user.browser.post("/api/change-email", &body).expect(401);
    // The form says it beside the field, and keeps the address.
    let shown = as_browser(&user.browser).get("/account").expect(200).text();
    assert!(shown.contains(r#"id="email-totp" name="totp""#), "{shown}");
    let form = |password: &str, code: &str| {
        let fields = [("email", "newer@example.com"), ("password", password), ("totp", code)];
        user.browser.form("/account/email", &fields)
    };
    let page = form(PASSWORD, &app.wrong_code()).expect(400).text();
    for part in [
        r#"maxlength="254" value="newer@example.com""#,
        r#"aria-describedby="email-totp-error" aria-invalid="true" autofocus"#,
        "The code is incorrect or was used already</p>",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = form("a wrong one", &recovery[1]).expect(400).text();
    assert!(page.contains(r#"aria-describedby="email-password-error" aria-invalid="true""#), "{page}");
    // A code that came with a wrong password is not used up.
    form(PASSWORD, &recovery[1]).expect(303);
    assert_eq!(asked(), 2);
}

#[test]
fn of_two_accounts_that_want_an_address_one_gets_it() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    let users = ["ann@example.com", "bob@example.com"].map(|email| server.sign_up(email));
    let change = json!({"email": "new@example.com", "password": PASSWORD});
    for user in &users {
        user.browser.post("/api/change-email", &change).expect(200);
    }
    smtp.wait_for(2, "new@example.com", CONFIRM);
    let tokens: Vec<String> = smtp.about("new@example.com", CONFIRM).iter().map(ReceivedMail::token).collect();
    let confirm = |n: usize| server.web.anonymous().post("/api/confirm-email", &json!({"token": tokens[n]}));
    let mut statuses = at_once(2, |n| confirm(n).status);
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    assert_eq!(db.count("SELECT count(*) FROM users WHERE email = 'new@example.com'"), 1);
    assert_eq!(db.count("SELECT count(*) FROM users"), 2);
    // An address that has an account gets no link, and nobody else is told why.
    let mut statuses = users.map(|user| user.browser.post("/api/change-email", &change).status);
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400], "one has it");
    wait_until("all to be sent", || waiting(&db) == 0);
    assert_eq!(smtp.about("new@example.com", CONFIRM).len(), 2);
}

#[test]
fn an_account_without_a_password_gets_its_first_one() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    let (ann, bob) = (server.sign_up("ann@example.com"), server.sign_up("bob@example.com"));
    db.run("UPDATE users SET password_hash = NULL; DELETE FROM sessions");
    log_in(&server, "ann@example.com", PASSWORD).expect(400);
    // By mail.
    let token = link(&server, &smtp, 1, "ann@example.com");
    reset(&server, &token, NEW).expect(200);
    log_in(&server, "ann@example.com", NEW).expect(200);
    // With a key, on the page.
    let web = as_browser(&server.web.anonymous());
    assert!(web.get("/set-password").expect(200).text().contains("action=\"/set-password\""));
    let form = |secret: &str, password: &str, confirm: &str| {
        web.form("/set-password", &[("secret", secret), ("password", password), ("password_confirm", confirm)])
    };
    assert!(form("tg_nobodys", NEW, NEW).expect(400).text().contains("not a valid secret"));
    assert!(form(&bob.secret, NEW, "another").expect(400).text().contains("don&#39;t match"));
    assert!(form(&bob.secret, "12345678", "12345678").expect(400).text().contains("too easy to guess"));
    form(&bob.secret, NEW, NEW).expect(303);
    log_in(&server, "bob@example.com", NEW).expect(200);
    smtp.wait_for(1, "bob@example.com", CHANGED);
    // Only a first one: a key is not enough for another.
    let set = |secret: &str, password: &str| {
        let client = server.web.with_secret(secret);
        client.post("/api/set-password", &json!({"password": password}))
    };
    set(&bob.secret, "a third password").expect(409);
    set(&ann.secret, "a third password").expect(409);
    set("tg_nobodys", "a third password").expect(401);
    let key = ann.program(&server.web).post("/api/keys", &json!({"name": "n", "permissions": ["models"]}));
    db.run("UPDATE users SET password_hash = NULL");
    set(key.expect(200).json()["secret"].as_str().unwrap(), NEW).expect(403);
    let mut statuses = at_once(4, |n| set(&ann.secret, &format!("password number {n}")).status);
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409]);
    assert_eq!(db.count("SELECT count(*) FROM audit WHERE action = 'set first password'"), 2);
}

#[test]
fn forms_of_other_sites_are_refused() {
    let (db, smtp) = (TestDb::new(), Smtp::start());
    let server = smtp.server(&db, &[]);
    let evil = server.web.anonymous().header("origin", "https://evil.example");
    for path in ["/api/forgot-password", "/api/reset-password", "/api/confirm-email", "/api/set-password"] {
        evil.post(path, &json!({})).expect(403);
    }
    for path in ["/forgot-password", "/reset-password", "/confirm-email", "/set-password"] {
        evil.form(path, &[]).expect(403);
    }
}
