//! A simulator: all stages run in one thread on the in-memory log, under a scheduler driven by a seed.
//!
//! A seed decides the fleet, the cut of the configuration (partitions, batches, slices), the order of turns, and the
//! faults that strike. The same seed gives the same run.
//!
//! A run is *tidy* if every event arrives within bound and delay. Its final rows must equal those of the same events in
//! event-time order, without delay or fault.
//!
//! Some tidy runs are *nightly*: their events are around the ends of panes. They have only one source, because quieter
//! sources would hold time back.
//!
//! A *wild* run has events of any age, repeats, corrupt records, and clocks that are hours wrong. Its final rows are
//! judged only from `events` on.

mod announced;
pub mod chaos;
mod log;
mod outage;
mod place;
pub mod promises;
pub mod scenario;
pub mod time;
pub mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use keepwell_core::calendar::PeriodKind;
use keepwell_core::event::Kind as EventKind;
use keepwell_pipeline::config::{Aggregate, Config, Late, Measures, Revenue, SeatRemoval, Span, Tables};
use keepwell_pipeline::log::memory::MemoryBroker;

use crate::compare::same_rows;
use crate::fleet::{self, Raw, Shape};
use crate::invariant::Invariant;
use crate::streamed::{Streamed, finals};
use crate::{check, deployment};
use chaos::Fault;
use promises::{Compared, check_all, until, without_provenance};
use scenario::{Arrival, Scenario, clocks, run};
use time::Time;
use world::Stages;

const MINUTE_US: i64 = 60_000_000;
const DAY_US: i64 = 24 * 60 * MINUTE_US;
/// Longest time between event and arrival in a tidy run. It is below every source's bound of an hour.
const TIDY_DELAY_US: i64 = 50 * MINUTE_US;
/// Longest clock error in a tidy run. Together with the delay it stays below the bound.
const TIDY_CLOCK_ERROR_US: i64 = 9 * MINUTE_US;
/// Record size for a few events.
const LEAST_RECORD_BYTES: usize = 9000;
const WILD_CLOCK_ERROR_US: i64 = 30 * 60 * MINUTE_US;

/// What to simulate.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// The seed.
    pub seed: u64,
    /// Whether the oracle also judges the run; that takes seconds.
    pub with_oracle: bool,
    /// Multiplies the usual frequency of faults.
    pub rate: u32,
}

/// Result of a seed.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Number of faults that struck, by kind.
    pub faults: BTreeMap<Fault, u64>,
    /// Number of turns.
    pub num_turns: u64,
    /// How often a source that was ahead had to wait for others.
    pub num_paused: u64,
    /// Number of things that were compared.
    pub compared: Compared,
    /// Whether all events arrived in time, so that the run was also compared with one without faults.
    pub is_tidy: bool,
    /// Number of final rows that equal the oracle's.
    pub num_judged: usize,
    /// Hash of every record of every topic. Equal runs have equal hashes.
    pub digest: u64,
}

/// The configuration that all runs vary.
fn base() -> Result<Config> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/memory/fleet.yaml");
    Ok(Config::read(&path, &["time.clock=true".to_owned()])?)
}

