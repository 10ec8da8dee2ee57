//! `/admin/usage`: what all accounts spent, or one of them, in any days.

use askama::Template;
use time::{Date, Duration, OffsetDateTime};

use super::usage::cost_chart;
use super::{Frame, encoded, page, query_text, show};
use crate::accounts::spend::{Spend, SpendBy, spending};
use crate::auth::Caller;
use crate::call::Call;
use crate::error::Result;
use crate::http::Response;
use crate::money::Cost;
use crate::store::usage::days::{self, DayTotal};
use crate::web::Answer;
use crate::web::admin_usage::asked;
use crate::web::usage::{iso_date, range};

/// Days that are shown unless others are asked for.
const DAYS: i64 = 30;

/// Sums on the page; the file has all that were found.
const SHOWN: usize = 100;

#[derive(Template)]
#[template(path = "admin_usage.html")]
struct TotalUsage {
    frame: Frame,
    by: &'static str,
    from: String,
    to: String,
    /// Whether no days were asked for.
    is_usual: bool,
    user: String,
    chart: Option<String>,
    total: Cost,
    estimated: i64,
    as_of: Option<OffsetDateTime>,
    /// Of all accounts by day.
    days: Vec<DayTotal>,
    /// Of anything else.
    sums: Vec<Spend>,
    left_out: usize,
    csv: String,
}

fn days_of(call: &Call<'_>) -> Result<(bool, (Date, Date))> {
    let is_usual = ["from", "to"].iter().all(|name| query_text(call, name).is_empty());
    let today = OffsetDateTime::now_utc().date();
    Ok((is_usual, if is_usual { (today - Duration::days(DAYS - 1), today) } else { range(call)? }))
}

/// `GET /admin/usage?from=&to=&by=&user=`.
pub(in crate::web) fn show(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let (is_usual, days) = days_of(call)?;
    let (by, user) = asked(call)?;
    let mut session = call.app.db.session()?;
    let mut found = spending(&mut session, days, by, user.as_ref())?;
    let by_day = match by == SpendBy::Day && user.is_none() {
        true => days::between(&mut session, days)?.days,
        false => Vec::new(),
    };
    drop(session);
    let costs: Vec<(&str, i64)> =
        found.sums.iter().map(|sum| (sum.label.as_str(), sum.spender.cost.micros())).collect();
    let chart = (by == SpendBy::Day && days.1 - days.0 < Duration::days(370)).then(|| cost_chart(days, &costs));
    if by == SpendBy::Day {
        found.sums.reverse();
    }
    let shown = if by == SpendBy::Day { found.sums.len() } else { SHOWN };
    let left_out = found.sums.len().saturating_sub(shown);
    found.sums.truncate(shown);
    let (from, to) = (iso_date(days.0), iso_date(days.1));
    let user = user.map_or_else(String::new, |user| user.email);
    let csv = format!("/admin/usage.csv?from={from}&to={to}&by={}&user={}", by.name(), encoded(&user));
    let usage = TotalUsage {
        frame: Frame::new(Some(caller), "admin"),
        by: by.name(),
        from,
        to,
        is_usual,
        user,
        chart,
        total: found.total,
        estimated: by_day.iter().map(|day| day.estimated).sum(),
        as_of: found.as_of,
        days: by_day.into_iter().rev().collect(),
        sums: found.sums,
        left_out,
        csv,
    };
    page(200, &usage)
}

/// `GET /admin/usage.csv`, with the same parameters.
pub(in crate::web) fn download(call: &mut Call<'_>, _: &Caller) -> Answer {
    let (_, days) = days_of(call)?;
    let (by, user) = asked(call)?;
    let csv = spending(&mut call.app.db.session()?, days, by, user.as_ref())?.csv(by);
    crate::memory_budget::reserve_if_large(csv.len())?;
    let name = format!("usage-{}-{}-{}.csv", by.name(), iso_date(days.0), iso_date(days.1));
    let name = format!("attachment; filename=\"{name}\"");
    Ok(Response::with_body(200, "text/csv; charset=utf-8", csv.into_bytes()).header("Content-Disposition", name))
}
