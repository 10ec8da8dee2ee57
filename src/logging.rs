//! The log: lines on standard error, gathered for a moment so that a request never waits for whoever reads them.

use std::io::{self, Write};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use parking_lot::{Condvar, Mutex};
use simplelog::{ConfigBuilder, WriteLogger};
use time::OffsetDateTime;

use crate::config::LogFormat;

/// How long a line may wait to be written.
const WRITE_EVERY: Duration = Duration::from_millis(20);

/// Bytes that may wait; past it the one who logs writes them itself.
const MOST: usize = 1024 * 1024;

/// Sends the log to standard error from now on. The writer returned flushes on demand.
///
/// # Errors
/// A logger is there already, or the thread cannot be started.
pub fn start(level: LevelFilter, format: LogFormat) -> Result<Lines, String> {
    let lines = Lines::default();
    let writer = lines.clone();
    let thread = thread::Builder::new().name("log".to_owned());
    thread.spawn(move || writer.write_for_ever()).map_err(|e| e.to_string())?;
    let logger: Box<dyn Log> = match format {
        LogFormat::Text => WriteLogger::new(level, text_config(), lines.clone()),
        LogFormat::Json => Box::new(JsonLogger { level, lines: lines.clone() }),
    };
    log::set_boxed_logger(logger).map_err(|e| e.to_string())?;
    log::set_max_level(level);
    Ok(lines)
}

fn text_config() -> simplelog::Config {
    ConfigBuilder::new()
        .set_time_format_rfc3339()
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Debug)
        .set_location_level(LevelFilter::Off)
        .add_filter_ignore_str("tokio_postgres")
        .add_filter_ignore_str("postgres")
        .add_filter_ignore_str("refinery")
        .add_filter_ignore_str("ureq")
        .add_filter_ignore_str("rustls")
        .build()
}

/// Lines that wait to be written.
#[derive(Clone, Default)]
pub struct Lines(Arc<Waiting>);

#[derive(Default)]
struct Waiting {
    bytes: Mutex<Vec<u8>>,
    arrival: Condvar,
    /// Held while writing, so that lines keep their order.
    output: Mutex<()>,
}

impl Lines {
    fn write_for_ever(&self) {
        loop {
            let mut bytes = self.0.bytes.lock();
            while bytes.is_empty() {
                self.0.arrival.wait(&mut bytes);
            }
            drop(bytes);
            thread::sleep(WRITE_EVERY);
            self.flush_now();
        }
    }

    /// Writes what waits.
    pub fn flush_now(&self) {
        let _in_order = self.0.output.lock();
        let bytes = std::mem::take(&mut *self.0.bytes.lock());
        // Nobody is left to tell that standard error is gone.
        let _ = io::stderr().lock().write_all(&bytes);
    }

    fn append(&self, line: &[u8]) {
        let mut bytes = self.0.bytes.lock();
        let first = bytes.is_empty();
        bytes.extend_from_slice(line);
        let full = bytes.len() > MOST;
        drop(bytes);
        if full {
            self.flush_now();
        } else if first {
            self.0.arrival.notify_one();
        }
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.append(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One JSON object a line: `time`, `level`, `target`, `message`, and the record's own fields.
struct JsonLogger {
    level: LevelFilter,
    lines: Lines,
}

impl Log for JsonLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let noisy = ["tokio_postgres", "postgres", "refinery", "ureq", "rustls"];
        metadata.level() <= self.level && !noisy.iter().any(|name| metadata.target().starts_with(name))
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
        // The visitor below never fails.
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