/// Runs a seed and checks every promise.
///
/// # Errors
/// Names the broken promise.
pub fn simulate(asked: Asked) -> Result<Outcome> {
    let mut rng = Rng::with_seed(asked.seed);
    let is_tidy = rng.u32(0..2) == 0;
    let with_tables = rng.u32(0..4) == 0;
    let shape = Shape { accounts: rng.usize(1..7), days: rng.i64(5..14), usage: rng.usize(1..4) };
    let shape = outage::shape(asked.seed, shape);
    let fleet_seed = rng.u64(..);
    // A separate random source, so that old seeds keep all their other choices.
    let is_nightly = is_tidy && Rng::with_seed(asked.seed.rotate_left(32)).u32(0..3) == 0;
    let mut raws = match (is_tidy, is_nightly) {
        (_, true) => fleet::nightly(fleet_seed, shape),
        (true, _) => fleet::punctual(fleet_seed, shape),
        (false, _) => fleet::dirty(fleet_seed, shape),
    };
    let mut config = varied(&mut rng, with_tables)?;
    config.suspect = outage::suspect(asked.seed);
    config.revenue = revenue(&mut Rng::with_seed(asked.seed.rotate_left(48)));
    outage::strike(asked.seed, &mut raws);
    if is_nightly {
        raws.retain(|raw| raw.kind == EventKind::Usage);
        config.sources.retain(|source| source.kind == Some(EventKind::Usage));
    }
    for source in &mut config.sources {
        // A required topic without any record would hold time back for ever.
        source.optional = !raws.iter().any(|raw| Some(raw.kind) == source.kind);
    }
    let raw_partitions = rng.i32(1..4);
    let arrivals = arrivals(&raws, &config, raw_partitions, is_tidy, &mut rng)?;
    let start_us = raws.iter().map(|raw| raw.at_ms * 1000).min().context("no events")?;
    let last_us = arrivals.last().context("no events")?.at_us;
    // No clock error can move a pane: the end is at noon two days on, so every pane with an event has closed.
    let end_us = (last_us / DAY_US + 2) * DAY_US + DAY_US / 2;
    let announced = announced::files(asked.seed, &config, start_us..last_us, is_tidy)?;
    let scenario = Scenario {
        seed: asked.seed,
        announced,
        words: outage::words(asked.seed, start_us..last_us, is_tidy),
        raw_topics: config.sources.iter().map(|source| (source.topic.clone(), raw_partitions)).collect(),
        arrivals,
        rate: asked.rate,
        clock_error_us: if is_tidy { TIDY_CLOCK_ERROR_US } else { WILD_CLOCK_ERROR_US },
        end_us,
        with_tables,
    };
    config.aggregate.measures = measures(Rng::with_seed(asked.seed.rotate_left(16)).usize(0..3));
    let slice_rows = rng.usize(3..60);
    // A separate random source, so that old seeds keep all their other choices.
    let event_record_bytes = [LEAST_RECORD_BYTES, usize::MAX][Rng::with_seed(!asked.seed).usize(0..2)];
    let stages = Stages::new(config, slice_rows, event_record_bytes)?;
    let time = Rc::new(Time::at(start_us));
    let clocks_of_run = clocks(&time);
    let world = run(&scenario, &stages, &clocks_of_run, &time)?;
    let compared = check_all(&world, end_us)?;
    if is_tidy {
        as_without_faults(&scenario, &stages, &world.broker, start_us)
            .context(Invariant::TimingDoesNotMatter.broken("as without any fault"))?;
    }
    let num_judged = match asked.with_oracle {
        true => judge(&world.broker, &stages.config, is_tidy).context(Invariant::LogIsTruth.broken("the oracle"))?,
        false => 0,
    };
    let (faults, num_turns, num_paused) = (world.chaos.counts(), world.num_turns(), world.num_paused());
    let digest = digest(&world.broker, &stages.config);
    Ok(Outcome { faults, num_turns, num_paused, compared, is_tidy, num_judged, digest })
}

fn digest(broker: &MemoryBroker, config: &Config) -> u64 {
    let mut hasher = DefaultHasher::new();
    for record in config.topics.all().into_iter().flat_map(|topic| broker.records(topic)) {
        (record.topic_partition, record.offset, record.key, record.value, record.headers).hash(&mut hasher);
    }
    hasher.finish()
}

/// Varies everything that must not change the results.
fn varied(rng: &mut Rng, with_tables: bool) -> Result<Config> {
    let mut config = base()?;
    config.partitions = rng.i32(1..5);
    config.batch.max_records = [1, 3, 20, 400][rng.usize(0..4)];
    config.snapshots.keep = rng.usize(1..4);
    config.snapshots.interval = Span::from_secs([1, 7200, 36_000][rng.usize(0..3)]);
    config.tables = with_tables
        .then(|| Tables::at("memory:///".into(), [1 << 12, 1 << 20][rng.usize(0..2)], Span::from_secs(36_000)));
    Ok(config)
}

/// Periods of a business, and what becomes of late news.
fn revenue(rng: &mut Rng) -> Revenue {
    let zones = ["UTC", "Asia/Kolkata", "America/New_York"];
    Revenue {
        periods: [
            &[PeriodKind::Week, PeriodKind::Month][..],
            &[PeriodKind::Week],
            &[PeriodKind::Year, PeriodKind::Month],
        ][rng.usize(0..3)]
        .to_vec(),
        time_zone: zones[rng.usize(0..3)].to_owned(),
        late: [Late::Restate, Late::Restate, Late::BookNow][rng.usize(0..3)],
        restate_for: Span::from_secs([3, 400][rng.usize(0..2)] * 86_400),
        seat_removal: [SeatRemoval::Contraction, SeatRemoval::Churn][rng.usize(0..2)],
        ..Revenue::default()
    }
}

/// Measures that rows keep: all of them, the default ones, or other ones of each window.
fn measures(choice: usize) -> Vec<Measures> {
    let of = |names: &[&str], days: &[u64], previous| Measures {
        of: names.iter().map(|name| (*name).to_owned()).collect(),
        windows: days.iter().map(|days| Span::from_secs(days * 86_400)).collect(),
        previous,
    };
    let sets = ["usage", "people", "tickets", "surveys", "reports"];
    match choice {
        0 => vec![of(&sets, &[], true)],
        1 => Aggregate::default().measures,
        _ => vec![
            of(&["usage", "data_users"], &[], false),
            of(&sets, &[7, 14], false),
            of(&["uses", "nps"], &[7, 14], true),
        ],
    }
}

