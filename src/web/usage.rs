//! The API of usage.

use schemars::JsonSchema;
use serde_json::json;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime};

use super::Answer;
use crate::auth::Caller;
use crate::call::Call;
use crate::error::{Error, Result};
use crate::http::Response;
use crate::memory_budget;
use crate::money::Cost;
use crate::operation::Handler::Authenticated;
use crate::operation::{Group, Operation, get, summary};
use crate::store::usage::sums::{GroupBy, Sum, sums};
use crate::units::Units;

/// The most days that one reply covers.
const MOST_DAYS: i64 = 3660;

/// The most groups in one reply: more than there can be days, and more than anyone has models or keys.
const MOST_GROUPS: i64 = 10_000;

/// Bytes that a group takes as it is made into JSON, beside its text.
const GROUP: usize = 2 * 1024;

/// `GET /api/usage`.
pub(super) fn operation() -> Operation {
    get("/api/usage", Authenticated(usage)).described(
        summary(Group::Usage, "What was used and what it cost, by day, model, key or route")
            .query::<UsageQuery>()
            .reply::<Usage>()
            .status(400, "A day or by is invalid"),
    )
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the query")]
struct UsageQuery {
    /// The first day (UTC), such as 2026-11-01; the first of the month by default.
    from: Option<String>,
    /// The last day; today by default.
    to: Option<String>,
    /// day, model, key or route; day by default.
    by: Option<String>,
}

#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the reply")]
struct Usage {
    from: String,
    to: String,
    by: String,
    /// Total cost, in micro-dollars.
    cost_micros: i64,
    usage: Vec<UsageSum>,
}

/// Charges with the same day, model, key or route, whichever was asked for.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "describes the reply")]
struct UsageSum {
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// null for charges without a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    charges: i64,
    #[serde(flatten)]
    units: Units,
    /// Cost, in micro-dollars.
    cost_micros: i64,
    /// How many of the charges rest on an estimate.
    estimated: i64,
}

/// `GET /api/usage?from=&to=&by=day|model|key|route`: days are in UTC and both included. By default, this
/// month until today, by day. Days, models, keys and routes without charges are left out.
fn usage(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let (from, to) = range(call)?;
    let (by, key) = grouping(call.request.query("by").as_deref())?;
    let sums = sums(&mut call.app.db.session()?, &caller.user.id, (from, to), by, MOST_GROUPS)?;
    memory_budget::reserve_if_large(sums.len() * GROUP)?;
    let cost: Cost = sums.iter().map(|sum| sum.cost).sum();
    let groups: Vec<_> = sums.iter().map(|sum| group(key, sum)).collect();
    let body =
        json!({"from": iso_date(from), "to": iso_date(to), "by": key, "cost_micros": cost.micros(), "usage": groups});
    Ok(Response::json_reserved(200, &body)?)
}

/// The days from `from` to `to`; by default this month until today.
pub(super) fn range(call: &Call<'_>) -> Result<(Date, Date)> {
    let today = OffsetDateTime::now_utc().date();
    let to = date(call, "to")?.unwrap_or(today);
    let from = date(call, "from")?.unwrap_or(to.replace_day(1).unwrap_or(to));
    if from > to {
        return Err(Error::bad("from must not be after to"));
    }
    if to - from >= Duration::days(MOST_DAYS) {
        return Err(Error::bad("from and to must be at most ten years apart"));
    }
    Ok((from, to))
}

fn grouping(by: Option<&str>) -> Result<(GroupBy, &'static str)> {
    match by {
        None | Some("" | "day") => Ok((GroupBy::Day, "day")),
        Some("model") => Ok((GroupBy::Model, "model")),
        Some("key") => Ok((GroupBy::Key, "key")),
        Some("route") => Ok((GroupBy::Route, "route")),
        Some(_) => Err(Error::bad("by must be day, model, key or route")),
    }
}

/// A group, named by what its charges have in common. Charges without a key have the key `null`.
fn group(key: &str, sum: &Sum) -> serde_json::Value {
    let name = if sum.name.is_empty() { serde_json::Value::Null } else { sum.name.as_str().into() };
    let mut group = serde_json::Map::from_iter([(key.to_owned(), name), ("charges".to_owned(), sum.events.into())]);
    group.extend(sum.units.iter().map(|(unit, amount)| (unit.column().to_owned(), (*amount).into())));
    group.insert("cost_micros".to_owned(), sum.cost.micros().into());
    group.insert("estimated".to_owned(), sum.estimated.into());
    group.into()
}

fn date(call: &Call<'_>, name: &'static str) -> Result<Option<Date>> {
    let Some(text) = call.request.query(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    let date = Date::parse(&text, format_description!("[year]-[month]-[day]")).ok();
    // Only years from 1970 to 9999.
    let date = date.filter(|date| (1970..=9999).contains(&date.year()));
    date.map(Some).ok_or_else(|| Error::bad(format!("{name} must be a date such as 2026-11-22")))
}

/// A date as `2026-11-22`.
pub(super) fn iso_date(date: Date) -> String {
    date.format(format_description!("[year]-[month]-[day]")).unwrap_or_default()
}
