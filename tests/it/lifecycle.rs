//! How the binary starts, reports that it cannot, and stops.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::thread;

use serde_json::{Value, json};

use crate::documents::save;
use crate::harness::{Process, Server, Signal, TestDb, User, run, textgen, wait_until};

/// A server with a long statement timeout, its user, and a document of theirs.
fn with_document(db: &TestDb) -> (Server, User, String) {
    let server = Server::spawn(&(db.url() + "?options=-c%20statement_timeout%3D60000"), &[]);
    server.wait_until_ready();
    let user = server.sign_up("ann@example.com");
    let id = save(&user.browser, &json!({"content": "text"}));
    (server, user, id)
}

#[test]
fn a_signal_lets_requests_in_flight_finish() {
    for signal in [Signal::TERM, Signal::INT] {
        let db = TestDb::new();
        let (server, user, id) = with_document(&db);
        // An idle keep-alive connection does not delay the shutdown.
        let idle = server.web.anonymous();
        idle.get("/liveness_check").expect(200);
        let mut locker = db.connect();
        let mut lock = locker.transaction().unwrap();
        lock.execute("SELECT 1 FROM documents FOR UPDATE", &[]).unwrap();
        let code = thread::scope(|scope| {
            let held = scope.spawn(|| user.browser.post("/api/docs/save", &json!({"id": id, "content": "late"})));
            server.wait_until("the save to wait", || db.has_waiting());
            server.signal(signal);
            let socket = server.web.socket();
            server.wait_until("new connections to be refused", || TcpStream::connect(socket).is_err());
            assert!(!held.is_finished());
            lock.commit().unwrap();
            let reply = held.join().unwrap().expect(200);
            assert_eq!(reply.json()["version"], 2);
            server.wait()
        });
        assert_eq!(code, 0, "{signal:?}");
        assert_eq!(db.count("SELECT version FROM documents"), 2);
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let db = TestDb::new();
    let (server, user, id) = with_document(&db);
    let mut locker = db.connect();
    let mut lock = locker.transaction().unwrap();
    lock.execute("SELECT 1 FROM documents FOR UPDATE", &[]).unwrap();
    let code = thread::scope(|scope| {
        let save = || {
            let body = json!({"id": id, "content": "lost"}).to_string();
            user.browser.try_send("POST", "/api/docs/save", None, body.as_bytes())
        };
        let held = scope.spawn(save);
        server.wait_until("the save to wait", || db.has_waiting());
        server.signal(Signal::TERM);
        server.wait_until("the first to be heard", || server.log().contains("finishing"));
        server.signal(Signal::TERM);
        let code = server.wait();
        assert!(held.join().unwrap().is_err());
        code
    });
    assert_eq!(code, 1);
}

#[test]
fn port_zero_is_replaced_by_a_free_port() {
    let db = TestDb::new();
    let all = Process::start(
        &["serve"],
        &[
            ("DATABASE_URL", &db.url()),
            ("WEB_ADDR", "127.0.0.1:0"),
            ("INFERENCE_ADDR", ":0"),
            ("AUDIO_ADDR", "[::1]:0"),
        ],
    );
    let addresses = ["web", "inference", "audio"].map(|role| all.ready(role).socket().to_owned());
    assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), 3);
    assert!(addresses.iter().all(|address| !address.ends_with(":0")), "{addresses:?}");
    assert!(addresses[0].starts_with("127.0.0.1:") && addresses[1].starts_with("127.0.0.1:"));
    assert!(addresses[2].starts_with("[::1]:"));
    all.signal(Signal::TERM);
    assert_eq!(all.wait(), 0);
}

