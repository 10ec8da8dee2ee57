//! The settings for traces. Without an address, there are none.

use clap::Args;

use super::LOG;
use super::parse::{plain, service_url};

/// Where traces go.
#[derive(Clone, Debug, Args)]
pub struct TraceConfig {
    /// Address of a collector of traces that speaks OTLP over HTTP, such as `http://127.0.0.1:4318`; `/v1/traces` is appended.
    /// docs/traces.md lists the other variables of OpenTelemetry that are read
    #[arg(long, env, value_parser = plain(service_url), help_heading = LOG)]
    pub otel_exporter_otlp_endpoint: Option<String>,
}
