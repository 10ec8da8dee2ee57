//! Compares the ledger with the outbox, and the outbox with what Stripe has added up.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use time::OffsetDateTime;

use super::client::Stripe;
use super::failure::Failure;
use super::form::Form;
use super::objects::Price;
use super::parallel::in_parallel;
use crate::config::Config;
use crate::db::{self, Database};
use crate::store::reporting::check::{self, CustomerSums};

/// Differences that are listed; further ones are only counted.
const LISTED: usize = 100;
/// Attempts to read a sum, and the pause between two.
const ATTEMPTS: (u32, Duration) = (5, Duration::from_secs(1));

/// What was compared. Sums are in micro-dollars.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Accounts that have something in the outbox.
    pub accounts: u64,
    /// What they were charged since reporting began.
    pub ledger: i64,
    /// What was put into the outbox.
    pub outbox: i64,
    /// Customers and meters that were compared with Stripe.
    pub customers: u64,
    /// What was sent, of the last 35 days.
    pub sent: i64,
    /// What Stripe has added up of that.
    pub counted: i64,
    /// Of how many customers Stripe has not added up yet what was just sent.
    pub in_flight: u64,
    /// How many sums differ.
    pub different: u64,
    /// The first of them, in words.
    pub differences: Vec<String>,
}

impl Report {
    fn differs(&mut self, what: String) {
        self.different += 1;
        if self.differences.len() < LISTED {
            self.differences.push(what);
        }
    }
}

/// Why sums could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The database did not say.
    #[error(transparent)]
    Database(#[from] db::Error),
    /// Stripe did not say.
    #[error("{0}")]
    Stripe(#[from] Failure),
}

/// What compares.
pub struct Checker {
    pub(super) db: Database,
    stripe: Stripe,
    /// The event name of the meter that usage is reported to.
    meter: Option<String>,
    /// The price that bills it.
    price: Option<String>,
}

impl Checker {
    /// One with these settings.
    pub fn new(config: &Config, stripe: Stripe, db: Database) -> Checker {
        let (meter, price) = (config.stripe.stripe_meter_event.clone(), config.payments.stripe_price_metered.clone());
        Checker { db, stripe, meter, price }
    }

    /// Compares everything.
    ///
    /// # Errors
    /// See [`CheckError`]. A single sum that Stripe does not give is a difference.
    pub fn check(&self) -> Result<Report, CheckError> {
        let mut report = Report::default();
        compare_accounts(&self.db, &mut report)?;
        let meters = self.stripe.meters()?.into_iter().map(|meter| (meter.event_name, meter.id)).collect();
        self.compare_price(&meters, &mut report)?;
        compare_customers(&self.db, &self.stripe, &meters, &mut report)?;
        Ok(report)
    }

    /// Whether the price is of the meter.
    fn compare_price(&self, meters: &HashMap<String, String>, report: &mut Report) -> Result<(), Failure> {
        let (Some(event), Some(price)) = (&self.meter, &self.price) else { return Ok(()) };
        let of = match self.stripe.get::<Price>(&format!("/v1/prices/{price}"), &Form::new()) {
            Ok(found) => found.recurring.map(|recurring| recurring.meter),
            Err(e) if e.is_not_found() => None,
            Err(e) => return Err(e),
        };
        if of.is_none() || of.as_ref() != meters.get(event) {
            report.differs(format!(
                "STRIPE_PRICE_METERED: {price} is no price of the meter for events named {event}, so their usage is not billed"
            ));
        }
        Ok(())
    }
}

fn compare_accounts(db: &Database, report: &mut Report) -> Result<(), db::Error> {
    let mut after = String::new();
    loop {
        let accounts = check::accounts(&mut db.session()?, &after)?;
        let Some(last) = accounts.last() else { return Ok(()) };
        after.clone_from(&last.user_id);
        for sums in accounts {
            report.accounts += 1;
            report.ledger += sums.ledger;
            report.outbox += sums.outbox;
            if sums.outbox != sums.reported {
                report.differs(format!(
                    "account {}: the outbox holds {}, but {} was put into it",
                    sums.user_id, sums.outbox, sums.reported
                ));
            }
            // What was charged since the last row is no difference.
            if sums.ledger < sums.reported {
                report.differs(format!(
                    "account {}: the ledger has {}, but {} was put into the outbox",
                    sums.user_id, sums.ledger, sums.reported
                ));
            }
        }
    }
}

fn compare_customers(
    db: &Database,
    stripe: &Stripe,
    meters: &HashMap<String, String>,
    report: &mut Report,
) -> Result<(), db::Error> {
    let since = check::window(&mut db.session()?)?;
    let mut after = (String::new(), String::new());
    loop {
        let customers = check::customers(&mut db.session()?, since, (&after.0, &after.1))?;
        let Some(last) = customers.last() else { return Ok(()) };
        after = (last.customer.clone(), last.meter.clone());
        let work = |sums: &CustomerSums| {
            let id = meters.get(&sums.meter).ok_or_else(|| "there is no active meter".to_owned())?;
            counted(stripe, id, sums, since).map_err(|e| e.to_string())
        };
        in_parallel(customers, work, |result| {
            if let Some((sums, counted)) = result {
                compare(&sums, counted, report);
            }
            true
        });
    }
}

/// What Stripe has added up for a customer.
fn counted(stripe: &Stripe, meter: &str, sums: &CustomerSums, since: OffsetDateTime) -> Result<i64, Failure> {
    let now = OffsetDateTime::now_utc();
    let until =
        now + Duration::from_secs(600 - u64::from(now.second())) - Duration::from_nanos(now.nanosecond().into());
    let mut attempts = 0;
    loop {
        attempts += 1;
        match stripe.usage(meter, &sums.customer, since, until) {
            Err(e) if e.may_pass() && attempts < ATTEMPTS.0 => thread::sleep(ATTEMPTS.1),
            result => return result,
        }
    }
}

fn compare(sums: &CustomerSums, counted: Result<i64, String>, report: &mut Report) {
    let CustomerSums { customer, meter, sent, just_sent, unknown } = sums;
    report.customers += 1;
    report.sent += sent;
    let counted = match counted {
        Ok(counted) => counted,
        Err(e) => return report.differs(format!("customer {customer}, meter {meter}: {sent} was sent; Stripe: {e}")),
    };
    report.counted += counted;
    if counted == *sent {
        return;
    }
    if (sent - just_sent..=sent + unknown).contains(&counted) {
        report.in_flight += 1;
    } else {
        report.differs(format!("customer {customer}, meter {meter}: {sent} was sent, Stripe has {counted}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_flight_is_no_difference() {
        let sums = CustomerSums { customer: "c".into(), meter: "m".into(), sent: 100, just_sent: 30, unknown: 5 };
        let outcome = |counted| {
            let mut report = Report::default();
            compare(&sums, Ok(counted), &mut report);
            (report.in_flight, report.different)
        };
        assert_eq!((outcome(100), outcome(70), outcome(105)), ((0, 0), (1, 0), (1, 0)));
        assert_eq!((outcome(69), outcome(106)), ((0, 1), (0, 1)));
    }
}