#[test]
fn each_role_runs_alone_and_all_can_start_on_an_empty_database() {
    let db = TestDb::empty();
    let roles = ["web", "inference", "audio"];
    let processes = roles.map(|role| Process::serve(role, &db.url()));
    let [web, inference, audio] = [0, 1, 2].map(|n| processes[n].ready(roles[n]));
    for (role, process) in roles.iter().zip(&processes) {
        let out = process.out();
        let names: Vec<&str> = out.lines().filter_map(|line| Some(line.split_once(" http://")?.0)).collect();
        assert_eq!(names, [*role, "metrics"]);
    }
    let reply = web.anonymous().post("/api/signup", &json!({"email": "ann@x", "password": "long enough"})).expect(200);
    let secret = reply.json()["secret"].as_str().unwrap().to_owned();
    for address in [&web, &inference, &audio] {
        let user = address.with_secret(&secret).get("/api/current-user").expect(200).json();
        assert_eq!(user["id"], reply.json()["id"]);
    }
    // Cookies and the web server's routes do not work elsewhere.
    let cookie = reply.session_token();
    web.with_cookie(&cookie).get("/api/current-user").expect(200);
    inference.with_cookie(&cookie).get("/api/current-user").expect(401);
    inference.with_secret(&secret).get("/api/docs/list").expect(404);

    let names = "SELECT DISTINCT application_name FROM pg_stat_activity
        WHERE datname = current_database() AND application_name LIKE 'textgen%'";
    let rows = db.connect().query(names, &[]).unwrap();
    let names: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    for role in roles {
        assert!(names.contains(&format!("textgen-{role}")), "{names:?}");
    }

    let addresses = [web.socket(), inference.socket(), audio.socket()];
    let settings = [("WEB_ADDR", addresses[0]), ("INFERENCE_ADDR", addresses[1]), ("AUDIO_ADDR", addresses[2])];
    let check = run(&["check-sharing"], &settings, "");
    assert_eq!((check.code, check.err.as_str()), (0, ""), "{check:?}");
    assert!(check.out.starts_with("ok"), "{}", check.out);
    assert_eq!(db.count("SELECT count(*) FROM users"), 1, "check-sharing deletes its test account");

    // An address that does not answer is reported.
    let gone = [settings[0], ("INFERENCE_ADDR", "127.0.0.1:1"), settings[2]];
    let check = run(&["check-sharing"], &gone, "");
    assert_eq!((check.code, check.out.as_str(), check.err.lines().count()), (1, "", 1), "{check:?}");
    assert!(check.err.contains("127.0.0.1:1"), "{}", check.err);
    assert_eq!(db.count("SELECT count(*) FROM users"), 1);
    for process in processes {
        process.signal(Signal::INT);
        assert_eq!(process.wait(), 0);
    }
}

#[test]
fn a_process_has_at_most_the_documented_number_of_connections() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("POOL_SIZE", "3")]);
    let mut observer = db.connect();
    let mut connections = || {
        let sql = "SELECT application_name, count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name LIKE 'textgen%' GROUP BY 1 ORDER BY 1";
        let rows = observer.query(sql, &[]).unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect::<Vec<(String, i64)>>()
    };
    // POOL_SIZE, eight for charges and claims, one for notifications. They are made when they are needed.
    let documented = [("textgen-all", 3), ("textgen-all-charges", 8), ("textgen-all-listen", 1)];
    server.wait_until("connections of each kind", || connections().len() == documented.len());
    let clients: Vec<User> = (0..8).map(|n| server.sign_up(&format!("user{n}@example.com"))).collect();
    thread::scope(|scope| {
        for user in &clients {
            scope.spawn(|| (0..20).for_each(|n| drop(save(&user.browser, &json!({"content": n.to_string()})))));
        }
    });
    for ((name, made), (documented, most)) in connections().into_iter().zip(documented) {
        assert!(name == documented && made <= most, "{made} of {name}");
    }
    assert_eq!(connections()[0].1, 3, "as many as are waited for");
}

#[test]
fn check_sharing_detects_two_databases() {
    let (one, other) = (TestDb::new(), TestDb::new());
    let here = Server::start(&one);
    let there = Server::start(&other);
    let settings = [
        ("WEB_ADDR", here.web.socket()),
        ("INFERENCE_ADDR", here.inference.socket()),
        ("AUDIO_ADDR", there.audio.socket()),
    ];
    let check = run(&["check-sharing"], &settings, "");
    assert_eq!((check.code, check.out.as_str(), check.err.lines().count()), (1, "", 1), "{check:?}");
    assert!(check.err.contains("audio does not know"), "{}", check.err);
    assert_eq!(one.count("SELECT count(*) FROM users"), 0, "check-sharing deletes its test account");
}

