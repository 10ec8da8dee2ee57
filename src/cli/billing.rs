//! `textgen billing`.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use clap::{Subcommand, ValueEnum};

use super::{Failure, database, import};
use crate::billing::{Checker, Report, Sender, Stripe};
use crate::config::Config;
use crate::db::Database;
use crate::store::reporting::outbox::{self, Counts};
use crate::store::reporting::{aside, sender};
use crate::store::{refunds, timestamp};

/// How long rows are waited for that must be tried again, or that another process sends.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked for them.
const PAUSE: Duration = Duration::from_millis(200);
/// Rows that are listed.
const LISTED: i64 = 100;

/// What to do about what accounts owe.
#[derive(Subcommand)]
pub enum BillingCommand {
    /// Send usage to Stripe that is due, and print how many rows are waiting, sent and put aside. Servers do this by
    /// themselves every hour
    Send {
        /// Send usage up to a time. The hours that are over by default; `now` closes the open one too
        #[arg(long)]
        until: Option<Until>,
        /// Try rows again that were put aside, for the customers that their accounts have now. Without ids, all but those
        /// that Stripe may have counted
        #[arg(long, num_args = 0.., value_name = "ID")]
        put_aside: Option<Vec<String>>,
    },
    /// Say what became of a row that was put aside because nobody could tell, after a look at Stripe
    Settle {
        /// The row's id, as `send` lists it
        id: String,
        /// Whether Stripe has counted it. If not, it is sent again
        outcome: Known,
    },
    /// Go on with reporting after a time in which nobody reported usage: for a day or more, the meter was not set
    Resume {
        /// What to do about usage of that time
        usage: Missed,
    },
    /// List payments for credit of accounts that are gone, or decide what becomes of one. Those of accounts that were deleted
    /// are refunded by themselves
    Refund {
        /// The checkout session's id
        session: Option<String>,
        /// Do nothing about it: it is another system's, or was refunded at Stripe
        #[arg(long, requires = "session")]
        dismiss: bool,
    },
    /// Compare the ledger, the outbox and what Stripe has added up, for each customer, and fail if sums differ. Servers
    /// do this by themselves once a day
    Check,
    /// Read from Stripe who has subscribed, for all accounts with a customer: once, after moving from the older system. If
    /// it was interrupted, it goes on where it stopped
    Import,
}

/// Up to which time usage is sent.
#[derive(Clone, Copy, ValueEnum)]
pub enum Until {
    /// Until this moment
    Now,
}

/// What is known of a row.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Known {
    /// Stripe has counted it
    Counted,
    /// Stripe has not counted it
    Uncounted,
}

/// What becomes of usage of a time in which nobody reported.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Missed {
    /// Report it, so that Stripe bills it
    Report,
    /// Never report it: it was free, or paid for out of credit
    Skip,
}

pub(super) fn run(command: &BillingCommand, config: &Config) -> Result<String, Failure> {
    let not_set = |name: &str| Failure(format!("{name} is not set"));
    let stripe = Stripe::of(&config.stripe).ok_or_else(|| not_set("STRIPE_SECRET_KEY"))?;
    let meter = config.stripe.stripe_meter_event.as_deref().ok_or_else(|| not_set("STRIPE_METER_EVENT"));
    match command {
        BillingCommand::Send { until, put_aside } => {
            let db = database(config)?;
            if let Some(ids) = put_aside {
                try_again(&db, ids)?;
            }
            send(Sender::new(stripe, db.clone(), meter?)?, &db, until.is_some())
        }
        BillingCommand::Settle { id, outcome } => {
            let is_found = aside::settle(&mut database(config)?.session()?, id, *outcome == Known::Counted)?;
            is_found.then(String::new).ok_or_else(|| not_put_aside(id))
        }
        BillingCommand::Refund { session, dismiss } => refund(&database(config)?, session.as_deref(), *dismiss),
        BillingCommand::Resume { usage } => resume(&database(config)?, *usage),
        BillingCommand::Check => check(&Checker::new(config, stripe, database(config)?)),
        BillingCommand::Import => import::run(config),
    }
}

