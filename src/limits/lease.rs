//! What one process holds of one budget.

use super::{Micros, Picos};

/// How often the measure of recent use is halved.
const HALF_LIFE: Micros = 1_000_000;

/// How often a process asks for more than it needs at once. Near the limit there is none, and asking again is in vain.
pub(super) const PAUSE: Micros = 100_000;

/// When more is asked for, it is so many times the measure of recent use: a question costs the database as much as a charge.
const AHEAD: Picos = 4;

/// A lease that was not used for so long is handed back.
const IDLE: Micros = 2_000_000;

/// What a process holds of one budget: what the database granted, less what was handed back or charged. The three sums
/// only ever grow, so that a message which is lost, late or repeated does no harm: the larger number counts.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    granted: Picos,
    returned: Picos,
    /// What the database is known to have taken back.
    return_known: Picos,
    settled: Picos,
    /// Set aside for requests that run.
    reserved: Picos,
    window_starts: Micros,
    recent: Picos,
    recent_since: Micros,
    last_used: Micros,
    last_asked: Micros,
    recall: Recall,
    /// When no request may be admitted any more out of what is held.
    valid_until: Option<Micros>,
    /// That time has come, or the limit has changed: nothing is set aside until the database has said what is left.
    is_outdated: bool,
    /// Of what was set aside then, what still is. As its requests end, what they do not cost goes back.
    outdated: Picos,
    /// Whether it collects what others hand back, for a request that waits.
    collects: bool,
    /// Whether the database is to be asked what is left, though nothing is lacking.
    inquires: bool,
}

/// Whether the database wants back what is not used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Recall {
    #[default]
    None,
    /// What is known of has been handed back. There may be more: the answer with a grant may have been lost. So the
    /// database is asked.
    Asking,
    /// The database has answered.
    Answered,
}

/// What a process asks of the database for one budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The sum of all grants that it knows of. If there were more, the answer was lost, and with it until when these are
    /// good: nothing is granted then, and the answer says that all it holds is good no longer.
    pub known: Picos,
    /// The sum of all grants that it needs: less than this is of no use, unless `partial`.
    pub at_least: Picos,
    /// The sum of all grants that it would like to have, so that it need not ask again soon.
    pub at_most: Picos,
    /// The sum of all that it has handed back.
    pub returned: Picos,
    /// Whether it also takes less than `at_least`: all there is.
    pub partial: bool,
}

/// What the database answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The sum of all grants.
    pub granted: Picos,
    /// The sum of all that was handed back.
    pub returned: Picos,
    /// When the budget's window began, by the database's clock.
    pub window_starts: Micros,
    /// Whether there was less than was needed. What other processes do not use is being asked back.
    pub is_short: bool,
    /// Whether this process is the one that is granted less than it needs, of those that would take that.
    pub collects: bool,
    /// For how long requests may be admitted out of what is held, if not for good: then a credit expires, or a budget
    /// that was lifted limits again.
    pub valid_for: Option<Micros>,
}

/// What is set aside for one request, in each of the leases that it was [`reserve`]d in.
#[derive(Debug, PartialEq, Eq)]
pub struct Reservation {
    worst: Picos,
}

impl Reservation {
    /// So much, which was set aside in all of its leases.
    pub(super) fn of(worst: Picos) -> Reservation {
        Reservation { worst }
    }

    /// The most that the request may cost.
    pub fn worst(&self) -> Picos {
        self.worst
    }

    /// Takes a part of it, at most all, to be settled or released on its own.
    #[must_use]
    pub fn split(&mut self, part: Picos) -> Reservation {
        let part = part.clamp(0, self.worst);
        self.worst -= part;
        Reservation { worst: part }
    }

    /// Adds another one in the same leases.
    pub fn add(&mut self, other: Reservation) {
        self.worst += other.worst;
    }
}

/// Sets the most that a request may cost aside in all of these leases (its account's and its key's), or in none of them
/// if one of them has less. Nothing costs less than nothing.
pub fn reserve(leases: &mut [&mut Lease], worst: Picos, now: Micros) -> Option<Reservation> {
    if worst < 0 || !leases.iter().all(|lease| lease.has(worst, now)) {
        return None;
    }
    for lease in leases {
        lease.set_aside(worst, now);
    }
    Some(Reservation { worst })
}

impl Lease {
    /// Whether so much can be set aside now.
    pub(super) fn has(&self, worst: Picos, now: Micros) -> bool {
        let is_over = self.is_outdated || self.valid_until.is_some_and(|until| until <= now);
        self.free() >= worst && (worst == 0 || !is_over)
    }

    /// Sets aside what it [`Lease::has`].
    pub(super) fn set_aside(&mut self, worst: Picos, now: Micros) {
        self.note_use(worst, now);
        self.reserved += worst;
    }

    /// What can be set aside without asking the database. Below zero only if a charge was higher than its reservation.
    pub fn free(&self) -> Picos {
        self.granted - self.returned - self.settled - self.reserved
    }

    /// The request was charged: call it with the same reservation for each of its leases.
    pub fn settle(&mut self, reservation: &Reservation, cost: Picos) {
        let outdated = self.end(reservation);
        self.settled += cost;
        self.returned += (outdated - cost).min(self.free()).max(0);
    }

    /// The request was not charged: call it with the same reservation for each of its leases.
    pub fn release(&mut self, reservation: &Reservation) {
        self.returned += self.end(reservation);
    }

    /// A request ended. Returns how much of what was set aside for it must not be set aside for another one.
    fn end(&mut self, reservation: &Reservation) -> Picos {
        self.reserved -= reservation.worst;
        let outdated = reservation.worst.min(self.outdated);
        self.outdated -= outdated;
        outdated
    }