#[test]
fn check_sharing_detects_a_server_without_notifications() {
    let (one, other) = (TestDb::new(), TestDb::new());
    let here = Server::start(&one);
    let deaf = Server::start_with(&one, &[("DATABASE_LISTEN_URL", &other.url())]);
    let settings = [
        ("WEB_ADDR", here.web.socket()),
        ("INFERENCE_ADDR", here.inference.socket()),
        ("AUDIO_ADDR", deaf.audio.socket()),
    ];
    let check = run(&["check-sharing"], &settings, "");
    assert_eq!((check.code, check.out.as_str(), check.err.lines().count()), (1, "", 1), "{check:?}");
    assert!(check.err.contains("audio does not see"), "{}", check.err);
    assert_eq!(
        one.count("SELECT count(*) FROM users"),
        0,
        "check-sharing deletes its test account, with the newer secret"
    );
}

#[test]
fn an_address_in_use_is_reported_in_one_line() {
    let db = TestDb::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for name in ["WEB_ADDR", "INFERENCE_ADDR", "AUDIO_ADDR"] {
        let mut settings = vec![("WEB_ADDR", ":0"), ("INFERENCE_ADDR", ":0"), ("AUDIO_ADDR", ":0")];
        settings.push((name, &address));
        let url = db.url();
        settings.push(("DATABASE_URL", &url));
        let outcome = run(&["serve"], &settings, "");
        let role = name.trim_end_matches("_ADDR").to_lowercase();
        assert_eq!((outcome.code, outcome.out.as_str()), (1, ""), "{outcome:?}");
        assert!(outcome.err.starts_with(&format!("textgen: {role}: cannot listen on {address}: ")), "{}", outcome.err);
        assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
    }
    let outcome = run(&["serve", "web"], &[("WEB_ADDR", "192.0.2.1:0"), ("DATABASE_URL", &db.url())], "");
    assert!(outcome.code == 1 && outcome.err.contains("cannot listen on 192.0.2.1:0"), "{outcome:?}");
}

#[test]
fn an_invalid_setting_is_reported_in_one_line_with_exit_code_two() {
    for (name, value) in [
        ("USE_POSTGRES", "False"),
        ("USE_POSTGRES", "sqlite"),
        ("WEB_ADDR", "nowhere:8083"),
        ("WEB_ADDR", "127.0.0.1:65536"),
        ("INFERENCE_ADDR", "127.0.0.1"),
        ("AUDIO_ADDR", "-1"),
        ("POOL_SIZE", "0"),
        ("POOL_SIZE", "ten"),
        ("POOL_SIZE", "1.5"),
        ("WORKERS", "-1"),
        ("MAX_WAITING", "0"),
        ("CACHE_SIZE", "0"),
        ("AUTH_GRACE", "1h"),
        ("PUBLIC_URL", "example.com"),
        ("TRUSTED_PROXIES", "10.0.0.0/33"),
        ("CORS_ORIGINS", "*.example.com"),
        ("LOG_LEVEL", "verbose"),
        ("LOG_FORMAT", "yaml"),
    ] {
        for command in [&["serve"][..], &["migrate"], &["check-sharing"], &["user", "list"]] {
            let outcome = run(command, &[(name, value)], "");
            assert_eq!((outcome.code, outcome.out.as_str()), (2, ""), "{name}={value}: {outcome:?}");
            assert!(outcome.err.starts_with(&format!("error: {name}={value}: ")), "{}", outcome.err);
            assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
        }
    }
    let lines = run(&["migrate"], &[("LOG_LEVEL", "in\nfo\x1b[2J")], "");
    assert_eq!((lines.code, lines.err.lines().count(), lines.err.contains('\x1b')), (2, 1, false), "{lines:?}");
    for name in ["DATABASE_URL", "DATABASE_LISTEN_URL"] {
        let outcome = run(&["migrate"], &[(name, "mysql://me:hunter2@host/db?")], "");
        assert!(outcome.code == 2 && outcome.err.contains(name) && !outcome.err.contains("hunter2"), "{outcome:?}");
    }
    for args in [&["sevre"][..], &["serve", "mail"], &["user"], &["user", "create"], &["migrate", "--yes"]] {
        let outcome = run(args, &[], "");
        assert_eq!((outcome.code, outcome.out.as_str()), (2, ""), "{args:?}: {outcome:?}");
    }
}

