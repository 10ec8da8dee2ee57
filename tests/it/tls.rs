//! Model servers behind TLS.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, Stream};
use serde_json::json;

use crate::harness::{Server, TestDb, textgen};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");

/// A model server whose certificate no public authority has signed.
fn start() -> String {
    let chain = vec![CertificateDer::from_pem_file(format!("{FOLDER}/server.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(format!("{FOLDER}/server.key")).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let (config, listener) = (Arc::new(config), TcpListener::bind("127.0.0.1:0").unwrap());
    let url = format!("https://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let mut connection = ServerConnection::new(config.clone()).unwrap();
            thread::spawn(move || answer(Stream::new(&mut connection, &mut socket)));
        }
    });
    url
}

fn answer(mut stream: Stream<'_, ServerConnection, std::net::TcpStream>) {
    use std::io::{Read, Write};
    let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
    // The body comes last and ends with the only such characters. A question for the list of models has none.
    let end = |seen: &[u8]| if seen.starts_with(b"GET") { &b"\r\n\r\n"[..] } else { b"}]}" };
    while !seen.ends_with(end(&seen)) {
        match stream.read(&mut piece) {
            Ok(n) if n > 0 => seen.extend_from_slice(&piece[..n]),
            _ => return,
        }
    }
    let body = r#"{"choices":[{"message":{"content":"Hi"}}],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
    let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

#[test]
fn a_private_authority_is_trusted_only_if_it_is_named() {
    let (url, db) = (start(), TestDb::new());
    let authority = format!("{FOLDER}/authority.pem");
    let chat = json!({"model": "m", "messages": [{"role": "user", "content": "Hello"}]});
    for (settings, status) in [(vec![], 502), (vec![("UPSTREAM_CA_FILE", authority.as_str())], 200)] {
        let settings: Vec<_> = [("INFERENCE_URL", url.as_str())].into_iter().chain(settings).collect();
        let server = Server::start_with(&db, &settings);
        let client = server.sign_up(&format!("ann{status}@example.com")).program(&server.inference);
        client.post("/v1/chat/completions", &chat).expect(status);
    }
}

#[test]
fn a_certificate_file_without_certificates_is_refused_at_start() {
    let empty = format!("{FOLDER}/server.key");
    for (file, problem) in [("/nowhere/ca.pem", "No such file"), (empty.as_str(), "holds no certificate")] {
        let settings = [
            ("DATABASE_URL", "postgresql://127.0.0.1:1/none"),
            ("INFERENCE_URL", "https://127.0.0.1:1"),
            ("UPSTREAM_CA_FILE", file),
            ("JOURNAL_DIR", "/tmp"),
        ];
        let output = textgen(&["serve"]).envs(settings).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("INFERENCE_URL") && text.contains(problem), "{text}");
    }
}
