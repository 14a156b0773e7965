//! `keepwell report`: figures of a calendar period, such as net revenue retention, from the Parquet tables.
//!
//! The stream makes a row for each account, exactly. What is counted over accounts is SQL on these rows.

mod gauges;
mod kpi;
mod period;
mod rates;
mod rows;
mod statement;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use keepwell_core::calendar::PeriodKind;
use keepwell_core::schema::health::rfc3339;
use keepwell_pipeline::clock::{Clock, SystemClock};
use keepwell_pipeline::config::{Config, Listen, Revenue, Span};
use keepwell_pipeline::metrics::StageMetrics;
use keepwell_pipeline::process::print;
use keepwell_score::tables_reader::{Stored, Texts};
use serde_json::{Value, json};
use tracing::{error, info};

use crate::beside::repeat;
use crate::views::{self, Engine};
pub use gauges::{Asked, report};

pub use kpi::{Kpi, Unit, parse};
pub use period::{Named, around, named};
pub use rates::Rates;
pub use rows::{DIMENSIONS, Question, Report};
pub use statement::{Given, sql};

const DAY_US: i64 = 24 * 3600 * 1_000_000;

/// What to report.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// The periods: 2026, 2026-Q3, 2026-07 or 2026-W31, or several. Default: the newest quarter.
    #[arg(long, value_delimiter = ',')]
    pub period: Vec<String>,
    /// Divide by segment, owner, plan, or several of them.
    #[arg(long, value_delimiter = ',')]
    pub by: Vec<String>,
    /// Only these figures, by name. Default: all.
    #[arg(long, value_delimiter = ',')]
    pub kpi: Vec<String>,
    /// A file with figures of your own, instead of the shipped ones.
    #[arg(long)]
    pub kpis: Option<PathBuf>,
    /// A number that a figure needs and no table has, such as margin=0.8.
    #[arg(long, value_name = "NAME=NUMBER", value_parser = constant)]
    pub given: Vec<(String, f64)>,
    /// A file with exchange rates: all amounts are told in one currency, at the rates of the start of the period.
    #[arg(long)]
    pub rates: Option<PathBuf>,
    /// As it was first reported after the period had ended, without what was told later.
    #[arg(long)]
    pub as_first_reported: bool,
    /// As it was known at this time (RFC 3339).
    #[arg(long)]
    pub as_of: Option<jiff::Timestamp>,
    /// Print a line of JSON for each figure.
    #[arg(long)]
    pub json: bool,
    /// Repeat it at this interval, beside the pipeline, and show the month, quarter and year that run as metrics.
    #[arg(long, conflicts_with_all = ["json", "sql", "period", "as_of", "as_first_reported"])]
    pub every: Option<Span>,
    /// Address that serves /metrics when --every is used: HOST:PORT, or off.
    #[arg(long, default_value = "127.0.0.1:9107")]
    pub http: Listen,
    /// Print the SQL instead of running it. It reads the views of the tables; see `keepwell views`.
    #[arg(long, conflicts_with = "json")]
    pub sql: bool,
    /// URL or folder of the tables. Default: the configured one.
    #[arg(long, required_unless_present = "config")]
    pub tables: Option<String>,
    /// The configuration. Without one, the calendar is that of the default.
    #[arg(long, env = "KEEPWELL_CONFIG")]
    pub config: Option<PathBuf>,
}

fn constant(text: &str) -> Result<(String, f64), String> {
    let parsed = text.split_once('=').and_then(|(name, number)| Some((name, number.parse::<f64>().ok()?)));
    let finite = parsed.filter(|(_, number)| number.is_finite());
    finite.map(|(name, number)| (name.to_owned(), number)).ok_or_else(|| "expected NAME=NUMBER".to_owned())
}

