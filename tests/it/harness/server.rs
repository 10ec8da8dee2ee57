//! The real binary, serving on free ports.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use super::signals::{self, Signal};
use super::{Address, Client, TestDb};

/// The password of every user that [`Server::sign_up`] makes.
pub const PASSWORD: &str = "correct horse battery";

/// How long a server may take to start on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running `textgen serve`; killed when dropped.
pub struct Server {
    child: Child,
    /// Where its web server listens.
    pub web: Address,
    /// Where its inference server listens.
    pub inference: Address,
    /// Where its audio server listens.
    pub audio: Address,
    /// Where its metrics are, if it has any.
    pub metrics: Option<Address>,
    log: Arc<Mutex<String>>,
    /// The journal's folder, unless a setting overrides it.
    journal: PathBuf,
}

/// A user, with a session and a secret.
pub struct User {
    pub id: String,
    pub email: String,
    pub secret: String,
    /// The token in the session's cookie.
    pub token: String,
    /// A client with the session's cookie.
    pub browser: Client,
}

impl User {
    /// A client that sends the user's secret to a server.
    pub fn program(&self, address: &Address) -> Client {
        address.with_secret(&self.secret)
    }

    /// A client with the user's session for another server on the same database.
    pub fn browser_of(&self, server: &Server) -> Client {
        server.web.with_cookie(&self.token)
    }
}

/// The binary, without this process's environment variables, which could change its settings.
pub fn textgen(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_textgen"));
    command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    // All users of a test come from one address.
    command.env("SIGNUPS_PER_ADDRESS", "0").env("SIGNUPS_PER_NETWORK", "0");
    // Tests run at the same time.
    command.env("METRICS_ADDR", "127.0.0.1:0");
    command
}

impl Server {
    /// Starts all three servers and waits until they are ready.
    pub fn start(db: &TestDb) -> Server {
        Server::start_with(db, &[])
    }

    /// The same with additional settings.
    pub fn start_with(db: &TestDb, settings: &[(&str, &str)]) -> Server {
        let server = Server::spawn(&db.url(), settings);
        server.wait_until_ready();
        server
    }

    /// Starts all three servers and waits for their addresses only, not until they are ready.
    pub fn spawn(database_url: &str, settings: &[(&str, &str)]) -> Server {
        Server::spawn_command(textgen(&["serve"]), database_url, settings)
    }

    /// Starts all three servers, with the demo engine for each kind of model without a server in `settings`.
    pub fn start_demo(db: &TestDb, settings: &[(&str, &str)]) -> Server {
        let server = Server::spawn_demo(&db.url(), settings);
        server.wait_until_ready();
        server
    }

    /// [`Server::spawn`] with the demo engine.
    pub fn spawn_demo(database_url: &str, settings: &[(&str, &str)]) -> Server {
        Server::spawn_command(textgen(&["serve", "--demo-engine"]), database_url, settings)
    }

    fn spawn_command(mut command: Command, database_url: &str, settings: &[(&str, &str)]) -> Server {
        // A journal of its own, as nothing would ever empty it once the test's database is dropped.
        let journal = std::env::temp_dir().join(format!("textgen-journal-{}", textgen::usage::new_id()));
        command
            .env("DATABASE_URL", database_url)
            .env("POOL_SIZE", "4")
            .env("JOURNAL_DIR", &journal)
            .envs([("WEB_ADDR", "127.0.0.1:0"), ("INFERENCE_ADDR", "127.0.0.1:0"), ("AUDIO_ADDR", "127.0.0.1:0")])
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = gather(child.stderr.take().unwrap());
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |name: &str| {
            let Some(Ok(line)) = lines.next() else {
                let status = child.wait().unwrap();
                // The thread that reads the log holds a reference until it has read everything.
                super::wait_until("the end of its log", || Arc::strong_count(&log) == 1);
                panic!("no {name}, {status}: {}", log.lock().unwrap())
            };
            Address(line.strip_prefix(name).unwrap_or_else(|| panic!("{line}")).trim().to_owned())
        };
        let (web, inference, audio) = (address("web"), address("inference"), address("audio"));
        let next = lines.next().and_then(Result::ok).unwrap_or_default();
        let metrics = next.strip_prefix("metrics ").map(|address| Address(address.to_owned()));
        // Keep reading, or the binary could block on a full pipe.
        thread::spawn(move || lines.for_each(drop));
        Server { child, web, inference, audio, metrics, log, journal }
    }

    /// Waits until `/readyz` answers 200.
    pub fn wait_until_ready(&self) {
        let client = self.web.anonymous();
        self.wait_until("the server to be ready", || client.get("/readyz").status == 200);
    }

    /// Waits until it is ready and listens for revocations: only then does it use its cache of callers.
    pub fn wait_until_listening(&self) {
        let client = self.web.anonymous();
        self.wait_until("the server to listen", || {
            let reply = client.get("/readyz");
            reply.status == 200 && reply.json()["listening"] == true
        });
    }

    /// Waits until `done` returns true; fails the test with the server's log after a minute.
    #[track_caller]
    pub fn wait_until(&self, what: &str, done: impl FnMut() -> bool) {
        self.wait_until_within(START_TIMEOUT, what, done);
    }

    /// The same, after another time.
    #[track_caller]
    pub fn wait_until_within(&self, longest: Duration, what: &str, mut done: impl FnMut() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < longest, "waited in vain for {what}: {}", self.log());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Signs up a new user.
    pub fn sign_up(&self, email: &str) -> User {
        let reply =
            self.web.anonymous().post("/api/signup", &json!({"email": email, "password": PASSWORD})).expect(200);
        let (user, token) = (reply.json(), reply.session_token());
        let text = |key: &str| user[key].as_str().unwrap().to_owned();
        let browser = self.web.with_cookie(&token);
        User { id: text("id"), email: text("email"), secret: text("secret"), token, browser }
    }

    /// Signs in. Returns a client with the new session.
    pub fn sign_in(&self, email: &str, password: &str) -> Client {
        let reply = self.web.anonymous().post("/api/login", &json!({"email": email, "password": password})).expect(200);
        self.web.with_cookie(&reply.session_token())
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        signals::send(self.pid(), signal);
    }

    /// Whether the process has exited.
    pub fn has_ended(&self) -> bool {
        signals::has_ended(self.pid())
    }

    /// Waits until it exits. Returns the exit code, or -1 after a signal.
    pub fn wait(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }

    /// Stops it with SIGTERM and waits until it exits. Returns the exit code.
    pub fn stop(self) -> i32 {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.journal);
        // A failure that does not come again can only be explained from the log.
        if thread::panicking() {
            println!("log of the server {}:\n{}", self.web.0, self.log());
        }
    }
}

pub(super) fn gather(mut stream: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let log = Arc::new(Mutex::new(String::new()));
    let shared = log.clone();
    thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(n) = stream.read(&mut piece) {
            if n == 0 {
                return;
            }
            shared.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..n]));
        }
    });
    log
}
