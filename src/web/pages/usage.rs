//! `/usage`: the caller's usage and its cost.

use std::collections::HashMap;

use askama::Template;
use time::macros::format_description;
use time::{Date, Duration, OffsetDateTime};

use super::{Frame, page, query_text, show};
use crate::auth::Caller;
use crate::call::Call;
use crate::csv::cell;
use crate::db::Executor;
use crate::error::Result;
use crate::http::Response;
use crate::memory_budget::{self, ReservedBytes};
use crate::money::Cost;
use crate::store::usage::lists::{self, ChargedCall, DailyUsage};
use crate::store::usage::sums::{GroupBy, Sum, sums};
use crate::store::{api_keys, users};
use crate::units::Unit;
use crate::web::Answer;
use crate::web::chart::{self, Bar};
use crate::web::usage::{iso_date, range};

/// How many of the latest calls are on the page.
const NEWEST: i64 = 20;

/// The most models, keys or routes on the page: those that cost most.
const MOST_GROUPS: usize = 50;

/// The most that are read.
const MOST_READ: i64 = 500;

/// More days than this are shown by month.
const MOST_DAYS: i64 = 92;

/// The most lines of a download, and how many are read at a time.
const MOST_LINES: i64 = 100_000;
const LINES_AT_ONCE: i64 = 1000;

#[derive(Template)]
#[template(path = "usage.html")]
struct Usage {
    frame: Frame,
    period: &'static str,
    from: String,
    to: String,
    chart: String,
    total: Cost,
    month: Cost,
    requests: i64,
    /// By day, or by month if there are many; newest first.
    days: Group,
    groups: Vec<Group>,
    newest: Vec<ChargedCall>,
    newest_places: usize,
}

/// Sums by day, month, model, key or route.
struct Group {
    name: &'static str,
    sums: Vec<Sum>,
    /// Decimal places of the costs.
    places: usize,
    /// How many are left out.
    more: usize,
}

impl Group {
    fn new(name: &'static str, mut sums: Vec<Sum>) -> Group {
        let more = sums.len().saturating_sub(MOST_GROUPS);
        if !matches!(name, DAY | MONTH) {
            sums.truncate(MOST_GROUPS);
        }
        Group { name, places: show::places(sums.iter().map(|sum| sum.cost)), sums, more }
    }
}

const DAY: &str = "Day";
const MONTH: &str = "Month";

/// The periods to choose from: the value of `period`, and the days.
const PERIODS: [(&str, i64); 3] = [("30", 30), ("90", 90), ("365", 365)];

/// The requested period with its first and last day; by default this month.
fn period(call: &Call<'_>) -> (&'static str, (Date, Date)) {
    let (name, today) = (query_text(call, "period"), OffsetDateTime::now_utc().date());
    match PERIODS.iter().find(|(known, _)| *known == name) {
        Some((name, days)) => (name, (today - Duration::days(days - 1), today)),
        None => ("month", (today.replace_day(1).unwrap_or(today), today)),
    }
}

/// `GET /usage?period=`.
pub(in crate::web) fn show(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let (period, days) = period(call);
    let user_id = &caller.user.id;
    let mut session = call.app.db.session()?;
    let is_long = (days.1 - days.0).whole_days() >= MOST_DAYS;
    let by = if is_long { GroupBy::Month } else { GroupBy::Day };
    let shown = sums(&mut session, user_id, days, by, MOST_READ)?;
    let names = key_names(&mut session, user_id)?;
    let mut groups = Vec::new();
    for (name, by) in [("Model", GroupBy::Model), ("Key", GroupBy::Key), ("Route", GroupBy::Route)] {
        let mut groups_of = sums(&mut session, user_id, days, by, MOST_READ)?;
        if by == GroupBy::Key {
            for sum in &mut groups_of {
                sum.name = key_name(&names, &sum.name);
            }
        }
        groups_of.sort_by_key(|sum| std::cmp::Reverse(sum.cost));
        groups.push(Group::new(name, groups_of));
    }
    let mut newest = lists::newest(&mut session, user_id, "", NEWEST)?;
    let month = users::by_id(&mut session, user_id)?.map_or(0, |user| user.charges_monthly).into();
    drop(session);
    for call in &mut newest {
        call.key_id = key_name(&names, &call.key_id);
    }
    let total = shown.iter().map(|sum| sum.cost).sum();
    let usage = Usage {
        frame: Frame::new(Some(caller), "usage"),
        period,
        from: iso_date(days.0),
        to: iso_date(days.1),
        chart: if is_long { month_chart(days, &costs(&shown)) } else { cost_chart(days, &costs(&shown)) },
        total,
        month,
        requests: shown.iter().map(|sum| sum.units[Unit::Requests]).sum(),
        days: Group::new(if is_long { MONTH } else { DAY }, shown.into_iter().rev().collect()),
        groups,
        newest_places: show::places(newest.iter().map(|call| call.cost)),
        newest,
    };
    page(200, &usage)
}

fn key_names(db: &mut impl Executor, user_id: &str) -> Result<HashMap<String, String>> {
    Ok(api_keys::names(db, user_id)?.into_iter().collect())
}

fn key_name(names: &HashMap<String, String>, id: &str) -> String {
    match id {
        "" => "Browser".to_owned(),
        id => names.get(id).cloned().unwrap_or_else(|| id.to_owned()),
    }
}