/// Prints the report.
///
/// # Errors
/// When an argument is wrong, or the tables cannot be read.
pub fn run(args: &ReportArgs) -> Result<()> {
    let config = args.config.as_ref().map(|path| Config::read(path, &[])).transpose()?;
    let (kpis, all) = chosen(args)?;
    let by = dimensions(&args.by)?;
    let as_of = args.as_of.map(|as_of| rfc3339(as_of.as_microsecond()));
    let given: Given = args.given.iter().cloned().collect();
    let rules = config.as_ref().map_or_else(Revenue::default, |config| config.revenue.clone());
    let rates = args.rates.as_deref().map(|path| Rates::read(path, &rules.time_zone)).transpose()?;
    if let Some(every) = args.every {
        // A formula that lacks a number would be left out each time.
        let lacks = |kpi: &Kpi| sql(std::slice::from_ref(kpi), &all, &Question::default(), &given).err();
        let lacking = kpis.iter().find_map(|kpi| Some(lacks(kpi)?.context(kpi.name.clone())));
        if let Some(error) = lacking.filter(|_| !args.kpi.is_empty()) {
            return Err(error);
        }
        let kpis = kpis.into_iter().filter(|kpi| lacks(kpi).is_none()).collect();
        let asked = Asked { kpis: (kpis, all), by, given, rates, rules };
        return repeat("report", every, args.http, |clock, metrics| {
            again(args, config.as_ref(), &asked, clock, metrics);
        });
    }
    let stored = stored(args, config.as_ref())?;
    let periods = match args.period.as_slice() {
        // The end of a row is exclusive.
        [] => vec![around(PeriodKind::Quarter, newest_us(&stored, as_of.as_deref())? - 1, &rules)?],
        names => names.iter().map(|name| named(name, &rules)).collect::<Result<_>>()?,
    };
    let question = Question {
        periods: &periods,
        by: &by,
        report: if args.as_first_reported { Report::First } else { Report::Last },
        as_of: as_of.as_deref(),
        rates: rates.as_ref(),
    };
    let all_or_none = !args.kpi.is_empty();
    let Told { kpis, sql, left_out } = told(&stored, (&kpis, &all), &question, &given)?;
    // Who asks for a figure by name wants it, or the reason.
    ensure!(left_out.is_empty() || !all_or_none && !kpis.is_empty(), "no figure {}", left_out.join("; no figure "));
    if args.sql {
        print(&format!("{sql};\n"));
        return Ok(());
    }
    let rows = stored.texts(&format!("select * from (\n{sql}\n) kpis order by {}", order(&by)))?;
    let names: Vec<&str> = periods.iter().map(|period| period.name.as_str()).collect();
    ensure!(
        !rows.rows.is_empty(),
        "the tables have no rows of {}: see docs/outputs.md#figures-of-a-period",
        names.join(", ")
    );
    print(&if args.json { lines(&rows)? } else { table(&rows, &kpis, &names, &left_out)? });
    Ok(())
}

/// Makes one report of a series. One that fails is logged and does not end the series.
fn again(args: &ReportArgs, config: Option<&Config>, asked: &Asked, clock: &SystemClock, metrics: &StageMetrics) {
    match stored(args, config).and_then(|stored| report(&stored, asked)) {
        Ok(of) => {
            info!(figures = of.figures.len(), newest = rfc3339(of.newest_us), "reported");
            metrics.reported(&of, clock.wall_us());
        }
        Err(failure) => error!("the report failed, the next one follows: {failure:#}"),
    }
}

/// The figures that the tables can tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The figures.
    pub kpis: Vec<Kpi>,
    /// SQL for them, see [`sql`].
    pub sql: String,
    /// The name of each other figure, and why it is left out.
    pub left_out: Vec<String>,
}

