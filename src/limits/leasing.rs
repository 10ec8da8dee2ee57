//! The thread that asks the database for leases, and hands back what is not used.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::asking::{FAILURE_PAUSE, FailureLog, IDLE_INTERVAL, Sweeps, ask_registered};
use super::held::{Answer, Question};
use super::service::Limits;
use super::{Ask, Grant, Micros, RESPONSE_TIMEOUT};
use crate::db;
use crate::store::leases::{self, Request};

/// How often all leases are looked at, and handed back if they are idle.
const SWEEP_INTERVAL: Micros = 250_000;

/// What is asked of the database at once.
struct Questions {
    holder: Arc<str>,
    round: u64,
    asked: Vec<Question>,
}

impl Limits {
    /// Asks the database for leases until [`Limits::stop`].
    pub fn run_leases(&self) {
        let mut failures = FailureLog::new("budgets", "no leases are granted");
        while let Some(questions) = self.next_questions() {
            let asked_at = self.now();
            let answered = self.ask(&questions);
            failures.note(&answered);
            let is_failure = answered.is_err();
            self.receive(&questions, asked_at, answered);
            if is_failure {
                std::thread::sleep(FAILURE_PAUSE);
            }
        }
    }

    /// Waits until there is something to ask; `None` once stopped.
    fn next_questions(&self) -> Option<Questions> {
        let mut sweeps = Sweeps::new(SWEEP_INTERVAL, self.now());
        let mut state = self.state.lock();
        loop {
            if state.is_stopped {
                return None;
            }
            let now = self.now();
            let mut pause = IDLE_INTERVAL;
            if let Some(holder) = state.holder.clone() {
                let is_sweep = sweeps.is_due(now);
                let (round, asked) = state.held.questions(is_sweep, now);
                if !state.held.to_forget.is_empty() {
                    self.settling.forget_soon();
                }
                if !asked.is_empty() {
                    return Some(Questions { holder, round, asked });
                }
                pause = sweeps.pause(state.held.has_waiting(), !state.held.is_empty(), now);
            }
            self.work.wait_for(&mut state, pause);
        }
    }

    /// The database's answers; `None` if the leases of this holder have ended.
    fn ask(&self, questions: &Questions) -> Result<Option<Vec<Option<Answer>>>, db::Error> {
        let Questions { holder, asked, .. } = questions;
        let mut session = self.db.session()?;
        session.set_timeout(RESPONSE_TIMEOUT);
        let requests: Vec<Request<'_>> = asked
            .iter()
            .map(|(id, ask)| {
                let Ask { known, at_least, at_most, returned, partial } = *ask;
                Request { budget_id: id, known, at_least, at_most, returned, partial }
            })
            .collect();
        let is_registered = self.state.lock().is_registered;
        let registered = || self.state.lock().is_registered = true;
        let ask = |session: &mut db::Session| leases::ask(session, holder, &requests);
        let answers = ask_registered(&mut session, holder, is_registered, registered, ask)?;
        let grant = |answer: leases::Granted| {
            let leases::Granted { granted, returned, window_starts, is_short, unspent, collects, valid_micros, number } =
                answer;
            let window_starts = Micros::try_from(window_starts.unix_timestamp_nanos() / 1000).unwrap_or(0);
            let valid_for = valid_micros;
            let grant = Grant { granted, returned, window_starts, is_short, collects, valid_for };
            Answer { grant, unspent, number }
        };
        Ok(answers.map(|answers| answers.into_iter().map(|answer| answer.map(grant)).collect()))
    }

    fn receive(
        &self,
        questions: &Questions,
        asked_at: Micros,
        answered: Result<Option<Vec<Option<Answer>>>, db::Error>,
    ) {
        let Questions { holder, round, asked } = questions;
        let now = self.now();
        let mut state = self.state.lock();
        state.held.is_unreachable = answered.is_err();
        let Ok(answers) = answered else { return };
        // Answers come in the order of the questions, so none knows less than another before.
        let is_lost = |answers: &Vec<Option<Answer>>| {
            let mut known = asked.iter().zip(answers);
            known.any(|((id, _), answer)| answer.as_ref().is_some_and(|answer| state.held.knows_more(id, answer)))
        };
        let Some(answers) = answers.filter(|answers| !is_lost(answers)) else {
            drop(state);
            return self.holder_ended(holder);
        };
        for ((id, _), answer) in asked.iter().zip(&answers) {
            state.held.receive((*round, asked_at), id, answer.as_ref(), now);
        }
        state.held.admit(now);
        if asked.iter().any(|(id, _)| state.held.is_lowered(id)) {
            self.lowerings.fetch_add(1, Ordering::Release);
        }
    }
}
