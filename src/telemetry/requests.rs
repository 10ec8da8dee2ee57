//! What is counted of the requests to each operation of each server.

use std::time::Duration;

use parking_lot::Mutex;

use super::histogram::{Histogram, SECONDS};

/// The status of a request whose client was gone before its reply began. It is never sent.
pub const LEFT: u16 = 499;

/// How statuses are told apart: by their first digit, and requests whose clients have left.
const STATUSES: [&str; 5] = ["2xx", "3xx", "4xx", "5xx", "left"];

/// The requests to one operation of one server. It is added to with a few atomic additions.
#[derive(Debug)]
pub struct RequestMetrics {
    server: &'static str,
    operation: String,
    /// How long they took, by status.
    durations: [Histogram; STATUSES.len()],
    /// When the first byte of a streamed reply came.
    first_bytes: Histogram,
}

/// All of them, for as long as the process lives.
#[derive(Debug, Default)]
pub struct Requests(Mutex<Vec<&'static RequestMetrics>>);

impl RequestMetrics {
    /// A request was answered, or ended without a reply ([`LEFT`]). `first_byte` is when the first byte of its body was
    /// there, if that was streamed.
    pub fn add(&self, status: u16, duration: Duration, first_byte: Option<Duration>) {
        let index = match status {
            LEFT => 4,
            ..300 => 0,
            300..400 => 1,
            400..500 => 2,
            500.. => 3,
        };
        self.durations[index].add_time(duration);
        if let Some(first_byte) = first_byte {
            self.first_bytes.add_time(first_byte);
        }
    }

    /// The server.
    pub fn server(&self) -> &'static str {
        self.server
    }

    /// The operation, such as `GET /api/keys`.
    pub fn operation(&self) -> &str {
        &self.operation
    }

    /// How long requests took, by their status; none of a status that there was not.
    pub fn durations(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        STATUSES.into_iter().zip(&self.durations).filter(|(_, durations)| durations.count() > 0)
    }

    /// When the first bytes of streamed replies came.
    pub fn first_bytes(&self) -> &Histogram {
        &self.first_bytes
    }
}

impl Requests {
    /// Those of one operation of one server, from now on. To be called once for each, when a server starts: they are
    /// kept until the process ends.
    pub fn of(&self, server: &'static str, operation: String) -> &'static RequestMetrics {
        let metrics: &'static RequestMetrics = Box::leak(Box::new(RequestMetrics {
            server,
            operation,
            durations: [(); STATUSES.len()].map(|()| Histogram::new(&SECONDS)),
            first_bytes: Histogram::new(&SECONDS),
        }));
        self.0.lock().push(metrics);
        metrics
    }

    /// Each of them.
    pub fn all(&self) -> Vec<&'static RequestMetrics> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart_by_their_status() {
        let requests = Requests::default();
        let keys = requests.of("web", "GET /api/keys".to_owned());
        for status in [200, 204, 303, 401, 499, 503, 500, 999] {
            keys.add(status, Duration::from_millis(1), None);
        }
        keys.add(200, Duration::from_secs(2), Some(Duration::from_secs(1)));
        let counts: Vec<(&str, u64)> =
            keys.durations().map(|(status, durations)| (status, durations.count())).collect();
        assert_eq!(counts, [("2xx", 3), ("3xx", 1), ("4xx", 1), ("5xx", 3), ("left", 1)]);
        assert_eq!((keys.first_bytes().count(), requests.all().len()), (1, 1));
        assert_eq!(requests.of("web", "GET /".to_owned()).durations().count(), 0);
    }
}
