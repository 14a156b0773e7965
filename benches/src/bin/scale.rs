//! Measures the cost of a fleet by its size: a day's close, changed accounts, state and restore, a model change,
//! explain, audit.
//!
//! Run `cargo run --release --bin scale -- --accounts 10000,100000,1000000`. The model has ten factors and ten
//! triggers. The results get one line for each size.
#![allow(clippy::disallowed_methods, reason = "I/O edge: durations are measured here")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use keepwell::in_process;
use keepwell_benches::fleet::{Fleet, Stages, state, timed};
use keepwell_benches::rivals::result::Results;
use keepwell_pipeline::clock::{Clock, SetClock};
use keepwell_pipeline::config::Config;
use keepwell_pipeline::partition_loop::Worker;
use keepwell_pipeline::record::Message;
use keepwell_score::model;
use keepwell_score::model_schedule::Announcement;
use keepwell_score::recompute::audit::audit;
use keepwell_score::tables_reader::Stored;
use serde_json::{Map, Value, json};

/// Arrow and maps allocate and free memory all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const START_US: i64 = 1_704_067_200_000_000;
const MINUTE_US: i64 = 60_000_000;
const HOUR_US: i64 = 60 * MINUTE_US;
const DAY_US: i64 = 24 * HOUR_US;
/// Number of accounts audited at once, as in `keepwell audit`.
const AT_ONCE: usize = 500;

#[derive(Debug, Parser)]
#[command(about = "What a fleet costs by its size")]
struct Args {
    /// Numbers of accounts; one fleet is measured after another.
    #[arg(long, value_delimiter = ',', default_value = "100000")]
    accounts: Vec<usize>,
    /// What the accounts have.
    #[arg(long, value_enum, default_value = "usage")]
    fleet: Kind,
    /// Instead, measure each fleet without and with one more account that uses this many features in a day.
    #[arg(long)]
    features: Option<usize>,
    /// How often everything is measured.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Number of audited accounts, for fleets of at most 100,000 accounts.
    #[arg(long, default_value_t = 5000)]
    audited: usize,
    /// File to which the measurements are appended.
    #[arg(long, default_value = "benches/measured/scale.ndjson")]
    results: PathBuf,
}

/// What the accounts of a fleet have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// One usage event a day; nothing else, and no trigger holds.
    Usage,
    /// Also facts, two people, tickets and surveys, so that triggers are raised and end.
    Everything,
    /// The same, with a usage event every day for half a year.
    Dense,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let results = Results::open(&args.results)?;
    for _ in 0..args.runs {
        for num_accounts in &args.accounts {
            match args.features {
                Some(features) => results.append(&beside(*num_accounts, features)?)?,
                None if args.fleet == Kind::Dense => results.append(&half_a_year(*num_accounts)?)?,
                None => results.append(&measure(*num_accounts, args.fleet, args.audited)?)?,
            }
        }
    }
    Ok(())
}

fn configuration(folder: &Path, model: &Path) -> Result<Config> {
    let text = format!(
        "epoch: 1\npartitions: 2\nkafka: {{bootstrap_servers: 'none:0'}}\nsources: [{{topic: usage, kind: usage}}, \
         {{topic: tickets, kind: ticket, optional: true}}, {{topic: surveys, kind: survey, optional: true}}, \
         {{topic: accounts, kind: account, optional: true}}, {{topic: people, kind: person, optional: true}}]\n\
         snapshots: {{url: 'memory:///'}}\ntables: {{url: 'file://{0}/tables'}}\nscore: {{model: '{1}'}}\n",
        folder.display(),
        model.display()
    );
    Ok(Config::parse("scale", &text, &[])?)
}

/// Measures the cost of one huge account for the others: a fleet without it, and with it.
fn beside(num_accounts: usize, features: usize) -> Result<Value> {
    let mut measured = Map::new();
    for giant in [0, features] {
        let folder = tempfile::tempdir()?;
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("scale.yaml");
        let config = configuration(folder.path(), &model)?;
        let (broker, clock) = (in_process::broker(&config, 1), SetClock::at(START_US + 9 * HOUR_US));
        let stages = Stages::new(&config)?;
        let mut fleet = Fleet::new(&config, &broker, &clock, &stages)?;
        println!("{num_accounts} accounts, and one of {giant} features");
        let all = num_accounts + usize::from(giant > 0);
        let mut of_giant = Map::new();
        observe(&fleet, num_accounts, 1, 0)?;
        use_features(&fleet, giant, 0)?;
        of_giant.insert("first rows".into(), turned(&mut fleet, "first rows, live", all)?);
        clock.set(START_US + 9 * HOUR_US + MINUTE_US);
        observe(&fleet, num_accounts, 1, 1)?;
        use_features(&fleet, giant.min(10), 1)?;
        of_giant.insert("100 % changed".into(), turned(&mut fleet, "100 % changed", all)?);
        clock.set(START_US + DAY_US + 2 * HOUR_US);
        of_giant.insert("close".into(), turned(&mut fleet, "a day's close", all)?);
        measured.insert(format!("{giant} features"), Value::Object(of_giant));
    }
    Ok(json!({"what": "beside", "accounts": num_accounts, "measured": measured}))
}

