//! The figures of a process, read from its parts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use time::OffsetDateTime;

use crate::app::App;
use crate::blocking::Wait;
use crate::engine::calls;
use crate::server::Handle;
use crate::store::unsent::Unsent;
use crate::telemetry::{Exposition, Metric, Source, metric};
use crate::version;

/// Picodollars in a dollar.
const PICOS: f64 = 1e12;

/// All of them.
pub(super) struct Figures {
    app: Arc<App>,
    server: Handle,
    /// In seconds since 1970.
    started: f64,
}

/// In seconds; 0 if there is nothing.
fn age(oldest: Option<OffsetDateTime>) -> f64 {
    oldest.map_or(0.0, |oldest| (OffsetDateTime::now_utc() - oldest).as_seconds_f64().max(0.0))
}

/// What waits in an outbox, if there is one.
fn unsent(out: &mut Exposition<'_>, rows: &'static Metric, oldest: &'static Metric, unsent: Option<Unsent>) {
    out.metric(rows, |family| {
        if let Some(unsent) = &unsent {
            family.add(&["waiting"], unsent.waiting.unsigned_abs());
            family.add(&["put_aside"], unsent.put_aside.unsigned_abs());
        }
    });
    out.metric(oldest, |family| {
        if let Some(unsent) = &unsent {
            family.add(&[], age(unsent.oldest));
        }
    });
}

impl Figures {
    /// Those of this process, which has just started.
    pub(super) fn new(app: Arc<App>, server: Handle) -> Figures {
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        Figures { app, server, started }
    }
}

impl Source for Figures {
    fn write(&self, out: &mut Exposition<'_>) {
        out.metric(&metric::BUILD_INFO, |family| family.add(&[version::VERSION, version::COMMIT], 1_u64));
        out.value(&metric::START_TIME, self.started);
        self.requests(out);
        self.connections(out);
        self.database(out);
        self.charges(out);
        self.journal(out);
        self.limits(out);
        self.upstreams(out);
        self.outbox(out);
        self.mail(out);
        self.callers(out);
        self.spans(out);
    }
}

impl Figures {
    fn requests(&self, out: &mut Exposition<'_>) {
        let all = self.app.requests.all();
        out.metric(&metric::HTTP_REQUESTS, |family| {
            for requests in &all {
                for (status, durations) in requests.durations() {
                    family.add(&[requests.server(), requests.operation(), status], durations.count());
                }
            }
        });
        out.metric(&metric::HTTP_DURATION, |family| {
            for requests in &all {
                for (status, durations) in requests.durations() {
                    family.histogram(&[requests.server(), requests.operation(), status], durations);
                }
            }
        });
        out.metric(&metric::HTTP_FIRST_BYTE, |family| {
            for requests in all.iter().filter(|requests| requests.first_bytes().count() > 0) {
                family.histogram(&[requests.server(), requests.operation()], requests.first_bytes());
            }
        });
    }

    fn connections(&self, out: &mut Exposition<'_>) {
        out.metric(&metric::HTTP_UNSEEN, |family| {
            for (status, count) in self.server.own_replies() {
                family.add(&[&status.to_string()], count);
            }
        });
        let stats = self.server.stats();
        out.value(&metric::CONNECTIONS, stats.open_connections);
        out.value(&metric::CONNECTIONS_EVICTED, stats.evicted);
        out.value(&metric::THREADS, stats.threads);
        out.value(&metric::THREADS_BLOCKED, stats.blocked);
        let waits = || Wait::ALL.iter().map(|wait| wait.label()).zip(&stats.waiting);
        out.metric(&metric::WAITING, |family| waits().for_each(|(kind, wait)| family.add(&[kind], wait.waiting)));
        out.metric(&metric::WAITING_PLACES, |family| waits().for_each(|(kind, wait)| family.add(&[kind], wait.places)));
        out.metric(&metric::WAITING_REFUSED, |family| {
            waits().for_each(|(kind, wait)| family.add(&[kind], wait.refused));
        });
        out.value(&metric::MEMORY_BUDGET, stats.memory);
        out.value(&metric::MEMORY_USED, stats.memory_used);
        out.value(&metric::MEMORY_REFUSED, stats.memory_refused);
    }

    fn database(&self, out: &mut Exposition<'_>) {
        let (db, pool) = (&self.app.db, self.app.db.pool_state());
        out.value(&metric::DATABASE_REACHABLE, db.check_reachable().is_ok());
        out.value(&metric::DATABASE_READY, db.is_open());
        out.metric(&metric::POOL_CONNECTIONS, |family| {
            family.add(&["idle"], pool.idle);
            family.add(&["in_use"], pool.made.saturating_sub(pool.idle));
        });
        out.value(&metric::POOL_SIZE, pool.most);
        out.value(&metric::POOL_WAITING, pool.waiting);
    }

    fn charges(&self, out: &mut Exposition<'_>) {
        let (meter, stats) = (&self.app.meter, self.app.meter.stats());
        out.metric(&metric::CHARGES, |family| {
            family.add(&["committed"], stats.committed);
            family.add(&["journaled"], stats.journaled);
            family.add(&["replayed"], stats.replayed);
            family.add(&["duplicate"], stats.duplicates);
        });
        out.value(&metric::CHARGES_WAITING, stats.waiting);
        out.value(&metric::CHARGES_AVAILABLE, stats.is_database_available);
        let [batches, commits] = meter.commits();
        out.metric(&metric::CHARGE_BATCH, |family| family.histogram(&[], batches));
        out.metric(&metric::CHARGE_COMMIT, |family| family.histogram(&[], commits));
        let charged = meter.charged();
        out.metric(&metric::CHARGED_UNITS, |family| {
            for (model, total) in &charged {
                for (unit, amount) in total.units.iter().filter(|(_, amount)| **amount > 0) {
                    family.add(&[model, unit.column()], amount.unsigned_abs());
                }
            }
        });
        #[allow(clippy::cast_precision_loss)] // The exact sums are in the ledger.
        out.metric(&metric::CHARGED_DOLLARS, |family| {
            for (model, total) in &charged {
                family.add(&[model], total.picos as f64 / PICOS);
            }
        });
    }

