//! What one process holds of one rate limit.

use super::Micros;
use super::cooling::Cooling;

/// For how long a permit that was used cannot be used again.
pub(super) const COOL_DOWN: Micros = 60_000_000;

/// Permits that cool down are kept together by the time at which they are ready, rounded up to so much.
const STEP: Micros = 50_000;

/// The time at which permits are ready that are in use for as long as their request takes.
pub(super) const UNTIL_GIVEN_BACK: Micros = Micros::MAX;

/// How often the measure of recent use is halved.
const HALF_LIFE: Micros = 1_000_000;

/// How often a process asks for more than it needs at once.
const PAUSE: Micros = 100_000;

/// Permits that were not used for so long are handed back.
const IDLE: Micros = 60_000_000;

/// For how long after other processes lacked permits, those that become ready are handed back.
const WANTED_FOR: Micros = 2_000_000;

/// This share of a limit is asked for in addition to what is used, so that it is not asked for each request.
const COMFORT: i64 = 32;

/// The permits of one limit (of requests or tokens in a minute, or of requests at once) that a process holds. The
/// database has no more of them than the limit, and each is used once in a minute, so that in any minute the limit
/// holds. The two sums only ever grow, so that a message which is lost, late or repeated does no harm: the larger
/// number counts.
#[derive(Clone, Debug, Default)]
pub struct Permits {
    granted: i64,
    returned: i64,
    /// All that cannot be used now: those that cool down, and those that are in use until they are given back.
    used: i64,
    recent: i64,
    recent_since: Micros,
    last_used: Micros,
    /// Those that cool down.
    cooling: Cooling,
    /// What the database is known to have taken back.
    return_known: i64,
    /// Those that are in use until they are given back.
    lent: i64,
    /// So many of those in use are to be handed back when they are ready, as the limit has changed.
    owed: i64,
    /// Until when others lack what is not used here.
    wanted_until: Micros,
    /// Whether the database is to be asked what is held: an answer with a grant may have been lost.
    is_asking: bool,
    last_asked: Micros,
}

/// What a process asks of the database for one limit. Amounts are sums over the life of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PermitAsk {
    /// All grants that it needs: less than this is of no use.
    pub at_least: i64,
    /// All grants that it would like to have.
    pub at_most: i64,
    /// All that it has handed back.
    pub returned: i64,
    /// What it holds and does not use now.
    pub idle: i64,
    /// When the next of those in use is ready, from now; 0 if there are idle ones.
    pub ready_in: Micros,
}

/// What the database answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PermitGrant {
    /// The limit.
    pub most: i64,
    /// The sum of all grants.
    pub granted: i64,
    /// The sum of all that was handed back.
    pub returned: i64,
    /// Whether there was less than was needed. What other processes do not use is being asked back.
    pub is_short: bool,
    /// How many are free in the database, or were not used by other processes when they last asked.
    pub elsewhere: i64,
    /// In how long the next one that other processes hold may be ready; `None` if they hold none.
    pub elsewhere_in: Option<Micros>,
}

impl Permits {
    /// How many can be used now.
    pub fn idle(&self) -> i64 {
        self.held() - self.used
    }

    /// How many are held, in use or not.
    pub fn held(&self) -> i64 {
        self.granted - self.returned
    }

    /// Notes which permits are ready again. To be called before the others, with a time that never goes back.
    pub fn pass_time(&mut self, now: Micros) {
        let ready = self.cooling.remove_ready(now);
        if ready > 0 {
            self.free(ready);
        }
    }

    /// Uses permits that are idle, until they are ready again. Returns the time by which they are given back early.
    pub fn take(&mut self, amount: i64, now: Micros, is_until_given_back: bool) -> Micros {
        self.fade(now);
        self.recent += amount;
        self.last_used = now;
        self.used += amount;
        if is_until_given_back {
            self.lent += amount;
            return UNTIL_GIVEN_BACK;
        }
        let ready = (now + COOL_DOWN + STEP - 1) / STEP * STEP;
        // Later is as good, if another thread has looked at the clock before.
        if amount == 0 { ready } else { self.cooling.add(ready, amount) }
    }

