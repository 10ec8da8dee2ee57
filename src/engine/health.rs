//! Whether a provider is fit to be called: its calls in flight, and the cool-down after a failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use time::OffsetDateTime;

use super::calls::{CallMetrics, Outcome};
use super::hidden_output::HiddenOutput;
use crate::traces::{self, Outgoing, Span};
use crate::units::Units;

/// Cool-down after the first failure. It doubles with each further consecutive failure.
const MIN_COOL_DOWN: Duration = Duration::from_secs(1);
/// Upper limit of a cool-down that doubles.
const MAX_COOL_DOWN: Duration = Duration::from_secs(30);
/// Upper limit of a cool-down that the provider asks for.
const MAX_REQUESTED_COOL_DOWN: Duration = Duration::from_secs(3600);
/// Consecutive replies with status 500 that count as a failure. A single one may be the fault of the request, and such a
/// request must not make every provider look broken.
const MAX_ERRORS: u32 = 3;
/// Consecutive refusals after which a provider is no longer asked when there is no other. One may be about a
/// single large request.
const MAX_REFUSALS: u32 = 3;
/// How often such a provider is asked all the same.
const TRIAL_INTERVAL: Duration = Duration::from_secs(1);

/// Characters of an error that are kept.
const MAX_ERROR: usize = 200;

/// The state of one provider, shared by all its calls.
#[derive(Debug)]
pub(super) struct Health {
    name: String,
    max_concurrent: u32,
    in_flight: AtomicU32,
    state: Mutex<State>,
    /// When it failed last, and how.
    last_error: Mutex<Option<(OffsetDateTime, String)>>,
    hidden_output: HiddenOutput,
}

#[derive(Debug, Default)]
struct State {
    /// Consecutive failures; 0 while the provider is healthy.
    failures: u32,
    /// Consecutive replies with status 500.
    errors: u32,
    /// Consecutive refusals with the time to come back at.
    refusals: u32,
    /// When it failed last.
    failed_at: Option<Instant>,
    /// When a call last began.
    called_at: Option<Instant>,
    /// End of the cool-down.
    cooling_until: Option<Instant>,
}

/// A call in flight. It counts as one until it is dropped.
#[derive(Debug)]
pub(super) struct InFlight {
    health: Arc<Health>,
    began: Instant,
    /// Where it is counted, if its model is known.
    calls: Option<&'static CallMetrics>,
    /// Its part of the request's trace.
    span: Option<Box<Span>>,
}

impl Health {
    /// That of a provider which has not been called yet.
    pub(super) fn new(name: &str, max_concurrent: Option<u32>) -> Arc<Health> {
        Arc::new(Health {
            name: name.to_owned(),
            max_concurrent: max_concurrent.unwrap_or(u32::MAX),
            in_flight: AtomicU32::new(0),
            state: Mutex::default(),
            last_error: Mutex::default(),
            hidden_output: HiddenOutput::default(),
        })
    }

    /// How many calls are in flight.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// When it failed last, and how.
    pub(super) fn last_error(&self) -> Option<(OffsetDateTime, String)> {
        self.last_error.lock().clone()
    }

    /// How long the cool-down still lasts; `None` when there is none.
    pub(super) fn cool_down(&self, now: Instant) -> Option<Duration> {
        let until = self.state.lock().cooling_until?;
        until.checked_duration_since(now).filter(|left| !left.is_zero())
    }

    /// How long the provider wants to be left alone, if it has said so again and again. Until then, a call a second tries
    /// whether it still does.
    pub(super) fn is_closed(&self, now: Instant) -> Option<Duration> {
        let state = self.state.lock();
        let left = state.cooling_until?.checked_duration_since(now).filter(|left| !left.is_zero())?;
        let is_recent = state.called_at.is_some_and(|at| now.duration_since(at) < TRIAL_INTERVAL);
        (state.refusals >= MAX_REFUSALS && is_recent).then_some(left)
    }

    /// Begins a call, unless as many are in flight as the provider may have.
    pub(super) fn begin(self: &Arc<Health>, now: Instant) -> Option<InFlight> {
        let more = |calls| (calls < self.max_concurrent).then_some(calls + 1);
        self.in_flight.fetch_update(Relaxed, Relaxed, more).ok()?;
        let mut state = self.state.lock();
        state.called_at = Some(now);
        // Only one call tries a provider after its cool-down; the others avoid it until the outcome is known.
        if state.failures > 0 && state.cooling_until.is_none_or(|until| until <= now) {
            state.cooling_until = Some(now + cool_down(state.failures));
        }
        Some(InFlight { health: Arc::clone(self), began: now, calls: None, span: None })
    }
}

