//! Mails to a real mail server, over TLS. `tests/mail/run` installs it and runs these.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Authority, PASSWORD, Server, TestDb};

/// A running mail server; killed when dropped.
struct MailServer {
    child: Child,
    port: u16,
    mails: Arc<Mutex<Vec<Value>>>,
    /// The authority that has signed its certificate.
    authority: std::path::PathBuf,
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl MailServer {
    fn start(mode: &str) -> MailServer {
        let python = std::env::var("MAIL_PYTHON").expect("MAIL_PYTHON is not set: use tests/mail/run");
        let authority = Authority::new();
        let certified = authority.sign("localhost");
        let folder = std::env::temp_dir().join(format!("textgen-mail-server-{}", textgen::usage::new_id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let mut child = Command::new(python)
            .arg(format!("{}/tests/mail/server.py", env!("CARGO_MANIFEST_DIR")))
            .arg(mode)
            .args([file("certificate.pem", &certified.certificate), file("key.pem", &certified.key)])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next().expect("it does not start").unwrap().parse().unwrap();
        let mails: Arc<Mutex<Vec<Value>>> = Arc::default();
        let shared = mails.clone();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                shared.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        MailServer { child, port, mails, authority: file("authority.pem", &authority.pem) }
    }

    fn server(&self, db: &TestDb, scheme: &str, settings: &[(&str, &str)]) -> Server {
        let url = format!("{scheme}://mailer:pass%20word%2F1@localhost:{}", self.port);
        let url = if scheme == "smtp" { format!("{url}?tls=required") } else { url };
        let own = [
            ("SMTP_URL", url.as_str()),
            ("MAIL_FROM", "Téxt Example <no-reply@text.example>"),
            ("PUBLIC_URL", "http://text.example"),
            ("SSL_CERT_FILE", self.authority.to_str().unwrap()),
        ];
        Server::start_with(db, &[&own[..], settings].concat())
    }

    #[track_caller]
    fn wait_for(&self, server: &Server, to: &str, subject: &str) -> Value {
        let find = || self.mails.lock().unwrap().iter().find(|m| m["to"] == to && m["subject"] == subject).cloned();
        server.wait_until(subject, || find().is_some());
        find().unwrap()
    }
}

/// What every mail must be like.
#[track_caller]
fn check(mail: &Value) {
    // The parser takes other letters before the @ for a defect, though RFC 6532 allows them.
    let is_ascii = mail["to"].as_str().unwrap().is_ascii();
    assert!(mail["defects"] == json!([]) || !is_ascii, "{mail}");
    assert_eq!((&mail["type"], &mail["is_encrypted"]), (&json!("multipart/alternative"), &json!(true)), "{mail}");
    assert_eq!((&mail["envelope_from"], &mail["login"]), (&json!("no-reply@text.example"), &json!("mailer")), "{mail}");
    assert_eq!(mail["from"], "Téxt Example <no-reply@text.example>");
    assert_eq!(mail["envelope_to"], json!([mail["to"]]));
    assert!(mail["id"].as_str().unwrap().ends_with("@text.example>"), "{mail}");
    assert!(mail["longest"].as_i64().unwrap() <= 998, "{mail}");
    let (text, html) = (mail["parts"]["text/plain"].as_str().unwrap(), mail["parts"]["text/html"].as_str().unwrap());
    assert!(text.contains("\n-- \ntext.example"), "{text}");
    assert!(html.starts_with("<!doctype html>") && html.trim_end().ends_with("</html>"), "{html}");
    let link = text.lines().find(|line| line.starts_with("http://text.example/")).unwrap();
    assert!(html.contains(&format!("href=\"{link}\"")), "{html}");
}

fn token(mail: &Value) -> String {
    let text = mail["parts"]["text/plain"].as_str().unwrap();
    text.split("?token=").nth(1).unwrap().lines().next().unwrap().to_owned()
}

#[test]
#[ignore = "tests/mail/run runs it"]
fn mails_are_taken_and_read() {
    for (mode, scheme) in [("tls", "smtps"), ("starttls", "smtp")] {
        let (db, mails) = (TestDb::new(), MailServer::start(mode));
        let server = mails.server(&db, scheme, &[]);
        let web = server.web.anonymous();
        // Domains go in ASCII; what is before them cannot.
        let addresses = [
            ("ann@example.com", "ann@example.com"),
            ("ann@exämple.de", "ann@xn--exmple-cua.de"),
            ("jörg@example.com", "jörg@example.com"),
        ];
        for (own, address) in addresses {
            let user = server.sign_up(own);
            let verify = mails.wait_for(&server, address, "Confirm your e-mail address");
            web.post("/api/confirm-email", &json!({"token": token(&verify)})).expect(200);
            web.post("/api/forgot-password", &json!({"email": own})).expect(200);
            let reset = mails.wait_for(&server, address, "Choose a new password");
            let body = json!({"token": token(&reset), "password": "another good password"});
            web.post("/api/reset-password", &body).expect(200);
            mails.wait_for(&server, address, "Your password was changed");
            db.run(&format!(
                "WITH event AS (
                    INSERT INTO events (kind, user_id, budget_id, starts, percent, payload, created)
                    VALUES ('budget.threshold', '{0}', '{0}', now(), 80,
                        '{{\"percent\": 80, \"limit_micros\": 5, \"spent_micros\": 4}}', now()) RETURNING id)
                 INSERT INTO event_deliveries (sender, event_id, next_at) SELECT 'mail', id, now() FROM event",
                user.id
            ));
            mails.wait_for(&server, address, "80 % of your budget is used");
        }
        let all = mails.mails.lock().unwrap().clone();
        all.iter().for_each(check);
        assert_eq!(all.len(), 12, "{all:?}");
        let unsent = "SELECT count(*) FROM mails WHERE sent IS NULL";
        server.wait_until("all to be recorded", || db.count(unsent) == 0);
        println!("{scheme}: {} mails", all.len());
    }
}

#[test]
#[ignore = "tests/mail/run runs it"]
fn a_server_that_is_not_trusted_gets_no_mail_and_no_password() {
    let (db, mails) = (TestDb::new(), MailServer::start("starttls"));
    let other = mails.authority.with_file_name("other.pem");
    std::fs::write(&other, Authority::new().pem).unwrap();
    let server = mails.server(&db, "smtp", &[("SSL_CERT_FILE", other.to_str().unwrap())]);
    server.web.anonymous().post("/api/signup", &json!({"email": "ann@example.com", "password": PASSWORD})).expect(200);
    let failed = "SELECT count(*) FROM mails WHERE sent IS NULL AND problem LIKE 'no connection to the mail server: %'";
    server.wait_until("a failure", || db.count(failed) == 1);
    assert!(mails.mails.lock().unwrap().is_empty());
}
