//! The most that a call of a model can cost, which is set aside before it where the account or the key has a budget;
//! and the most tokens that it can use, which are taken where these are limited.
//!
//! [`charged`](super::charged) says whose limits the calls of this thread count against ([`enter`]). What is sent to a
//! model server is bounded here: [`set_aside_text`] lowers `max_tokens` to what can be paid for.

use std::cell::RefCell;
use std::sync::Arc;

use crate::catalogue::ResolvedModel;
use crate::error::{Error, Result};
use crate::http::object::Object;
use crate::limits::{Admission, Refusal};
use crate::store::prices::Price;
use crate::units::{Unit, Units, amount};
use crate::usage::{Meter, cost, picos_each};

use super::bound;
pub use super::bound::PICTURE;
use super::request_rate::{self, RequestRate};

/// The most tokens of a reply, for each choice, where neither the request nor the catalogue says it.
const DEFAULT_MAX_TOKENS: u64 = 4096;

/// What a request counts against.
pub(super) struct RequestLimits {
    /// The budgets, if there are any.
    pub(super) admission: Option<Arc<Admission>>,
    /// The rate limits, if there are any.
    pub(super) rate: Option<Arc<RequestRate>>,
    pub(super) meter: Arc<Meter>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<RequestLimits>>> = const { RefCell::new(None) };
}

/// Restores what was there before when dropped; see [`enter`].
#[must_use]
pub struct Guard(Option<Arc<RequestLimits>>);

impl Drop for Guard {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// A request's budgets, to be handed to another thread that works on it.
#[derive(Clone)]
pub struct Handle(Option<Arc<RequestLimits>>);

/// Those that the calls of this thread count against; there may be none.
pub fn current() -> Handle {
    Handle(CURRENT.with_borrow(Clone::clone))
}

/// The calls of this thread count against these budgets until the result is dropped.
pub fn enter(Handle(limits): Handle) -> Guard {
    Guard(CURRENT.replace(limits))
}

impl From<Option<Arc<RequestLimits>>> for Handle {
    fn from(limits: Option<Arc<RequestLimits>>) -> Handle {
        Handle(limits)
    }
}

/// Sets aside what a call of a model costs that uses at most so much, which is only asked for where there are limits.
///
/// # Errors
/// 402: the budget cannot pay for it. 429: the rate limits do not admit so many tokens. 503: that is unknown, as the
/// database is away.
pub fn set_aside(model: &ResolvedModel, most: impl FnOnce() -> Units) -> Result<()> {
    let Handle(Some(limits)) = current() else { return Ok(()) };
    let units = most();
    let tokens = request_rate::tokens(&units);
    if let Some(rate) = limits.rate.as_ref().filter(|_| tokens > 0) {
        rate.take_tokens(tokens)?;
    }
    if limits.admission.is_none() {
        return Ok(());
    }
    let worst = cost(&limits.price(model.name())?, &units).total_picos();
    limits.reserve(worst, worst).map(drop)
}

/// Sets aside what a request for embeddings costs at most.
///
/// # Errors
/// As [`set_aside`].
pub fn set_aside_embeddings(model: &ResolvedModel, request: &Object<'_>) -> Result<()> {
    set_aside(model, || Units::of([(Unit::EmbeddingTokens, most_tokens(request, "input")), (Unit::Requests, 1)]))
}

/// The most tokens that a model reads of a request whose prompt stands in this field.
pub fn most_tokens(request: &Object<'_>, prompt_field: &str) -> i64 {
    amount(bound::tokens(request, prompt_field))
}

/// Sets aside what a request for text costs at most, and lowers the most tokens of its reply to what can be paid for.
/// Without such a bound, it gets one: that of the model, or [`DEFAULT_MAX_TOKENS`]. Returns how many tokens may be made
/// of all its `choices` together, if that is bounded.
///
/// # Errors
/// As [`set_aside`]; 400 for a bound that is no whole number.
pub fn set_aside_text(
    model: &ResolvedModel,
    request: &mut Object<'_>,
    prompt_field: &str,
    choices: usize,
) -> Result<Option<u64>> {
    let Handle(Some(limits)) = current() else { return Ok(None) };
    let rated = limits.rate.as_ref().and_then(|rate| Some((rate, rate.most_tokens()?)));
    if limits.admission.is_none() && rated.is_none() {
        return Ok(None);
    }
    // Some servers make more than they answer, and count it.
    let choices = request.read::<usize>("best_of").unwrap_or(1).max(choices).max(1) as u64;
    let input = bound::tokens(request, prompt_field);
    let cost = limits.text_cost(model.name(), input, choices)?;
    if let Some(cost) = cost.as_ref().filter(|cost| cost.each_output == 0 && rated.is_none()) {
        return limits.reserve_text(cost, 0).map(|_| None);
    }
    let asked = asked_tokens(request, model.output_limits())?;
    let wanted = asked.into_iter().chain(model.max_output_tokens()).min().unwrap_or(DEFAULT_MAX_TOKENS);
    let mut allowed = match rated {
        Some((rate, most)) => take_tokens(rate, most, input, wanted, choices)?,
        None => wanted,
    };
    if let Some(cost) = cost {
        allowed = limits.reserve_text(&cost, allowed)?;
    }
    if asked != Some(allowed) {
        lower(request, allowed, model.output_limits());
    }
    Ok(Some(allowed.saturating_mul(choices)))
}

/// What is set aside for a request for text, which may be sent several times: nothing twice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum SetAside {
    /// Nothing was.
    #[default]
    Not,
    /// For as many tokens, if they are bounded.
    Done(Option<u64>),
}