/// Decides when each record reaches its topic, and in which partition.
fn arrivals(raws: &[Raw], config: &Config, raw_partitions: i32, is_tidy: bool, rng: &mut Rng) -> Result<Vec<Arrival>> {
    // Sometimes a part of a raw topic's partitions stays empty.
    let used = rng.i32(1..raw_partitions + 1);
    // Sometimes a source appears late, with all its earlier events. Until then it holds time back.
    let absent = [None, None, Some(EventKind::Survey), Some(EventKind::Person)][rng.usize(0..4)];
    let first_us = raws.first().context("no events")?.at_ms * 1000;
    let appears_us = first_us + rng.i64(1..4) * DAY_US;
    let mut newest_us = i64::MIN;
    let mut arrivals = Vec::with_capacity(raws.len());
    for (serial, raw) in raws.iter().enumerate() {
        let occurred_us = raw.at_ms * 1000;
        // A dirty fleet is in arrival order, and the newest event time so far is about the arrival time.
        newest_us = newest_us.max(occurred_us);
        let mut at_us = if is_tidy { occurred_us + rng.i64(0..TIDY_DELAY_US) } else { newest_us };
        if absent == Some(raw.kind) {
            at_us = at_us.max(appears_us);
        }
        arrivals.push(Arrival { at_us, occurred_us, message: deployment::message(raw, serial, used, config)? });
    }
    arrivals.sort_by_key(|arrival| arrival.at_us);
    Ok(arrivals)
}

/// Compares with a calm run: the same events in order, each at its time, one process a stage, another partition count,
/// no fault.
fn as_without_faults(scenario: &Scenario, stages: &Stages, broker: &MemoryBroker, start_us: i64) -> Result<()> {
    let mut config = stages.config.clone();
    config.partitions = config.partitions % 4 + 1;
    config.batch.max_records = 1000;
    let mut arrivals = scenario.arrivals.clone();
    arrivals.iter_mut().for_each(|arrival| arrival.at_us = arrival.occurred_us);
    arrivals.sort_by_key(|arrival| arrival.at_us);
    let calm = Scenario {
        seed: scenario.seed,
        raw_topics: scenario.raw_topics.clone(),
        arrivals,
        announced: scenario.announced.clone(),
        words: Vec::new(),
        rate: 0,
        clock_error_us: 0,
        end_us: scenario.end_us,
        with_tables: false,
    };
    let calm_stages = Stages::new(config, 3000, usize::MAX)?;
    let time = Rc::new(Time::at(start_us));
    let calm_clocks = clocks(&time);
    let calm_world = run(&calm, &calm_stages, &calm_clocks, &time)?;
    let of = |broker: &MemoryBroker, config: &Config| -> Result<_> {
        let streamed = Streamed::read(config, |topic| Ok(broker.records(topic)))?;
        let finals_of = |rows| without_provenance(&until(&finals(rows)?, scenario.end_us)?);
        let alerts = streamed.alerts.iter().filter_map(|record| record.value.clone());
        Ok((finals_of(&streamed.windows)?, finals_of(&streamed.health)?, alerts.collect::<BTreeSet<_>>()))
    };
    let (windows, health, alerts) = of(broker, &stages.config)?;
    let (calm_windows, calm_health, calm_alerts) = of(&calm_world.broker, &calm_stages.config)?;
    ensure!(alerts == calm_alerts, "other alerts: {:?}", alerts.symmetric_difference(&calm_alerts).next());
    same_rows(&windows, &[calm_windows], &["account_id", "as_of"]).context("windows")?;
    let flat = |rows: &arrow::array::RecordBatch| {
        let schema = rows.schema();
        let kept: Vec<usize> = (0..rows.num_columns()).filter(|i| !schema.field(*i).data_type().is_nested()).collect();
        rows.project(&kept)
    };
    same_rows(&flat(&health)?, &[flat(&calm_health)?], &["account_id", "as_of"]).context("health")?;
    for list in ["factors", "drivers", "triggers"] {
        let items = |rows| crate::compare::items_of(rows, list);
        same_rows(&items(&health)?, &[items(&calm_health)?], &["account_id", "as_of", "position"]).context(list)?;
    }
    Ok(())
}

/// The oracle judges everything after `events`.
fn judge(broker: &MemoryBroker, config: &Config, is_tidy: bool) -> Result<usize> {
    let streamed = Streamed::read(config, |topic| Ok(broker.records(topic)))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    if is_tidy {
        runtime.block_on(check::suspect_panes(&streamed, config))?;
    }
    Ok(runtime.block_on(check::against_oracle(&streamed, config))?.windows)
}
