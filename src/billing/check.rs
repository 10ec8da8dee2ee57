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
use crate::store::reporting::check::{self, AccountSums, Closed, CustomerSums};
use crate::store::reporting::closing::{self, Scope};
use crate::store::reporting::sender;
use crate::store::timestamp;

/// Differences that are listed; further ones are only counted.
const LISTED: usize = 100;
/// Attempts to read a sum, and the pause between two.
const ATTEMPTS: (u32, Duration) = (5, Duration::from_secs(1));

/// What was compared. Sums are in micro-dollars.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Accounts that were charged something since reporting began.
    pub accounts: u64,
    /// What is to be reported of what they were charged.
    pub ledger: i64,
    /// What was put into the outbox.
    pub outbox: i64,
    /// What of the ledger waits, as the account has no subscription.
    pub waiting: i64,
    /// What came after its hour was closed, and was put into the outbox now.
    pub late: i64,
    /// Why reporting is held, if it is.
    pub held: Option<String>,
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
    fn add(&mut self, sums: &AccountSums) {
        let AccountSums { user_id, is_invoiced, ledger, reported, outbox, .. } = sums;
        self.accounts += 1;
        self.ledger += ledger;
        self.outbox += outbox;
        if !is_invoiced {
            self.waiting += ledger - reported;
        }
        if outbox != reported {
            self.differs(format!("account {user_id}: the outbox holds {outbox}, but {reported} was put into it"));
        }
        if ledger < reported {
            self.differs(format!("account {user_id}: the ledger has {ledger}, but {reported} was put into the outbox"));
        }
    }

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
        self.compare_accounts(&mut report)?;
        let meters = self.stripe.meters()?.into_iter().map(|meter| (meter.event_name, meter.id)).collect();
        self.compare_price(&meters, &mut report)?;
        compare_customers(&self.db, &self.stripe, &meters, &mut report)?;
        Ok(report)
    }

    fn compare_accounts(&self, report: &mut Report) -> Result<(), db::Error> {
        let Some(closed) = check::closed(&mut self.db.session()?)? else { return Ok(()) };
        report.held = sender::held(&mut self.db.session()?)?.map(|gap| gap.in_words());
        if closed.is_late && report.held.is_none() {
            report.differs(format!("the hours since {} were not closed", timestamp::zulu(closed.until)));
        }
        let (mut after, mut left_out) = (String::new(), Vec::new());
        loop {
            let accounts = check::accounts(&mut self.db.session()?, &after, &closed)?;
            let Some(last) = accounts.last() else { break };
            after.clone_from(&last.user_id);
            for sums in accounts {
                report.add(&sums);
                // What was charged since the last hour that was closed is no difference.
                if sums.is_invoiced && sums.closed > sums.reported && report.held.is_none() {
                    left_out.push(sums);
                }
            }
        }
        self.close(left_out, &closed, report)
    }

    /// Puts into the outbox what is not in it although its hour was closed, as a charge that has just come from a journal.
    /// What is not in it then never will be.
    fn close(&self, left_out: Vec<AccountSums>, closed: &Closed, report: &mut Report) -> Result<(), db::Error> {
        if let (Some(meter), false) = (&self.meter, left_out.is_empty()) {
            let (mut after, hour) = (String::new(), closed.current_hour);
            while let Some(last) = closing::close_some(&mut self.db.session()?, &after, meter, hour, Scope::Everything)?
            {
                after = last;
            }
        }
        for sums in left_out {
            let AccountSums { user_id, closed, reported, .. } = sums;
            let now = check::reported(&mut self.db.session()?, &user_id)?;
            if now < closed {
                report.differs(format!(
                    "account {user_id}: {closed} was charged before the last hour was closed, but {now} was put into the outbox"
                ));
            } else {
                report.late += closed - reported;
            }
        }
        Ok(())
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
        let work = |before: &CustomerSums| {
            let id = meters.get(&before.meter).ok_or_else(|| "there is no active meter".to_owned())?;
            let counted = counted(stripe, id, before, since).map_err(|e| e.to_string())?;
            // Usage may have been sent since.
            let now = db
                .session()
                .and_then(|mut session| check::customer(&mut session, since, &before.customer, &before.meter));
            let after = now.map_err(|e| e.to_string())?.unwrap_or_else(|| before.clone());
            Ok((counted, after))
        };
        in_parallel(customers, work, |result| {
            if let Some((before, found)) = result {
                compare(&before, found, report);
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

/// Compares what Stripe has counted with the sums as they were before and after it was asked.
fn compare(before: &CustomerSums, found: Result<(i64, CustomerSums), String>, report: &mut Report) {
    let CustomerSums { customer, meter, sent, just_sent, .. } = before;
    report.customers += 1;
    let (counted, after) = match found {
        Ok(found) => found,
        Err(e) => {
            report.sent += sent;
            return report.differs(format!("customer {customer}, meter {meter}: {sent} was sent; Stripe: {e}"));
        }
    };
    report.sent += after.sent;
    report.counted += counted;
    if counted == after.sent && after.sent == *sent {
        return;
    }
    if (sent - just_sent..=after.sent + after.unknown).contains(&counted) {
        report.in_flight += 1;
    } else {
        let sent = after.sent;
        report.differs(format!("customer {customer}, meter {meter}: {sent} was sent, Stripe has {counted}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(sent: i64, just_sent: i64, unknown: i64) -> CustomerSums {
        CustomerSums { customer: "c".into(), meter: "m".into(), sent, just_sent, unknown }
    }

    fn outcome(before: &CustomerSums, counted: i64, after: CustomerSums) -> (u64, u64) {
        let mut report = Report::default();
        compare(before, Ok((counted, after)), &mut report);
        (report.in_flight, report.different)
    }

    #[test]
    fn what_is_in_flight_is_no_difference() {
        let before = sums(100, 30, 5);
        let outcome = |counted| outcome(&before, counted, before.clone());
        assert_eq!((outcome(100), outcome(70), outcome(105)), ((0, 0), (1, 0), (1, 0)));
        assert_eq!((outcome(69), outcome(106)), ((0, 1), (0, 1)));
    }

    #[test]
    fn what_is_sent_meanwhile_is_no_difference() {
        let outcome = |counted| outcome(&sums(100, 0, 0), counted, sums(140, 40, 7));
        assert_eq!((outcome(100), outcome(140), outcome(147)), ((1, 0), (1, 0), (1, 0)));
        assert_eq!((outcome(99), outcome(148)), ((0, 1), (0, 1)));
    }
}