/// Measures the days of a fleet, one after another.
fn measure(num_accounts: usize, kind: Kind, audited: usize) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("scale.yaml");
    let config = configuration(folder.path(), &model)?;
    let (broker, clock) = (in_process::broker(&config, 1), SetClock::at(START_US + 9 * HOUR_US));
    let stages = Stages::new(&config)?;
    let mut fleet = Fleet::new(&config, &broker, &clock, &stages)?;
    println!("{num_accounts} accounts, fleet {kind:?}");
    let mut measured = Map::new();
    observe(&fleet, num_accounts, 1, 0)?;
    if kind == Kind::Everything {
        observe_everything(&fleet, num_accounts, 0)?;
    }
    measured.insert("first rows".into(), turned(&mut fleet, "first rows, live", num_accounts)?);
    for day in 1..=2 {
        clock.set(START_US + day * DAY_US + 2 * HOUR_US);
        if kind == Kind::Everything {
            observe_everything(&fleet, num_accounts, day - 1)?;
        }
        measured.insert("close".into(), turned(&mut fleet, "a day's close", num_accounts)?);
    }
    for (minute, percent) in (1..).zip([1, 10, 100]) {
        // Live rows become due by the clock.
        clock.set(START_US + 2 * DAY_US + 2 * HOUR_US + minute * MINUTE_US);
        let few = num_accounts * percent / 100;
        observe(&fleet, few, 100 / percent, 1 + minute)?;
        let what = format!("{percent} % changed");
        measured.insert(what.clone(), turned(&mut fleet, &what, few)?);
    }
    measured.insert(
        "aggregate state".into(),
        state(&stages.aggregate, fleet.aggregate.state(), &config.topics.events, config.partitions)?,
    );
    measured.insert(
        "score state".into(),
        state(&stages.score, fleet.score.state(), &config.topics.windows, config.partitions)?,
    );
    let text = model::read(&model)?.replace("version: 2", "version: 3").replace("to: 0.7", "to: 0.8");
    let from = jiff::Timestamp::from_microsecond(START_US + 3 * DAY_US)?;
    let announcement = Announcement { from, text: text.clone() };
    for partition in 0..config.partitions {
        broker.produce(&announcement.message(&config.topics.windows.as_str().into(), partition)?)?;
    }
    let taken = timed(|| fleet.score.run(&AtomicBool::new(false)).map(|_| ()))?;
    println!("another model is taken by {} partitions: {taken:.3} s", config.partitions);
    clock.set(START_US + 3 * DAY_US + 2 * HOUR_US);
    measured
        .insert("close by another model".into(), turned(&mut fleet, "a day's close by another model", num_accounts)?);
    drop(fleet);
    let audited = if num_accounts > 100_000 { 0 } else { audited };
    looked_at(num_accounts, audited, &config, &model, &text)?;
    let kind = format!("{kind:?}").to_lowercase();
    Ok(json!({"what": "scale", "fleet": kind, "accounts": num_accounts, "measured": measured}))
}

/// Days of the dense fleet.
const DENSE_DAYS: i64 = 180;
/// The last days of the dense fleet, which are measured.
const MEASURED_DAYS: i64 = 7;

