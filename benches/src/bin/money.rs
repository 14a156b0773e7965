//! Measures what contracts cost: closes of days without and with the end of a period, their rows of revenue, states, and
//! reports over the tables.
//!
//! `cargo run --release --bin money -- --accounts 10000` runs three years, day by day; each account has ten events of
//! its contract. With `--days 3` the years before are told on the first of the last three days. The results get one line
//! for each size.
#![allow(clippy::disallowed_methods, reason = "I/O edge: durations are measured here")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use keepwell::in_process;
use keepwell::report::ReportArgs;
use keepwell_benches::fleet::{Fleet, Stages, state};
use keepwell_benches::rivals::cost::Cost;
use keepwell_benches::rivals::result::Results;
use keepwell_core::calendar::{Calendar, PeriodKind};
use keepwell_core::codec;
use keepwell_core::schema::revenue;
use keepwell_pipeline::clock::SetClock;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::Message;
use serde_json::{Map, Value, json};

/// Arrow and maps allocate and free memory all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// 1 January 2024.
const START_US: i64 = 1_704_067_200_000_000;
const DAY_US: i64 = 24 * 3600 * 1_000_000;
/// The years 2024 to 2026.
const ALL_DAYS: i64 = 1096;
/// Reports of these periods are measured.
const PERIODS: [&str; 3] = ["2026-12", "2026-Q4", "2026"];
/// One of the tables, without which nothing was written.
const REVENUE: &str = "revenue";

#[derive(Debug, Parser)]
#[command(about = "What contracts and periods of revenue cost")]
struct Args {
    /// Numbers of accounts; one fleet is measured after another.
    #[arg(long, value_delimiter = ',', default_value = "10000")]
    accounts: Vec<usize>,
    /// Number of days that are run, the last of the three years. What happened before is told on the first of them.
    #[arg(long, default_value_t = ALL_DAYS, value_parser = clap::value_parser!(i64).range(1..=ALL_DAYS))]
    days: i64,
    /// Instead, report a period from the tables of this folder, and print the cost of this process.
    #[arg(long, requires = "period")]
    tables: Option<String>,
    /// The period to report.
    #[arg(long)]
    period: Option<String>,
    /// File to which the measurements are appended.
    #[arg(long, default_value = "benches/measured/money.ndjson")]
    results: PathBuf,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let (Some(tables), Some(period)) = (&args.tables, &args.period) {
        return report(tables, period);
    }
    let results = Results::open(&args.results)?;
    args.accounts.iter().try_for_each(|accounts| results.append(&measure(*accounts, args.days)?))
}

fn configuration(folder: &Path) -> Result<Config> {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("scale.yaml");
    let text = format!(
        "epoch: 1\npartitions: 2\nkafka: {{bootstrap_servers: 'none:0'}}\nsources: [{{topic: usage, kind: usage}}, \
         {{topic: accounts, kind: account, optional: true}}, {{topic: contracts, kind: contract, optional: true}}]\n\
         snapshots: {{url: 'memory:///'}}\ntables: {{url: 'file://{}'}}\nscore: {{model: '{}'}}\n",
        folder.display(),
        model.display()
    );
    Ok(Config::parse("money", &text, &[])?)
}

