//! Makes mails of events: thresholds of budgets, and low credit.

use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::{Kind, Mail};
use crate::db::Database;
use crate::error::Result;
use crate::store::events::{self, Event, Sender};
use crate::store::{api_keys, users};

/// How many events are taken at once.
const MOST: i64 = 20;

/// For how many seconds they are not taken again, if this transaction fails after all.
const LEASE_SECONDS: i32 = 10;

/// Older events are old news: mail was not set up, or the servers were down.
const OLDEST: Duration = Duration::days(1);

/// Queues a mail for each of some events, in the transaction that marks them as delivered: one mail for each event. Returns how
/// many there were.
pub(super) fn queue_some(mail: &Mail, db: &Database) -> Result<usize> {
    let mut session = db.session()?;
    let mut transaction = session.transaction()?;
    let taken = events::take(&mut transaction, Sender::Mail, MOST, LEASE_SECONDS)?;
    for delivery in &taken {
        let event = &delivery.event;
        if let (Some(kind), Some(user)) = (kind_of(event), users::by_id(&mut transaction, &event.user_id)?) {
            let mut details: Value = serde_json::from_str(&event.payload).unwrap_or_default();
            if let Some(id) = &event.key_id {
                let names = api_keys::names(&mut transaction, &user.id)?;
                details["key"] = json!(names.into_iter().find(|(key, _)| key == id).map(|(_, name)| name));
            }
            mail.queue(&mut transaction, kind, &user, &details)?;
        }
        events::delivered(&mut transaction, Sender::Mail, event.id)?;
    }
    transaction.commit()?;
    Ok(taken.len())
}

fn kind_of(event: &Event) -> Option<Kind> {
    match event.kind.as_str() {
        _ if OffsetDateTime::now_utc() - event.created > OLDEST => None,
        "budget.threshold" => Some(Kind::Budget),
        "credit.low" => Some(Kind::Credit),
        _ => None,
    }
}
