//! Says what a migration does while it does it: the name of each step, how long it took, how many rows are done where its
//! SQL says so, and every few seconds that it still runs and what it waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use postgres::Client;

use super::super::connect::{ConnectConfig, connect};
use super::super::watchdog::{TimeoutCounter, Watchdog};
use super::super::{Error, RESPONSE_TIMEOUT};

/// How long a step runs before it is said that it still does, and how often that is said.
const SAY_EVERY: Duration = Duration::from_secs(3);

/// How often it is looked whether that is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The code of the notices that tell of progress. PostgreSQL's own have others.
const PROGRESS: &str = "TG000";

/// Takes the lines in which a migration says what it does.
#[derive(Clone)]
pub struct Report(Arc<dyn Fn(&str) + Send + Sync>);

impl Report {
    /// Calls a function for each line, from any thread.
    pub fn new(take: impl Fn(&str) + Send + Sync + 'static) -> Report {
        Report(Arc::new(take))
    }
}

/// What is being done.
struct Step {
    name: String,
    began: Instant,
    said: Instant,
}

struct Shared {
    report: Report,
    step: Mutex<Option<Step>>,
}

impl Shared {
    /// Says something about the step that runs.
    fn tell(&self, text: &str) {
        let mut step = self.step.lock();
        let Some(step) = &mut *step else { return };
        step.said = Instant::now();
        // A terminal would act on control characters, which may be anybody's.
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        (self.report.0)(&format!("{}: {text}", step.name));
    }

    fn is_due(&self) -> bool {
        self.step.lock().as_ref().is_some_and(|step| step.said.elapsed() >= SAY_EVERY)
    }

    fn running_for(&self) -> Option<Duration> {
        self.step.lock().as_ref().map(|step| step.began.elapsed())
    }
}

/// Reports the steps of one run.
pub(super) struct Progress(Arc<Shared>);

impl Progress {
    pub(super) fn new(report: Report) -> Progress {
        Progress(Arc::new(Shared { report, step: Mutex::new(None) }))
    }

    /// Has connections pass on what SQL says with `RAISE NOTICE … USING ERRCODE = 'TG000'`.
    pub(super) fn listen(&self, config: &mut ConnectConfig) {
        let shared = self.0.clone();
        config.on_notice(move |notice| match notice.code().code() {
            PROGRESS => shared.tell(notice.message()),
            _ => log::debug!("{}: {}", notice.severity(), notice.message()),
        });
    }

    /// Says one line.
    pub(super) fn say(&self, line: &str) {
        (self.0.report.0)(line);
    }

    /// Does a step, and says how long it took.
    ///
    /// # Errors
    /// Those of the step.
    pub(super) fn step<T, E>(&self, name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.begin(name);
        let outcome = work();
        let took = self.end();
        if outcome.is_ok() {
            self.say(&format!("{name}: done in {}", in_words(took)));
        }
        outcome
    }

    /// Does a step of which only is said that it still runs.
    ///
    /// # Errors
    /// Those of the step.
    pub(super) fn quietly<T, E>(&self, name: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.begin(name);
        let outcome = work();
        self.end();
        outcome
    }

    fn begin(&self, name: &str) {
        let now = Instant::now();
        *self.0.step.lock() = Some(Step { name: name.to_owned(), began: now, said: now });
    }

    fn end(&self) -> Duration {
        self.0.step.lock().take().map_or(Duration::ZERO, |step| step.began.elapsed())
    }

    /// Until the result is dropped, a thread looks at what the server does for the connection with this process id, on a
    /// connection of its own, and says so.
    pub(super) fn watch(&self, config: &ConnectConfig, pid: i32) -> Watch {
        let stopped = Arc::new(AtomicBool::new(false));
        let (shared, config, flag) = (self.0.clone(), config.clone(), stopped.clone());
        let work = move || watch(&shared, &config, pid, &flag);
        // Without it, less is said.
        let thread = thread::Builder::new().name("migration-watch".to_owned()).spawn(work).ok();
        Watch { stopped, thread: thread.map(|handle| handle.thread().clone()) }
    }
}

/// Ends the thread when dropped.
pub(super) struct Watch {
    stopped: Arc<AtomicBool>,
    thread: Option<Thread>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
    }
}

fn watch(shared: &Shared, config: &ConnectConfig, pid: i32, stopped: &AtomicBool) {
    let mut connection = None;
    loop {
        thread::park_timeout(LOOK_EVERY);
        if stopped.load(Ordering::Acquire) {
            return;
        }
        if !shared.is_due() {
            continue;
        }
        let state = look(&mut connection, config, pid).unwrap_or_else(|_| {
            connection = None;
            String::new()
        });
        // The step may be over by now, and then nothing is said.
        if let Some(running) = shared.running_for() {
            shared.tell(&format!("running for {}{state}", in_words(running)));
        }
    }
}

/// What the server does for another connection, to be put behind how long it has been doing it; empty if there is no more to
/// say.
fn look(connection: &mut Option<(Client, Arc<Watchdog>)>, config: &ConnectConfig, pid: i32) -> Result<String, Error> {
    const SQL: &str = "SELECT a.wait_event_type = 'Lock',
        (SELECT string_agg(format('%s (process %s)', coalesce(nullif(b.application_name, ''), 'a program'), b.pid), ', ')
            FROM pg_stat_activity b WHERE b.pid = ANY (pg_blocking_pids(a.pid))),
        i.phase, (100 * CASE WHEN i.tuples_total > 0 THEN i.tuples_done::float8 / i.tuples_total
            WHEN i.blocks_total > 0 THEN i.blocks_done::float8 / i.blocks_total ELSE 0 END)::bigint
        FROM pg_stat_activity a LEFT JOIN pg_stat_progress_create_index i ON i.pid = a.pid WHERE a.pid = $1";
    let (client, watchdog) = match connection {
        Some(connection) => connection,
        None => connection.insert(connect(config, &TimeoutCounter::default())?),
    };
    watchdog.arm(RESPONSE_TIMEOUT);
    let Some(row) = client.query_opt(SQL, &[&pid])? else { return Ok(String::new()) };
    if row.try_get::<_, Option<bool>>(0)? == Some(true) {
        let holders: Option<String> = row.try_get(1)?;
        let holders = holders.unwrap_or_else(|| "another session".to_owned());
        return Ok(format!(", waiting for a lock that is held by {holders}"));
    }
    Ok(match row.try_get::<_, Option<String>>(2)? {
        Some(phase) => format!(", {phase}, {} %", row.try_get::<_, Option<i64>>(3)?.unwrap_or(0)),
        None => String::new(),
    })
}

fn in_words(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{} ms", time.as_millis()),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_not_passed_on() {
        let said = Arc::new(Mutex::new(Vec::new()));
        let lines = said.clone();
        let progress = Progress::new(Report::new(move |line: &str| lines.lock().push(line.to_owned())));
        let _: Result<(), ()> = progress.step("step", || {
            progress.0.tell("\u{1b}[2Jnew\r\nline\u{9b}é");
            Err(())
        });
        assert_eq!(*said.lock(), ["step:  [2Jnew  line é"]);
    }
}