/// Those of the figures that the tables can tell: rows hold only the measures that the configuration asks for, and some
/// figures need a number. `kpis` are the figures, and all that a formula may name.
///
/// # Errors
/// When the statement of all of them is wrong although each is right.
pub fn told(stored: &Stored, kpis: (&[Kpi], &[Kpi]), question: &Question<'_>, given: &Given) -> Result<Told> {
    let (asked, all) = kpis;
    // Figures of alerts look back for at most 90 days.
    let first_us = question.periods.iter().map(|named| named.period.start_us).min();
    let after = first_us.map(|us| rfc3339(us - 120 * DAY_US));
    stored.texts(&views::alerts(Engine::Datafusion, after.as_deref()))?;
    let plan = |kpis: &[Kpi]| -> Result<String> {
        let sql = sql(kpis, all, question, given)?;
        stored.plan(&sql)?;
        Ok(sql)
    };
    let mut told = Told::default();
    for kpi in asked {
        match sql(std::slice::from_ref(kpi), all, question, given) {
            Ok(_) => told.kpis.push(kpi.clone()),
            Err(error) => told.left_out.push(format!("{}: {}", kpi.name, reason(&error))),
        }
    }
    // One by one only where a column is missing: a plan of each takes seconds.
    if let Ok(sql) = plan(&told.kpis) {
        return Ok(Told { sql, ..told });
    }
    for kpi in std::mem::take(&mut told.kpis) {
        match plan(std::slice::from_ref(&kpi)) {
            Ok(_) => told.kpis.push(kpi),
            Err(error) => told.left_out.push(format!("{}: {}", kpi.name, reason(&error))),
        }
    }
    if !told.kpis.is_empty() {
        told.sql = plan(&told.kpis)?;
    }
    Ok(told)
}

/// Why a figure cannot be told, in a line.
fn reason(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let column = text.split_once("No field named ").and_then(|(_, rest)| rest.split_whitespace().next());
    match column {
        Some(name) => {
            format!("no column {}; see aggregate.measures and aggregate.windows", name.trim_end_matches(['.', ',']))
        }
        None => text.lines().next().unwrap_or_default().to_owned(),
    }
}

/// The columns to divide by, each once.
fn dimensions(by: &[String]) -> Result<Vec<String>> {
    let mut dimensions = Vec::new();
    for dimension in by {
        ensure!(
            DIMENSIONS.contains(&dimension.as_str()),
            "no rows by {dimension:?}: expected one of {}",
            DIMENSIONS.join(", ")
        );
        if !dimensions.contains(dimension) {
            dimensions.push(dimension.clone());
        }
    }
    Ok(dimensions)
}

/// The figures that are asked for, and all that there are.
fn chosen(args: &ReportArgs) -> Result<(Vec<Kpi>, Vec<Kpi>)> {
    let own = args.kpis.as_ref().map(|path| {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        anyhow::Ok((path.display().to_string(), text))
    });
    let own = own.transpose()?;
    let all = parse(own.as_ref().map(|(name, text)| (name.as_str(), text.as_str())))?;
    for name in &args.kpi {
        let names: Vec<&str> = all.iter().map(|kpi| kpi.name.as_str()).collect();
        ensure!(names.contains(&name.as_str()), "there is no figure {name:?}: there are {}", names.join(", "));
    }
    let chosen = all.iter().filter(|kpi| args.kpi.is_empty() || args.kpi.contains(&kpi.name));
    Ok((chosen.cloned().collect(), all))
}

fn stored(args: &ReportArgs, config: Option<&Config>) -> Result<Stored> {
    if let Some(config) = config {
        return Ok(Stored::of_config(config, args.tables.as_deref())?);
    }
    let place = args.tables.as_deref().unwrap_or_default();
    let url = match url::Url::parse(place) {
        Ok(_) => place.to_owned(),
        Err(_) => {
            let folder = std::path::absolute(place).with_context(|| format!("{place} is no folder"))?;
            url::Url::from_directory_path(&folder).map_err(|()| anyhow::anyhow!("{place} is no folder"))?.to_string()
        }
    };
    Ok(Stored::open(&url, &BTreeMap::new(), &keepwell_pipeline::config::Aggregate::default().layout())?)
}