fn costs(sums: &[Sum]) -> Vec<(&str, i64)> {
    sums.iter().map(|sum| (sum.name.as_str(), sum.cost.micros())).collect()
}

/// A chart of the cost per month. Months without a charge are included.
fn month_chart(days: (Date, Date), costs: &[(&str, i64)]) -> String {
    let costs: HashMap<&str, i64> = costs.iter().copied().collect();
    let (mut bars, mut day) = (Vec::new(), days.0.replace_day(1).unwrap_or(days.0));
    while day <= days.1 {
        let name = iso_date(day);
        let name = name.get(..7).unwrap_or(&name);
        let value = costs.get(name).copied().unwrap_or(0);
        let label = day.format(format_description!("[month repr:short] [year repr:last_two]")).unwrap_or_default();
        bars.push(Bar { label, value, tooltip: format!("{name}: {}", show::money(&value)) });
        let next = day.month().next();
        let year = day.year() + i32::from(next == time::Month::January);
        let Ok(first) = Date::from_calendar_date(year, next, 1) else { break };
        day = first;
    }
    let total: i64 = bars.iter().map(|bar| bar.value).sum();
    let summary = format!(
        "{} from {} to {}; the table below has each month.",
        show::money(&total),
        iso_date(days.0),
        iso_date(days.1)
    );
    chart::bars("Cost per month", &summary, &bars, show::money)
}

/// A chart of the cost per day. Days without a charge are included.
pub(super) fn cost_chart(days: (Date, Date), costs: &[(&str, i64)]) -> String {
    let costs: HashMap<&str, i64> = costs.iter().copied().collect();
    let (mut bars, mut day) = (Vec::new(), days.0);
    while day <= days.1 {
        let name = iso_date(day);
        let value = costs.get(name.as_str()).copied().unwrap_or(0);
        let label = day.format(format_description!("[day padding:none] [month repr:short]")).unwrap_or_default();
        bars.push(Bar { label, value, tooltip: format!("{name}: {}", show::money(&value)) });
        let Some(next) = day.next_day() else { break };
        day = next;
    }
    let total: i64 = bars.iter().map(|bar| bar.value).sum();
    let summary = format!(
        "{} from {} to {}; the table below has each day.",
        show::money(&total),
        iso_date(days.0),
        iso_date(days.1)
    );
    chart::bars("Cost per day", &summary, &bars, show::money)
}

/// `GET /usage.csv?period=`, or `from=` and `to=` as in `/api/usage`.
pub(in crate::web) fn download(call: &mut Call<'_>, caller: &Caller) -> Answer {
    let named = ["from", "to"].iter().any(|name| call.request.query(name).is_some());
    let days = if named { range(call)? } else { period(call).1 };
    let user_id = &caller.user.id;
    let names = key_names(&mut call.app.db.session()?, user_id)?;
    let mut csv = ReservedBytes::default();
    let columns = Unit::ALL.map(Unit::csv_column).join(",");
    csv.add(format!("day,server,route,model,key,{columns},estimated,cost_usd\r\n").as_bytes())?;
    let (mut last, mut left) = (None, MOST_LINES);
    while left > 0 {
        let most = left.min(LINES_AT_ONCE);
        let read = || lists::daily(&mut call.app.db.session()?, user_id, days, last.as_ref(), most);
        let mut lines = memory_budget::briefly(read)?;
        for line in &lines {
            csv.add(csv_line(line, &names).as_bytes())?;
        }
        left = if lines.len() < usize::try_from(most).unwrap_or(0) { 0 } else { left - most };
        last = lines.pop();
    }
    let name = format!("attachment; filename=\"usage-{}-{}.csv\"", iso_date(days.0), iso_date(days.1));
    Ok(Response::with_body(200, "text/csv; charset=utf-8", csv.into_bytes()).header("Content-Disposition", name))
}

fn csv_line(line: &DailyUsage, names: &HashMap<String, String>) -> String {
    let key = if line.key_id.is_empty() { String::new() } else { key_name(names, &line.key_id) };
    let texts = [&iso_date(line.day), &line.server, &line.route, &line.model, &key].map(|text| cell(text));
    let numbers = line.units.values().map(|amount| amount.to_string());
    let (dollars, fraction) = (line.cost.micros() / 1_000_000, line.cost.micros() % 1_000_000);
    let (texts, numbers, picos) = (texts.join(","), numbers.join(","), line.cost.picos());
    format!("{texts},{numbers},{},{dollars}.{fraction:06}{picos:06}\r\n", line.estimated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::date;

    #[test]
    fn a_month_without_a_charge_has_its_place() {
        let months = [("2026-01", 3)];
        let svg = month_chart((date!(2025 - 12 - 30), date!(2026 - 03 - 02)), &months);
        assert_eq!(svg.matches("<rect").count(), 4);
        assert!(svg.contains("<title>2026-01: $0.000003</title>") && svg.contains("Dec 25"), "{svg}");
    }

    #[test]
    fn a_day_without_a_charge_has_its_place() {
        let svg = cost_chart((date!(2026 - 02 - 27), date!(2026 - 03 - 02)), &[("2026-03-01", 1_500_000)]);
        assert_eq!(svg.matches("<rect").count(), 4);
        assert!(svg.contains("<title>2026-03-01: $1.50</title>") && svg.contains("27 Feb"));
    }
}
