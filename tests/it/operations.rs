//! Every operation, called as every kind of caller on every server: the table decides who gets in, and how refusals look.

use textgen::api::operations;
use textgen::call::Role;
use textgen::error::Shape;
use textgen::operation::{Handler, Operation, Refusal};

use crate::harness::{Address, Client, Reply, Server, TestDb};

/// Paths that end sessions or the account of whoever calls them.
const ENDS_SESSIONS: [&str; 5] =
    ["/api/logout", "/logout", "/account/delete", "/api/delete-account", "/account/sessions/revoke"];

/// The form of the editor: without a session, its text is shown again and not saved.
const SHOWS_TYPED_TEXT: (&str, &str) = ("POST", "/documents/{id}");

/// A path of the operation: each `{…}` stands for something that is not there.
fn path(operation: &Operation) -> String {
    let segments = operation.path.split('/').map(|segment| if segment.starts_with('{') { "none" } else { segment });
    segments.collect::<Vec<_>>().join("/")
}

fn call(client: &Client, operation: &Operation) -> Reply {
    let method = operation.method.as_str();
    let body: &[u8] = if method == "POST" { b"{}" } else { b"" };
    let media_type = Some("application/json").filter(|_| method == "POST");
    client.header("accept", "application/json").send(method, &path(operation), media_type, body)
}

fn address(server: &Server, role: Role) -> &Address {
    match role {
        Role::Web => &server.web,
        Role::Inference => &server.inference,
        Role::Audio => &server.audio,
    }
}

/// Checks the reply to somebody whose credential is missing or not accepted there.
#[track_caller]
fn assert_refused(reply: &Reply, operation: &Operation, name: &str) {
    match (operation.handler, operation.refusal) {
        (Handler::Authenticated(_), Refusal::Unauthorized(message)) => {
            assert_eq!(reply.status, 401, "{name}");
            let body = reply.json();
            let shown = match operation.errors {
                Shape::Detail => &body["detail"],
                Shape::Error => &body["error"],
                Shape::OpenAi | Shape::Messages => &body["error"]["message"],
            };
            assert_eq!(shown, message, "{name}");
        }
        (Handler::Authenticated(_), Refusal::LogIn) => {
            assert_eq!(reply.status, 303, "{name}");
            let location = reply.header("location").unwrap();
            assert_eq!(location, format!("/login?next={}", path(operation)), "{name}");
        }
        _ if (operation.method.as_str(), operation.path) == SHOWS_TYPED_TEXT => {
            assert_eq!(reply.status, 401, "{name}");
        }
        (Handler::Public(_) | Handler::Optional(_), _) => assert_ne!(reply.status, 401, "{name}"),
    }
}

#[test]
fn the_table_decides_who_may_call_what() {
    let db = TestDb::new();
    let server = Server::start_demo(&db, &[]);
    let user = server.sign_up("ann@example.com");
    let mut calls = 0;
    for operation in operations() {
        let ends_a_session = ENDS_SESSIONS.contains(&operation.path);
        for role in Role::ALL {
            let address = address(&server, role);
            let name = format!("{} {} on {}", operation.method, operation.path, role.name());
            if !operation.servers.contains(&role) {
                let status = call(&address.with_secret(&user.secret), operation).status;
                assert!([404, 405].contains(&status), "{name}: {status}");
                continue;
            }
            for stranger in [address.anonymous(), address.with_secret("wrong"), address.with_cookie("wrong")] {
                assert_refused(&call(&stranger, operation), operation, &name);
                calls += 1;
            }
            if ends_a_session {
                continue;
            }
            let with_secret = call(&address.with_secret(&user.secret), operation);
            let with_cookie = call(&address.with_cookie(&user.token), operation);
            if operation.is_administrative {
                assert_eq!((with_secret.status, with_cookie.status), (403, 403), "{name}");
                continue;
            }
            assert_ne!(with_secret.status, 401, "{name}");
            // A cookie counts on the web server only.
            match role {
                Role::Web => assert_ne!(with_cookie.status, 401, "{name}"),
                Role::Inference | Role::Audio => assert_refused(&with_cookie, operation, &name),
            }
            calls += 2;
        }
    }
    assert!(calls > 300, "{calls}");
    assert!(!server.log().contains(&user.secret) && !server.log().contains(&user.token));
}

#[test]
fn only_an_administrator_in_a_browser_opens_the_administrators_pages() {
    let db = TestDb::new();
    let server = Server::start(&db);
    let user = server.sign_up("ann@example.com");
    db.run("UPDATE users SET is_admin = true");
    let administrative = || operations().iter().filter(|operation| operation.is_administrative);
    assert!(administrative().count() > 5);
    for operation in administrative() {
        let name = operation.path;
        let by_key = server.web.with_secret(&user.secret);
        assert_eq!(call(&by_key, operation).status, 403, "{name}");
        let status = call(&user.browser, operation).status;
        assert!(![401, 403].contains(&status), "{name}: {status}");
    }
}
