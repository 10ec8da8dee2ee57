//! The log: lines on standard error, buffered for a moment so that requests do not wait for its reader.

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::kv::{Key, Value, VisitSource};
use log::{Level, LevelFilter, Log, Metadata, Record};
use parking_lot::{Condvar, Mutex};
use simplelog::{ConfigBuilder, WriteLogger};
use time::OffsetDateTime;

use crate::config::LogFormat;

/// How long lines are buffered.
const WRITE_INTERVAL: Duration = Duration::from_millis(20);

/// Maximum size of the buffer. When it is full, the thread that logs writes it out.
const MAX_BUFFER: usize = 1024 * 1024;

thread_local! {
    static REQUEST_ID: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
    static TOKENS: Cell<u64> = const { Cell::new(0) };
}

/// Notes tokens that the request on this thread is charged for, for its line in the access log.
pub fn note_tokens(tokens: i64) {
    TOKENS.set(TOKENS.get().saturating_add(u64::try_from(tokens).unwrap_or(0)));
}

/// The tokens that were noted on this thread since the last call.
pub fn take_tokens() -> u64 {
    TOKENS.take()
}

/// The id of the request that this thread works on, if it is known.
pub fn request_id() -> Option<Arc<str>> {
    REQUEST_ID.with_borrow(Clone::clone)
}

/// Sets the [`request_id`] of this thread until the result is dropped.
pub fn set_request_id(id: Option<Arc<str>>) -> RequestIdGuard {
    RequestIdGuard(REQUEST_ID.replace(id))
}

/// Restores the previous id when dropped; see [`set_request_id`].
#[must_use]
pub struct RequestIdGuard(Option<Arc<str>>);

impl Drop for RequestIdGuard {
    fn drop(&mut self) {
        REQUEST_ID.set(self.0.take());
    }
}

/// Starts logging to standard error.
///
/// # Errors
/// A logger has already been set, or the thread cannot be started.
pub fn start(level: LevelFilter, format: LogFormat) -> Result<LogBuffer, String> {
    let lines = LogBuffer::default();
    let writer = lines.clone();
    let thread = thread::Builder::new().name("log".to_owned());
    thread.spawn(move || writer.write_loop()).map_err(|e| e.to_string())?;
    // What is written is decided by `log::max_level`, which can change.
    let logger: Box<dyn Log> = match format {
        LogFormat::Text => WriteLogger::new(LevelFilter::Trace, text_config(), lines.clone()),
        LogFormat::Json => Box::new(JsonLogger { lines: lines.clone() }),
    };
    log::set_boxed_logger(Box::new(WithRequestId(logger))).map_err(|e| e.to_string())?;
    log::set_max_level(level);
    Ok(lines)
}

/// Changes which lines are written from now on.
pub fn set_level(level: LevelFilter) {
    let before = log::max_level();
    log::set_max_level(level);
    if before != level {
        // At a level that was written before and is written now.
        let common = level.min(before).to_level().unwrap_or(Level::Error);
        log::log!(common, "the log level is {level} now, it was {before}");
    }
}

/// Adds the id of the request that a thread works on to its lines.
struct WithRequestId(Box<dyn Log>);

impl Log for WithRequestId {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        // Lines of requests themselves have it as a field.
        let id = request_id().filter(|_| record.key_values().get(Key::from("request")).is_none());
        let text = id.map(|id| (record.args().to_string(), id)).filter(|(text, id)| !text.contains(&**id));
        match text {
            None => self.0.log(record),
            Some((text, id)) => {
                self.0.log(&record.to_builder().args(format_args!("{text} (request {id})")).build());
            }
        }
    }

    fn flush(&self) {
        self.0.flush();
    }
}

/// Libraries whose log lines are left out.
const IGNORED_TARGETS: [&str; 5] = ["tokio_postgres", "postgres", "refinery", "ureq", "rustls"];

fn text_config() -> simplelog::Config {
    let mut config = ConfigBuilder::new();
    config
        .set_time_format_rfc3339()
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Debug)
        .set_location_level(LevelFilter::Off);
    for target in IGNORED_TARGETS {
        config.add_filter_ignore_str(target);
    }
    config.build()
}

/// Lines that have not been written yet.
#[derive(Clone, Default)]
pub struct LogBuffer(Arc<Shared>);

#[derive(Default)]
struct Shared {
    bytes: Mutex<Vec<u8>>,
    not_empty: Condvar,
    /// Locked while writing, to keep the lines in order.
    output: Mutex<()>,
}

impl LogBuffer {
    fn write_loop(&self) {
        loop {
            let mut bytes = self.0.bytes.lock();
            while bytes.is_empty() {
                self.0.not_empty.wait(&mut bytes);
            }
            drop(bytes);
            thread::sleep(WRITE_INTERVAL);
            self.flush_now();
        }
    }

    /// Writes all buffered lines.
    pub fn flush_now(&self) {
        let _in_order = self.0.output.lock();
        let bytes = std::mem::take(&mut *self.0.bytes.lock());
        // If standard error is closed, there is nowhere to report it.
        let _ = io::stderr().lock().write_all(&bytes);
    }

    fn append(&self, line: &[u8]) {
        let mut bytes = self.0.bytes.lock();
        let was_empty = bytes.is_empty();
        bytes.extend_from_slice(line);
        let is_full = bytes.len() > MAX_BUFFER;
        drop(bytes);
        if is_full {
            self.flush_now();
        } else if was_empty {
            self.0.not_empty.notify_one();
        }
    }
}

impl Write for LogBuffer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.append(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes one JSON object per line: `time`, `level`, `target`, `message`, and the fields of the record.
struct JsonLogger {
    lines: LogBuffer,
}

impl Log for JsonLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level() && !IGNORED_TARGETS.iter().any(|name| metadata.target().starts_with(name))
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut object = serde_json::Map::new();
        object.insert("time".to_owned(), crate::store::timestamp::zulu(OffsetDateTime::now_utc()).into());
        object.insert("level".to_owned(), record.level().as_str().into());
        object.insert("target".to_owned(), record.target().into());
        object.insert("message".to_owned(), record.args().to_string().into());
        // `Fields` never fails.
        let _ = record.key_values().visit(&mut Fields(&mut object));
        let mut line = serde_json::Value::Object(object).to_string();
        line.push('\n');
        self.lines.append(line.as_bytes());
    }

    fn flush(&self) {
        self.lines.flush_now();
    }
}

struct Fields<'m>(&'m mut serde_json::Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for Fields<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
        let value = match (value.to_u64(), value.to_borrowed_str()) {
            (Some(number), _) => number.into(),
            (None, Some(text)) => text.into(),
            (None, None) => value.to_string().into(),
        };
        self.0.insert(key.as_str().to_owned(), value);
        Ok(())
    }
}