/// Runs the last `num_days` of the three years.
fn measure(num_accounts: usize, num_days: i64) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let config = configuration(folder.path())?;
    let first_day = ALL_DAYS - num_days;
    let (broker, clock) = (in_process::broker(&config, 1), SetClock::at(START_US + first_day * DAY_US));
    let stages = Stages::new(&config)?;
    let mut fleet = Fleet::new(&config, &broker, &clock, &stages)?;
    println!("{num_accounts} accounts, {num_days} days");
    let calendar = config.revenue.calendar().map_err(anyhow::Error::msg)?;
    let (mut closes, mut num_told) = (BTreeMap::<&str, Vec<Close>>::new(), 0);
    for day in first_day..ALL_DAYS {
        num_told += tell(&fleet, num_accounts, day, first_day)?;
        clock.set(START_US + (day + 1) * DAY_US + 2 * 3600 * 1_000_000);
        let ([_, aggregate_s, ..], scored) = fleet.turn()?;
        // Who has left has no score.
        ensure!(scored >= (num_accounts - num_accounts.div_ceil(7)) as u64, "{scored} scores on day {day}");
        let close = Close { aggregate_s, revenue: revenue_rows(&fleet)? };
        fleet.forget()?;
        closes.entry(ended(day, &calendar)).or_default().push(close);
    }
    let mut measured = Map::new();
    for (what, closes) in &mut closes {
        measured.insert((*what).to_owned(), Close::middle(what, closes, num_accounts));
    }
    let topic = &config.topics.events;
    let of_state = state(&stages.aggregate, fleet.aggregate.state(), topic, config.partitions)?;
    measured.insert("aggregate state".into(), of_state);
    measured.insert("peak_kb".into(), Cost::of(std::process::id())?.peak_kb.into());
    drop(fleet);
    ensure!(folder.path().join(REVENUE).exists(), "no table of revenue");
    for period in PERIODS {
        measured.insert(format!("report {period}"), reported(folder.path(), period)?);
    }
    let contract_events = json!(num_told);
    Ok(
        json!({"what": "money", "accounts": num_accounts, "days": num_days, "contract_events": contract_events, "measured": measured}),
    )
}

/// The longest period that ends with a day.
fn ended(day: i64, calendar: &Calendar) -> &'static str {
    let end_us = START_US + (day + 1) * DAY_US;
    let kinds = [PeriodKind::Year, PeriodKind::Quarter, PeriodKind::Month, PeriodKind::Week];
    let ends = |kind: &PeriodKind| calendar.period(*kind, end_us - 1).is_some_and(|period| period.end_us == end_us);
    kinds.into_iter().find(ends).map_or("day", PeriodKind::name)
}

/// The close of a day.
#[derive(Debug, Clone, Copy)]
struct Close {
    /// Seconds of aggregate, which reads the events of the day, too.
    aggregate_s: f64,
    /// Number of rows of revenue, and their bytes in the topic.
    revenue: (usize, usize),
}

impl Close {
    /// The close in the middle of those of its kind, by time.
    fn middle(what: &str, closes: &mut [Self], num_accounts: usize) -> Value {
        closes.sort_by(|a, b| a.aggregate_s.total_cmp(&b.aggregate_s));
        let (last, most) = (closes.len().saturating_sub(1), closes.last().map_or(0.0, |close| close.aggregate_s));
        let Some(Self { aggregate_s, revenue: (rows, bytes) }) = closes.get(last / 2).copied() else {
            return Value::Null;
        };
        let us = aggregate_s * 1e6 / num_accounts as f64;
        println!(
            "end of a {what}, {} closes: {aggregate_s:.3} s, {us:.1} us an account, at most {most:.3} s; {rows} rows of revenue, {bytes} bytes",
            last + 1
        );
        json!({"closes": last + 1, "windows_us": us, "most_s": most, "revenue_rows": rows, "revenue_bytes": bytes})
    }
}

fn revenue_rows(fleet: &Fleet<'_>) -> Result<(usize, usize)> {
    let values = fleet.broker.records(&fleet.config.topics.revenue).into_iter().filter_map(|record| record.value);
    let schema = revenue::schema();
    values
        .map(|value| Ok((codec::decode(&value, &schema)?.num_rows(), value.len())))
        .try_fold((0, 0), |(rows, bytes), of: Result<(usize, usize)>| {
            of.map(|(more, of_them)| (rows + more, bytes + of_them))
        })
}

/// Day, what happened, revenue in percent of the first, and whether a term of a year begins: the ten events of a contract.
const LIFE: [(i64, &str, Option<i64>, bool); 10] = [
    (0, "started", Some(100), true),
    (60, "changed", Some(110), false),
    (150, "changed", Some(105), false),
    (240, "changed", Some(120), false),
    (350, "renewed", Some(125), true),
    (430, "changed", Some(115), false),
    (520, "paused", None, false),
    (550, "resumed", None, false),
    (715, "renewed", Some(130), true),
    (800, "changed", Some(120), false),
];