#[test]
fn a_setting_that_is_not_utf8_is_refused() {
    for name in ["PASSWORD_PEPPER", "WEB_ADDR", "DATABASE_URL"] {
        let output = textgen(&["migrate"]).env(name, OsStr::from_bytes(b"caf\xe9")).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), text.lines().count()), (Some(2), 1), "{text}");
        assert!(text.starts_with(&format!("error: {name}: ")) && !text.contains("caf"), "{text}");
    }
}

#[test]
fn the_help_lists_every_command_and_variable() {
    let help = run(&["--help"], &[], "");
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    for command in ["serve", "migrate", "check-sharing", "user"] {
        assert!(help.out.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {}", help.out);
    }
    for (name, default) in [
        ("DATABASE_URL", "postgresql://postgres:password@localhost:5432/textgen"),
        ("USE_POSTGRES", "True"),
        ("WEB_ADDR", "127.0.0.1:8083"),
        ("INFERENCE_ADDR", "127.0.0.1:9909"),
        ("AUDIO_ADDR", "127.0.0.1:9910"),
        ("POOL_SIZE", "16"),
        ("PASSWORD_PEPPER", ""),
        ("PUBLIC_URL", ""),
        ("TRUSTED_PROXIES", ""),
        ("LOG_LEVEL", "info"),
        ("LOG_FORMAT", "text"),
    ] {
        let flag = format!("\n      --{} <{name}>", name.to_lowercase().replace('_', "-"));
        let at = help.out.find(&flag).unwrap_or_else(|| panic!("{name} is not in the help"));
        let entry = help.out[at + 1..].lines().enumerate();
        let entry: Vec<&str> =
            entry.take_while(|(n, l)| *n == 0 || l.starts_with("       ")).map(|(_, l)| l.trim()).collect();
        assert!(entry.join(" ").contains(default), "{name}: {entry:?}");
    }
    // No line is wider than the terminal.
    assert!(help.out.lines().all(|line| line.chars().count() <= 100), "{}", help.out);
    let user = run(&["user", "--help"], &[], "");
    for command in ["list", "create", "rotate-secret", "delete"] {
        assert!(user.out.contains(command), "{}", user.out);
    }
    assert!(run(&["--version"], &[], "").out.starts_with("textgen "));
    let nothing = run(&[], &[], "");
    assert!(nothing.code == 2 && nothing.err.contains("Usage"), "{nothing:?}");
}

#[test]
fn settings_of_an_old_deployment_are_accepted() {
    let db = TestDb::empty();
    let migrated = run(&["migrate"], &[("DATABASE_URL", &db.url()), ("USE_POSTGRES", "True")], "");
    assert_eq!(migrated.code, 0, "{migrated:?}");
    let refused = run(&["migrate"], &[("DATABASE_URL", &db.url()), ("USE_POSTGRES", "False")], "");
    assert!(refused.code == 2 && refused.err.contains("PostgreSQL"), "{refused:?}");
}

#[test]
fn json_lines_are_json() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("LOG_FORMAT", "json")]);
    let user = server.sign_up("ann@example.com");
    user.browser.header("X-Request-Id", "mine-1").get("/api/current-user?secret=hunter2").expect(200);
    server.web.anonymous().get("/nowhere/%22%0a?%22").expect(404);
    let lines = || -> Vec<Value> {
        let log = server.log();
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    };
    server.wait_until("the access lines", || lines().iter().any(|line| line["status"] == 404));
    let lines = lines();
    for line in &lines {
        for key in ["time", "level", "target", "message"] {
            assert!(line[key].is_string(), "{key}: {line}");
        }
    }
    let access = lines.iter().find(|line| line["request"] == "mine-1").unwrap();
    assert_eq!((&access["status"], &access["path"]), (&json!(200), &json!("/api/current-user")));
    assert_eq!((&access["user"], &access["server"]), (&json!(user.id), &json!("web")));
    for secret in [user.secret.as_str(), &user.token, "hunter2", crate::harness::PASSWORD] {
        assert!(!server.log().contains(secret));
    }
}

#[test]
fn log_level_off_silences_a_server() {
    let db = TestDb::new();
    let server = Server::start_with(&db, &[("LOG_LEVEL", "off")]);
    server.sign_up("ann@example.com");
    server.signal(Signal::TERM);
    wait_until("the end", || TcpStream::connect(server.web.socket()).is_err());
    assert_eq!(server.log(), "");
}