/// End of the newest final row by then, UTC microseconds.
fn newest_us(stored: &Stored, as_of: Option<&str>) -> Result<i64> {
    let until = as_of.map(|as_of| format!(" and as_of <= '{as_of}'")).unwrap_or_default();
    let newest = format!("select max(as_of) from windows where final{until}");
    let end = stored.texts(&newest)?.rows.into_iter().flatten().flatten().next();
    let end: jiff::Timestamp = end.context("the tables have no rows")?.parse()?;
    Ok(end.as_microsecond())
}

fn order(by: &[String]) -> String {
    "period, ".to_owned() + &by.iter().map(|dimension| format!("{dimension}, ")).collect::<String>() + "currency, kpi"
}

/// A line of JSON for each figure. Numbers are texts, so that no reader rounds them.
fn lines(rows: &Texts) -> Result<String> {
    let mut out = String::new();
    for row in &rows.rows {
        let object: serde_json::Map<String, Value> =
            rows.names.iter().cloned().zip(row.iter().map(|cell| json!(cell))).collect();
        writeln!(out, "{}", Value::Object(object))?;
    }
    Ok(out)
}

type Row = Vec<Option<String>>;

/// A block for each period and group of accounts, with a line for each figure in the order of the file.
fn table(rows: &Texts, kpis: &[Kpi], periods: &[&str], left_out: &[String]) -> Result<String> {
    let at = |name: &str| rows.names.iter().position(|column| column == name);
    let cell = |row: &[Option<String>], name: &str| at(name).and_then(|at| row.get(at).cloned().flatten());
    let mut groups = BTreeMap::<(usize, Vec<String>), Vec<&Row>>::new();
    for row in &rows.rows {
        let named = DIMENSIONS.iter().filter(|name| at(name).is_some());
        let key = named.map(|name| format!("{name} {}", cell(row, name).unwrap_or_else(|| "(unknown)".to_owned())));
        let period = cell(row, "period");
        let nth = periods.iter().position(|name| Some(*name) == period.as_deref()).unwrap_or_default();
        groups.entry((nth, key.collect())).or_default().push(row);
    }
    let mut out = String::new();
    for ((nth, group), rows) in groups {
        let group = if group.is_empty() { "all accounts".to_owned() } else { group.join(", ") };
        let gap = if out.is_empty() { "" } else { "\n" };
        writeln!(out, "{gap}{}, {group}", periods.get(nth).copied().unwrap_or_default())?;
        for kpi in kpis {
            for row in rows.iter().filter(|row| cell(row, "kpi").as_deref() == Some(&kpi.name)) {
                let number = |name: &str| cell(row, name).and_then(|text| text.parse::<f64>().ok());
                let currency = cell(row, "currency").unwrap_or_default();
                let value = match (number("value"), kpi.unit) {
                    (None, _) => "-".to_owned(),
                    (Some(value), Unit::Percent) => format!("{value:.2} %"),
                    (Some(value), Unit::Amount) => format!("{value:.2} {currency}"),
                    (Some(value), Unit::Count) => format!("{value:.0}"),
                    (Some(value), Unit::Mean | Unit::Points) => format!("{value:.2}"),
                };
                let unknown = number("unknown").filter(|unknown| *unknown > 0.0);
                let unknown = unknown.map(|unknown| format!("  {unknown:.0} accounts unknown")).unwrap_or_default();
                let is_bare = matches!(kpi.unit, Unit::Percent | Unit::Mean) && !currency.is_empty();
                let by = if is_bare { format!(" {currency}") } else { String::new() };
                writeln!(out, "  {:<42} {value:>16}{by}{unknown}", kpi.title)?;
            }
        }
    }
    if !left_out.is_empty() {
        writeln!(out, "\nleft out")?;
        left_out.iter().try_for_each(|line| writeln!(out, "  {line}"))?;
    }
    Ok(out)
}
