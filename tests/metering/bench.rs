//! How many charges a second: `cargo test --release --test metering -- --ignored bench --nocapture`, with `BENCH_URL`
//! naming an empty database of a server that really syncs. `BENCH_ONLY="16 100"` measures 16 threads with 100 users.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use textgen::units::{Unit, Units};
use textgen::usage::{Charge, ChargeId};

use crate::support::{Folder, meter};

#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout, clippy::cast_precision_loss)]
fn bench() {
    let Ok(url) = std::env::var("BENCH_URL") else { return };
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(5);
    let config = textgen::db::ConnectConfig::new(&url, "bench").unwrap();
    textgen::db::migrate::migrate(&config).unwrap();
    let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
    client
        .batch_execute(
            "INSERT INTO users (id, email) SELECT 'peer' || n, 'p' || n || '@x' FROM generate_series(0, 99) n
             ON CONFLICT DO NOTHING",
        )
        .unwrap();
    let folder = Folder::new();
    let meter = meter(&url, &folder.0);
    for (threads, users) in [(16, 100), (64, 100), (16, 1), (64, 1), (1, 100)] {
        if std::env::var("BENCH_ONLY").is_ok_and(|only| only != format!("{threads} {users}")) {
            continue;
        }
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let slowest = AtomicU64::new(0);
        let before = meter.stats();
        let began = Instant::now();
        thread::scope(|scope| {
            for t in 0..threads {
                let (meter, stop, done, slowest) = (&meter, &stop, &done, &slowest);
                scope.spawn(move || {
                    let mut n = t * 37;
                    while !stop.load(Ordering::Relaxed) {
                        n += 1;
                        let at = Instant::now();
                        meter.charge(example(n % users)).unwrap();
                        slowest.fetch_max(u64::try_from(at.elapsed().as_micros()).unwrap(), Ordering::Relaxed);
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            thread::sleep(Duration::from_secs(seconds));
            stop.store(true, Ordering::Relaxed);
        });
        let rate = done.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
        let commits = meter.stats().commits - before.commits;
        println!(
            "{threads:3} threads, {users:3} users: {rate:8.0} charges/s, {:5.1} a commit, {:.2} ms a commit, slowest {:.1} ms",
            done.load(Ordering::Relaxed) as f64 / commits as f64,
            began.elapsed().as_secs_f64() * 1000.0 / commits as f64,
            slowest.load(Ordering::Relaxed) as f64 / 1000.0,
        );
    }
}

fn example(user: usize) -> Charge {
    Charge {
        id: ChargeId::Generated(textgen::usage::new_id()),
        user_id: format!("peer{user}"),
        key_id: Some(format!("key_{user}")),
        server: "inference",
        route: "/v1/chat/completions",
        model: "demo".to_owned(),
        units: Units::of([(Unit::PromptTokens, 100), (Unit::CompletionTokens, 50), (Unit::Requests, 1)]),
        estimated: false,
        latency_micros: 500,
        keep: None,
        admission: None,
        parts: Vec::new(),
    }
}
