//! A simulation of picks in which time passes only when told.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::health::InFlight;
use super::provider::Provider;
use super::routes::{Pick, Route, Routes};
use super::spec::ProviderSpec;

#[derive(Clone, Debug)]
enum Step {
    /// A call that has tried these routes.
    Pick(Vec<usize>),
    /// One of the calls in flight ends.
    End(usize, Ending),
    /// So many milliseconds pass.
    Pass(u64),
}

#[derive(Clone, Debug)]
enum Ending {
    Success,
    Failure,
    Refusal(u64),
    Error,
    /// The client has left.
    Nothing,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ending = prop_oneof![
        Just(Ending::Success),
        Just(Ending::Failure),
        (0..5000_u64).prop_map(Ending::Refusal),
        Just(Ending::Error),
        Just(Ending::Nothing)
    ];
    let step = prop_oneof![
        4 => proptest::collection::vec(0..5_usize, 0..3).prop_map(Step::Pick),
        3 => (0..50_usize, ending).prop_map(|(call, ending)| Step::End(call, ending)),
        1 => (0..3000_u64).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..120)
}

/// Weight, priority and most calls at once.
type Shape = (u32, u32, Option<u32>);

fn shapes() -> impl Strategy<Value = Vec<Shape>> {
    proptest::collection::vec((0..4_u32, 0..3_u32, proptest::option::of(1..4_u32)), 1..5)
}

fn routes(shapes: &[Shape]) -> Routes {
    let route = |(i, (weight, priority, max_concurrent)): (usize, &Shape)| {
        let mut spec = ProviderSpec::new(i.to_string(), format!("http://{i}"));
        spec.max_concurrent = *max_concurrent;
        Route { weight: *weight, priority: *priority, ..Route::to(Provider::new(spec).unwrap()) }
    };
    Routes::new(shapes.iter().enumerate().map(route).collect())
}

fn end(call: &InFlight, ending: &Ending, now: Instant) {
    match ending {
        Ending::Success => call.succeeded(),
        Ending::Failure => {
            call.failed(None, now);
        }
        Ending::Refusal(millis) => {
            call.refused(Some(Duration::from_millis(*millis)), now);
        }
        Ending::Error => call.answered_500(now),
        Ending::Nothing => {}
    }
}

/// What is known of a route before a pick.
struct Known<'r> {
    route: &'r Route,
    load: u32,
    is_full: bool,
    is_cooling: bool,
    is_closed: bool,
}

fn known(route: &Route, now: Instant) -> Known<'_> {
    let (health, load) = (route.provider.health(), route.provider.health().in_flight());
    let is_full = route.provider.spec().max_concurrent.is_some_and(|most| load >= most);
    let (is_cooling, is_closed) = (health.cool_down(now).is_some(), health.is_closed(now).is_some());
    Known { route, load, is_full, is_cooling, is_closed }
}

fn check(known: &[Known<'_>], tried: &[usize], pick: &Pick<'_>) -> Result<(), TestCaseError> {
    let left = || known.iter().enumerate().filter(|(i, _)| !tried.contains(i)).map(|(_, known)| known);
    let usable = || left().filter(|known| !known.is_full && !known.is_cooling);
    let picked = match pick {
        Pick::Route(index, ..) => &known[*index],
        Pick::None => {
            prop_assert_eq!(left().count(), 0);
            return Ok(());
        }
        Pick::Full | Pick::Closed(_) => {
            prop_assert!(left().all(|known| known.is_full || known.is_closed));
            prop_assert_eq!(matches!(pick, Pick::Closed(_)), left().any(|known| known.is_closed));
            return Ok(());
        }
    };
    prop_assert!(!picked.is_full && !picked.is_closed);
    prop_assert!(left().any(|known| std::ptr::eq(known, picked)), "it was tried before");
    prop_assert!(!picked.is_cooling || usable().count() == 0, "one that is not cooling down was left");
    let share = |known: &Known<'_>| f64::from(known.load) / f64::from(known.route.weight.max(1));
    for other in usable() {
        prop_assert!(picked.route.priority <= other.route.priority);
        prop_assert!(picked.route.priority < other.route.priority || share(picked) <= share(other) + 1e-9);
    }
    Ok(())
}

proptest! {
    #[test]
    fn each_pick_is_the_best_that_there_is(shapes in shapes(), steps in steps()) {
        let (routes, mut now, mut calls) = (routes(&shapes), Instant::now(), Vec::new());
        for step in &steps {
            match step {
                Step::Pick(tried) => {
                    let known: Vec<_> = routes.iter().map(|route| known(route, now)).collect();
                    let pick = routes.pick(tried, now);
                    check(&known, tried, &pick)?;
                    if let Pick::Route(_, _, call) = pick {
                        calls.push(call);
                    }
                }
                Step::End(call, ending) if !calls.is_empty() => {
                    let call = calls.swap_remove(call % calls.len());
                    end(&call, ending, now);
                }
                Step::End(..) => {}
                Step::Pass(millis) => now += Duration::from_millis(*millis),
            }
            let in_flight: u32 = routes.iter().map(|route| route.provider.health().in_flight()).sum();
            prop_assert_eq!(in_flight as usize, calls.len());
        }
        drop(calls);
        prop_assert!(routes.iter().all(|route| route.provider.health().in_flight() == 0));
    }

    #[test]
    fn idle_routes_take_turns_by_weight(weights in proptest::collection::vec(1..6_u32, 1..5)) {
        let shapes: Vec<Shape> = weights.iter().map(|weight| (*weight, 0, None)).collect();
        let (routes, now) = (routes(&shapes), Instant::now());
        let mut counts = vec![0; weights.len()];
        for _ in 0..weights.iter().sum::<u32>() {
            let Pick::Route(index, ..) = routes.pick(&[], now) else { panic!("no route") };
            counts[index] += 1;
        }
        prop_assert_eq!(counts, weights);
    }
}
