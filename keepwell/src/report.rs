//! `keepwell report`: figures of a calendar period, such as net revenue retention, from the Parquet tables.
//!
//! The stream makes a row for each account, exactly. What is counted over accounts is SQL on these rows.

mod kpi;
mod period;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use keepwell_core::schema::health::rfc3339;
use keepwell_pipeline::config::{Config, Revenue};
use keepwell_pipeline::process::print;
use keepwell_score::tables_reader::{Stored, Texts};
use serde_json::{Value, json};

pub use kpi::{Kpi, Report, Unit, parse, sql};
pub use period::named;

/// Columns by which figures can be divided.
const DIMENSIONS: [&str; 3] = ["segment", "owner", "plan"];

/// What to report.
#[derive(Debug, clap::Args)]
pub struct ReportArgs {
    /// The period: 2026, 2026-Q3, 2026-07 or 2026-W31. Default: the newest quarter.
    #[arg(long)]
    pub period: Option<String>,
    /// Divide by segment, owner, plan, or several of them.
    #[arg(long, value_delimiter = ',')]
    pub by: Vec<String>,
    /// Only these figures, by name. Default: all.
    #[arg(long, value_delimiter = ',')]
    pub kpi: Vec<String>,
    /// A file with figures of your own, instead of the shipped ones.
    #[arg(long)]
    pub kpis: Option<PathBuf>,
    /// As it was first reported after the period had ended, without what was told later.
    #[arg(long)]
    pub as_first_reported: bool,
    /// As it was known at this time (RFC 3339).
    #[arg(long)]
    pub as_of: Option<jiff::Timestamp>,
    /// Print a line of JSON for each figure.
    #[arg(long)]
    pub json: bool,
    /// Print the SQL for all periods instead of running it. It reads the view `revenue`; see `keepwell views`.
    #[arg(long, conflicts_with = "json")]
    pub sql: bool,
    /// URL or folder of the tables. Default: the configured one.
    #[arg(long, required_unless_present = "config")]
    pub tables: Option<String>,
    /// The configuration. Without one, the calendar is that of the default.
    #[arg(long, env = "KEEPWELL_CONFIG")]
    pub config: Option<PathBuf>,
}

/// Prints the report.
///
/// # Errors
/// When an argument is wrong, or the tables cannot be read.
pub fn run(args: &ReportArgs) -> Result<()> {
    let config = args.config.as_ref().map(|path| Config::read(path, &[])).transpose()?;
    let kpis = chosen(args)?;
    let mut by = Vec::new();
    for dimension in &args.by {
        if !by.contains(dimension) {
            by.push(dimension.clone());
        }
        ensure!(
            DIMENSIONS.contains(&dimension.as_str()),
            "no rows by {dimension:?}: expected one of {}",
            DIMENSIONS.join(", ")
        );
    }
    let report = if args.as_first_reported { Report::First } else { Report::Last };
    let as_of = args.as_of.map(|as_of| rfc3339(as_of.as_microsecond()));
    let sql = sql(&kpis, &by, report, as_of.as_deref());
    if args.sql {
        print(&format!("{sql};\n"));
        return Ok(());
    }
    let rules = config.as_ref().map_or_else(Revenue::default, |config| config.revenue.clone());
    let stored = stored(args, config.as_ref())?;
    let (kind, start) = match &args.period {
        Some(name) => {
            let period = named(name, &rules)?;
            (period.kind.name().to_owned(), rfc3339(period.start_us))
        }
        None => newest(&stored, as_of.as_deref())?,
    };
    let of_period = format!(
        "select * from (\n{sql}\n) kpis where period = '{kind}' and period_start = '{start}' order by {}",
        order(&by)
    );
    let rows = stored.texts(&of_period)?;
    ensure!(
        !rows.rows.is_empty(),
        "there is no revenue of the {kind} from {start}: see docs/outputs.md#revenue-by-period"
    );
    print(&if args.json { lines(&rows)? } else { table(&rows, &kpis, &format!("{kind} from {start}"))? });
    Ok(())
}

/// The figures that are asked for.
fn chosen(args: &ReportArgs) -> Result<Vec<Kpi>> {
    let own = args.kpis.as_ref().map(|path| {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        anyhow::Ok((path.display().to_string(), text))
    });
    let own = own.transpose()?;
    let mut kpis = parse(own.as_ref().map(|(name, text)| (name.as_str(), text.as_str())))?;
    for name in &args.kpi {
        let names: Vec<&str> = kpis.iter().map(|kpi| kpi.name.as_str()).collect();
        ensure!(names.contains(&name.as_str()), "there is no figure {name:?}: there are {}", names.join(", "));
    }
    kpis.retain(|kpi| args.kpi.is_empty() || args.kpi.contains(&kpi.name));
    Ok(kpis)
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

/// Length and start of the newest quarter that has a row by then.
fn newest(stored: &Stored, as_of: Option<&str>) -> Result<(String, String)> {
    let until = as_of.map(|as_of| format!(" and as_of <= '{as_of}'")).unwrap_or_default();
    let newest = format!("select max(period_start) from revenue where period = 'quarter'{until}");
    let start = stored.texts(&newest)?.rows.into_iter().flatten().flatten().next();
    Ok(("quarter".to_owned(), start.context("there is no revenue of any quarter: name a --period")?))
}

fn order(by: &[String]) -> String {
    by.iter().map(|dimension| format!("{dimension}, ")).collect::<String>() + "currency, kpi"
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

/// A block for each group of accounts, with a line for each figure in the order of the file.
fn table(rows: &Texts, kpis: &[Kpi], of: &str) -> Result<String> {
    let at = |name: &str| rows.names.iter().position(|column| column == name);
    let cell = |row: &[Option<String>], name: &str| at(name).and_then(|at| row.get(at).cloned().flatten());
    let mut groups: BTreeMap<Vec<String>, Vec<&Vec<Option<String>>>> = BTreeMap::new();
    for row in &rows.rows {
        let named = DIMENSIONS.iter().filter(|name| at(name).is_some());
        let key = named.map(|name| format!("{name} {}", cell(row, name).unwrap_or_else(|| "unknown".to_owned())));
        groups.entry(key.collect()).or_default().push(row);
    }
    let mut out = format!("{of}\n");
    for (group, rows) in groups {
        writeln!(out, "\n{}", if group.is_empty() { "all accounts".to_owned() } else { group.join(", ") })?;
        for kpi in kpis {
            for row in rows.iter().filter(|row| cell(row, "kpi").as_deref() == Some(&kpi.name)) {
                let number = |name: &str| cell(row, name).and_then(|text| text.parse::<f64>().ok());
                let currency = cell(row, "currency").unwrap_or_default();
                let value = match (number("value"), kpi.unit) {
                    (None, _) => "-".to_owned(),
                    (Some(value), Unit::Percent) => format!("{value:.2} %"),
                    (Some(value), Unit::Amount) => format!("{value:.2} {currency}"),
                    (Some(value), Unit::Count) => format!("{value:.0}"),
                };
                let unknown = number("unknown").filter(|unknown| *unknown > 0.0);
                let unknown = unknown.map(|unknown| format!("  {unknown:.0} accounts unknown")).unwrap_or_default();
                let by = if kpi.unit == Unit::Percent && !currency.is_empty() {
                    format!(" {currency}")
                } else {
                    String::new()
                };
                writeln!(out, "  {:<42} {value:>16}{by}{unknown}", kpi.title)?;
            }
        }
    }
    Ok(out)
}
