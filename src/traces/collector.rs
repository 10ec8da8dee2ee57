//! The way of spans to a collector: OTLP over HTTP, in batches, by a thread of OpenTelemetry's library. Requests never wait
//! for it: spans beyond [`MAX_WAITING`] are dropped, and counted.

use std::fmt;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider, Span, SpanData, SpanExporter as Export, SpanProcessor,
};

use crate::version;

/// Most spans that wait to be sent: about 2 MB.
const MAX_WAITING: usize = 2048;
/// How long spans wait for others to be sent with.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long the collector may take for a batch.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of the process waits for the collector.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Most bytes of the collector's answer that are read.
const MAX_ANSWER: u64 = 64 * 1024;
/// The path that OTLP has for traces.
const PATH: &str = "/v1/traces";
/// The variable that names the form of what is sent; OTLP's own default is `http/protobuf`.
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";

/// What became of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// The collector has them.
    pub sent: u64,
    /// Too many waited.
    pub dropped: u64,
    /// The collector did not take them.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Counters {
    waiting: AtomicUsize,
    sent: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    /// Whether it was logged that the collector takes nothing.
    is_failing: AtomicBool,
}

/// A collector.
#[derive(Debug)]
pub(super) struct Collector {
    pub(super) provider: SdkTracerProvider,
    counters: Arc<Counters>,
}

impl Collector {
    pub(super) fn new(endpoint: &str) -> Result<Collector, String> {
        let counters = Arc::new(Counters::default());
        let url = format!("{}{PATH}", endpoint.trim_end_matches('/'));
        let mut builder = SpanExporter::builder().with_http().with_http_client(Client::new()).with_endpoint(url);
        if std::env::var_os(PROTOCOL).is_none() {
            builder = builder.with_protocol(Protocol::HttpBinary);
        }
        let inner = builder.build().map_err(|e| format!("OTEL_EXPORTER_OTLP_ENDPOINT: {e}"))?;
        let config =
            BatchConfigBuilder::default().with_max_queue_size(MAX_WAITING).with_scheduled_delay(INTERVAL).build();
        let exporter = Counted { inner, counters: Arc::clone(&counters) };
        let batches = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Bounded { inner: batches, counters: Arc::clone(&counters) })
            .with_resource(resource())
            .build();
        Ok(Collector { provider, counters })
    }

    pub(super) fn counts(&self) -> SpanCounts {
        let Counters { sent, dropped, failed, .. } = &*self.counters;
        SpanCounts { sent: sent.load(Relaxed), dropped: dropped.load(Relaxed), failed: failed.load(Relaxed) }
    }

    pub(super) fn stop(&self) {
        // What the collector does not take now is lost; the exporter has said so.
        let _ = self.provider.shutdown_with_timeout(STOP_TIMEOUT);
    }
}

/// What the spans are of. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` add to it, or say otherwise.
fn resource() -> Resource {
    let version = opentelemetry::KeyValue::new("service.version", version::VERSION);
    let builder = Resource::builder().with_attribute(version);
    let is_named =
        ["OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"].iter().any(|name| std::env::var_os(name).is_some());
    if is_named { builder } else { builder.with_service_name("textgen") }.build()
}

/// Takes no more spans than may wait.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    counters: Arc<Counters>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.counters.waiting.fetch_add(1, Relaxed) >= MAX_WAITING {
            self.counters.waiting.fetch_sub(1, Relaxed);
            self.counters.dropped.fetch_add(1, Relaxed);
        } else {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts what the collector takes.
#[derive(Debug)]
struct Counted {
    inner: SpanExporter,
    counters: Arc<Counters>,
}

impl Export for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let Counters { waiting, sent, failed, is_failing, .. } = &*self.counters;
        let count = batch.len();
        let outcome = self.inner.export(batch).await;
        waiting.fetch_sub(count, Relaxed);
        let counter = if outcome.is_ok() { sent } else { failed };
        counter.fetch_add(count as u64, Relaxed);
        match (&outcome, is_failing.swap(outcome.is_err(), Relaxed)) {
            (Err(e), false) => log::warn!("the trace collector is not accepting traces: {e}"),
            (Ok(()), true) => log::info!("the trace collector is accepting traces again"),
            _ => {}
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Sends a batch, on the thread of the library.
struct Client(ureq::Agent);

impl Client {
    fn new() -> Client {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // As for model servers: collectors are mostly next door.
            .proxy(None)
            .user_agent(version::USER_AGENT);
        Client(ureq::Agent::new_with_config(config.build()))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let response = self.0.run(Request::from_parts(head, &body[..]))?;
        let (head, body) = response.into_parts();
        let mut answer = Vec::new();
        body.into_reader().take(MAX_ANSWER).read_to_end(&mut answer)?;
        Ok(Response::from_parts(head, answer.into()))
    }
}