    /// Permits that [`Permits::take`] gave with this time were not used after all, or are used no longer. Nothing
    /// happens if they are ready already.
    pub fn give_back(&mut self, amount: i64, ready: Micros) {
        let freed = if ready == UNTIL_GIVEN_BACK {
            let freed = amount.min(self.lent);
            self.lent -= freed;
            freed
        } else {
            self.cooling.remove(ready, amount)
        };
        self.free(freed);
    }

    /// These are not in use any more.
    fn free(&mut self, amount: i64) {
        self.used -= amount;
        let owed = self.owed.min(amount);
        self.owed -= owed;
        self.returned += owed;
    }

    /// When so many can be used, if nobody else uses them; `None` if that is not known. Those that are handed back when
    /// they are ready count, as they can be had again, unless the limit `is_lowered`.
    pub fn ready_at(&self, amount: i64, is_lowered: bool, now: Micros) -> Option<Micros> {
        let mut lacking = amount - self.idle() + if is_lowered { self.owed } else { 0 };
        if amount <= self.idle() {
            return Some(now);
        }
        for (ready, freed) in self.cooling.iter() {
            lacking -= freed;
            if lacking <= 0 {
                return Some(ready);
            }
        }
        None
    }

    /// When the last of those that cool down is ready.
    pub fn all_ready_at(&self) -> Option<Micros> {
        self.cooling.last()
    }

    /// What to ask of the database, and whether it is time to. `needed` is how many the first request that waits uses,
    /// `more` how many the others do. `most` is the limit, as far as it is known.
    pub fn ask(&mut self, needed: i64, more: i64, most: i64, now: Micros) -> (PermitAsk, bool) {
        self.pass_time(now);
        self.fade(now);
        if needed == 0 && now < self.wanted_until {
            self.return_idle_but(0);
        }
        let idle = self.idle();
        let missing = (needed - idle).max(0);
        let reserve = if now - self.last_used < IDLE { self.recent.max(most / COMFORT) } else { 0 };
        let is_wanted = now < self.wanted_until;
        let may_rest = self.held() >= most || is_wanted || now - self.last_asked < PAUSE;
        let is_low = missing > 0 || (idle < self.recent / 2 && !may_rest);
        let is_due = is_low || self.returned > self.return_known || self.is_asking;
        let comfort = if is_low && !is_wanted { (needed + more + reserve - idle - missing).max(0) } else { 0 };
        if is_low {
            self.last_asked = now;
        }
        let at_least = self.granted + missing;
        let ready_in = match self.cooling.first() {
            _ if idle > 0 => 0,
            Some(ready) => (ready - now).max(0),
            None => COOL_DOWN,
        };
        (PermitAsk { at_least, at_most: at_least + comfort, returned: self.returned, idle, ready_in }, is_due)
    }

    /// Whether it is time to ask for more, for requests that will come.
    pub fn is_low(&self, most: i64, now: Micros) -> bool {
        self.idle() < self.recent / 2
            && self.held() < most
            && now >= self.wanted_until
            && now - self.last_asked >= PAUSE
    }

    /// Whether the database does not know all that was handed back, or is to be asked what is held.
    pub fn has_news(&self) -> bool {
        self.returned > self.return_known || self.is_asking
    }

    /// Hands back what was not used for some time, or what others lack.
    pub fn return_unused(&mut self, now: Micros) {
        self.pass_time(now);
        if now - self.last_used >= IDLE || now < self.wanted_until {
            self.return_idle_but(0);
        }
    }

    /// Hands back all that are idle, and needs no more.
    pub fn return_all(&mut self, now: Micros) {
        self.pass_time(now);
        self.recent = 0;
        self.return_idle_but(0);
    }