/// Measures the last days of a fleet whose accounts have an event on each of many days: all work of a day, from raw
/// records to files.
fn half_a_year(num_accounts: usize) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("scale.yaml");
    let config = configuration(folder.path(), &model)?;
    let (broker, clock) = (in_process::broker(&config, 1), SetClock::at(START_US));
    let stages = Stages::new(&config)?;
    let mut fleet = Fleet::new(&config, &broker, &clock, &stages)?;
    println!("{num_accounts} accounts, fleet Dense: {DENSE_DAYS} days");
    let mut sums = [0.0; 5];
    for day in 0..DENSE_DAYS {
        clock.set(START_US + day * DAY_US);
        observe(&fleet, num_accounts, 1, 0)?;
        observe_everything(&fleet, num_accounts, day)?;
        clock.set(START_US + (day + 1) * DAY_US + 2 * HOUR_US);
        let (seconds, _) = fleet.turn()?;
        fleet.forget()?;
        if day >= DENSE_DAYS - MEASURED_DAYS {
            sums.iter_mut().zip(seconds).for_each(|(sum, seconds)| *sum += seconds);
        }
    }
    let parts = ["ingest", "windows", "scores", "publish", "tables"];
    let us = sums.map(|sum| sum * 1e6 / (num_accounts as i64 * MEASURED_DAYS) as f64);
    let words: Vec<String> = parts.iter().zip(us).map(|(part, us)| format!("{part} {us:.1}")).collect();
    println!("us an account and day, all work, on one thread: {}; sum {:.1}", words.join(", "), us.iter().sum::<f64>());
    let measured: Map<String, Value> = parts.iter().zip(us).map(|(part, us)| ((*part).to_owned(), us.into())).collect();
    Ok(json!({"what": "dense", "days": DENSE_DAYS, "accounts": num_accounts, "us": measured}))
}

/// Explains and audits the content of the tables.
fn looked_at(num_accounts: usize, audited: usize, config: &Config, model: &Path, text: &str) -> Result<()> {
    let started = Instant::now();
    let stored = Stored::of_config(config, None)?;
    let (row, windows) = stored.at("account-0000100", START_US + 2 * DAY_US)?.context("no score")?;
    ensure!((row.num_rows(), windows.num_rows()) == (1, 1), "not one score");
    println!("explain an account at an earlier time: {:.2} s", started.elapsed().as_secs_f64());
    let layout = config.aggregate.layout();
    let read = |text: &str| model::parse("scale", text, layout.windows());
    let files = [read(&model::read(model)?)?, read(text)?];
    let started = Instant::now();
    let accounts = stored.accounts()?;
    ensure!(accounts.len() == num_accounts, "{} accounts in the tables", accounts.len());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut num_scores, some) = (0, &accounts[..audited.min(accounts.len())]);
    if some.is_empty() {
        return Ok(());
    }
    for some in some.chunks(AT_ONCE) {
        let found = runtime.block_on(audit(stored.of(some)?, &files, &layout, config.time.pane.as_micros()))?;
        ensure!(found.drift.is_empty() && found.unknown.is_empty(), "{:?}", found.drift.first());
        num_scores += found.num_scores;
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "audit of {} accounts, {num_scores} scores: {seconds:.1} s, {:.2} ms a score",
        some.len(),
        seconds * 1e3 / num_scores as f64
    );
    Ok(())
}

/// The account's event of a day. `round` makes the ids of several events on one day different.
fn event(n: usize, day: i64, round: i64, config: &Config) -> Message {
    let at_ms = (START_US + day * DAY_US) / 1000 + (n % 3_000_000) as i64;
    let value = format!(
        r#"{{"event_id":"e{n}-{day}-{round}","account_id":"account-{n:07}","user_id":"u{n}","feature":"f{}","occurred_at":{at_ms}}}"#,
        n % 10
    );
    Message {
        topic: Arc::from(config.sources[0].topic.as_str()),
        partition: 0,
        timestamp_ms: Some(at_ms),
        key: None,
        value: Some(value.into_bytes()),
        headers: Vec::new(),
    }
}

