//! A report beside the pipeline: the figures of the periods that run, as gauges.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use keepwell_core::calendar::PeriodKind;
use keepwell_core::schema::health::rfc3339;
use keepwell_pipeline::config::Revenue;
use keepwell_pipeline::metrics::Reported;
use keepwell_score::tables_reader::{Stored, Texts};

use super::{Given, Kpi, Named, Question, Rates, around, newest_us, told};

/// Lengths of the periods that are shown.
const PERIODS: [PeriodKind; 3] = [PeriodKind::Month, PeriodKind::Quarter, PeriodKind::Year];

/// Most groups of one dimension. Each is a series for each figure and period.
const MOST_GROUPS: usize = 50;

/// What is asked for each time.
#[derive(Debug)]
pub struct Asked {
    /// The figures, and all that formulas may name.
    pub kpis: (Vec<Kpi>, Vec<Kpi>),
    /// Columns to divide by, one at a time.
    pub by: Vec<String>,
    /// Numbers for formulas.
    pub given: Given,
    /// Exchange rates.
    pub rates: Option<Rates>,
    /// The calendar.
    pub rules: Revenue,
}

/// The figures of the month, quarter and year of the newest final row. All accounts are the group `all`; a group of them
/// is named by column and value, such as `segment smb`.
///
/// # Errors
/// When the tables cannot be read, or have no rows.
pub fn report(stored: &Stored, asked: &Asked) -> Result<Reported> {
    let newest_us = newest_us(stored, None)?;
    let mut reported = Reported { newest_us, ..Reported::default() };
    let periods = PERIODS.map(|kind| around(kind, newest_us - 1, &asked.rules));
    let periods = periods.into_iter().collect::<Result<Vec<Named>>>()?;
    let dimensions = std::iter::once(None).chain(asked.by.iter().map(Some));
    for dimension in dimensions {
        let by: Vec<String> = dimension.into_iter().cloned().collect();
        let question = Question { periods: &periods, by: &by, rates: asked.rates.as_ref(), ..Question::default() };
        let (kpis, all) = &asked.kpis;
        let of_dimension = told(stored, (kpis, all), &question, &asked.given)?;
        let rows = match of_dimension.kpis.as_slice() {
            [] => Texts::default(),
            _ => stored.texts(&of_dimension.sql)?,
        };
        let bands = stored.texts(&bands(newest_us, dimension))?;
        let groups = groups(&bands, &rows, dimension);
        reported.groups_left_out += groups.len().saturating_sub(MOST_GROUPS) as i64;
        let groups: BTreeSet<String> = groups.into_iter().take(MOST_GROUPS).collect();
        for (labels, value) in figures(&rows, dimension, &periods) {
            if groups.contains(&labels[1]) {
                reported.figures.push((labels, value));
            }
        }
        for row in &bands.rows {
            let group = group(dimension, cell(&bands, row, "of_group"));
            let (band, count) = (cell(&bands, row, "band"), cell(&bands, row, "accounts"));
            if groups.contains(&group) {
                let count = count.and_then(|count| count.parse().ok()).unwrap_or_default();
                reported.accounts.push(([group, band.unwrap_or("unknown").to_owned()], count));
            }
        }
    }
    let triggers = stored.texts(&triggers(newest_us))?;
    for row in &triggers.rows {
        let text = |name: &str| cell(&triggers, row, name).unwrap_or_default().to_owned();
        reported.triggers.push(([text("trigger"), text("severity")], text("accounts").parse().unwrap_or_default()));
    }
    Ok(reported)
}

fn cell<'r>(rows: &Texts, row: &'r [Option<String>], name: &str) -> Option<&'r str> {
    let at = rows.names.iter().position(|column| column == name)?;
    row.get(at)?.as_deref()
}

fn group(dimension: Option<&String>, value: Option<&str>) -> String {
    dimension.map_or_else(|| "all".to_owned(), |name| format!("{name} {}", value.unwrap_or("(unknown)")))
}

/// The groups, those with the most accounts first. One may have figures and no account any more.
fn groups(bands: &Texts, rows: &Texts, dimension: Option<&String>) -> Vec<String> {
    let of_figure = |row: &Vec<Option<String>>| (group(dimension, dimension.and_then(|name| cell(rows, row, name))), 0);
    let mut sizes: BTreeMap<String, i64> = rows.rows.iter().map(of_figure).collect();
    for row in &bands.rows {
        let count: i64 = cell(bands, row, "accounts").and_then(|count| count.parse().ok()).unwrap_or_default();
        *sizes.entry(group(dimension, cell(bands, row, "of_group"))).or_default() += count;
    }
    let mut sizes: Vec<(String, i64)> = sizes.into_iter().collect();
    sizes.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    sizes.into_iter().map(|(group, _)| group).collect()
}

/// Values with their labels. What is unknown has none.
fn figures(rows: &Texts, dimension: Option<&String>, periods: &[Named]) -> Vec<([String; 4], f64)> {
    let each = rows.rows.iter().filter_map(|row| {
        let text = |name: &str| cell(rows, row, name);
        let value: f64 = text("value")?.parse().ok()?;
        let period = periods.iter().find(|period| Some(period.name.as_str()) == text("period"))?;
        let of_group = dimension.and_then(|name| text(name));
        let (kpi, currency) = (text("kpi")?.to_owned(), text("currency").unwrap_or_default().to_owned());
        Some(([period.period.kind.name().to_owned(), group(dimension, of_group), kpi, currency], value))
    });
    each.collect()
}

/// How much older than the newest day the last row of an account may be: partitions reach the tables one by one.
const RECENT_US: i64 = 7 * 86_400_000_000;

/// The last row of `scores` of each account that is still there.
fn current(newest_us: i64) -> String {
    let last = "row_number() over (partition by account_id order by as_of desc, epoch desc, next_offset desc, ordinal desc) as nth";
    let recent = format!("final and as_of > '{}'", rfc3339(newest_us - RECENT_US));
    format!(
        "(select * from (select *, {last} from scores where {recent}) ranked where nth = 1 and not deleted and not retired) current"
    )
}

fn bands(newest_us: i64, dimension: Option<&String>) -> String {
    let of_group = dimension.map_or("cast(null as string)", String::as_str);
    format!("select {of_group} as of_group, band, count(*) as accounts from {} group by 1, 2", current(newest_us))
}

fn triggers(newest_us: i64) -> String {
    let each = format!("select unnest(triggers) as t from {}", current(newest_us));
    format!(
        "select get_field(t, 'name') as trigger, get_field(t, 'severity') as severity, count(*) as accounts \
         from ({each}) each_trigger where get_field(t, 'state') in ('raised', 'active') group by 1, 2"
    )
}
