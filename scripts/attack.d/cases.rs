//! The attacks: what each prepares, and what it does until it is told that it is over.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::http::{Connection, Statuses, head, json, sign_up, text_field};
use super::{Failure, Target};

const MIB: usize = 1024 * 1024;
/// The largest document.
const LARGEST: usize = 8 * MIB;
/// The longest time that an attacker waits for a reply.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon an attacker that was refused tries again.
const REFUSED_PAUSE: Duration = Duration::from_millis(20);

/// The secrets of attackers, and the id of a document.
#[derive(Default)]
pub(crate) struct Prepared {
    secrets: Vec<String>,
    document: String,
}

pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Settings and arguments of the server, as `scripts/attack` takes them.
    pub(crate) settings: &'static str,
    pub(crate) prepare: fn(&Target) -> Result<Prepared, Failure>,
    pub(crate) attack: fn(&Target, &Prepared, &AtomicBool, &Statuses),
}

pub(crate) const CASES: [Case; 10] = [
    Case { name: "stop-sequences", settings: "--demo-engine", prepare: one_account, attack: stop_sequences },
    Case { name: "zeros", settings: "", prepare: one_account, attack: zeros },
    Case { name: "held-saves", settings: "", prepare: one_account, attack: held_saves },
    Case { name: "readers", settings: "", prepare: published, attack: readers },
    Case { name: "searches", settings: "", prepare: large_documents, attack: searches },
    Case { name: "sign-ups", settings: "", prepare: nothing, attack: sign_ups },
    Case { name: "wrong-passwords", settings: "", prepare: nothing, attack: wrong_passwords },
    Case { name: "slow-streams", settings: "upstream", prepare: eight_accounts, attack: slow_streams },
    Case { name: "multipart", settings: "--demo-engine", prepare: one_account, attack: multipart },
    Case { name: "trickling", settings: "", prepare: eight_accounts, attack: trickling },
];

fn nothing(_: &Target) -> Result<Prepared, Failure> {
    Ok(Prepared::default())
}

fn accounts(target: &Target, count: usize) -> Result<Prepared, Failure> {
    let account = |n| sign_up(target, &format!("6.6.{n}.6"), &format!("{}{n}@example.com", target.case));
    Ok(Prepared { secrets: (0..count).map(account).collect::<Result<_, _>>()?, document: String::new() })
}

fn one_account(target: &Target) -> Result<Prepared, Failure> {
    accounts(target, 1)
}

fn eight_accounts(target: &Target) -> Result<Prepared, Failure> {
    accounts(target, 8)
}

