//! Sends what is due. Each process has a thread for it; a row that one has taken is not taken by another for a while.
//!
//! In this order: (1) the row is taken and its link stored, in one transaction; (2) the mail server gets the mail; (3) the row
//! is marked as sent. A process that is killed between (2) and (3), or whose connection breaks while it waits for the server's
//! reply to the text, does not know whether the server has the mail. It is sent once more then, with the same Message-ID.
//! Whatever fails before that was certainly not sent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use time::OffsetDateTime;

use super::letter::{Facts, Letter};
use super::message::Mime;
use super::outcome::Outcome;
use super::transport::Transport;
use super::{Kind, Mail, account_of, events};
use crate::auth::{Digest, Secret};
use crate::db::{Database, Transaction};
use crate::error::{Error, Result};
use crate::repeating::{FailureLog, sleep};
use crate::store::mails::{self, Due};
use crate::store::{User, account_links, users};

/// How often it is looked for mails.
const INTERVAL: Duration = Duration::from_millis(500);
/// For how many seconds a mail that was taken is not taken again: longer than sending one takes, at the slowest server.
const LEASE_SECONDS: i32 = 300;
/// The first pause after a failure, and the longest one.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// The longest pause of the thread while no mail can be sent at all.
const LONGEST_UNAVAILABLE: Duration = Duration::from_secs(60);
/// How often old rows are put aside or forgotten, and what waits is counted.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// The most mails that wait.
const MOST_WAITING: i64 = 50_000;

/// Sends mails until the process is stopped.
pub fn follow(mail: &Mail, db: &Database, stopped: &AtomicBool) {
    let Some(transport) = &mail.transport else { return };
    let mut sender = Sender { mail, transport, db, problem: String::new(), failures: 0, looked_after: None };
    let mut failures = FailureLog::new("mail: not sent, trying again");
    while sleep(sender.pause(), stopped) {
        if !db.is_open() {
            continue;
        }
        failures.note(sender.turn(stopped));
    }
}

struct Sender<'a> {
    mail: &'a Mail,
    transport: &'a Transport,
    db: &'a Database,
    /// The problem that was logged last.
    problem: String,
    /// How often in a row no mail could be sent at all.
    failures: u32,
    looked_after: Option<Instant>,
}

/// A mail that is ready to be sent.
struct Ready {
    due: Due,
    kind: Kind,
    user: User,
    /// The page that it leads to, with its token.
    link: String,
}

/// What was found that is due.
enum Taken {
    Nothing,
    /// It has nobody to go to any more.
    Dropped,
    Ready(Box<Ready>),
}

