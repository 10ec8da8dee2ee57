//! Attacks a running server in one way, and measures what others notice: `attack CASE WEB INFERENCE PID BUDGET SECONDS`.
//!
//! The addresses are `HOST:PORT`; the server trusts `X-Forwarded-For`, so that attackers and others have addresses of their
//! own. First another account sends cached requests and logs in for SECONDS while nothing else happens, then for as long
//! while the attack goes on. `attack list` prints the cases, each with the settings that its server needs.
//!
//! Prints a line of a table: the case, the most memory before the attack and after it (MB, `VmHWM`), what was resident
//! before and ten seconds after (MB), the other account's 99th percentiles (ms) without and with the attack, its log-ins
//! that were answered and that failed, what the attack was answered, and a verdict: within the BUDGET (bytes) and 100 MB, no
//! more than twice the percentile, and no log-in that failed.

mod cases;
mod http;

use std::env;
use std::error::Error;
use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use cases::{CASES, Case};
use http::{Connection, Statuses, json};

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Pauses between two cached requests, and two log-ins, of the other account.
const REQUEST_EVERY: Duration = Duration::from_millis(5);
const LOG_IN_EVERY: Duration = Duration::from_millis(500);

/// The longest time that another one waits for a reply.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long after an attack it is looked what stays resident.
const REST: Duration = Duration::from_secs(10);

/// What a process may take besides its budget, in bytes.
const BESIDES: u64 = 100_000_000;

pub(crate) const PASSWORD: &str = "correct horse battery";

/// The server under attack.
pub(crate) struct Target {
    /// The name of the case, which the addresses of its accounts begin with.
    pub(crate) case: &'static str,
    pub(crate) web: SocketAddr,
    pub(crate) inference: SocketAddr,
}

/// Another account.
struct Other {
    email: String,
    secret: String,
}

impl Other {
    fn sign_up(target: &Target) -> Result<Other, Failure> {
        let email = format!("other-{}@example.com", target.case);
        Ok(Other { secret: http::sign_up(target, "9.9.9.9", &email)?, email })
    }
}

/// What another account noticed.
#[derive(Default)]
struct Noticed {
    /// Of cached requests, in microseconds.
    times: Vec<u128>,
    log_ins: usize,
    failed_log_ins: usize,
}

impl Noticed {
    fn p99(&mut self) -> u128 {
        self.times.sort_unstable();
        let index = (self.times.len() * 99 / 100).min(self.times.len().saturating_sub(1));
        self.times.get(index).copied().unwrap_or(PATIENCE.as_micros())
    }
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["list"] => {
            for case in &CASES {
                println!("{} {}", case.name, case.settings);
            }
            Ok(())
        }
        [name, web, inference, pid, budget, seconds] => {
            let case = CASES.iter().find(|case| case.name == *name).ok_or("there is no such case")?;
            let target = Target { case: case.name, web: web.parse()?, inference: inference.parse()? };
            rlimit::increase_nofile_limit(u64::MAX)?;
            run(case, &target, pid, budget.parse()?, Duration::from_secs_f64(seconds.parse()?))
        }
        _ => Err("usage: attack list, or attack CASE WEB INFERENCE PID BUDGET SECONDS".into()),
    }
}

fn run(case: &Case, target: &Target, pid: &str, budget: u64, length: Duration) -> Result<(), Failure> {
    let other = Other::sign_up(target)?;
    let prepared = (case.prepare)(target)?;
    let mut quiet = notice(target, &other, length);
    let before = (memory(pid, "VmHWM:")?, memory(pid, "VmRSS:")?);
    let (is_over, statuses) = (AtomicBool::new(false), Statuses::default());
    let mut noticed = thread::scope(|scope| {
        let attack = scope.spawn(|| (case.attack)(target, &prepared, &is_over, &statuses));
        let noticed = notice(target, &other, length);
        is_over.store(true, Relaxed);
        let _ = attack.join();
        noticed
    });
    let most = memory(pid, "VmHWM:")?;
    thread::sleep(REST);
    let (rests, quiet_p99, p99) = (memory(pid, "VmRSS:")?, quiet.p99(), noticed.p99());
    let mut wrong = Vec::new();
    for (is_wrong, what) in
        [(most > budget + BESIDES, "memory"), (p99 > 2 * quiet_p99, "p99"), (noticed.failed_log_ins > 0, "log-ins")]
    {
        wrong.extend(is_wrong.then_some(what));
    }
    let mb = |bytes: u64| bytes / 1_000_000;
    #[allow(clippy::cast_precision_loss)] // for display
    let ms = |micros: u128| micros as f64 / 1000.0;
    println!(
        "{:<16} {:>6} {:>6} {:>6} {:>6} {:>8.1} {:>8.1} {:>5} {:>6}  {:<8} {}",
        case.name,
        mb(before.0),
        mb(most),
        mb(before.1),
        mb(rests),
        ms(quiet_p99),
        ms(p99),
        noticed.log_ins,
        noticed.failed_log_ins,
        if wrong.is_empty() { "ok".to_owned() } else { wrong.join(",") },
        statuses.summary(),
    );
    Ok(())
}

/// What another account notices in this time.
fn notice(target: &Target, other: &Other, length: Duration) -> Noticed {
    let end = Instant::now() + length;
    let noticed = Mutex::new(Noticed::default());
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut kept: Option<Connection> = None;
            while Instant::now() < end {
                let began = Instant::now();
                let reply =
                    kept.take().map_or_else(|| Connection::open(target.web, PATIENCE), Ok).and_then(|mut one| {
                        let status = one.request("GET", "/api/current-user", "9.9.9.9", Some(&other.secret), b"")?;
                        Ok((one, status))
                    });
                let mut time = began.elapsed();
                if let Ok((one, 200)) = reply {
                    kept = Some(one);
                } else {
                    time = PATIENCE;
                }
                if let Ok(mut noticed) = noticed.lock() {
                    noticed.times.push(time.as_micros());
                }
                thread::sleep(REQUEST_EVERY.saturating_sub(began.elapsed()));
            }
        });
        while Instant::now() < end {
            let began = Instant::now();
            let body = json(&[("email", &other.email), ("password", PASSWORD)]);
            let reply = Connection::open(target.web, PATIENCE)
                .and_then(|mut one| one.request("POST", "/api/login", "9.9.9.8", None, body.as_bytes()));
            if let Ok(mut noticed) = noticed.lock() {
                noticed.log_ins += usize::from(matches!(reply, Ok(200)));
                noticed.failed_log_ins += usize::from(!matches!(reply, Ok(200)));
            }
            thread::sleep(LOG_IN_EVERY.saturating_sub(began.elapsed()));
        }
    });
    noticed.into_inner().unwrap_or_default()
}

/// A figure of `/proc/PID/status`, in bytes.
fn memory(pid: &str, name: &str) -> Result<u64, Failure> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).ok_or("the system tells no memory")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}
