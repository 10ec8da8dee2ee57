//! Credit: giving it to accounts, and taking it away.

use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::{keys, new_id};
use crate::blocking;
use crate::db::{Database, Executor};
use crate::error::{Conflicting, Error, Result};
use crate::money::{Cost, in_dollars};
use crate::store::credits::{self, Balance, Entry, Kind, NewEntry};
use crate::store::{timestamp, users};

/// The most bytes of an entry's id.
pub const LONGEST_ID: usize = 200;

/// The most characters of a reason.
pub const LONGEST_REASON: usize = 300;

/// How the ids of entries begin that say that credit has expired.
const EXPIRY: &str = "expiry:";

/// How long a correction waits for processes to hand back what they do not use.
const RECALL_TIME: Duration = Duration::from_millis(1500);

/// How often it looks.
const RECALL_PAUSE: Duration = Duration::from_millis(50);

/// A change of an account's credit that was made, now or before.
#[derive(Clone, Debug)]
pub struct Added {
    /// The entry.
    pub entry: Entry,
    /// Whether it was made now. The same id twice makes one entry.
    pub is_new: bool,
}

/// Adds credit to an account, or takes it away. The entry is made once for each `id`, and without one always. A
/// correction takes no more than there is: what is spent or set aside for running requests stays. To be called in a
/// transaction.
///
/// # Errors
/// 400 for an amount, a time or an id that cannot be; 409 if there is another entry with this id; 401 if the account has
/// just been deleted.
pub fn add(
    db: &mut impl Executor,
    user_id: &str,
    kind: Kind,
    id: Option<&str>,
    amount_micros: i64,
    expires: Option<OffsetDateTime>,
    reason: &str,
) -> Result<Added> {
    check(kind, id, amount_micros, reason)?;
    let made = if id.is_none() { Some(new_id("credit_")?) } else { None };
    let id = id.or(made.as_deref()).unwrap_or_default();
    let expires = expires.and_then(|time| time.replace_nanosecond(time.nanosecond() / 1000 * 1000).ok());
    let new = NewEntry { id, kind, amount_micros, expires, reason };
    if let Some(entry) = credits::by_id(db, id)? {
        return same(entry, user_id, &new);
    }
    if expires.is_some_and(|time| time <= OffsetDateTime::now_utc() || time.year() > 9999) {
        return Err(Error::bad("expires must be in the future"));
    }
    keys::lock_account(db, user_id)?;
    let opened = users::by_id(db, user_id)?.and_then(|user| user.balance_id);
    let balance_id = opened.map_or_else(|| open(db, user_id), Ok)?;
    let balance = credits::balance(db, &balance_id)?.balance_micros;
    if balance.saturating_add(amount_micros) > Cost::MAX.micros() {
        return Err(Error::bad("The balance would be too high"));
    }
    match credits::add(db, &balance_id, user_id, &new)? {
        (entry, true) => Ok(Added { entry, is_new: true }),
        (entry, false) => same(entry, user_id, &new),
    }
}

fn open(db: &mut impl Executor, user_id: &str) -> Result<String> {
    let id = new_id("balance_")?;
    credits::open(db, &id, user_id)?;
    Ok(id)
}

/// As [`add`], in a transaction of its own, before which a correction waits for processes to hand back what they do not
/// use, for a second or two. `record` is called in the transaction if the entry is new.
///
/// # Errors
/// As [`add`]; those of `record`.
pub fn add_now(
    db: &Database,
    user_id: &str,
    new: &NewEntry<'_>,
    record: impl FnOnce(&mut crate::db::Transaction<'_>, &Added) -> Result<()>,
) -> Result<Added> {
    if new.amount_micros < 0 {
        wait_for_leases(db, user_id, -new.amount_micros)?;
    }
    let mut session = db.session()?;
    let mut transaction = session.transaction()?;
    let NewEntry { id, kind, amount_micros, expires, reason } = *new;
    let id = Some(id).filter(|id| !id.is_empty());
    let added = add(&mut transaction, user_id, kind, id, amount_micros, expires, reason)?;
    if added.is_new {
        record(&mut transaction, &added)?;
    }
    transaction.commit()?;
    Ok(added)
}

/// Waits until so much of an account's balance is not leased, or all that was not spent, for a second or two at most.
///
/// # Errors
/// Those of the database.
pub fn wait_for_leases(db: &Database, user_id: &str, wanted_micros: i64) -> Result<()> {
    let Some(balance_id) = users::by_id(&mut db.session()?, user_id)?.and_then(|user| user.balance_id) else {
        return Ok(());
    };
    let since = Instant::now();
    while !credits::has_free(&mut db.session()?, &balance_id, wanted_micros)? && since.elapsed() < RECALL_TIME {
        credits::recall(&mut db.session()?, &balance_id)?;
        // The connection is handed back meanwhile.
        blocking::block_in_place(blocking::Wait::Database, || std::thread::sleep(RECALL_PAUSE))?;
    }
    Ok(())
}

/// What an account has.
///
/// # Errors
/// Those of the database.
pub fn balance(db: &mut impl Executor, balance_id: Option<&str>) -> Result<Balance> {
    Ok(balance_id.map_or(Ok(Balance::default()), |id| credits::balance(db, id))?)
}

fn check(kind: Kind, id: Option<&str>, amount_micros: i64, reason: &str) -> Result<()> {
    let most = Cost::MAX.micros();
    if amount_micros == 0 || !(-most..=most).contains(&amount_micros) {
        return Err(Error::bad("amount_micros must not be 0, and at most 1000000000000000"));
    }
    if amount_micros < 0 && kind != Kind::Correction {
        return Err(Error::bad("Only a correction can take credit away"));
    }
    let is_bad = |id: &str| id.is_empty() || id.len() > LONGEST_ID || !id.bytes().all(|b| b.is_ascii_graphic());
    if id.is_some_and(|id| is_bad(id) || id.starts_with(EXPIRY)) {
        return Err(Error::bad("id must have 1 to 200 visible ASCII characters, and not begin with expiry:"));
    }
    if reason.chars().count() > LONGEST_REASON || reason.contains('\0') {
        return Err(Error::bad("reason must have at most 300 characters"));
    }
    Ok(())
}

/// An entry that was made before, if it is the same one.
fn same(entry: Entry, user_id: &str, new: &NewEntry<'_>) -> Result<Added> {
    let is_same = entry.user_id == user_id
        && entry.kind == new.kind.name()
        && entry.asked_micros == new.amount_micros
        && entry.expires == new.expires
        && entry.reason == new.reason;
    match is_same {
        true => Ok(Added { entry, is_new: false }),
        false => Err(Error::Conflict("Another change of credit has this id", Conflicting::default())),
    }
}

/// An entry for the audit log.
pub fn in_words(entry: &Entry) -> String {
    let Entry { id, amount_micros, expires, reason, .. } = entry;
    let expires = expires.map(|time| format!(", expires {}", timestamp::zulu(time))).unwrap_or_default();
    format!("US$ {}{expires} ({id}): {reason}", in_dollars(*amount_micros))
}