impl Sender<'_> {
    fn pause(&self) -> Duration {
        match self.failures {
            0 => INTERVAL,
            failures => (PAUSE.0 * 2_u32.saturating_pow(failures.min(10) - 1)).min(LONGEST_UNAVAILABLE),
        }
    }

    /// Makes mails of events, sends all that are due, and looks after old ones.
    fn turn(&mut self, stopped: &AtomicBool) -> Result<()> {
        while events::queue_some(self.mail, self.db)? > 0 && !stopped.load(Ordering::Acquire) {}
        while !stopped.load(Ordering::Acquire) {
            match self.take()? {
                Taken::Nothing => break,
                Taken::Dropped => {}
                Taken::Ready(ready) => {
                    let outcome = self.send(&ready)?;
                    let is_unavailable = matches!(outcome, Outcome::Unavailable(_));
                    self.record(&ready, outcome)?;
                    if is_unavailable {
                        break;
                    }
                }
            }
        }
        self.look_after()
    }

    /// Takes a mail, and stores its link.
    fn take(&self) -> Result<Taken> {
        let kinds: Vec<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
        let mut session = self.db.session()?;
        let mut transaction = session.transaction()?;
        let Some(due) = mails::take(&mut transaction, &kinds, LEASE_SECONDS)? else { return Ok(Taken::Nothing) };
        let kind = Kind::named(&due.kind).ok_or_else(|| Error::Internal("a mail of an unknown kind".to_owned()))?;
        let ready = match addressee(&mut transaction, &due, kind)? {
            Some(user) => self.with_link(&mut transaction, &due, kind, user)?,
            None => None,
        };
        if ready.is_none() {
            mails::delete(&mut transaction, &due.id)?;
        }
        transaction.commit()?;
        Ok(ready.map_or(Taken::Dropped, |ready| Taken::Ready(Box::new(ready))))
    }

    fn with_link(&self, db: &mut Transaction<'_>, due: &Due, kind: Kind, user: User) -> Result<Option<Ready>> {
        let page = format!("{}{}", self.mail.site(), kind.page());
        let link = match kind.link() {
            None => page,
            Some((purpose, lifetime)) => {
                let token = Secret::new_link().map_err(|e| Error::Internal(format!("no randomness: {e}")))?;
                let (Digest(digest), expires) = (token.digest(), OffsetDateTime::now_utc() + lifetime);
                if !account_links::insert(db, &digest, &user.id, purpose, &due.recipient, expires)? {
                    return Ok(None);
                }
                format!("{page}?token={}", token.reveal())
            }
        };
        Ok(Some(Ready { due: due.clone(), kind, user, link }))
    }

    fn send(&self, ready: &Ready) -> Result<Outcome> {
        let Ready { due, kind, user, link } = ready;
        let details: Value = serde_json::from_str(&due.details).unwrap_or_default();
        let (site, recipient) = (self.mail.site(), due.recipient.as_str());
        let letter =
            Letter::write(&Facts { kind: *kind, site, email: &user.email, recipient, details: &details, link })?;
        Ok(match Mime::new(&self.mail.from, recipient, &due.id, letter) {
            Ok(mime) => self.transport.send(&due.id, kind.name(), &self.mail.from, &mime),
            Err(problem) => Outcome::Refused(problem),
        })
    }

    fn record(&mut self, ready: &Ready, outcome: Outcome) -> Result<()> {
        let (id, kind) = (ready.due.id.as_str(), ready.kind.name());
        let (mut session, counts) = (self.db.session()?, &self.mail.counts);
        self.failures = if matches!(outcome, Outcome::Unavailable(_)) { self.failures.saturating_add(1) } else { 0 };
        match outcome {
            Outcome::Sent => {
                mails::sent(&mut session, id)?;
                counts.sent.fetch_add(1, Ordering::Relaxed);
                if !self.problem.is_empty() {
                    log::info!("mail: sent again");
                    self.problem.clear();
                }
                log::debug!("mail: {id} ({kind}) was sent");
            }
            Outcome::Again(problem) | Outcome::Unavailable(problem) => {
                mails::try_again(&mut session, id, pause_millis(ready.due.attempts), &problem)?;
                counts.retried.fetch_add(1, Ordering::Relaxed);
                if self.problem != problem {
                    log::warn!("mail: {id} ({kind}) is tried again: {problem}");
                    self.problem = problem;
                }
            }
            Outcome::Refused(problem) => {
                mails::put_aside(&mut session, id, &problem)?;
                counts.put_aside.fetch_add(1, Ordering::Relaxed);
                log::warn!("mail: {id} ({kind}) was put aside: {problem}");
            }
        }
        Ok(())
    }

    /// Puts aside what is too old or too much, forgets old rows, and counts what waits.
    fn look_after(&mut self) -> Result<()> {
        if self.looked_after.is_some_and(|at| at.elapsed() < UPKEEP_INTERVAL) {
            return Ok(());
        }
        let mut session = self.db.session()?;
        let given_up = mails::give_up(&mut session, MOST_WAITING)?;
        if given_up > 0 {
            self.mail.counts.put_aside.fetch_add(given_up, Ordering::Relaxed);
            log::warn!("mail: {given_up} mails were put aside, as they are too old or too many");
        }
        while mails::forget_old(&mut session)? > 0 {}
        *self.mail.unsent.lock() = Some(mails::unsent(&mut session)?);
        self.looked_after = Some(Instant::now());
        Ok(())
    }
}

/// The account that a mail is about, if it still is to be sent.
fn addressee(db: &mut Transaction<'_>, due: &Due, kind: Kind) -> Result<Option<User>> {
    let Some(user) = account_of(db, &due.user_id, &due.recipient)? else { return Ok(None) };
    let is_wanted = match kind {
        Kind::Verify => user.email == due.recipient && !users::is_verified(db, &user.id)?,
        Kind::Reset => user.email == due.recipient && !users::is_suspended(db, &user.id)?,
        // Its owner is told instead, when somebody tries to sign up with it.
        Kind::ConfirmEmail => users::by_email(db, &due.recipient)?.is_none(),
        _ => true,
    };
    Ok(Some(user).filter(|_| is_wanted))
}

/// The pause after so many attempts, in milliseconds: twice as long each time, and up to half as much again, so that mails that
/// failed together do not come together.
fn pause_millis(attempts: i32) -> i64 {
    let doubled = PAUSE.0 * 2_u32.saturating_pow(u32::try_from(attempts - 1).unwrap_or(0).min(20));
    let mut random = [0; 2];
    // Without random numbers, all wait for the same time.
    let share =
        getrandom::fill(&mut random).map_or(0.0, |()| f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX));
    i64::try_from(doubled.min(PAUSE.1).mul_f64(1.0 + share / 2.0).as_millis()).unwrap_or(i64::MAX)
}
