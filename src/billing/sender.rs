//! Reports usage: closes hours, and sends the rows of the outbox. Of all processes, one at a time is the sender.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::client::Stripe;
use super::delivery::{Outcome, deliver};
use super::parallel::in_parallel;
use crate::db::{self, Database};
use crate::hex;
use crate::store::reporting::aside;
use crate::store::reporting::closing::{self, Scope};
use crate::store::reporting::outbox::{self, Again, Due};
use crate::store::reporting::sender::{self, Gap};

/// For how many seconds a process is the sender, unless it says again that it is.
const LEASE_SECONDS: i32 = 10;
/// How often it says so.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// How often it is looked for rows whose time runs out.
const ALARM_EVERY: Duration = Duration::from_secs(60);
/// How often the meters are read, and how often at most if one is missing.
const METERS_EVERY: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(2));

/// What reports usage to a meter.
pub struct Sender {
    stripe: Stripe,
    db: Database,
    /// The event name of the meter.
    meter: String,
    /// Which process this is.
    process: String,
    /// Ids of meters, by their event names.
    meters: HashMap<String, String>,
    meters_read: Option<Instant>,
    renewed: Instant,
    /// Whether it is known that reporting has begun.
    has_begun: bool,
    /// The problem that was logged last.
    logged: String,
    /// When it was last looked for rows whose time runs out.
    alarmed: Option<Instant>,
    /// The beginning of the time in which nobody reported usage, of which was told.
    told_of: Option<OffsetDateTime>,
}

impl Sender {
    /// One for this process.
    ///
    /// # Errors
    /// There are no random numbers.
    pub fn new(stripe: Stripe, db: Database, meter: &str) -> Result<Sender, String> {
        let mut process = [0; 16];
        getrandom::fill(&mut process).map_err(|e| e.to_string())?;
        Ok(Sender {
            stripe,
            db,
            meter: meter.to_owned(),
            process: hex::encode(&process),
            meters: HashMap::new(),
            meters_read: None,
            renewed: Instant::now(),
            has_begun: false,
            logged: String::new(),
            alarmed: None,
            told_of: None,
        })
    }

    /// If this process is the sender or can become it, closes the hours that are over and sends what is due. Returns
    /// whether it is.
    ///
    /// # Errors
    /// Those of the database; what was not done is done later.
    pub fn turn(&mut self, stopped: &AtomicBool) -> Result<bool, db::Error> {
        self.begin()?;
        let Some(duties) = self.renew()? else { return Ok(false) };
        if let Some(gap) = duties.held {
            self.hold(gap)?;
        } else if duties.hour.is_some() || duties.is_full_due {
            let scope = if duties.is_full_due { Scope::Everything } else { Scope::Recent };
            let hour = duties.hour.unwrap_or(duties.current_hour);
            self.close(hour, duties.current_hour, scope, stopped)?;
            if duties.is_full_due {
                while self.forget_old()? > 0 && !stopped.load(Ordering::Acquire) {}
            }
        }
        self.alarm()?;
        self.send(stopped)
    }

    /// Says that no hours are closed, until somebody says whether usage of a time is to be reported.
    fn hold(&mut self, gap: Gap) -> Result<(), db::Error> {
        if self.told_of != Some(gap.since) {
            log::error!("billing: {}", gap.in_words());
            sender::note_held(&mut self.db.session()?, gap)?;
            self.told_of = Some(gap.since);
        }
        Ok(())
    }

    fn forget_old(&self) -> Result<u64, db::Error> {
        let mut session = self.db.session()?;
        let mut transaction = session.transaction()?;
        let forgotten = closing::forget_old(&mut transaction)?;
        transaction.commit()?;
        Ok(forgotten)
    }

    /// Alarms, every minute at most.
    fn alarm(&mut self) -> Result<(), db::Error> {
        if self.alarmed.is_some_and(|at| at.elapsed() < ALARM_EVERY) {
            return Ok(());
        }
        for late in aside::alarm(&mut self.db.session()?)? {
            log::error!(
                "billing: usage of {} was not sent for 28 days, and cannot be after 35: {} micro-dollars of customer {}, \
                 identifier {}: {}",
                late.used_at,
                late.amount_micros,
                late.customer,
                late.id,
                late.problem
            );
        }
        self.alarmed = Some(Instant::now());
        Ok(())
    }

    /// Closes the hour that is not over: makes rows for all that was charged until now, unless reporting is held.
    ///
    /// # Errors
    /// Those of the database.
    pub fn close_now(&mut self) -> Result<(), db::Error> {
        self.begin()?;
        if self.renew()?.is_some_and(|duties| duties.held.is_some()) || sender::held(&mut self.db.session()?)?.is_some()
        {
            return Ok(());
        }
        let now = OffsetDateTime::now_utc();
        let hour = now
            - Duration::from_nanos(u64::from(now.nanosecond()) + u64::from(now.second()) * 1_000_000_000)
            - Duration::from_secs(u64::from(now.minute()) * 60);
        self.close(hour, hour, Scope::Everything, &AtomicBool::new(false))
    }

    /// Lets another process be the sender.
    ///
    /// # Errors
    /// Those of the database. In some seconds another process may be it anyway.
    pub fn release(&self) -> Result<(), db::Error> {
        sender::release(&mut self.db.session()?, &self.process)
    }