/// Events of contracts of one account that are told on a day: all those until then on the first day.
fn contract(n: usize, day: i64, first_day: i64) -> Vec<String> {
    let start = n as i64 % 290;
    let of = |(step, (after, action, percent, is_term)): (usize, (i64, &str, Option<i64>, bool))| {
        let holds_ms = (START_US + (start + after) * DAY_US) / 1000 + (n % 80_000_000) as i64;
        let told_ms = holds_ms.max((START_US + first_day * DAY_US) / 1000);
        let told_day = (told_ms * 1000 - START_US) / DAY_US;
        // One in seven leaves at last.
        let action = if step == 9 && n.is_multiple_of(7) { "cancelled" } else { action };
        let mut event = json!({"event_id": format!("c{n}-{step}"), "account_id": account(n), "occurred_at": told_ms, "effective_at": holds_ms,
            "type": action, "currency": if n.is_multiple_of(20) { "EUR" } else { "USD" }});
        if let Some(percent) = percent.filter(|_| action != "cancelled") {
            event["mrr"] = json!((500 + n as i64 % 1000) * percent / 100);
        }
        if is_term {
            event["ends_at"] = json!(holds_ms + 365 * DAY_US / 1000);
        }
        (told_day == day).then(|| event.to_string())
    };
    LIFE.into_iter().enumerate().filter_map(of).collect()
}

fn account(n: usize) -> String {
    format!("account-{n:07}")
}

/// Sends the events of a day: facts on the first, usage once a month, and contracts. Returns the number of the latter.
fn tell(fleet: &Fleet<'_>, num_accounts: usize, day: i64, first_day: i64) -> Result<usize> {
    let [usage, accounts, contracts] = [0, 1, 2];
    let send = |source: usize, value: String| {
        let message = Message {
            topic: Arc::from(fleet.config.sources[source].topic.as_str()),
            partition: 0,
            timestamp_ms: Some((START_US + day * DAY_US) / 1000),
            key: None,
            value: Some(value.into_bytes()),
            headers: Vec::new(),
        };
        fleet.broker.produce(&message)
    };
    let mut num_told = 0;
    for n in 0..num_accounts {
        let at_ms = (START_US + day * DAY_US) / 1000 + (n % 3_000_000) as i64;
        let name = account(n);
        if day == first_day {
            let segment = ["smb", "mid", "enterprise"][n % 3];
            send(
                accounts,
                format!(
                    r#"{{"event_id":"a{n}","account_id":"{name}","occurred_at":{at_ms},"type":"upsert","facts":{{"plan":"pro","segment":"{segment}","owner":"csm-{}"}}}}"#,
                    n % 50
                ),
            )?;
        }
        if day == first_day || n as i64 % 30 == day % 30 {
            send(
                usage,
                format!(
                    r#"{{"event_id":"e{n}-{day}","account_id":"{name}","user_id":"u{n}","feature":"f{}","occurred_at":{at_ms}}}"#,
                    n % 10
                ),
            )?;
        }
        for event in contract(n, day, first_day) {
            send(contracts, event)?;
            num_told += 1;
        }
    }
    Ok(num_told)
}

/// Has another process of this program report a period, by segment and owner. Returns its cost.
fn reported(tables: &Path, period: &str) -> Result<Value> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--tables", &tables.display().to_string(), "--period", period]);
    let done = command.output()?;
    ensure!(done.status.success(), "report of {period}: {}", String::from_utf8_lossy(&done.stderr));
    let cost = String::from_utf8(done.stderr)?;
    println!("report of {period}, {} lines: {cost}", done.stdout.split(|byte| *byte == b'\n').count());
    cost.lines().last().map(serde_json::from_str).context("no cost")?.context(cost.clone())
}

#[derive(Debug, Parser)]
struct Report {
    #[command(flatten)]
    args: ReportArgs,
}

/// Reports a period, and prints what it costs.
fn report(tables: &str, period: &str) -> Result<()> {
    let started = Instant::now();
    let report = Report::parse_from(["report", "--tables", tables, "--period", period, "--by", "segment,owner"]);
    keepwell::report::run(&report.args)?;
    let cost = Cost::of(std::process::id())?;
    let line =
        json!({"seconds": started.elapsed().as_secs_f64(), "cpu_s": cost.cpu.as_secs_f64(), "peak_kb": cost.peak_kb});
    Ok(std::io::Write::write_all(&mut std::io::stderr(), line.to_string().as_bytes())?)
}