fn save(target: &Target, secret: &str, content: &str) -> Result<String, Failure> {
    let body = format!(r#"{{"title":"large","content":"{content}"}}"#);
    let mut one = Connection::open(target.web, PATIENCE)?;
    let head = head("POST", "/api/docs/save", "6.6.6.6", Some(secret), "application/json", body.len());
    one.0.write_all(head.as_bytes())?;
    one.0.write_all(body.as_bytes())?;
    let (status, reply) = one.reply()?;
    text_field(&reply, "id").ok_or_else(|| format!("no document can be saved: {status}").into())
}

fn published(target: &Target) -> Result<Prepared, Failure> {
    let mut prepared = one_account(target)?;
    let secret = &prepared.secrets[0];
    let document = save(target, secret, &"\\\"".repeat(LARGEST))?;
    let body = json(&[("id", &document)]);
    let status = Connection::open(target.web, PATIENCE)?.request(
        "POST",
        "/api/docs/publish",
        "6.6.6.6",
        Some(secret),
        body.as_bytes(),
    )?;
    prepared.document = document;
    if status == 200 { Ok(prepared) } else { Err(format!("it cannot be published: {status}").into()) }
}

fn large_documents(target: &Target) -> Result<Prepared, Failure> {
    // One gibibyte, which an account may have, is 128 of these.
    let prepared = accounts(target, 2)?;
    let text = "lorem ipsum dolor sit amet ".repeat(LARGEST / 27);
    for n in 0..131 {
        save(target, &prepared.secrets[usize::from(n >= 120)], &text)?;
    }
    Ok(prepared)
}

/// Has so many clients call `send` with their numbers again and again.
fn flood(
    clients: usize,
    is_over: &AtomicBool,
    statuses: &Statuses,
    send: impl Fn(usize) -> std::io::Result<u16> + Sync,
) {
    thread::scope(|scope| {
        for client in 0..clients {
            let send = &send;
            scope.spawn(move || {
                while !is_over.load(Relaxed) {
                    let status = send(client);
                    statuses.add(&status);
                    if !matches!(status, Ok(200)) {
                        thread::sleep(REFUSED_PAUSE);
                    }
                }
            });
        }
    });
}

fn post(target: &Target, path: &str, from: &str, secret: Option<&str>, body: &[u8]) -> std::io::Result<u16> {
    Connection::open(target.web, PATIENCE)?.request("POST", path, from, secret, body)
}

fn stop_sequences(target: &Target, prepared: &Prepared, is_over: &AtomicBool, statuses: &Statuses) {
    let stops: Vec<String> = (0..100_000).map(|n| format!("\"s{n}\"")).collect();
    let body = format!(r#"{{"text":"Hello","max_length":50,"stop_sequences":[{}]}}"#, stops.join(","));
    flood(8, is_over, statuses, |_| {
        let mut one = Connection::open(target.inference, PATIENCE)?;
        one.request("POST", "/api/v1/generate", "6.6.6.6", Some(&prepared.secrets[0]), body.as_bytes())
    });
}

fn zeros(target: &Target, prepared: &Prepared, is_over: &AtomicBool, statuses: &Statuses) {
    let body = format!(r#"{{"x":[0{}]}}"#, ",0".repeat(24 * MIB - 10));
    flood(4, is_over, statuses, |_| {
        post(target, "/api/docs/save", "6.6.6.6", Some(&prepared.secrets[0]), body.as_bytes())
    });
}

/// Opens connections that send a part of a request each, goes on with `more` in each second, and takes what is answered.
fn hold(
    count: usize,
    is_over: &AtomicBool,
    statuses: &Statuses,
    open: impl Fn(usize) -> std::io::Result<TcpStream> + Sync,
    more: &[u8],
) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut held: Vec<(usize, TcpStream)> = Vec::new();
                while !is_over.load(Relaxed) {
                    let n = next.fetch_add(1, Relaxed);
                    if n < count {
                        held.extend(open(n).ok().map(|socket| (n, socket)));
                        continue;
                    }
                    let mut again = Vec::new();
                    held.retain_mut(|(n, socket)| {
                        let _ = socket.set_nonblocking(true);
                        let _ = socket.write(more);
                        let mut start = [0; 12];
                        let status = match socket.read(&mut start) {
                            Err(e) if e.kind() == ErrorKind::WouldBlock => return true,
                            Ok(12) => std::str::from_utf8(&start[9..]).ok().and_then(|text| text.parse().ok()),
                            _ => None,
                        };
                        statuses.add(&status.ok_or_else(|| ErrorKind::UnexpectedEof.into()));
                        again.push(*n);
                        false
                    });
                    // Who was refused comes again.
                    held.extend(again.into_iter().filter_map(|n| open(n).ok().map(|socket| (n, socket))));
                    thread::sleep(Duration::from_secs(1));
                }
            });
        }
    });
}