    fn begin(&mut self) -> Result<(), db::Error> {
        if !self.has_begun {
            closing::begin(&mut self.db.session()?)?;
            self.has_begun = true;
        }
        Ok(())
    }

    fn renew(&mut self) -> Result<Option<sender::Duties>, db::Error> {
        let duties = sender::take(&mut self.db.session()?, &self.process, LEASE_SECONDS)?;
        self.renewed = Instant::now();
        Ok(duties)
    }

    /// Makes rows, all of them with this hour. It does not matter whether another process does so as well.
    fn close(
        &mut self,
        hour: OffsetDateTime,
        until: OffsetDateTime,
        scope: Scope,
        stopped: &AtomicBool,
    ) -> Result<(), db::Error> {
        let mut after = String::new();
        while !stopped.load(Ordering::Acquire) {
            let last = closing::close_some(&mut self.db.session()?, &after, &self.meter, hour, scope)?;
            let Some(last) = last else {
                return closing::closed(&mut self.db.session()?, until, scope);
            };
            after = last;
            if self.renewed.elapsed() >= RENEW_EVERY {
                self.renew()?;
            }
        }
        Ok(())
    }

    /// Sends what is due, while this process is the sender. Returns whether it still is.
    fn send(&mut self, stopped: &AtomicBool) -> Result<bool, db::Error> {
        while !stopped.load(Ordering::Acquire) {
            self.read_meters();
            let known: Vec<&str> = self.meters.keys().map(String::as_str).collect();
            if known.is_empty() {
                return Ok(true);
            }
            let rows = outbox::take(&mut self.db.session()?, &known)?;
            if rows.is_empty() {
                return Ok(true);
            }
            self.deliver_all(rows, stopped)?;
            if self.renew()?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Sends rows, each of another customer, several at once.
    fn deliver_all(&mut self, rows: Vec<Due>, stopped: &AtomicBool) -> Result<(), db::Error> {
        let (stripe, meters, db) = (self.stripe.clone(), self.meters.clone(), self.db.clone());
        let mut failure = None;
        let work = |row: &Due| meters.get(&row.meter).map(|id| deliver(&stripe, id, row));
        in_parallel(rows, work, |result| {
            let recorded = match result {
                Some((row, Some(outcome))) => self.record(&db, &row, outcome),
                _ => Ok(()),
            };
            let renewed = match self.renewed.elapsed() >= RENEW_EVERY {
                true => self.renew().map(|duties| duties.is_some()),
                false => Ok(true),
            };
            let is_sender = match recorded.and(renewed) {
                Ok(is_sender) => is_sender,
                Err(e) => {
                    failure.get_or_insert(e);
                    false
                }
            };
            is_sender && !stopped.load(Ordering::Acquire)
        });
        failure.map_or(Ok(()), Err)
    }

    fn record(&mut self, db: &Database, row: &Due, outcome: Outcome) -> Result<(), db::Error> {
        let mut session = db.session()?;
        match outcome {
            Outcome::Sent => outbox::sent(&mut session, &row.id),
            Outcome::PutAside { problem, is_unknown } => {
                log::error!(
                    "billing: {} micro-dollars of customer {} were put aside, identifier {}: {problem}",
                    row.amount_micros,
                    row.customer,
                    row.id
                );
                outbox::put_aside(&mut session, &row.id, &problem, is_unknown)
            }
            Outcome::Again(retry) => {
                let again = Again {
                    pause_millis: jittered(retry.pause),
                    new_key: retry.new_key,
                    knowledge: retry.knowledge,
                    problem: &retry.problem,
                };
                outbox::try_again(&mut session, &row.id, again)?;
                drop(session);
                match retry.needs_operator {
                    true => self.log_problem(&retry.problem),
                    false => log::debug!("billing: {} is tried again: {}", row.id, retry.problem),
                }
                Ok(())
            }
        }
    }

    /// Reads which meters there are. Without the one of the settings nothing is sent to it, rather than put aside.
    fn read_meters(&mut self) {
        let is_known = self.meters.contains_key(&self.meter);
        let every = if is_known { METERS_EVERY.0 } else { METERS_EVERY.1 };
        if self.meters_read.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        self.meters_read = Some(Instant::now());
        match self.stripe.meters() {
            Ok(meters) => {
                self.meters = meters.into_iter().map(|meter| (meter.event_name, meter.id)).collect();
                if self.meters.contains_key(&self.meter) {
                    self.logged.clear();
                } else {
                    self.log_problem(&format!("Stripe has no active meter for events named {}", self.meter));
                }
            }
            Err(e) => self.log_problem(&format!("the meters cannot be read: {e}")),
        }
    }

    /// Logs a problem, once until another one comes up.
    fn log_problem(&mut self, problem: &str) {
        if self.logged != problem {
            log::error!("billing: usage is not sent: {problem}");
            problem.clone_into(&mut self.logged);
        }
    }
}

/// Between the pause and half as much again, in milliseconds: not before Stripe has said that it may be tried.
fn jittered(pause: Duration) -> i64 {
    let mut random = [0; 4];
    // Without random numbers, everybody waits for the same time.
    let share =
        getrandom::fill(&mut random).map_or(0.0, |()| f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX));
    i64::try_from(pause.mul_f64(1.0 + share / 2.0).as_millis()).unwrap_or(i64::MAX)
}
