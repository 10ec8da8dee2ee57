//! Writes what is measured as text, in the format of Prometheus (version 0.0.4).

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::histogram::Histogram;
use super::metric::{Kind, Metric};

pub use prometheus_text::CONTENT_TYPE;

/// What knows the figures of a process.
pub trait Source: Send + Sync + 'static {
    /// Writes all of them.
    fn write(&self, out: &mut Exposition<'_>);
}

/// A source as text.
pub struct Text(Registry);

struct Collected<S>(S);

/// Takes the figures, metric by metric.
pub struct Exposition<'e> {
    encoder: DescriptorEncoder<'e>,
    outcome: fmt::Result,
}

/// Takes the figures of one metric.
pub struct Family<'e> {
    encoder: MetricEncoder<'e>,
    metric: &'static Metric,
    outcome: fmt::Result,
}

impl Text {
    /// That of this source.
    pub fn of(source: impl Source) -> Text {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Collected(source)));
        Text(registry)
    }

    /// Asks the source, and returns the text.
    pub fn write(&self) -> String {
        let mut text = String::new();
        if let Err(e) = prometheus_text::encode(&mut text, &self.0) {
            log::error!("metrics cannot be written: {e}");
        }
        text
    }
}

impl<S: Source> Collector for Collected<S> {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Exposition { encoder, outcome: Ok(()) };
        self.0.write(&mut out);
        out.outcome
    }
}

/// Not what it holds.
impl<S> fmt::Debug for Collected<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collected")
    }
}

impl Exposition<'_> {
    /// Writes a metric: `fill` gives its figures, each with other labels. To be called once for each metric.
    pub fn metric(&mut self, metric: &'static Metric, fill: impl FnOnce(&mut Family<'_>)) {
        let kind = match metric.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let written = self.encoder.encode_descriptor(metric.stem(), metric.help, None, kind).and_then(|encoder| {
            let mut family = Family { encoder, metric, outcome: Ok(()) };
            fill(&mut family);
            family.outcome
        });
        self.outcome = self.outcome.and(written);
    }

    /// Writes a metric without labels.
    pub fn value(&mut self, metric: &'static Metric, value: impl Into<Value>) {
        self.metric(metric, |family| family.add(&[], value));
    }
}

/// The value of a counter or a gauge.
#[derive(Clone, Copy, Debug)]
pub enum Value {
    /// A number of something.
    Count(u64),
    /// A measure, in the unit that the metric's name ends in.
    Measure(f64),
}

impl From<u64> for Value {
    fn from(count: u64) -> Value {
        Value::Count(count)
    }
}

impl From<usize> for Value {
    fn from(count: usize) -> Value {
        Value::Count(count as u64)
    }
}

impl From<u32> for Value {
    fn from(count: u32) -> Value {
        Value::Count(count.into())
    }
}

impl From<bool> for Value {
    fn from(is_so: bool) -> Value {
        Value::Count(is_so.into())
    }
}

impl From<f64> for Value {
    fn from(measure: f64) -> Value {
        Value::Measure(measure)
    }
}

impl Family<'_> {
    /// Adds the value of a counter or a gauge, with the values of the metric's labels in their order.
    pub fn add(&mut self, labels: &[&str], value: impl Into<Value>) {
        let is_counter = self.metric.kind == Kind::Counter;
        let value = value.into();
        self.labelled(labels, |encoder| match (is_counter, value) {
            (true, Value::Count(count)) => encoder.encode_counter::<NoLabelSet, _, f64>(&count, None),
            (true, Value::Measure(measure)) => encoder.encode_counter::<NoLabelSet, _, f64>(&measure, None),
            (false, Value::Count(count)) => encoder.encode_gauge(&count),
            (false, Value::Measure(measure)) => encoder.encode_gauge(&measure),
        });
    }

    /// Adds a histogram.
    pub fn histogram(&mut self, labels: &[&str], histogram: &Histogram) {
        let counted = histogram.counted();
        self.labelled(labels, |encoder| {
            encoder.encode_histogram::<NoLabelSet>(counted.sum, counted.count, &counted.buckets, None)
        });
    }

    fn labelled(&mut self, labels: &[&str], encode: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result) {
        debug_assert_eq!(labels.len(), self.metric.labels.len(), "{}", self.metric.name);
        let labels: Vec<(&str, &str)> = self.metric.labels.iter().copied().zip(labels.iter().copied()).collect();
        let encoded = match labels.is_empty() {
            true => encode(&mut self.encoder),
            false => self.encoder.encode_family(&labels).and_then(|mut encoder| encode(&mut encoder)),
        };
        self.outcome = self.outcome.and(encoded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static ASKED: Metric =
        Metric { name: "t_asked_total", kind: Kind::Counter, labels: &["by", "how"], help: "Who asked" };
    static HELD: Metric = Metric { name: "t_held_bytes", kind: Kind::Gauge, labels: &[], help: "Held" };

    struct Sample;

    impl Source for Sample {
        fn write(&self, out: &mut Exposition<'_>) {
            out.metric(&ASKED, |family| {
                family.add(&["a \"b\"\n\\", "x"], 3_u64);
                family.add(&["c", "y"], 0.5);
            });
            out.value(&HELD, 7_usize);
        }
    }

    #[test]
    fn names_are_as_declared_and_labels_are_escaped() {
        let expected = "# HELP t_asked_total Who asked\n# TYPE t_asked_total counter\n\
            t_asked_total{by=\"a \\\"b\\\"\\n\\\\\",how=\"x\"} 3\nt_asked_total{by=\"c\",how=\"y\"} 0.5\n\
            # HELP t_held_bytes Held\n# TYPE t_held_bytes gauge\nt_held_bytes 7\n";
        assert_eq!(Text::of(Sample).write(), expected);
    }
}