/// Sends the head of a save of `length` bytes and the first `sent` of them.
fn begin_save(target: &Target, secret: &str, length: usize, sent: usize) -> std::io::Result<TcpStream> {
    let mut socket = Connection::open(target.web, Duration::from_secs(2))?.0;
    let head = head("POST", "/api/docs/save", "6.6.6.6", Some(secret), "application/json", length);
    socket.write_all(head.as_bytes())?;
    socket.write_all(br#"{"content":""#)?;
    // It may be refused meanwhile.
    let _ = socket.write_all(&vec![b'x'; sent]);
    Ok(socket)
}

fn held_saves(target: &Target, prepared: &Prepared, is_over: &AtomicBool, statuses: &Statuses) {
    hold(300, is_over, statuses, |_| begin_save(target, &prepared.secrets[0], LARGEST, LARGEST - 100), b"");
}

/// Seven accounts; the eighth saves documents meanwhile, so that some 200s are its own.
fn trickling(target: &Target, prepared: &Prepared, is_over: &AtomicBool, statuses: &Statuses) {
    let Some((other, secrets)) = prepared.secrets.split_last() else { return };
    let begin = |n: usize| begin_save(target, &secrets[n % secrets.len()], LARGEST, 7 * MIB);
    let document = format!(r#"{{"content":"{}"}}"#, "x".repeat(7 * MIB));
    thread::scope(|scope| {
        scope.spawn(|| {
            flood(1, is_over, statuses, |_| {
                thread::sleep(Duration::from_secs(1));
                post(target, "/api/docs/save", "7.7.7.7", Some(other), document.as_bytes())
            });
        });
        hold(160, is_over, statuses, begin, &[b'x'; 2048]);
    });
}

fn readers(target: &Target, prepared: &Prepared, is_over: &AtomicBool, statuses: &Statuses) {
    let path = format!("/public/{}", prepared.document);
    hold(
        60,
        is_over,
        statuses,
        |_| {
            let socket = Socket::new(Domain::for_address(target.web), Type::STREAM, None)?;
            socket.set_recv_buffer_size(4096)?;
            socket.connect(&target.web.into())?;
            let mut socket = TcpStream::from(socket);
            let head = head("GET", &path, "6.6.6.6", None, "text/plain", 0);
            socket.write_all(head.replace("Host: h", "Host: h\r\nAccept: text/html").as_bytes())?;
            // What was read of the reply is not counted as one.
            socket.read_exact(&mut [0; 12])?;
            Ok(socket)
        },
        b"",
    );
}

fn searches(target: &Target, prepared: &Prepared, is_over: &AtomicBool, statuses: &Statuses) {
    flood(24, is_over, statuses, |client| {
        let secret = &prepared.secrets[client % prepared.secrets.len()];
        let path = format!("/documents?q=nowhere{client}");
        Connection::open(target.web, PATIENCE)?.request("GET", &path, "6.6.6.6", Some(secret), b"")
    });
}

fn sign_ups(target: &Target, _: &Prepared, is_over: &AtomicBool, statuses: &Statuses) {
    let next = AtomicUsize::new(0);
    flood(16, is_over, statuses, |_| {
        let email = format!("flood{}@example.com", next.fetch_add(1, Relaxed));
        let body = json(&[("email", &email), ("password", super::PASSWORD)]);
        post(target, "/api/signup", "6.6.6.6", None, body.as_bytes())
    });
}

fn wrong_passwords(target: &Target, _: &Prepared, is_over: &AtomicBool, statuses: &Statuses) {
    let next = AtomicUsize::new(0);
    flood(16, is_over, statuses, |_| {
        let email = format!("nobody{}@example.com", next.fetch_add(1, Relaxed) % 1000);
        let body = json(&[("email", &email), ("password", "wrong horse battery")]);
        post(target, "/api/login", "6.6.6.6", None, body.as_bytes())
    });
}

fn slow_streams(target: &Target, prepared: &Prepared, is_over: &AtomicBool, statuses: &Statuses) {
    let body = r#"{"model":"chunks-1000-every-200","stream":true,"messages":[{"role":"user","content":"Hello"}]}"#;
    let begin = |n: usize| {
        let mut socket = Connection::open(target.inference, PATIENCE)?.0;
        let secret = &prepared.secrets[n % prepared.secrets.len()];
        let head = head("POST", "/v1/chat/completions", "6.6.6.6", Some(secret), "application/json", body.len());
        socket.write_all(head.as_bytes())?;
        socket.write_all(body.as_bytes())?;
        Ok::<_, std::io::Error>(socket)
    };
    let held: Vec<TcpStream> = (0..512).filter_map(|n| begin(n).ok()).collect();
    let mut heads = vec![false; held.len()];
    while !is_over.load(Relaxed) {
        for (mut socket, has_head) in held.iter().zip(&mut heads) {
            let _ = socket.set_nonblocking(true);
            let mut bytes = [0; 4096];
            let Ok(n) = socket.read(&mut bytes) else { continue };
            if n >= 12 && !std::mem::replace(has_head, true) {
                let status = std::str::from_utf8(&bytes[9..12]).ok().and_then(|text| text.parse().ok());
                statuses.add(&status.ok_or_else(|| ErrorKind::InvalidData.into()));
            }
        }
        thread::sleep(Duration::from_secs(1));
    }
}

fn multipart(target: &Target, prepared: &Prepared, is_over: &AtomicBool, statuses: &Statuses) {
    let start = "--bxy\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\ndemo\r\n--bxy\r\n\
                 Content-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n";
    let sound = textgen::wav::file(8000, 16, &b"\r\n--bx".repeat(4 * MIB));
    let body = [start.as_bytes(), &sound, b"\r\n--bxy--\r\n"].concat();
    flood(8, is_over, statuses, |_| {
        let mut one = Connection::open(target.web, PATIENCE)?;
        let kind = "multipart/form-data; boundary=bxy";
        let secret = Some(prepared.secrets[0].as_str());
        let head = head("POST", "/v1/audio/transcriptions", "6.6.6.6", secret, kind, body.len());
        one.0.write_all(head.as_bytes())?;
        let _ = one.0.write_all(&body);
        one.reply().map(|(status, _)| status)
    });
}
