//! The metrics, each declared once.
//!
//! Names follow Prometheus' conventions: the unit comes last, and `_total` is the end of what only grows. No label has a
//! value that clients choose, such as an account, a key or the name of a model that there is not: each value is a word of
//! this program, or comes from what the operator has set up.

use std::fmt;

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the process lives.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many values were how large.
    Histogram,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        })
    }
}

/// A metric.
#[derive(Debug)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
}

impl Metric {
    /// The name as the encoder wants it, which adds the end of counters' names by itself.
    pub(super) fn stem(&self) -> &'static str {
        match self.kind {
            Kind::Counter => self.name.strip_suffix("_total").unwrap_or(self.name),
            Kind::Gauge | Kind::Histogram => self.name,
        }
    }
}

macro_rules! metrics {
    ($($metric:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(
            #[doc = $help]
            pub static $metric: Metric =
                Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )*

        /// All metrics, in the order in which they are shown.
        pub static METRICS: &[&Metric] = &[$(&$metric),*];
    };
}

metrics! {
    BUILD_INFO: Gauge "textgen_build_info" ["version", "commit"] "Always 1; the labels say which version runs";
    START_TIME: Gauge "process_start_time_seconds" [] "When the process started, in seconds since 1970";

    HTTP_REQUESTS: Counter "textgen_http_requests_total" ["server", "operation", "status"]
        "Requests by the first digit of their reply's status; left: the client was gone before the reply began";
    HTTP_DURATION: Histogram "textgen_http_request_duration_seconds" ["server", "operation", "status"]
        "From when a request was read to the end of its reply";
    HTTP_FIRST_BYTE: Histogram "textgen_http_first_byte_seconds" ["server", "operation"]
        "From when a request was read to the first byte of its reply's body, where that is streamed";
    HTTP_UNSEEN: Counter "textgen_http_refused_total" ["status"]
        "Requests that no operation saw, as they were malformed, incomplete, too slow or too large, or too many waited";
    CONNECTIONS: Gauge "textgen_connections" [] "Connections of clients that are open";
    CONNECTIONS_EVICTED: Counter "textgen_connections_evicted_total" []
        "Connections that were closed to make room for others, or to free memory";
    THREADS: Gauge "textgen_worker_threads" [] "Threads that run handlers, or wait in one";
    THREADS_BLOCKED: Gauge "textgen_worker_threads_blocked" [] "Of these, those that wait in a handler for long";
    WAITING: Gauge "textgen_waiting_requests" ["kind"] "Requests that wait, by what they wait for";
    WAITING_PLACES: Gauge "textgen_waiting_places" ["kind"] "How many may wait";
    WAITING_REFUSED: Counter "textgen_waiting_refused_total" ["kind"]
        "Requests that were refused (429 or 503) as too many waited, of all or of their account";
    MEMORY_BUDGET: Gauge "textgen_memory_budget_bytes" [] "Memory that requests may hold together";
    MEMORY_USED: Gauge "textgen_memory_used_bytes" [] "Memory that requests hold";
    MEMORY_REFUSED: Counter "textgen_memory_refused_total" [] "How often nothing was left of the memory budget";

    DATABASE_REACHABLE: Gauge "textgen_database_reachable" [] "1 unless the last attempt to connect to the database failed";
    DATABASE_READY: Gauge "textgen_database_ready" [] "1 once the database's tables are up to date";
    POOL_CONNECTIONS: Gauge "textgen_database_connections" ["state"] "Connections to the database, but for those that record charges";
    POOL_SIZE: Gauge "textgen_database_connections_max" [] "How many there may be (POOL_SIZE)";
    POOL_WAITING: Gauge "textgen_database_waiting_requests" [] "Requests that wait for one of them";

    CHARGES: Counter "textgen_charges_total" ["outcome"]
        "Charges by what became of them: committed to the database, written to the journal, replayed from a journal, or found to be made before";
    CHARGES_WAITING: Gauge "textgen_charges_waiting" [] "Charges that wait to be written";
    CHARGES_AVAILABLE: Gauge "textgen_charges_database_available" [] "1 while the database takes charges; the journal does otherwise";
    CHARGE_BATCH: Histogram "textgen_charge_batch_size" [] "Charges that were committed together";
    CHARGE_COMMIT: Histogram "textgen_charge_commit_seconds" [] "From the beginning of a commit of charges until it was durable";
    CHARGED_UNITS: Counter "textgen_charged_units_total" ["model", "unit"]
        "What this process charged for, in the database or in its journal, such as tokens";
    CHARGED_DOLLARS: Counter "textgen_charged_dollars_total" ["model"] "What that costs";
    JOURNAL_BYTES: Gauge "textgen_journal_bytes" [] "Size of this process's journal of charges";
    JOURNAL_MAX_BYTES: Gauge "textgen_journal_max_bytes" [] "How large it may get (JOURNAL_MAX_BYTES)";
    JOURNAL_CHARGES: Gauge "textgen_journal_charges" [] "Charges in it that the database does not have yet";
    JOURNAL_OLDEST: Gauge "textgen_journal_oldest_seconds" [] "Age of the oldest of them; 0 if there is none";
    JOURNAL_ROOM: Gauge "textgen_journal_has_room" [] "1 if it has room for more; otherwise work is refused while the database is down";
    ASIDE_CHARGES: Gauge "textgen_charges_set_aside" [] "Charges in rejected.jsonl, which wait for the operator";
    ASIDE_JOURNALS: Gauge "textgen_journals_set_aside" [] "Journals that are damaged or may be forged, and wait for the operator";
    STUCK_JOURNALS: Gauge "textgen_journals_stuck" [] "Journals of other processes that cannot be replayed";

    LEASES: Gauge "textgen_budget_leases" [] "Parts of budgets that the database has set aside for this process";
    LIMIT_REFUSED: Counter "textgen_limit_refused_total" ["kind"]
        "Calls that budgets (402) and rate limits (429) have refused; unreachable: it was not known what is left (503)";

    UPSTREAM_UP: Gauge "textgen_upstream_up" ["provider"]
        "1 if the provider can be called; 0 if it is left out after a failure, or is not set up as it should be";
    UPSTREAM_IN_FLIGHT: Gauge "textgen_upstream_in_flight" ["provider"] "Calls that the provider has not completed";
    UPSTREAM_CALLS: Counter "textgen_upstream_calls_total" ["provider", "model", "outcome"]
        "Calls by how they ended: answered, too_many (429), error (another status for which the next provider is tried), failed (no answer, or not in time), left (the client did)";
    UPSTREAM_BROKEN: Counter "textgen_upstream_broken_replies_total" ["provider", "model"] "Replies that broke off";
    UPSTREAM_DURATION: Histogram "textgen_upstream_call_duration_seconds" ["provider", "model"]
        "From the beginning of a call until its reply was read or given up";
    UPSTREAM_FIRST: Histogram "textgen_upstream_first_piece_seconds" ["provider", "model"]
        "From the beginning of a call to the first piece of a streamed reply";
    UPSTREAM_TOKENS: Counter "textgen_upstream_tokens_total" ["provider", "model", "direction"]
        "Tokens of text: input, with what was cached, and output, with reasoning; estimated where no numbers came";
    UPSTREAM_BETWEEN: Histogram "textgen_upstream_between_tokens_seconds" ["provider", "model"]
        "Time from one token of a streamed reply to the next, as the mean of each reply";

    OUTBOX_ROWS: Gauge "textgen_billing_outbox_rows" ["state"]
        "Rows of usage that were not sent to Stripe, of all processes: waiting, or put aside for the operator";
    OUTBOX_OLDEST: Gauge "textgen_billing_outbox_oldest_seconds" [] "Age of the oldest usage that waits; 0 if there is none";

    MAILS: Counter "textgen_mails_total" ["outcome"]
        "Attempts to send mails by how they ended: sent, retry (it is tried again), put_aside (refused for good, too old, or too many)";
    MAIL_ROWS: Gauge "textgen_mail_rows" ["state"]
        "Mails that were not sent, of all processes: waiting, or put aside in the last 30 days. Absent where mail is not set up";
    MAIL_OLDEST: Gauge "textgen_mail_oldest_seconds" [] "Age of the oldest mail that waits; 0 if there is none";

    CACHE_LOOKUPS: Counter "textgen_caller_cache_lookups_total" ["result"]
        "Credentials that were looked up: found in memory, looked up in the database, or refused as they were invalid a moment ago";
    CACHE_EVICTED: Counter "textgen_caller_cache_evicted_total" [] "Callers that made room for others in memory";
    CACHE_SIZE: Gauge "textgen_caller_cache_callers" [] "Callers in memory";
    CACHE_MAX: Gauge "textgen_caller_cache_max_callers" [] "How many there may be (CACHE_SIZE)";
    LISTENING: Gauge "textgen_revocations_listening" [] "1 while revocations are received as they happen; otherwise each caller is looked up";
    REVOCATIONS: Counter "textgen_revocations_received_total" [] "Revocations that were received";
    REVOCATION_LAG: Gauge "textgen_revocation_lag_seconds" []
        "How long a notification took from this process by the database back to it, measured every ten seconds";

    TRACE_SPANS: Counter "textgen_trace_spans_total" ["outcome"]
        "Spans of traces by what became of them: sent to the collector, dropped as too many waited, or failed, as it did not take them";
}
