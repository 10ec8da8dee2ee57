//! Runs an operation at a fixed rate, however long each takes, and reports latencies:
//!
//! - `pace RATE THREADS SECONDS request URL SECRETS BODY` posts BODY over one keep-alive connection per thread,
//!   with the secrets in a file (one per line) in turn;
//! - `pace RATE THREADS SECONDS charge USERS JOURNAL` makes charges like requests do and waits until each is durable,
//!   in the database `$DATABASE_URL`, for the user ids in a file in turn.
//!
//! Latencies are measured from when each operation was due, so that those delayed by a slow one count as slow too
//! (no coordinated omission). Prints `P50 P90 P99 MAX ERRORS`, times in microseconds.

use std::env;
use std::error::Error;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use textgen::units::{Unit, Units};
use textgen::usage::{Charge, Connections, Meter};

/// The longest wait for a reply.
const PATIENCE: Duration = Duration::from_secs(10);
const JOURNAL_BYTES: u64 = 64 << 20;

type Failure = Box<dyn Error + Send + Sync>;

/// The operation, given its number.
type Work = Box<dyn FnMut(usize) -> Result<(), Failure> + Send>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().collect();
    let [_, rate, threads, seconds, kind, more @ ..] = arguments.as_slice() else {
        return Err("usage: pace RATE THREADS SECONDS request|charge ...".into());
    };
    let (rate, threads, seconds): (f64, usize, f64) = (rate.parse()?, threads.parse()?, seconds.parse()?);
    let work: Vec<Work> = match (kind.as_str(), more) {
        ("request", [url, secrets, body]) => {
            (0..threads).map(|_| requests(url, secrets, body)).collect::<Result<_, _>>()?
        }
        ("charge", [users, journal]) => charges(threads, users, journal)?,
        _ => return Err("usage: pace ... request URL SECRETS BODY, or pace ... charge USERS JOURNAL".into()),
    };
    let (times, errors) = run(work, Duration::from_secs_f64(1.0 / rate), Duration::from_secs_f64(seconds));
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).unwrap_or(&0);
    println!("{} {} {} {} {errors}", at(50), at(90), at(99), at(100));
    Ok(())
}

/// The latencies of the successful operations in microseconds, sorted, and the number of errors.
fn run(work: Vec<Work>, pause: Duration, length: Duration) -> (Vec<u128>, usize) {
    let (start, threads) = (Instant::now() + Duration::from_millis(20), work.len());
    let keep = |(first, mut work): (usize, Work)| {
        let (mut times, mut errors) = (Vec::new(), 0);
        for n in (first..).step_by(threads) {
            let due = pause.saturating_mul(u32::try_from(n).unwrap_or(u32::MAX));
            if due >= length {
                break;
            }
            thread::sleep((start + due).saturating_duration_since(Instant::now()));
            match work(n) {
                Ok(()) => times.push((start + due).elapsed().as_micros()),
                Err(_) => errors += 1,
            }
        }
        (times, errors)
    };
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = work.into_iter().enumerate().map(|one| scope.spawn(move || keep(one))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let errors = results.iter().map(|(_, errors)| errors).sum();
    let mut times: Vec<u128> = results.into_iter().flat_map(|(times, _)| times).collect();
    times.sort_unstable();
    (times, errors)
}

/// Requests over one connection.
fn requests(url: &str, secrets: &str, body: &str) -> Result<Work, Failure> {
    let (address, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).ok_or("http://… only")?;
    let requests: Vec<String> = lines(secrets)?
        .iter()
        .map(|secret| {
            format!(
                "POST /{path} HTTP/1.1\r\nHost: {address}\r\nsecret: {secret}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
        })
        .collect();
    let mut connection = connect(address)?;
    let address = address.to_owned();
    Ok(Box::new(move |n| {
        let done = exchange(&mut connection, requests[n % requests.len()].as_bytes());
        if done.is_err() {
            connection = connect(&address)?;
        }
        Ok(done?)
    }))
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let connection = TcpStream::connect(address)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    Ok(connection)
}

/// Sends a request and reads its reply, which must be a 200 with a `Content-Length`.
fn exchange(connection: &mut TcpStream, request: &[u8]) -> io::Result<()> {
    connection.write_all(request)?;
    let (mut reply, mut bytes) = (Vec::new(), [0; 4096]);
    loop {
        match connection.read(&mut bytes)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => reply.extend_from_slice(&bytes[..n]),
        }
        if length(&reply)?.is_some_and(|length| reply.len() >= length) {
            return Ok(());
        }
    }
}

/// The length of the whole reply; `None` until its head is complete.
fn length(reply: &[u8]) -> io::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let Ok(httparse::Status::Complete(start)) = head.parse(reply) else { return Ok(None) };
    let body = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let body = body.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    match (head.code, body) {
        (Some(200), Some(body)) => Ok(Some(start + body)),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// Charges through one meter, so that charges of all threads share commits.
fn charges(threads: usize, users: &str, journal: &str) -> Result<Vec<Work>, Failure> {
    let users = Arc::new(lines(users)?);
    let db = Connections::new(&env::var("DATABASE_URL")?, "pace")?;
    let meter = Meter::new(db, PathBuf::from(journal), JOURNAL_BYTES);
    meter.open();
    meter.start()?;
    let end = Instant::now() + PATIENCE;
    while !(meter.admit().is_ok() && meter.stats().is_database_available) {
        if Instant::now() > end {
            return Err("the meter does not get ready".into());
        }
        thread::sleep(Duration::from_millis(5));
    }
    let work = |_| -> Work {
        let (meter, users) = (Arc::clone(&meter), Arc::clone(&users));
        Box::new(move |n| Ok(meter.charge(charge(&users[n % users.len()])).map(drop)?))
    };
    Ok((0..threads).map(work).collect())
}

fn charge(user: &str) -> Charge {
    Charge {
        id: textgen::usage::ChargeId::Generated(textgen::usage::new_id()),
        user_id: user.to_owned(),
        key_id: None,
        server: "inference",
        route: "/v1/chat/completions",
        model: "demo".to_owned(),
        units: Units::of([(Unit::PromptTokens, 9), (Unit::CompletionTokens, 4), (Unit::Requests, 1)]),
        estimated: false,
        latency_micros: 100,
        keep: None,
        admission: None,
        parts: Vec::new(),
    }
}

fn lines(file: &str) -> Result<Vec<String>, Failure> {
    let lines: Vec<String> = fs::read_to_string(file)?.lines().map(str::to_owned).collect();
    if lines.is_empty() { Err(format!("{file} is empty").into()) } else { Ok(lines) }
}
