//! The ways to a model, and which of them a call takes.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::blocking::{self, Refused, Wait};

use super::calls::{self, CallMetrics};
use super::health::InFlight;
use super::provider::Provider;

/// One way to a model.
#[derive(Clone, Debug)]
pub struct Route {
    /// Who is asked.
    pub provider: Arc<Provider>,
    /// The model's name there; `None` leaves the one in the request.
    pub upstream_model: Option<String>,
    /// Its share of the calls among routes of the same priority; 0 counts as 1.
    pub weight: u32,
    /// Routes with a higher number are asked when all with a lower one are unable.
    pub priority: u32,
}

/// All ways to a model.
#[derive(Debug, Default)]
pub struct Routes {
    /// By priority.
    routes: Vec<Route>,
    /// Where the calls of each are counted, if the model is known.
    calls: Vec<&'static CallMetrics>,
    /// Counts the calls, so that routes that are equally fit take turns.
    turn: AtomicUsize,
}

/// The outcome of [`Routes::pick`].
pub(super) enum Pick<'r> {
    /// A route, and the call that it counts from now on.
    Route(usize, &'r Route, InFlight),
    /// The routes that are left have as many calls in flight as they may have.
    Full,
    /// The providers that are left have said, again and again, that they want to be left alone for this long.
    Closed(Duration),
    /// All routes were tried.
    None,
}

impl Route {
    /// A route with the usual weight and priority.
    pub fn to(provider: Arc<Provider>) -> Route {
        Route { provider, upstream_model: None, weight: 1, priority: 0 }
    }

    fn weight(&self) -> u64 {
        u64::from(self.weight.max(1))
    }

    /// Compares how busy two routes are for their weight.
    fn load_order(&self, other: &Route) -> Ordering {
        let load = |route: &Route| u64::from(route.provider.health().in_flight());
        (load(self) * other.weight()).cmp(&(load(other) * self.weight()))
    }
}

impl Routes {
    /// Orders routes by priority.
    pub fn new(mut routes: Vec<Route>) -> Routes {
        routes.sort_by_key(|route| route.priority);
        Routes { routes, calls: Vec::new(), turn: AtomicUsize::new(0) }
    }

    /// The same routes, whose calls are counted as those of the model of this name.
    #[must_use]
    pub fn counted_as(mut self, model: &str) -> Routes {
        self.calls = self.routes.iter().map(|route| calls::of(&route.provider.spec().name, model)).collect();
        self
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// All routes, by priority.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// Runs `work`, which waits for a provider, in [`block_in_place`](blocking::block_in_place); directly for the demo
    /// engine, which never waits.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn block_in_place<R>(&self, work: impl FnOnce() -> R) -> Result<R, Refused> {
        match self.routes.iter().all(|route| route.provider.is_demo()) {
            true => Ok(work()),
            false => blocking::block_in_place(Wait::Model, work),
        }
    }

