//! Credit that is bought, and taken back when the payment goes back.

use super::objects::CheckoutSession;
use super::refunds;
use super::subscriptions::STRIPE;
use crate::accounts::credits;
use crate::db::Executor;
use crate::error::Result;
use crate::store::audit;
use crate::store::credits::Kind;
use crate::store::purchases::{self, Purchase};
use crate::store::{subscriptions, users};

/// A cent in micro-dollars.
const CENT: i64 = 10_000;

/// The most cents that one purchase adds: ten million dollars.
const MOST_CENTS: i64 = 1_000_000_000;

/// So much of a payment went back.
#[derive(Clone, Debug)]
pub(super) struct Return {
    /// The id of the charge or the dispute.
    pub(super) id: String,
    /// The payment.
    pub(super) payment_intent: String,
    /// How much of it, in hundredths of the currency.
    pub(super) cents: i64,
}

/// Grants what a session has bought, if it is paid, once. Returns the account's id. To be called in a transaction.
///
/// # Errors
/// Those of the database; 400 if the balance would be too high.
pub(super) fn grant(db: &mut impl Executor, session: &CheckoutSession) -> Result<Option<String>> {
    let Some(cents) = session.credit_cents().filter(|_| session.is_paid()) else { return Ok(None) };
    // An event that comes late or once more, maybe after the account was deleted with what it had bought and spent.
    if let Some(buyer) = purchases::buyer(db, &session.id)? {
        return Ok(Some(buyer));
    }
    if cents > MOST_CENTS {
        refunds::note(db, session, "it buys more credit than can be granted")?;
        return Ok(None);
    }
    // The account that asked for the session, and not only one with its customer.
    let by_reference = subscriptions::owner(db, "", &session.client_reference_id)?;
    let owner = by_reference.map_or_else(|| subscriptions::owner(db, &session.customer, ""), |id| Ok(Some(id)))?;
    let Some(user_id) = owner else {
        refunds::note(db, session, "")?;
        return Ok(None);
    };
    if !users::lock(db, &user_id)? {
        // It was deleted just now.
        refunds::note(db, session, "")?;
        return Ok(None);
    }
    let amount_micros = cents * CENT;
    let purchase = Purchase {
        session_id: session.id.clone(),
        payment_intent: Some(session.payment_intent.clone()).filter(|id| !id.is_empty()),
        user_id: user_id.clone(),
        amount_micros,
        paid_cents: session.amount_total.filter(|paid| *paid > 0).unwrap_or(cents),
        due_micros: 0,
        taken_micros: 0,
    };
    if !purchases::insert(db, &purchase)? {
        return Ok(Some(user_id));
    }
    let id = format!("stripe:{}", session.id);
    let added = credits::add(db, &user_id, Kind::Purchase, Some(&id), amount_micros, None, "Purchase")?;
    if let Some(user) = users::by_id(db, &user_id)?.filter(|_| added.is_new) {
        audit::insert(db, STRIPE, "purchase", &user, &credits::in_words(&added.entry))?;
    }
    Ok(Some(user_id))
}

/// Takes credit back as far as its payment went back, or gives it again where a dispute was won. `event_id` makes the
/// change once. Returns the account's id. To be called in a transaction.
///
/// # Errors
/// Those of the database.
pub(super) fn take_back(
    db: &mut impl Executor,
    returned: &Return,
    event_id: &str,
    fetch: i64,
) -> Result<Option<String>> {
    let Some(found) = purchases::by_payment(db, &returned.payment_intent)? else { return Ok(None) };
    let account_exists = users::lock(db, &found.user_id)?;
    let cents = purchases::put_return(db, &found.session_id, &returned.id, returned.cents.max(0), fetch)?;
    // Read again, as the account's row is locked by now.
    let Some(purchase) = purchases::by_payment(db, &returned.payment_intent)? else { return Ok(None) };
    let due = share(purchase.amount_micros, cents, purchase.paid_cents);
    let change = match due - purchase.due_micros {
        more if more > 0 => -more,
        // Not more than was there to be taken.
        _ => (purchase.taken_micros - due).max(0),
    };
    let mut taken = purchase.taken_micros;
    if change != 0 && account_exists {
        let id = format!("stripe:{event_id}");
        let reason = if change < 0 { "Payment refunded or disputed" } else { "Payment no longer disputed" };
        let added = credits::add(db, &purchase.user_id, Kind::Correction, Some(&id), change, None, reason)?;
        taken -= added.entry.amount_micros;
        if let Some(user) = users::by_id(db, &purchase.user_id)? {
            let spent = match added.entry.amount_micros > change {
                true => format!(", of {} due: the rest was spent", -change),
                false => String::new(),
            };
            let details = format!("{}{spent} ({})", credits::in_words(&added.entry), purchase.session_id);
            audit::insert(db, STRIPE, "credit", &user, &details)?;
        }
    }
    purchases::set_taken(db, &purchase.session_id, due, taken)?;
    Ok(Some(purchase.user_id).filter(|_| account_exists))
}

/// The part of an amount that `cents` of `all` are, and at most all of it.
fn share(amount: i64, cents: i64, all: i64) -> i64 {
    let part = i128::from(amount) * i128::from(cents.clamp(0, all)) / i128::from(all.max(1));
    i64::try_from(part).unwrap_or(amount)
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn a_part_of_the_payment_is_the_same_part_of_the_credit() {
        for (cents, due) in [(0, 0), (595, 5_000_000), (1190, 10_000_000), (2000, 10_000_000), (-1, 0)] {
            assert_eq!(share(10_000_000, cents, 1190), due);
        }
        assert_eq!(share(10, 1, 3), 3);
    }
}
