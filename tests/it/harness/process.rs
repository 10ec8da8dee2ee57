//! Running the binary for its output and exit code.

use std::io::Write;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::server::gather;
use super::signals::{self, Signal};
use super::{Address, textgen};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `done` returns true; fails the test after a minute.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The result of a command.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// Runs `textgen` to its end.
pub fn run(args: &[&str], settings: &[(&str, &str)], stdin: &str) -> Outcome {
    let mut command = textgen(args);
    command.envs(settings.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may exit without reading it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// The output of a command that must have succeeded without a message.
#[track_caller]
pub fn done(outcome: Outcome) -> String {
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""), "{outcome:?}");
    outcome.out
}

/// Checks that a command was refused with one line that contains these words.
#[track_caller]
pub fn refused(outcome: Outcome, words: &str) {
    assert_eq!((outcome.code, outcome.out.as_str()), (1, ""), "{outcome:?}");
    assert!(outcome.err.starts_with("textgen: ") && outcome.err.contains(words), "{}", outcome.err);
    assert_eq!(outcome.err.lines().count(), 1, "{}", outcome.err);
}

/// A running `textgen`; killed when dropped.
pub struct Process {
    child: Child,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
}

impl Process {
    /// Starts it.
    pub fn start(args: &[&str], settings: &[(&str, &str)]) -> Process {
        let mut command = textgen(args);
        command.envs(settings.iter().copied()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, err) = (gather(child.stdout.take().unwrap()), gather(child.stderr.take().unwrap()));
        Process { child, out, err }
    }

    /// Starts `serve` for one role on a free port.
    pub fn serve(role: &str, database_url: &str) -> Process {
        let address = format!("{}_ADDR", role.to_uppercase());
        Process::start(&["serve", role], &[("DATABASE_URL", database_url), (&address, "127.0.0.1:0")])
    }

    /// Waits until it has printed the address of `role`.
    #[track_caller]
    pub fn address(&self, role: &str) -> Address {
        let prefix = format!("{role} http://");
        let find = || self.out().lines().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned));
        wait_until("an address", || find().is_some() || self.err().contains("cannot"));
        Address(format!("http://{}", find().unwrap_or_else(|| panic!("no {role}: {}", self.err()))))
    }

    /// Waits until its server of `role` is ready. Returns the address.
    #[track_caller]
    pub fn ready(&self, role: &str) -> Address {
        let address = self.address(role);
        wait_until("readiness", || address.anonymous().get("/readyz").status == 200);
        address
    }

    /// Its standard output so far.
    pub fn out(&self) -> String {
        self.out.lock().unwrap().clone()
    }

    /// Its log so far.
    pub fn err(&self) -> String {
        self.err.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        signals::send(self.child.id(), signal);
    }

    /// Waits until it exits. Returns the exit code, or -1 after a signal.
    pub fn wait(mut self) -> i32 {
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
