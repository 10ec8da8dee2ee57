//! Traces: what a request spent its time on, for a collector of OpenTelemetry, and their way through this server.
//!
//! A request's trace is begun or taken up ([W3C Trace Context](https://www.w3.org/TR/trace-context/)) when it is dispatched.
//! It belongs to the thread that works on the request ([`enter`]), so whatever takes time adds a [`span`] to it without
//! knowing the request, and the model server is told of it ([`outgoing`]). Without a collector, a client's trace is passed on
//! as it came; for a request without one, nothing at all is done.

mod collector;

use std::cell::RefCell;
use std::fmt;
use std::time::SystemTime;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};
use parking_lot::Mutex;

use collector::Collector;

pub use collector::SpanCounts;

/// The headers of a trace, as clients send them and model servers get them.
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Most bytes of a client's `tracestate`; a longer one is dropped, as the standard permits, because it is held for as long as
/// any span of the trace waits to be sent.
const MAX_TRACESTATE: usize = 512;

/// The name of what makes the spans, as collectors show it.
const SCOPE: &str = "textgen";

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// Makes the traces of a process.
#[derive(Debug, Default)]
pub struct Traces {
    collector: Option<Collector>,
}

/// A place in a trace: the request's, or that of something within it.
#[derive(Clone)]
pub struct Current {
    /// Makes its spans; `None` if there is no collector.
    tracer: Option<SdkTracer>,
    /// Under which they are made.
    parent: SpanContext,
}

/// The trace of one request. It ends when this is dropped.
#[derive(Debug)]
pub struct RequestTrace {
    current: Current,
    span: Option<SdkSpan>,
}

/// Something that takes time within a request. It ends when this is dropped.
pub struct Span {
    current: Current,
    span: Mutex<SdkSpan>,
}

/// Restores the previous place when dropped; see [`enter`].
#[must_use]
pub struct Entered(Option<Current>);

impl Traces {
    /// Traces that are sent to the collector at this address, if there is one.
    ///
    /// # Errors
    /// The address is not one, or a thread cannot be started; one line for the operator.
    pub fn new(endpoint: Option<&str>) -> Result<Traces, String> {
        Ok(Traces { collector: endpoint.map(Collector::new).transpose()? })
    }

    /// The trace of a request, which has a name once its operation is known; `None` if nobody wants to know of it. `header`
    /// finds the value of a header.
    pub fn begin<'h>(&self, header: impl Fn(&str) -> Option<&'h str>) -> Option<Box<RequestTrace>> {
        let parent = header(TRACEPARENT).and_then(|traceparent| remote_parent(traceparent, header(TRACESTATE)));
        let Some(collector) = &self.collector else {
            let parent = parent?;
            return Some(Box::new(RequestTrace { current: Current { tracer: None, parent }, span: None }));
        };
        let tracer = collector.provider.tracer(SCOPE);
        let context = parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
        let builder = SpanBuilder::from_name("request").with_kind(SpanKind::Server);
        let span = tracer.build_with_context(builder, &context);
        let current = Current { tracer: Some(tracer), parent: span.span_context().clone() };
        Some(Box::new(RequestTrace { current, span: Some(span) }))
    }

    /// What became of spans; `None` without a collector.
    pub fn counts(&self) -> Option<SpanCounts> {
        self.collector.as_ref().map(Collector::counts)
    }

    /// Sends what is left, for a short time.
    pub fn stop(&self) {
        if let Some(collector) = &self.collector {
            collector.stop();
        }
    }
}

impl RequestTrace {
    /// The place of the request in its trace.
    pub fn current(&self) -> Current {
        self.current.clone()
    }

    /// Ends it, as what it was.
    pub fn end(mut self, describe: impl FnOnce(&mut Description<'_>)) {
        if let Some(span) = self.span.as_mut().filter(|span| span.is_recording()) {
            describe(&mut Description(span));
        }
    }
}

impl Span {
    /// Describes it, if anybody wants to know.
    pub fn describe(&self, describe: impl FnOnce(&mut Description<'_>)) {
        describe(&mut Description(&mut self.span.lock()));
    }

    /// What the server is told for which this waits.
    pub fn outgoing(&self) -> Outgoing {
        outgoing_of(&self.current.parent)
    }

    /// Makes it the place of this thread, so that further spans are parts of it.
    pub fn enter(&self) -> Entered {
        enter(Some(self.current.clone()))
    }
}

/// Describes a span.
pub struct Description<'s>(&'s mut SdkSpan);

impl Description<'_> {
    /// Gives it a name. It must not have what strangers choose.
    pub fn name(&mut self, name: String) {
        self.0.update_name(name);
    }