    /// Whether something is set aside that goes back when its requests end.
    pub(super) fn has_outdated(&self) -> bool {
        self.outdated > 0
    }

    /// A charge that was settled turned out not to be made.
    pub fn take_back(&mut self, cost: Picos) {
        self.settled -= cost;
    }

    /// Whether so much was used lately that it is time to ask for more.
    pub fn is_low(&self, now: Micros) -> bool {
        self.free() < self.recent / 2 && now - self.last_asked >= PAUSE
    }

    /// Whether nothing is held, nor to be asked or told.
    pub(super) fn is_quiet(&self) -> bool {
        let is_told = self.returned <= self.return_known && self.recall == Recall::None && !self.is_outdated;
        self.reserved == 0 && self.free() <= 0 && is_told && !self.collects
    }

    /// The sum of all grants that are known of.
    pub(super) fn granted(&self) -> Picos {
        self.granted
    }

    /// When it was last used.
    pub(super) fn last_used(&self) -> Micros {
        self.last_used
    }

    /// Whether this process is the one that may take less than it needs.
    pub fn collects(&self) -> bool {
        self.collects
    }

    /// The earliest time that a charge may bear. What was granted in one window must not be charged to the one before,
    /// as would happen if this machine's clock were behind the database's.
    pub fn earliest_charge(&self) -> Micros {
        self.window_starts
    }

    /// What to ask of the database now, if anything. `needed` is what the first request that waits may cost, `more` what
    /// the others may; both are 0 if none waits.
    pub fn ask(&mut self, needed: Picos, more: Picos, partial: bool, now: Micros) -> Option<Ask> {
        self.fade(now);
        if self.valid_until.is_some_and(|until| until <= now) {
            self.outdate();
        }
        if self.recall == Recall::Answered {
            self.recall = Recall::None;
            if needed == 0 || self.is_outdated {
                self.return_free_but(0);
            }
            self.is_outdated = false;
        }
        // What was granted before must be known before anything is granted anew.
        let (needed, more) = if self.is_outdated { (0, 0) } else { (needed, more) };
        let free = self.free();
        let missing = (needed - free).max(0);
        let is_used = now - self.last_used < IDLE && !self.is_outdated;
        let reserve = if is_used { self.recent } else { 0 };
        let is_low = missing > 0 || (free < reserve / 2 && now - self.last_asked >= PAUSE);
        // Others may collect once this process needs nothing more.
        let has_collected = self.collects && needed == 0;
        let is_due = is_low
            || self.returned > self.return_known
            || self.recall == Recall::Asking
            || has_collected
            || self.inquires;
        let comfort = if is_low { (needed + more + AHEAD * reserve - free - missing).max(0) } else { 0 };
        if is_low {
            self.last_asked = now;
        }
        let at_least = self.granted + missing;
        let known = self.granted;
        is_due.then_some(Ask { known, at_least, at_most: at_least + comfort, returned: self.returned, partial })
    }

    /// Hands back what was not used for some time.
    pub fn return_if_idle(&mut self, now: Micros) {
        if now - self.last_used >= IDLE {
            self.return_free_but(0);
        }
    }

    /// Another process lacks what this one does not use, or the limit has changed: hands back all that is not set
    /// aside. What is `wanted` for a request that waits is kept if this process collects. [`Lease::ask`] tells the
    /// database.
    pub fn recall(&mut self, wanted: Picos) {
        self.return_free_but(if self.collects { wanted } else { 0 });
        self.recall = Recall::Asking;
    }

    /// What is held may not be used for other requests any more, as the limit has changed or a credit has expired: all
    /// that is not set aside goes back now, and the rest when the requests that run have ended.
    pub fn outdate(&mut self) {
        self.return_free_but(0);
        (self.outdated, self.is_outdated, self.valid_until) = (self.reserved, true, None);
        self.recall = Recall::Asking;
    }

    /// The database is to be asked what is left of the limit.
    pub(super) fn inquire(&mut self) {
        self.inquires = true;
    }

    /// What is set aside for requests that run.
    pub(super) fn reserved(&self) -> Picos {
        self.reserved
    }

    fn return_free_but(&mut self, kept: Picos) {
        self.returned += (self.free() - kept).max(0);
    }

    /// The database has answered a question of `asked_at`, perhaps an earlier one.
    pub fn receive(&mut self, grant: &Grant, asked_at: Micros) {
        self.granted = self.granted.max(grant.granted);
        self.return_known = self.return_known.max(grant.returned);
        self.window_starts = self.window_starts.max(grant.window_starts);
        (self.collects, self.inquires) = (grant.collects, false);
        // An answer that comes when the time is over knows nothing of what was granted before: that must still go back.
        let valid_until = grant.valid_for.map(|time| asked_at.saturating_add(time));
        self.valid_until = [self.valid_until, valid_until].into_iter().flatten().min();
        if self.recall == Recall::Asking {
            self.recall = Recall::Answered;
        }
    }

    fn note_use(&mut self, worst: Picos, now: Micros) {
        self.fade(now);
        self.recent += worst;
        self.last_used = now;
    }

    /// Halves the measure of use for each second that has passed.
    fn fade(&mut self, now: Micros) {
        let halvings = ((now - self.recent_since) / HALF_LIFE).clamp(0, 100);
        if halvings > 0 {
            self.recent >>= halvings;
            self.recent_since = now;
        }
        // A clock that was set back must not keep a lease busy, or from fading.
        self.recent_since = self.recent_since.min(now);
        self.last_used = self.last_used.min(now);
        self.last_asked = self.last_asked.min(now);
    }
}