impl SetAside {
    /// As [`set_aside_text`], the first time. Later it returns the same, of a request whose reply was bounded then.
    ///
    /// # Errors
    /// As [`set_aside_text`].
    pub(super) fn text(
        &mut self,
        model: &ResolvedModel,
        request: &mut Object<'_>,
        prompt_field: &str,
        choices: usize,
    ) -> Result<Option<u64>> {
        if let SetAside::Done(most) = self {
            return Ok(*most);
        }
        let most = set_aside_text(model, request, prompt_field, choices)?;
        *self = SetAside::Done(most);
        Ok(most)
    }
}

/// What a text costs at most, in picodollars.
struct TextCost {
    /// Without its reply.
    fixed: i128,
    /// For each token of its reply, in all choices together.
    each_output: i128,
}

/// The most tokens that a request asks for.
fn asked_tokens(request: &Object<'_>, limits: &[&str]) -> Result<Option<u64>> {
    let mut asked: Option<u64> = None;
    for name in limits.iter().filter(|name| request.has(name)) {
        let number = request.read::<u64>(name).ok_or_else(|| Error::bad(format!("{name} must be a whole number")))?;
        asked = Some(asked.map_or(number, |before| before.min(number)));
    }
    Ok(asked)
}

fn lower(request: &mut Object<'_>, allowed: u64, limits: &'static [&'static str]) {
    let given: Vec<&'static str> = limits.iter().copied().filter(|name| request.has(name)).collect();
    for name in if given.is_empty() { &limits[..1] } else { &given } {
        request.set(name, &allowed);
    }
    if request.read::<u64>("min_tokens").is_some_and(|least| least > allowed) {
        request.set("min_tokens", &allowed);
    }
}

/// Takes what a text of `input` tokens and a reply of `wanted` tokens for each choice may use. A reply that is longer than
/// the limit, of `most` in a minute, admits is shortened. Returns its tokens.
fn take_tokens(rate: &RequestRate, most: i64, input: usize, wanted: u64, choices: u64) -> Result<u64> {
    let fitting = u64::try_from(most).unwrap_or(0).saturating_sub(input as u64) / choices;
    let allowed = wanted.min(fitting.max(1));
    let tokens = choices.saturating_mul(allowed).saturating_add(input as u64);
    rate.take_tokens(amount(tokens))?;
    Ok(allowed)
}

impl RequestLimits {
    fn price(&self, model: &str) -> Result<Price> {
        self.meter.price(model).ok_or(Error::Busy)
    }

    /// The cost of a text of `input` tokens; `None` without a budget.
    fn text_cost(&self, model: &str, input: usize, choices: u64) -> Result<Option<TextCost>> {
        if self.admission.is_none() {
            return Ok(None);
        }
        let price = self.price(model)?;
        let each_input = [Unit::PromptTokens, Unit::CachedInputTokens, Unit::CacheWriteTokens];
        let each_input = each_input.map(|unit| picos_each(&price, unit)).into_iter().max().unwrap_or(0);
        let fixed = (input as i128).saturating_mul(each_input).saturating_add(picos_each(&price, Unit::Requests));
        let each_output = picos_each(&price, Unit::CompletionTokens).saturating_mul(i128::from(choices));
        Ok(Some(TextCost { fixed, each_output }))
    }

    /// Sets aside what a text with a reply of `wanted` tokens for each choice costs, or what there is, but at least one
    /// of them. Returns how many tokens can be paid for.
    fn reserve_text(&self, cost: &TextCost, wanted: u64) -> Result<u64> {
        let TextCost { fixed, each_output } = *cost;
        let at_most = |tokens: u64| fixed.saturating_add(each_output.saturating_mul(i128::from(tokens)));
        let granted = self.reserve(at_most(wanted), at_most(wanted.min(1)))?;
        let affordable = (granted - fixed).checked_div(each_output);
        Ok(affordable.map_or(wanted, |tokens| u64::try_from(tokens).unwrap_or(0).min(wanted)))
    }

    fn reserve(&self, worst: i128, least: i128) -> Result<i128> {
        let Some(admission) = &self.admission else { return Ok(worst) };
        admission.reserve(worst, least).map_err(|refusal| match refusal {
            Refusal::Exhausted => Error::BudgetExhausted,
            Refusal::Unreachable => Error::Busy,
        })
    }
}
