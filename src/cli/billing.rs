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
use crate::store::timestamp;

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
        /// Try rows again that were put aside, for the customers that their accounts have now
        #[arg(long)]
        put_aside: bool,
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

pub(super) fn run(command: &BillingCommand, config: &Config) -> Result<String, Failure> {
    let not_set = |name: &str| Failure(format!("{name} is not set"));
    let stripe = Stripe::of(&config.stripe).ok_or_else(|| not_set("STRIPE_SECRET_KEY"))?;
    let meter = config.stripe.stripe_meter_event.as_deref().ok_or_else(|| not_set("STRIPE_METER_EVENT"));
    match command {
        BillingCommand::Send { until, put_aside } => {
            let db = database(config)?;
            send(Sender::new(stripe, db.clone(), meter?)?, &db, until.is_some(), *put_aside)
        }
        BillingCommand::Check => check(&Checker::new(config, stripe, database(config)?)),
        BillingCommand::Import => import::run(config),
    }
}

fn send(mut sender: Sender, db: &Database, closes_now: bool, put_aside: bool) -> Result<String, Failure> {
    if put_aside {
        outbox::retry_put_aside(&mut db.session()?)?;
    }
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
    for row in outbox::list_put_aside(&mut session, LISTED)? {
        text += &format!(
            "put aside: {} account {} customer {} {} micro-dollars, used until {}: {}\n",
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
    let Report { accounts, ledger, outbox, customers, sent, counted, in_flight, different, differences } = report;
    if different > 0 {
        let more = if different > differences.len() as u64 { "\nand more" } else { "" };
        return Err(Failure(format!("{different} sums differ, in micro-dollars:\n{}{more}", differences.join("\n"))));
    }
    let mut text = format!(
        "{accounts} accounts: {ledger} micro-dollars in the ledger, {outbox} of them in the outbox, {} since the last row\n\
         {customers} customers: {sent} sent in the last 35 days, {counted} added up by Stripe\n",
        ledger - outbox
    );
    if in_flight > 0 {
        text += &format!(
            "{in_flight} customers have usage on its way, or sent in the last 15 minutes, that Stripe has not added up\n"
        );
    }
    Ok(text)
}