    /// Begins a call on a route that is not among the `tried` ones: of those that are not cooling down, the first by
    /// priority; of several, the one with the fewest calls in flight for its weight; of several, by turns and weight.
    /// If all are cooling down, the one whose cool-down ends first, because refusing the call would help nobody; unless
    /// it keeps asking for a pause.
    pub(super) fn pick(&self, tried: &[usize], now: Instant) -> Pick<'_> {
        if let ([_], []) = (&self.routes[..], tried) {
            return self.begin(0, now);
        }
        let mut left: Vec<usize> = (0..self.routes.len()).filter(|i| !tried.contains(i)).collect();
        let mut outcome = Pick::None;
        while let Some(index) = self.best(&left, now) {
            left.retain(|i| *i != index);
            match (self.begin(index, now), &outcome) {
                (pick @ Pick::Route(..), _) => return pick,
                (Pick::Closed(one), Pick::Closed(other)) => outcome = Pick::Closed(one.min(*other)),
                (Pick::Full, Pick::Closed(_)) => {}
                (pick, _) => outcome = pick,
            }
        }
        outcome
    }

    fn begin(&self, index: usize, now: Instant) -> Pick<'_> {
        let route = &self.routes[index];
        let health = route.provider.health();
        if let Some(left) = health.is_closed(now) {
            return Pick::Closed(left);
        }
        let counted = |call: InFlight| Pick::Route(index, route, call.counted(self.calls.get(index).copied()));
        health.begin(now).map_or(Pick::Full, counted)
    }

    fn best(&self, left: &[usize], now: Instant) -> Option<usize> {
        let cool_down = |i: &usize| self.routes[*i].provider.health().cool_down(now);
        let usable: Vec<usize> = left.iter().copied().filter(|i| cool_down(i).is_none()).collect();
        let Some(first) = usable.first() else { return left.iter().copied().min_by_key(|i| cool_down(i)) };
        let priority = self.routes[*first].priority;
        let group = usable.iter().map(|i| (*i, &self.routes[*i])).filter(|(_, route)| route.priority == priority);
        let mut idlest: Vec<(usize, &Route)> = Vec::with_capacity(usable.len());
        for (i, route) in group {
            match idlest.first().map_or(Ordering::Equal, |(_, other)| route.load_order(other)) {
                Ordering::Less => idlest = vec![(i, route)],
                Ordering::Equal => idlest.push((i, route)),
                Ordering::Greater => {}
            }
        }
        let sum: u64 = idlest.iter().map(|(_, route)| route.weight()).sum();
        let mut turn = self.turn.fetch_add(1, Relaxed) as u64 % sum.max(1);
        for (i, route) in &idlest {
            match turn.checked_sub(route.weight()) {
                Some(rest) => turn = rest,
                None => return Some(*i),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::spec::ProviderSpec;
    use super::*;

    fn routes(shape: &[(u32, u32, Option<u32>)]) -> Routes {
        let route = |(i, (weight, priority, max_concurrent)): (usize, &(u32, u32, Option<u32>))| {
            let mut spec = ProviderSpec::new(i.to_string(), format!("http://{i}"));
            spec.max_concurrent = *max_concurrent;
            let provider = Provider::new(spec).unwrap();
            Route { weight: *weight, priority: *priority, ..Route::to(provider) }
        };
        Routes::new(shape.iter().enumerate().map(route).collect())
    }

    fn pick(routes: &Routes, tried: &[usize], now: Instant) -> Option<(usize, InFlight)> {
        match routes.pick(tried, now) {
            Pick::Route(index, _, in_flight) => Some((index, in_flight)),
            _ => None,
        }
    }

    fn counts(n: usize, picked: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut counts = vec![0; n];
        picked.for_each(|i| counts[i] += 1);
        counts
    }

    #[test]
    fn the_least_busy_for_its_weight_is_picked() {
        let (routes, now) = (routes(&[(3, 0, None), (1, 0, None), (1, 1, None)]), Instant::now());
        let held: Vec<_> = (0..40).map(|_| pick(&routes, &[], now).unwrap()).collect();
        assert_eq!(counts(3, held.iter().map(|(i, _)| *i)), [30, 10, 0]);
        drop(held);
        assert_eq!(counts(3, (0..40).map(|_| pick(&routes, &[], now).unwrap().0)), [30, 10, 0], "by turns when idle");
    }

    #[test]
    fn the_next_priority_is_asked_when_the_first_fails_or_is_full() {
        let (routes, now) = (routes(&[(1, 0, Some(1)), (1, 1, None), (1, 2, None)]), Instant::now());
        let first = pick(&routes, &[], now).unwrap();
        assert_eq!(first.0, 0);
        assert_eq!(pick(&routes, &[], now).unwrap().0, 1, "full");
        drop(first);
        assert_eq!(pick(&routes, &[0], now).unwrap().0, 1, "tried");
        pick(&routes, &[], now).unwrap().1.failed(None, now);
        pick(&routes, &[], now).unwrap().1.failed(None, now);
        assert_eq!(pick(&routes, &[], now).unwrap().0, 2, "cooling down");
        let later = now + Duration::from_secs(5);
        assert_eq!(pick(&routes, &[], later).unwrap().0, 0, "tried again");
        assert!(matches!(routes.pick(&[0, 1, 2], later), Pick::None));
    }

    #[test]
    fn all_full_and_all_cooling_down_are_told_apart() {
        let (routes, now) = (routes(&[(1, 0, Some(1)), (1, 1, Some(1))]), Instant::now());
        let held = [pick(&routes, &[], now).unwrap(), pick(&routes, &[], now).unwrap()];
        assert!(matches!(routes.pick(&[], now), Pick::Full));
        held[0].1.failed(Some(Duration::from_secs(9)), now);
        held[1].1.failed(Some(Duration::from_secs(2)), now);
        drop(held);
        assert_eq!(pick(&routes, &[], now).unwrap().0, 1, "the one that is out first");
    }
}
