//! Crowds of clients that share `Idempotency-Key`s, some of which lose their connections, at several processes, some of
//! which are killed: one charge and one answer for each key.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Random, Raw, Server, Signal, TestDb, Upstream, assert_books_agree, charges};

const PROCESSES: usize = 4;
const CLIENTS: usize = 50 * PROCESSES;
const REQUESTS: usize = 4;
const KEYS: usize = 600;
const CHAT: &str = "/v1/chat/completions";

/// Answers each call differently, after a moment.
fn upstream() -> Upstream {
    let calls = AtomicUsize::new(0);
    Upstream::start(move |seen, wire| {
        let n = calls.fetch_add(1, Relaxed);
        let answer = format!("answer {n}");
        if seen.json()["stream"] != true {
            thread::sleep(Duration::from_millis(n as u64 * 7 % 250));
            let usage = json!({"prompt_tokens": 1, "completion_tokens": 2});
            return wire.json(200, &json!({"choices": [{"message": {"content": answer}}], "usage": usage}));
        }
        wire.start("text/event-stream");
        wire.word(&answer);
        thread::sleep(Duration::from_millis(n as u64 * 7 % 250));
        wire.word("more");
        wire.finish(1, 2);
    })
}

/// The request with a key. Every other one is streamed.
fn request(key: usize) -> Value {
    json!({"model": "m", "messages": [{"role": "user", "content": format!("question {key}")}], "stream": key % 2 == 1})
}

struct Crowd {
    db: TestDb,
    servers: Vec<Mutex<Server>>,
    secret: String,
    /// The whole answers to each key.
    answers: Mutex<HashMap<usize, HashSet<Vec<u8>>>>,
    /// How many requests have it.
    answered: AtomicUsize,
}

impl Crowd {
    /// A crowd, and more servers to take the place of those that are killed.
    fn new(settings: &[(&str, &str)], spare: usize) -> (Crowd, Vec<Server>) {
        let db = TestDb::new();
        let start = || Server::start_demo(&db, settings);
        let mut servers: Vec<Server> = thread::scope(|scope| {
            let starting: Vec<_> = (0..PROCESSES + spare).map(|_| scope.spawn(start)).collect();
            starting.into_iter().map(|server| server.join().unwrap()).collect()
        });
        let spare = servers.split_off(PROCESSES);
        let servers: Vec<Mutex<Server>> = servers.into_iter().map(Mutex::new).collect();
        let secret = servers[0].lock().unwrap().sign_up("ann@example.com").secret;
        (Crowd { db, servers, secret, answers: Mutex::default(), answered: AtomicUsize::new(0) }, spare)
    }

    /// Sends a request again and again, to processes at random, until it has the whole answer.
    fn ask(&self, random: &mut Random, key: usize) {
        let name = format!("k{key}");
        let body = request(key).to_string();
        if random.below(4) == 0 {
            self.ask_and_leave(random, &name, &body);
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(90) {
            let address = self.servers[random.place(PROCESSES)].lock().unwrap().inference.clone();
            let client = address.with_secret(&self.secret).header("idempotency-key", &name);
            match client.try_send("POST", CHAT, Some("application/json"), body.as_bytes()) {
                Ok(reply) if reply.status == 200 => {
                    let is_whole = key.is_multiple_of(2) || reply.text().ends_with("data: [DONE]\n\n");
                    if is_whole {
                        self.answers.lock().unwrap().entry(key).or_default().insert(reply.body);
                        self.answered.fetch_add(1, Relaxed);
                        return;
                    }
                }
                Ok(reply) => assert!(matches!(reply.status, 409 | 503), "{} {}", reply.status, reply.text()),
                // The process was killed.
                Err(_) => {}
            }
            thread::sleep(Duration::from_millis(5 + random.below(30)));
        }
        panic!("no answer for {name}");
    }

    /// Sends a request and loses the connection, at once or after a moment.
    fn ask_and_leave(&self, random: &mut Random, key: &str, body: &str) {
        let address = self.servers[random.place(PROCESSES)].lock().unwrap().inference.clone();
        let media_type = format!("application/json\r\nIdempotency-Key: {key}");
        // The process may be killed just now.
        let Ok(mut raw) = Raw::try_head(&address, &self.secret, CHAT, &media_type, body.len()) else { return };
        let _ = raw.try_write(body.as_bytes());
        thread::sleep(Duration::from_millis(random.below(15)));
        raw.leave();
    }

    /// Kills a process once this many requests were answered, and puts another in its place.
    fn replace(&self, n: usize, answered: usize, next: Server) {
        next.wait_until("answers", || self.answered.load(Relaxed) >= answered);
        let killed = std::mem::replace(&mut *self.servers[n].lock().unwrap(), next);
        killed.signal(Signal::KILL);
        killed.wait();
    }
}

fn run(kills: usize) {
    let upstream = upstream();
    // Should a charge go to a journal, the others find it there.
    let journal = std::env::temp_dir().join(format!("textgen-crowd-{}", textgen::usage::new_id()));
    let folder = journal.to_string_lossy().into_owned();
    let settings = [("INFERENCE_URL", &*upstream.url), ("LOG_LEVEL", "warn"), ("JOURNAL_DIR", &folder)];
    let (crowd, spare) = Crowd::new(&settings, kills);
    let began = Instant::now();
    thread::scope(|scope| {
        for client in 0..CLIENTS {
            let crowd = &crowd;
            scope.spawn(move || {
                let mut random = Random(client as u64 + 1);
                for _ in 0..REQUESTS {
                    let key = random.place(KEYS);
                    crowd.ask(&mut random, key);
                }
            });
        }
        for (n, next) in spare.into_iter().enumerate() {
            // Most keys are new in the first half.
            crowd.replace(n % PROCESSES, CLIENTS * REQUESTS * (n + 1) / (2 * kills + 2), next);
            println!("killed after {} answers", crowd.answered.load(Relaxed));
        }
    });
    let took = began.elapsed();
    let Crowd { db, servers, answers, .. } = crowd;
    let answers = answers.into_inner().unwrap();
    for (key, answers) in &answers {
        assert_eq!(answers.len(), 1, "k{key} has several answers");
    }
    for server in servers {
        assert_eq!(server.into_inner().unwrap().stop(), 0);
    }
    let _ = std::fs::remove_dir_all(&journal);
    let (rows, keys) = (charges(&db).len(), answers.len());
    let mut calls: HashMap<String, usize> = HashMap::new();
    for seen in upstream.seen() {
        *calls.entry(seen.json()["messages"][0]["content"].to_string()).or_default() += 1;
    }
    let sum: usize = calls.values().sum();
    println!("{} requests, {kills} kills, {keys} keys, {rows} rows, {sum} calls in {took:?}", CLIENTS * REQUESTS);
    assert_eq!(rows, keys, "one charge for each key");
    assert_eq!(db.count("SELECT count(*) FROM kept_replies"), i64::try_from(keys).unwrap());
    assert_eq!(calls.len(), keys);
    // A call is made again only if its process was killed before the charge.
    assert!(calls.values().all(|calls| (1..=1 + kills).contains(calls)), "{calls:?}");
    assert_books_agree(&db);
}

#[test]
fn one_call_for_each_key() {
    run(0);
}

#[test]
fn one_charge_for_each_key_though_processes_are_killed() {
    run(4);
}
