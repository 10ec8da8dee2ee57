//! `textgen billing import`.

use std::io::Write;
use std::time::{Duration, Instant};

use super::{Failure, database};
use crate::billing::import::Imported;
use crate::billing::payments::Payments;
use crate::config::Config;
use crate::store::checkouts;

/// How often a line says how far it is.
const PROGRESS: Duration = Duration::from_secs(2);

pub(super) fn run(config: &Config) -> Result<String, Failure> {
    let payments = Payments::of(config).ok_or(Failure("STRIPE_SECRET_KEY is not set".to_owned()))?;
    let db = database(config)?;
    let all = checkouts::count_customers(&mut db.session()?)?;
    let mut shown = Instant::now();
    let done = payments.import(&db, |imported| {
        if shown.elapsed() >= PROGRESS {
            shown = Instant::now();
            // If this fails there is nobody who reads it.
            let _ = writeln!(std::io::stderr(), "of {all} accounts, {}", in_words(imported));
        }
    });
    match done {
        Ok(imported) => Ok(format!("{}\n", in_words(&imported))),
        Err(e) => Err(Failure(format!("{e}; what was read is stored: run it again to go on"))),
    }
}

fn in_words(imported: &Imported) -> String {
    let Imported { accounts, subscribed, unknown } = imported;
    format!("{accounts} accounts: {subscribed} subscribed, {unknown} unknown to Stripe")
}
