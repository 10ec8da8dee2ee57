//! Measures the speed and the size of the cache: `scripts/bench cache`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::cache::Lookup;
use super::credential::Key;
use super::{Cache, Caller, Digest, Kind, Via};
use crate::store::User;

/// The default of `CACHE_SIZE`.
const DEFAULT: usize = 100_000;
const MANY: usize = 1_000_000;
const DURATION: Duration = Duration::from_secs(1);

#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
fn cache() {
    let secrets: Vec<String> = (0..MANY).map(|n| format!("tg_{n:043}")).collect();
    println!("cache: {:<38} {:>7} {:>12} {:>9} {:>16}", "", "threads", "hits/s, all", "cores", "ns of them a hit");
    let before = resident();
    let cache = Cache::new(DEFAULT);
    cache.subscribed();
    // Half of its capacity, so that none of its shards overflows.
    fill(&cache, &secrets[..DEFAULT / 2]);
    hits("one caller", &cache, &secrets[..1]);
    hits("50,000 callers at random", &cache, &secrets[..DEFAULT / 2]);
    let began = Instant::now();
    fill(&cache, &secrets);
    let each = began.elapsed().as_nanos() / MANY as u128;
    println!("cache: a million callers inserted into {DEFAULT} places: {each} ns each, {} cached", cache.len());
    println!("cache: resident memory of these: {} MB", grown(before));
    assert!(cache.len() <= DEFAULT + 64);
    drop(cache);
    let before = resident();
    let cache = Cache::new(MANY * 2);
    cache.subscribed();
    fill(&cache, &secrets);
    hits("a million callers at random, all cached", &cache, &secrets);
    println!("cache: resident memory of a million callers: {} MB", grown(before));
}

/// Inserts callers, as after queries.
fn fill(cache: &Cache, secrets: &[String]) {
    for secret in secrets {
        cache.insert(key(secret), &caller(secret), cache.stamp(), Instant::now());
    }
}

/// Looks up callers by their secrets, like requests.
#[allow(clippy::print_stdout, clippy::cast_precision_loss, clippy::cast_possible_truncation)]
fn hits(name: &str, cache: &Cache, secrets: &[String]) {
    for threads in [1, 2, 4, 8] {
        let (stop, all) = (AtomicBool::new(false), AtomicU64::new(0));
        let (stop, all) = (&stop, &all);
        let (began, worked) = (Instant::now(), cpu_seconds());
        thread::scope(|scope| {
            for thread in 1..=threads {
                scope.spawn(move || {
                    let (mut random, mut found) = (thread, 0);
                    while !stop.load(Ordering::Relaxed) {
                        random = next(random);
                        let key = key(&secrets[(random >> 16) as usize % secrets.len()]);
                        found += u64::from(matches!(cache.lookup(&key, Instant::now()), Lookup::Hit(..)));
                    }
                    all.fetch_add(found, Ordering::Relaxed);
                });
            }
            thread::sleep(DURATION);
            stop.store(true, Ordering::Relaxed);
        });
        let (seconds, all) = (began.elapsed().as_secs_f64(), all.load(Ordering::Relaxed) as f64);
        let worked = cpu_seconds() - worked;
        let (cores, each) = (worked / seconds, worked * 1e9 / all);
        println!("cache: {name:<38} {threads:>7} {:>12.0} {cores:>9.2} {each:>16.0}", all / seconds);
    }
}

/// CPU seconds that this process has used: on a busy machine, its threads do not always run. 0 if unknown.
fn cpu_seconds() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name ends at the last parenthesis; user and system time are fields 14 and 15.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// The next pseudo-random number (xorshift).
fn next(mut random: u64) -> u64 {
    random ^= random << 13;
    random ^= random >> 7;
    random ^ (random << 17)
}

fn key(secret: &str) -> Key {
    (Kind::Key, Digest::of(secret))
}

fn caller(secret: &str) -> Arc<Caller> {
    let user = User::sample(&format!("user_{}", &secret[26..]));
    let caller = Caller::new(user, Via::Key { id: format!("key_{}", &secret[26..]), expires: None });
    // Cached callers usually have it.
    caller.user_json().unwrap();
    Arc::new(caller)
}

/// Resident memory in kilobytes; 0 if unknown.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
}

/// Growth of the resident memory, in megabytes.
fn grown(before: i64) -> i64 {
    (resident() - before) / 1024
}