fn not_put_aside(id: &str) -> Failure {
    Failure(format!("{id} is no row that was put aside"))
}

/// Has rows tried again that were put aside.
fn try_again(db: &Database, ids: &[String]) -> Result<(), Failure> {
    let mut session = db.session()?;
    if ids.is_empty() {
        aside::retry_known(&mut session)?;
    }
    for id in ids {
        if !aside::retry(&mut session, id)? {
            return Err(not_put_aside(id));
        }
    }
    Ok(())
}

fn refund(db: &Database, id: Option<&str>, dismiss: bool) -> Result<String, Failure> {
    let mut session = db.session()?;
    let Some(id) = id else {
        let open: Vec<String> =
            refunds::open(&mut session, LISTED)?.iter().map(|refund| refund.in_words() + "\n").collect();
        return Ok(open.concat());
    };
    let is_open = if dismiss { refunds::done(&mut session, id)? } else { refunds::approve(&mut session, id)? };
    is_open.then(String::new).ok_or_else(|| Failure(format!("{id} is no payment that is open")))
}

fn resume(db: &Database, usage: Missed) -> Result<String, Failure> {
    let mut session = db.session()?;
    let mut transaction = session.transaction()?;
    if !sender::resume(&mut transaction, usage == Missed::Skip)? {
        return Err(Failure("reporting is not held: there is nothing to resume".to_owned()));
    }
    transaction.commit()?;
    Ok("usage is reported again\n".to_owned())
}

fn send(mut sender: Sender, db: &Database, closes_now: bool) -> Result<String, Failure> {
    if closes_now {
        sender.close_now()?;
    }
    let (began, stopped) = (Instant::now(), AtomicBool::new(false));
    loop {
        // If another process is the sender, it sends them.
        sender.turn(&stopped)?;
        let waiting = outbox::unsent(&mut db.session()?)?.waiting;
        if waiting == 0 || began.elapsed() > PATIENCE {
            break;
        }
        thread::sleep(PAUSE);
    }
    sender.release()?;
    let mut session = db.session()?;
    let Counts { waiting, sent, put_aside } = outbox::count(&mut session)?;
    let mut text = format!("waiting {waiting}, sent {sent}, put aside {put_aside}\n");
    if let Some(gap) = sender::held(&mut session)? {
        text += &format!("{}\n", gap.in_words());
    }
    for row in aside::list(&mut session, LISTED)? {
        let what = if row.is_unknown { "perhaps counted, tried again only if it is named" } else { "put aside" };
        text += &format!(
            "{what}: {} account {} customer {} {} micro-dollars, used until {}: {}\n",
            row.id,
            row.user_id,
            row.customer,
            row.amount_micros,
            timestamp::zulu(row.used_at),
            row.problem
        );
    }
    Ok(text)
}

fn check(checker: &Checker) -> Result<String, Failure> {
    let report = checker.check().map_err(|e| Failure(e.to_string()))?;
    let Report { accounts, ledger, outbox, customers, sent, counted, in_flight, different, .. } = report;
    let Report { waiting, late, held, differences, .. } = report;
    if different > 0 {
        let more = if different > differences.len() as u64 { "\nand more" } else { "" };
        return Err(Failure(format!("{different} sums differ, in micro-dollars:\n{}{more}", differences.join("\n"))));
    }
    let since = ledger - outbox - late;
    let mut text = format!(
        "{accounts} accounts: {ledger} micro-dollars in the ledger, {} of them in the outbox, {since} since the last row\n\
         {customers} customers: {sent} sent in the last 35 days, {counted} added up by Stripe\n",
        outbox + late
    );
    if in_flight > 0 {
        text += &format!(
            "{in_flight} customers have usage on its way, or sent in the last 15 minutes, that Stripe has not added up\n"
        );
    }
    if waiting > 0 {
        text += &format!("{waiting} micro-dollars wait, as their accounts have no subscription at Stripe\n");
    }
    if late > 0 {
        text += &format!("{late} micro-dollars came after their hour was closed, and were put into the outbox now\n");
    }
    if let Some(held) = held {
        text += &format!("{held}\n");
    }
    Ok(text)
}