    /// Another process lacks permits: hands back all that are idle but those `kept` for a request that waits.
    pub fn recall(&mut self, kept: i64, now: Micros) {
        self.pass_time(now);
        self.return_idle_but(kept);
        self.wanted_until = now + WANTED_FOR;
        self.is_asking = true;
    }

    /// The limit has changed: hands back everything, what is in use as soon as it is ready.
    pub fn recall_all(&mut self, now: Micros) {
        self.pass_time(now);
        self.return_idle_but(0);
        self.owed = self.used;
        self.is_asking = true;
    }

    fn return_idle_but(&mut self, kept: i64) {
        self.returned += (self.idle() - kept).max(0);
    }

    /// The database has answered, perhaps to an earlier question.
    pub fn receive(&mut self, grant: &PermitGrant) {
        self.granted = self.granted.max(grant.granted);
        self.return_known = self.return_known.max(grant.returned);
        self.is_asking = false;
    }

    /// Halves the measure of use for each second that has passed.
    fn fade(&mut self, now: Micros) {
        let halvings = ((now - self.recent_since) / HALF_LIFE).clamp(0, 62);
        if halvings > 0 {
            self.recent >>= halvings;
            self.recent_since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(granted: i64) -> PermitGrant {
        PermitGrant { most: 100, granted, returned: 0, is_short: false, elsewhere: 0, elsewhere_in: None }
    }

    #[test]
    fn a_permit_is_used_once_in_a_minute() {
        let mut permits = Permits::default();
        permits.receive(&granted(3));
        permits.take(2, 0, false);
        permits.take(1, 5, false);
        assert_eq!(
            (permits.idle(), permits.ready_at(1, false, 5), permits.ready_at(3, false, 5)),
            (0, Some(COOL_DOWN), Some(COOL_DOWN + STEP))
        );
        permits.pass_time(COOL_DOWN - 1);
        assert_eq!(permits.idle(), 0);
        permits.pass_time(COOL_DOWN);
        assert_eq!((permits.idle(), permits.ready_at(4, false, COOL_DOWN)), (2, None));
    }

    #[test]
    fn what_was_not_used_is_idle_at_once() {
        let mut permits = Permits::default();
        permits.receive(&granted(100));
        let ready = permits.take(70, 0, false);
        permits.give_back(50, ready);
        assert_eq!(permits.idle(), 80);
        permits.pass_time(ready);
        permits.give_back(20, ready);
        assert_eq!(permits.idle(), 100, "it was ready already");
        let place = permits.take(1, ready, true);
        permits.pass_time(ready + 10 * COOL_DOWN);
        assert_eq!((permits.idle(), permits.ready_at(100, false, ready)), (99, None));
        permits.give_back(1, place);
        assert_eq!(permits.idle(), 100);
    }

    #[test]
    fn once_the_limit_has_changed_all_is_handed_back() {
        let mut permits = Permits::default();
        permits.receive(&granted(10));
        permits.take(4, 0, false);
        permits.recall_all(1);
        assert_eq!((permits.idle(), permits.held()), (0, 4));
        permits.receive(&granted(12));
        assert_eq!((permits.idle(), permits.ready_at(4, true, 1)), (2, None), "those in use are owed");
        permits.pass_time(COOL_DOWN);
        assert_eq!((permits.idle(), permits.held()), (2, 2));
    }

    #[test]
    fn what_others_lack_is_handed_back_when_it_is_ready() {
        let mut permits = Permits::default();
        permits.receive(&granted(10));
        permits.take(4, 0, false);
        permits.recall(1, COOL_DOWN - 10);
        assert_eq!((permits.idle(), permits.held()), (1, 5));
        let (ask, is_due) = permits.ask(0, 0, 100, COOL_DOWN + 10);
        assert_eq!((ask.returned, is_due, permits.held()), (10, true, 0));
    }
}
