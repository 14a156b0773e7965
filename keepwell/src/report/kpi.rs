//! Figures as data: a file says how each is computed from rows of the table `revenue`, and becomes plain SQL.
//!
//! The SQL has no function beyond sums, `case`, casts and `row_number`, so that each engine gives the same numbers.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The figures that are shipped.
const SHIPPED: &str = include_str!("../../kpis/revenue.yaml");

/// A figure.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kpi {
    /// Its name in the output.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// What its value is.
    pub unit: Unit,
    /// SQL over a row of `revenue`; it is summed.
    numerator: String,
    /// SQL over a row of `revenue`; it is summed. Only a percentage has one.
    denominator: Option<String>,
    /// SQL condition: the rows that count.
    r#where: Option<String>,
    /// Whether amounts of different currencies must not be added.
    #[serde(default)]
    by_currency: bool,
    /// Where the formula comes from.
    pub source: String,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Percent of the denominator.
    Percent,
    /// An amount of money a month.
    Amount,
    /// A number.
    Count,
}

/// Which report of a period counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The last, whether or not the period has ended.
    Last,
    /// The first after the period had ended.
    First,
}

/// The figures of a file, or the shipped ones.
///
/// # Errors
/// When the file is no list of figures, with line and column; when a percentage has no denominator, or another unit has one.
pub fn parse(file: Option<(&str, &str)>) -> Result<Vec<Kpi>> {
    let (name, text) = file.unwrap_or(("the shipped figures", SHIPPED));
    let kpis: Vec<Kpi> = serde_saphyr::from_str(text).with_context(|| format!("{name} is no list of figures"))?;
    ensure!(!kpis.is_empty(), "{name} has no figures");
    let mut names = BTreeSet::new();
    for kpi in &kpis {
        let is_word = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        ensure!(
            is_word(&kpi.name) && !kpi.name.is_empty(),
            "{name}: a name has the letters a-z, 0-9 and _: {:?}",
            kpi.name
        );
        ensure!(names.insert(&kpi.name), "{name}: there are two figures {:?}", kpi.name);
        let is_share = kpi.unit == Unit::Percent;
        ensure!(
            kpi.denominator.is_some() == is_share,
            "{name}: {} is {}: a percentage has a denominator, and nothing else has",
            kpi.name,
            if is_share { "a percentage" } else { "no percentage" }
        );
    }
    Ok(kpis)
}

/// SQL for all periods: columns `period`, `period_start`, the dimensions, `currency`, `kpi`, `numerator`, `denominator`,
/// `value`, and `unknown`, the number of rows that were left out. `as_of` is RFC 3339: only rows until then count.
pub fn sql(kpis: &[Kpi], dimensions: &[String], report: Report, as_of: Option<&str>) -> String {
    let until = as_of.map(|as_of| format!(" and as_of <= '{as_of}'")).unwrap_or_default();
    let order = match report {
        Report::Last => "epoch desc, final desc, as_of desc, next_offset desc, ordinal desc",
        Report::First => "epoch desc",
    };
    let first = if report == Report::First { "final and revision = 0" } else { "true" };
    let ranked = format!(
        "select *, row_number() over (partition by account_id, period, period_start order by {order}) as nth from revenue where {first}{until}"
    );
    let each = kpis.iter().map(|kpi| kpi.sql(dimensions));
    format!(
        "with ranked as (\n{ranked}\n), told as (\nselect * from ranked where nth = 1\n)\n{}",
        each.collect::<Vec<_>>().join("\nunion all\n")
    )
}

impl Kpi {
    fn sql(&self, dimensions: &[String]) -> String {
        let Self { name, numerator, .. } = self;
        let by: String = dimensions.iter().map(|dimension| format!(", {dimension}")).collect();
        let currency = if self.by_currency { "currency" } else { "cast(null as string)" };
        let denominator = self.denominator.as_deref().unwrap_or("1");
        let condition = self.r#where.as_deref().unwrap_or("true");
        let both = "n is not null and d is not null";
        let (shown, value) = match self.unit {
            Unit::Percent => (
                "sum(case when n is not null and d is not null then d end)",
                "case when sum(case when n is not null then d end) <> 0 then \
                 100 * cast(sum(case when d is not null then n end) as double) / cast(sum(case when n is not null then d end) as double) end",
            ),
            Unit::Amount | Unit::Count => ("cast(null as decimal(38, 2))", "cast(sum(n) as double)"),
        };
        format!(
            "select period, period_start{by}, currency, '{name}' as kpi, sum(case when {both} then n end) as numerator, {shown} as denominator, \
             {value} as value, sum(case when {both} then 0 else 1 end) as unknown\n\
             from (select period, period_start{by}, {currency} as currency, cast({numerator} as decimal(20, 2)) as n, \
             cast({denominator} as decimal(20, 2)) as d from told where {condition}) rows_of_{name}\n\
             group by period, period_start{by}, currency"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shipped_figure_says_what_it_is_and_where_it_comes_from() {
        let kpis = parse(None).unwrap();
        let mut names: Vec<&str> = kpis.iter().map(|kpi| kpi.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), kpis.len());
        assert!(kpis.iter().all(|kpi| !kpi.source.is_empty() && !kpi.title.is_empty()));
    }

    #[test]
    fn a_wrong_file_is_refused_with_line_and_column() {
        let cases = [
            ("- {name: a, title: a, unit: percent, numerator: '1', source: x}", "a percentage has a denominator"),
            ("- {name: a, title: a, unit: count, numerator: '1', denominator: '1', source: x}", "is no percentage"),
            ("- name: a\n  titel: a\n", "line 2"),
            ("- {name: a-b, title: a, unit: count, numerator: '1', source: x}", "a name has the letters"),
            ("[]", "no figures"),
        ];
        for (text, expected) in cases {
            let why = format!("{:#}", parse(Some(("own.yaml", text))).unwrap_err());
            assert!(why.contains("own.yaml") && why.contains(expected), "{why}");
        }
    }
}