/// Events of an account besides usage: index of the source, and the value.
fn more_of(n: usize, day: i64) -> Vec<(usize, String)> {
    let [tickets, surveys, accounts, people] = [1, 2, 3, 4];
    let at_ms = (START_US + day * DAY_US) / 1000 + (n % 3_000_000) as i64;
    let of = |source, id: &str, more: String| {
        let key = format!(r#""event_id":"{id}{n}-{day}","account_id":"account-{n:07}","occurred_at":{at_ms}"#);
        (source, format!("{{{key},{more}}}"))
    };
    let mut events = Vec::new();
    if day == 0 {
        let (owner, renews_ms) = (n % 50, at_ms + 60 * DAY_US / 1000);
        events.push(of(accounts, "a", format!(
            r#""type":"upsert","facts":{{"plan":"pro","segment":"smb","owner":"csm-{owner}","seats":20,"mrr":1250.50,"renews_at":{renews_ms},"region":"eu"}}"#
        )));
        events.push(of(people, "p", format!(r#""user_id":"u{n}","type":"added","role":"champion""#)));
        events.push(of(people, "q", format!(r#""user_id":"v{n}","type":"added""#)));
    }
    // A ticket and an answer a month.
    let (month, day_of_month) = (day / 30, day % 30);
    if n.is_multiple_of(3) && day_of_month < 2 {
        let step = if day_of_month == 0 {
            r#""type":"opened","priority":"high","category":"billing""#
        } else {
            r#""type":"resolved""#
        };
        events.push(of(tickets, "t", format!(r#""ticket_id":"t{n}-{month}",{step}"#)));
    }
    if n.is_multiple_of(4) && day_of_month == 0 {
        events.push(of(surveys, "s", format!(r#""user_id":"u{n}","survey":"nps","score":{}"#, n % 11)));
    }
    if n.is_multiple_of(10) && day == 1 {
        events.push(of(people, "r", format!(r#""user_id":"u{n}","type":"removed""#)));
    }
    events
}

/// Sends one event for each of `num_accounts` accounts, with a distance of `apart` between their numbers, on the
/// current day.
fn observe(fleet: &Fleet<'_>, num_accounts: usize, apart: usize, round: i64) -> Result<()> {
    let day = (fleet.clock.wall_us() - START_US) / DAY_US;
    (0..num_accounts).try_for_each(|n| Ok(fleet.broker.produce(&event(n * apart, day, round, fleet.config))?))
}

/// Sends facts, people, tickets and survey answers, by the day of the fleet's life.
fn observe_everything(fleet: &Fleet<'_>, num_accounts: usize, day: i64) -> Result<()> {
    for n in 0..num_accounts {
        for (source, value) in more_of(n, day) {
            let mut message = event(n, day, 0, fleet.config);
            message.topic = Arc::from(fleet.config.sources[source].topic.as_str());
            message.value = Some(value.into_bytes());
            fleet.broker.produce(&message)?;
        }
    }
    Ok(())
}

/// Sends events of one account that uses this many features, each once.
fn use_features(fleet: &Fleet<'_>, features: usize, round: i64) -> Result<()> {
    let at_ms = (START_US + round * HOUR_US) / 1000;
    (0..features).try_for_each(|n| {
        let value = format!(
            r#"{{"event_id":"g{n}-{round}","account_id":"giant","user_id":"u","feature":"/orders/{n}","occurred_at":{at_ms}}}"#
        );
        let mut message = event(0, 0, round, fleet.config);
        (message.value, message.timestamp_ms) = (Some(value.into_bytes()), Some(at_ms));
        Ok(fleet.broker.produce(&message)?)
    })
}

/// Runs all stages and checks that `accounts` scores are made. Returns microseconds of each stage, and bytes, for
/// each account.
fn turned(fleet: &mut Fleet<'_>, what: &str, accounts: usize) -> Result<Value> {
    let ([_, aggregate, score, publish, tables], scored) = fleet.turn()?;
    ensure!(scored == accounts as u64, "{scored} scores, not {accounts}");
    let bytes = |topic: &str| {
        let values = fleet.broker.records(topic).into_iter().filter_map(|record| record.value);
        values.map(|value| value.len()).sum::<usize>() / accounts
    };
    let (windows_bytes, health_bytes) = (bytes(&fleet.config.topics.windows), bytes(&fleet.config.topics.health));
    let published = fleet.broker.records(&fleet.config.topics.scores).len();
    fleet.forget()?;
    let each = |seconds: f64| seconds * 1e6 / accounts as f64;
    println!(
        "{what}: windows {aggregate:.2} s, {:.1} us an account; scores {score:.2} s, {:.1} us; publish {publish:.2} s, {:.1} us a record of {published}; tables {tables:.2} s, {:.1} us; {windows_bytes} + {health_bytes} bytes, at {}",
        each(aggregate),
        each(score),
        publish * 1e6 / published.max(1) as f64,
        each(tables),
        jiff::Timestamp::from_microsecond(fleet.clock.wall_us())?
    );
    Ok(json!({"windows_us": each(aggregate), "scores_us": each(score), "tables_us": each(tables),
        "publish_us": publish * 1e6 / published.max(1) as f64, "published": published,
        "windows_bytes": windows_bytes, "health_bytes": health_bytes}))
}
