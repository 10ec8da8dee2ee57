//! What is measured of a running process, and the text in which Prometheus reads it.
//!
//! `metric` declares each metric once: its name, kind, labels and help, from which the text and `docs/metrics.md` come.
//! `histogram` counts without locks. `requests` has what is counted of each operation, found once when a server starts;
//! other figures are counted by the part whose they are, and read when they are asked for. `exposition` writes them, with
//! the encoder of `prometheus-client`.

mod exposition;
mod histogram;
pub mod metric;
mod requests;

pub use exposition::{CONTENT_TYPE, Exposition, Family, Source, Text};
pub use histogram::{Bounds, Histogram, SECONDS};
pub use metric::{METRICS, Metric};
pub use requests::{LEFT, RequestMetrics, Requests};

#[cfg(test)]
mod documentation_tests;