impl InFlight {
    /// The same call, counted there.
    pub(super) fn counted(self, calls: Option<&'static CallMetrics>) -> InFlight {
        let mut call = self;
        call.calls = calls;
        call
    }

    /// The same call, as a part of the trace of the request that this thread works on.
    pub(super) fn traced(self, path: &'static str) -> InFlight {
        let mut call = self;
        call.span = traces::client_span("model server").map(Box::new);
        if let Some(span) = &call.span {
            span.describe(|span| {
                span.name(format!("POST {path}"));
                span.attribute("http.request.method", "POST");
                span.attribute("textgen.provider", call.health.name.clone());
                if let Some(calls) = call.calls {
                    span.attribute("gen_ai.request.model", calls.model());
                }
            });
        }
        call
    }

    /// What the provider is told of the trace.
    pub(super) fn outgoing(&self) -> Option<Outgoing> {
        self.span.as_ref().map(|span| span.outgoing()).or_else(traces::outgoing)
    }

    /// Notes the status of the answer in the trace.
    pub(super) fn note_status(&self, status: u16) {
        if let Some(span) = &self.span {
            span.describe(|span| span.attribute("http.response.status_code", i64::from(status)));
        }
    }

    /// Counts how the call ended. To be called once, when that is known.
    pub(super) fn count(&self, outcome: Outcome) {
        if let Some(span) = self.span.as_ref().filter(|_| !matches!(outcome, Outcome::Answered | Outcome::Left)) {
            span.describe(|span| span.failed(outcome.label()));
        }
        if let Some(calls) = self.calls {
            calls.count(outcome);
        }
    }

    /// Counts a reply that broke off.
    pub(super) fn count_broken(&self) {
        if let Some(span) = &self.span {
            span.describe(|span| span.failed("the reply broke off"));
        }
        if let Some(calls) = self.calls {
            calls.count_broken();
        }
    }

    /// The first piece of a streamed reply has come.
    pub(super) fn note_first_piece(&self) {
        if let Some(span) = &self.span {
            span.describe(|span| span.event("first piece", None));
        }
        if let Some(calls) = self.calls {
            calls.first_pieces().add_time(self.began.elapsed());
        }
    }

    /// Keeps what went wrong, for the operator.
    pub(super) fn note_error(&self, why: &str) {
        let why = why.chars().take(MAX_ERROR).collect();
        *self.health.last_error.lock() = Some((OffsetDateTime::now_utc(), why));
    }

    /// Counts what its reply has used; `streaming` is how long that came piece by piece.
    pub(super) fn note_tokens(&self, units: &Units, streaming: Option<Duration>) {
        if let Some(calls) = self.calls {
            calls.add_tokens(units, streaming);
        }
    }

    /// The provider's name.
    pub(super) fn name(&self) -> &str {
        &self.health.name
    }

    /// What the provider's models have hidden.
    pub(super) fn hidden_output(&self) -> &HiddenOutput {
        &self.health.hidden_output
    }

    /// When the call began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Ends the cool-down: the provider answered as it should. A call that began before the last failure proves nothing.
    pub(super) fn succeeded(&self) {
        let mut state = self.health.state.lock();
        (state.errors, state.refusals) = (0, 0);
        if state.failures > 0 && state.failed_at.is_none_or(|at| at <= self.began) {
            log::info!("provider {} works again", self.health.name);
            *state = State::default();
        }
    }

    /// Starts or extends the cool-down: the provider failed, or asked to be left alone for `wanted`. Returns how long it
    /// lasts.
    pub(super) fn failed(&self, wanted: Option<Duration>, now: Instant) -> Duration {
        let mut state = self.health.state.lock();
        state.failures = state.failures.saturating_add(1);
        state.failed_at = Some(now);
        let usual = cool_down(state.failures);
        let length = wanted.map_or(usual, |wanted| wanted.min(MAX_REQUESTED_COOL_DOWN));
        let until = now + length;
        state.cooling_until = Some(state.cooling_until.map_or(until, |other| other.max(until)));
        length
    }