    fn journal(&self, out: &mut Exposition<'_>) {
        let (stats, aside) = (self.app.meter.stats(), self.app.meter.aside());
        out.value(&metric::JOURNAL_BYTES, stats.journal_bytes);
        out.value(&metric::JOURNAL_MAX_BYTES, stats.journal_max_bytes);
        out.value(&metric::JOURNAL_CHARGES, stats.journal_charges);
        out.value(&metric::JOURNAL_OLDEST, age(stats.journal_oldest));
        out.value(&metric::JOURNAL_ROOM, stats.has_journal_room);
        out.value(&metric::ASIDE_CHARGES, aside.charges);
        out.value(&metric::ASIDE_JOURNALS, aside.journals);
        out.value(&metric::STUCK_JOURNALS, aside.stuck);
    }

    fn limits(&self, out: &mut Exposition<'_>) {
        let limits = self.app.meter.limits();
        out.value(&metric::LEASES, limits.leases());
        out.metric(&metric::LIMIT_REFUSED, |family| {
            let [budgets, rates] = limits.refusals();
            for ((kind, by_budgets), (_, by_rates)) in budgets.counts().zip(rates.counts()) {
                family.add(&[kind], by_budgets + by_rates);
            }
        });
    }

    fn upstreams(&self, out: &mut Exposition<'_>) {
        let (providers, calls) = (self.app.models.providers(), calls::all());
        out.metric(&metric::UPSTREAM_UP, |family| {
            for (name, state) in &providers {
                family.add(&[name], state.is_up());
            }
        });
        out.metric(&metric::UPSTREAM_IN_FLIGHT, |family| {
            for (name, state) in &providers {
                family.add(&[name], state.in_flight);
            }
        });
        out.metric(&metric::UPSTREAM_CALLS, |family| {
            for calls in &calls {
                for (outcome, count) in calls.outcomes() {
                    family.add(&[calls.provider(), calls.model(), outcome], count);
                }
            }
        });
        out.metric(&metric::UPSTREAM_BROKEN, |family| {
            for calls in &calls {
                family.add(&[calls.provider(), calls.model()], calls.broken());
            }
        });
        out.metric(&metric::UPSTREAM_DURATION, |family| {
            for calls in &calls {
                family.histogram(&[calls.provider(), calls.model()], calls.durations());
            }
        });
        out.metric(&metric::UPSTREAM_FIRST, |family| {
            for calls in calls.iter().filter(|calls| calls.first_pieces().count() > 0) {
                family.histogram(&[calls.provider(), calls.model()], calls.first_pieces());
            }
        });
        out.metric(&metric::UPSTREAM_TOKENS, |family| {
            for calls in &calls {
                for (direction, count) in calls.tokens().filter(|(_, count)| *count > 0) {
                    family.add(&[calls.provider(), calls.model(), direction], count);
                }
            }
        });
        out.metric(&metric::UPSTREAM_BETWEEN, |family| {
            for calls in calls.iter().filter(|calls| calls.between_tokens().count() > 0) {
                family.histogram(&[calls.provider(), calls.model()], calls.between_tokens());
            }
        });
    }

    /// Nothing where usage is not reported to Stripe.
    fn outbox(&self, out: &mut Exposition<'_>) {
        unsent(out, &metric::OUTBOX_ROWS, &metric::OUTBOX_OLDEST, self.app.outbox.unsent());
    }

    /// Nothing where mail is not set up.
    fn mail(&self, out: &mut Exposition<'_>) {
        let mail = &self.app.mail;
        out.metric(&metric::MAILS, |family| {
            if mail.is_set_up() {
                family.add(&["sent"], mail.counts.sent.load(Relaxed));
                family.add(&["retry"], mail.counts.retried.load(Relaxed));
                family.add(&["put_aside"], mail.counts.put_aside.load(Relaxed));
            }
        });
        unsent(out, &metric::MAIL_ROWS, &metric::MAIL_OLDEST, mail.unsent());
    }

    fn callers(&self, out: &mut Exposition<'_>) {
        let (cache, counters) = (&self.app.cache, &self.app.cache.counters);
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        out.metric(&metric::CACHE_LOOKUPS, |family| {
            family.add(&["hit"], count(&counters.hits));
            family.add(&["miss"], count(&counters.misses));
            family.add(&["refused"], count(&counters.refused));
        });
        out.value(&metric::CACHE_EVICTED, count(&counters.evicted));
        out.value(&metric::CACHE_SIZE, cache.len());
        out.value(&metric::CACHE_MAX, self.app.config.cache_size);
        out.value(&metric::LISTENING, cache.is_subscribed());
        out.value(&metric::REVOCATIONS, count(&counters.revocations));
        out.metric(&metric::REVOCATION_LAG, |family| {
            if let Some(lag) = self.app.probe.lag() {
                family.add(&[], lag.as_secs_f64());
            }
        });
    }

    /// Nothing without a collector.
    fn spans(&self, out: &mut Exposition<'_>) {
        out.metric(&metric::TRACE_SPANS, |family| {
            if let Some(counts) = self.app.traces.counts() {
                family.add(&["sent"], counts.sent);
                family.add(&["dropped"], counts.dropped);
                family.add(&["failed"], counts.failed);
            }
        });
    }
}