    /// Adds an attribute, under a name of OpenTelemetry's conventions if there is one.
    pub fn attribute(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(name, value));
    }

    /// Adds that something happened just now, or then.
    pub fn event(&mut self, name: &'static str, at: Option<SystemTime>) {
        self.0.add_event_with_timestamp(name, at.unwrap_or_else(SystemTime::now), Vec::new());
    }

    /// It failed, for this reason.
    pub fn failed(&mut self, why: &'static str) {
        self.0.set_status(Status::error(why));
    }
}

/// What is sent to a model server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The header's value.
    pub traceparent: String,
    /// The same, if the client has sent one.
    pub tracestate: Option<String>,
}

impl Outgoing {
    /// The headers.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let state = self.tracestate.as_deref().map(|state| (TRACESTATE, state));
        [(TRACEPARENT, self.traceparent.as_str())].into_iter().chain(state)
    }
}

/// Makes this the place of this thread in a trace until the result is dropped.
pub fn enter(current: Option<Current>) -> Entered {
    Entered(CURRENT.replace(current))
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// The place of this thread in a trace, for another thread that works on the same request.
pub fn current() -> Option<Current> {
    CURRENT.with_borrow(Clone::clone)
}

/// Begins something that takes time, if this thread works on a request whose trace is wanted.
pub fn span(name: &'static str) -> Option<Span> {
    begin(name, SpanKind::Internal)
}

/// Begins to wait for another server.
pub fn client_span(name: &'static str) -> Option<Span> {
    begin(name, SpanKind::Client)
}

fn begin(name: &'static str, kind: SpanKind) -> Option<Span> {
    CURRENT.with_borrow(|current| {
        let current = current.as_ref().filter(|current| current.parent.is_sampled())?;
        let tracer = current.tracer.as_ref()?;
        let context = Context::new().with_remote_span_context(current.parent.clone());
        let span = tracer.build_with_context(SpanBuilder::from_name(name).with_kind(kind), &context);
        let current = Current { tracer: Some(tracer.clone()), parent: span.span_context().clone() };
        Some(Span { current, span: Mutex::new(span) })
    })
}

/// What a model server is told of the trace that this thread works on.
pub fn outgoing() -> Option<Outgoing> {
    CURRENT.with_borrow(|current| current.as_ref().map(|current| outgoing_of(&current.parent)))
}

fn outgoing_of(parent: &SpanContext) -> Outgoing {
    let flags = parent.trace_flags().to_u8() & 1;
    let traceparent = format!("00-{:032x}-{:016x}-{flags:02x}", parent.trace_id(), parent.span_id());
    let state = parent.trace_state().header();
    Outgoing { traceparent, tracestate: (!state.is_empty()).then_some(state) }
}

/// The two headers of a client.
struct Headers<'h> {
    traceparent: &'h str,
    tracestate: Option<&'h str>,
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => Some(self.traceparent),
            TRACESTATE => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

/// The client's place in a trace; `None` if its header is malformed.
fn remote_parent(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
    let tracestate = tracestate.filter(|state| state.len() <= MAX_TRACESTATE);
    let headers = Headers { traceparent, tracestate };
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &headers);
    let parent = context.span().span_context().clone();
    parent.is_valid().then_some(parent)
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").field("parent", &self.parent).finish_non_exhaustive()
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Span").field("current", &self.current).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn begin(traceparent: Option<&str>, tracestate: Option<&str>) -> Option<Box<RequestTrace>> {
        Traces::default().begin(|name| match name {
            TRACEPARENT => traceparent,
            TRACESTATE => tracestate,
            _ => None,
        })
    }

    #[test]
    fn without_a_collector_a_trace_is_passed_on_as_it_came() {
        assert!(begin(None, Some("a=b")).is_none());
        let trace = begin(Some(PARENT), Some("vendor=x")).unwrap();
        {
            let _entered = enter(Some(trace.current()));
            let sent = outgoing().unwrap();
            assert_eq!((sent.traceparent.as_str(), sent.tracestate.as_deref()), (PARENT, Some("vendor=x")));
            assert_eq!(sent.headers().count(), 2);
            assert!(span("x").is_none(), "nobody wants to know");
            {
                let _nothing = enter(None);
                assert!(outgoing().is_none());
            }
            assert!(outgoing().is_some());
        }
        assert!(outgoing().is_none());
    }

    #[test]
    fn a_malformed_trace_is_no_trace_and_a_long_state_is_dropped() {
        for malformed in ["", "x", "00-0-0-01", &PARENT.replace("0af7", "0AF7"), &PARENT.replace("00-", "ff-")] {
            assert!(begin(Some(malformed), None).is_none(), "{malformed}");
        }
        let zeros = "00-00000000000000000000000000000000-b7ad6b7169203331-01";
        assert!(begin(Some(zeros), None).is_none());
        let long = format!("vendor={}", "x".repeat(MAX_TRACESTATE));
        let trace = begin(Some(PARENT), Some(&long)).unwrap();
        assert_eq!(outgoing_of(&trace.current.parent).tracestate, None);
    }
}