    /// [`InFlight::failed`], for a provider that is asked too often.
    pub(super) fn refused(&self, wanted: Option<Duration>, now: Instant) -> Duration {
        if wanted.is_some() {
            let mut state = self.health.state.lock();
            state.refusals = state.refusals.saturating_add(1);
        }
        self.failed(wanted, now)
    }

    /// Notes a reply with status 500, of which several in a row are a failure.
    pub(super) fn answered_500(&self, now: Instant) {
        let mut state = self.health.state.lock();
        state.errors += 1;
        if state.errors >= MAX_ERRORS {
            state.errors = 0;
            drop(state);
            self.failed(None, now);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(calls) = self.calls {
            calls.durations().add_time(self.began.elapsed());
        }
        self.health.in_flight.fetch_sub(1, Relaxed);
    }
}

fn cool_down(failures: u32) -> Duration {
    MIN_COOL_DOWN.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(MAX_COOL_DOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn calls_at_once_are_bounded() {
        let (health, now) = (Health::new("a", Some(2)), Instant::now());
        let first = health.begin(now).unwrap();
        let _second = health.begin(now).unwrap();
        assert!(health.begin(now).is_none() && health.in_flight() == 2);
        drop(first);
        assert!(health.begin(now).is_some());
        assert_eq!(health.in_flight(), 1);
    }

    #[test]
    fn a_failure_starts_a_cool_down_after_which_one_call_tries() {
        let (health, now) = (Health::new("a", None), Instant::now());
        assert_eq!(health.begin(now).unwrap().failed(None, now), SECOND);
        assert_eq!(health.cool_down(now), Some(SECOND));
        let later = now + 2 * SECOND;
        assert_eq!(health.cool_down(later), None);
        let trial = health.begin(later).unwrap();
        assert_eq!(health.cool_down(later), Some(SECOND), "others wait for the outcome");
        trial.succeeded();
        assert_eq!(health.cool_down(later), None);
        assert_eq!(cool_down(1), MIN_COOL_DOWN);
        assert_eq!(cool_down(u32::MAX), MAX_COOL_DOWN);
    }

    #[test]
    fn the_provider_says_how_long() {
        let (health, now) = (Health::new("a", None), Instant::now());
        let old = health.begin(now).unwrap();
        health.begin(now).unwrap().failed(Some(90 * SECOND), now + SECOND);
        old.succeeded();
        assert_eq!(health.cool_down(now + SECOND), Some(90 * SECOND), "an older call's success does not end it");
        health.begin(now).unwrap().failed(None, now + SECOND);
        assert_eq!(health.cool_down(now + SECOND), Some(90 * SECOND), "nor does another failure shorten it");
        health.begin(now).unwrap().failed(Some(Duration::MAX), now + SECOND);
        assert_eq!(health.cool_down(now + SECOND), Some(MAX_REQUESTED_COOL_DOWN));
    }

    #[test]
    fn a_provider_that_keeps_asking_for_a_pause_gets_one() {
        let (health, now) = (Health::new("a", None), Instant::now());
        for _ in 1..MAX_REFUSALS {
            health.begin(now).unwrap().refused(Some(9 * SECOND), now);
            assert_eq!(health.is_closed(now), None, "it may be about one request");
        }
        health.begin(now).unwrap().refused(Some(9 * SECOND), now);
        assert_eq!(health.is_closed(now), Some(9 * SECOND));
        let later = now + TRIAL_INTERVAL;
        assert_eq!(health.is_closed(later), None, "one call tries");
        let trial = health.begin(later).unwrap();
        assert_eq!(health.is_closed(later), Some(8 * SECOND));
        trial.succeeded();
        assert_eq!((health.is_closed(later), health.cool_down(later)), (None, None));
        for _ in 0..2 * MAX_REFUSALS {
            health.begin(now).unwrap().refused(None, now);
        }
        assert_eq!(health.is_closed(now), None, "it has not asked for it");
    }

    #[test]
    fn a_request_that_causes_errors_is_not_the_providers_failure_yet() {
        let (health, now) = (Health::new("a", None), Instant::now());
        for _ in 0..10 {
            for _ in 1..MAX_ERRORS {
                health.begin(now).unwrap().answered_500(now);
            }
            health.begin(now).unwrap().succeeded();
        }
        assert_eq!(health.cool_down(now), None);
        for _ in 0..MAX_ERRORS {
            health.begin(now).unwrap().answered_500(now);
        }
        assert!(health.cool_down(now).is_some());
    }
}
