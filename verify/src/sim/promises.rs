//! The promises, each checked once, on the outputs of a deployment.
//!
//! Most checks have the same form: the output of a stage must equal the output of one undisturbed process on the same
//! input. If asked, the oracle also judges the results.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, ensure};
use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, max};
use arrow::datatypes::{Decimal128Type, Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType};
use keepwell::in_process::{self, InMemory};
use keepwell_core::offset::TopicPartition;
use keepwell_core::schema::{feature_day, health, revenue, window};
use keepwell_pipeline::clock::FixedClock;
use keepwell_pipeline::config::{BatchOptions, Config};
use keepwell_pipeline::log::memory::MemoryBroker;
use keepwell_pipeline::partition_loop::Worker;
use keepwell_pipeline::process::RunArgs;
use keepwell_pipeline::record::Record;
use keepwell_pipeline::reject::CONTEXT_HEADERS;
use keepwell_pipeline::snapshot::parts::SnapshotBytes;
use keepwell_pipeline::stage::Stage;

use super::world::{Kind, Stages, World, bytes};
use crate::check;
use crate::compare::{rows_of, same_rows};
use crate::held::Reports;
use crate::invariant::Invariant;
use crate::ledger;
use crate::streamed::{Streamed, finals, last_lives};

/// The bound of every source.
const BOUND_US: i64 = 3_600_000_000;
const DAY_US: i64 = 24 * BOUND_US;
const WINDOW_KEYS: [&str; 2] = ["account_id", "as_of"];

/// Number of things that were compared.
#[derive(Debug, Default, Clone, Copy)]
pub struct Compared {
    /// Number of raw records with exactly one fate.
    pub raw: usize,
    /// Number of final window rows.
    pub finals: usize,
    /// Number of health rows.
    pub health: usize,
    /// Number of records of `scores` and `alerts`.
    pub published: usize,
    /// Number of claims of tables.
    pub claims: usize,
}

/// Checks everything that needs no oracle.
///
/// # Errors
/// Names the broken promise.
pub fn check_all(world: &World<'_>, end_us: i64) -> Result<Compared> {
    let (broker, stages) = (&world.broker, world.stages);
    let streamed = Streamed::read(&stages.config, |topic| Ok(broker.records(topic)))?;
    let raw = one_fate_each(broker, &stages.config)
        .context(Invariant::OneTransactionAStep.broken("every raw record has one fate"))?;
    provenance_rises(&streamed.windows)
        .context(Invariant::RowsNameTheirOrigin.broken("provenance of windows rises"))?;
    provenance_rises(&streamed.health).context(Invariant::RowsNameTheirOrigin.broken("provenance of health rises"))?;
    time_has_come(&streamed, end_us).context(Invariant::SilenceIsASignal.broken("silence does not hold time back"))?;
    contributions_sum(&streamed.health)
        .context(Invariant::ScoresExplainThemselves.broken("contributions sum to the score"))?;
    streamed
        .versions
        .check(&streamed.health)
        .context(Invariant::LogIsTruth.broken("scored by the model of its time"))?;
    let states = |kind| world.states(kind);
    let finals = aggregate_again(broker, stages, &streamed, &states(Kind::Aggregate)?)
        .context(Invariant::LogIsTruth.broken("windows from events"))?;
    let health = score_again(broker, stages, &streamed, &states(Kind::Score)?)
        .context(Invariant::LogIsTruth.broken("health from windows"))?;
    let published = publish_again(broker, stages, &streamed, &states(Kind::Publish)?)
        .context(Invariant::OneTransactionAStep.broken("scores and alerts from health"))?;
    let claims = match world.kinds().contains(&Kind::Tables) {
        true => tables(world, &streamed).context(Invariant::FilesAppearWhole.broken("tables from final rows"))?,
        false => 0,
    };
    Ok(Compared { raw, finals, health, published, claims })
}

/// Each record of each raw topic is either one row of `events` or one reject.
fn one_fate_each(broker: &MemoryBroker, config: &Config) -> Result<usize> {
    let ledger = ledger::of_raw(config, |topic| Ok(broker.records(topic)))?;
    ensure!(ledger.is_clean(), "{ledger:?}");
    Ok(ledger.sent)
}

/// In log order the next offset of an account never falls, and its final rows strictly rise.
fn provenance_rises(rows: &RecordBatch) -> Result<()> {
    let column = |name: &str| rows.column_by_name(name).with_context(|| format!("no column {name}"));
    let accounts = column("account_id")?.as_string::<i32>();
    let (next, ordinal) =
        (column("next_offset")?.as_primitive::<Int64Type>(), column("ordinal")?.as_primitive::<Int64Type>());
    let is_final = column("final")?.as_boolean();
    let mut highest: BTreeMap<&str, i64> = BTreeMap::new();
    let mut last_final: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for row in 0..rows.num_rows() {
        let (account, place) = (accounts.value(row), (next.value(row), ordinal.value(row)));
        let known = highest.entry(account).or_insert(i64::MIN);
        ensure!(place.0 >= *known, "{account}: next offset {} behind {known}", place.0);
        *known = place.0;
        if is_final.value(row) {
            let known = last_final.entry(account).or_insert((i64::MIN, 0));
            ensure!(place > *known, "{account}: final row {place:?} behind {known:?}");
            *known = place;
        }
    }
    Ok(())
}

/// All sources are silent at `end_us`. Still, the last pane that ends by `end_us` minus the bound must have its final
/// rows.
fn time_has_come(streamed: &Streamed, end_us: i64) -> Result<()> {
    let finals = finals(&streamed.windows)?;
    let as_of = finals.column_by_name("as_of").context("no as_of")?.as_primitive::<TimestampMicrosecondType>();
    let (expected, last) = ((end_us - BOUND_US) / DAY_US * DAY_US, max(as_of));
    // A clock that is ahead may have closed more panes.
    ensure!(last >= Some(expected), "the last final rows are of {last:?}, expected {expected}");
    Ok(())
}

/// The contributions of each row sum to its score, exactly.
fn contributions_sum(rows: &RecordBatch) -> Result<()> {
    let scores = rows.column_by_name("score").context("no score")?.as_primitive::<Decimal128Type>();
    let factors = rows.column_by_name("factors").context("no factors")?.as_list::<i32>();
    for row in (0..rows.num_rows()).filter(|row| scores.is_valid(*row)) {
        let items = factors.value(row);
        let contributions = items.as_struct().column_by_name("contribution").context("no contribution")?;
        let sum: i128 = contributions.as_primitive::<Decimal128Type>().iter().flatten().sum();
        ensure!(sum == scores.value(row), "row {row}: contributions {sum}, score {}", scores.value(row));
    }
    Ok(())
}

/// A broker with the topics of the configuration and the records of one topic.
fn with_input(broker: &MemoryBroker, config: &Config, topic: &str) -> Result<MemoryBroker> {
    let copy = in_process::broker(config, 1);
    for record in broker.records(topic) {
        copy.put(&record)?;
    }
    Ok(copy)
}

/// Runs a stage undisturbed over the input of the deployment's stage of that kind. Returns its log and states.
fn undisturbed<S>(
    stages: &Stages,
    kind: Kind,
    stage: &S,
    input: MemoryBroker,
) -> Result<(MemoryBroker, BTreeMap<TopicPartition, SnapshotBytes>)>
where
    S: Stage,
    S::State: Default,
{
    let clock = FixedClock { wall_us: 0 };
    let plan = stages.plan(kind);
    let batch = BatchOptions { max_records: 500, ..stages.config.batch.clone() };
    let config = Config { batch, ..stages.config.clone() };
    let mut runner = InMemory { broker: &input, config: &config, args: &RunArgs::drained(false), clock: &clock }
        .runner(stage, &plan)?;
    runner.run(&AtomicBool::new(false))?;
    let mut states = BTreeMap::new();
    for topic in &plan.sources {
        for partition in (0..config.partitions).filter(|_| stage.is_stateful()) {
            let tp = TopicPartition::new(topic.as_str(), partition);
            states.insert(tp.clone(), bytes(stage, runner.state(), &tp)?);
        }
    }
    Ok((input, states))
}

fn aggregate_again(
    broker: &MemoryBroker,
    stages: &Stages,
    streamed: &Streamed,
    states: &BTreeMap<TopicPartition, SnapshotBytes>,
) -> Result<usize> {
    let topics = &stages.config.topics;
    let input = with_input(broker, &stages.config, &topics.events)?;
    let (again, expected_states) = undisturbed(stages, Kind::Aggregate, &stages.aggregate, input)?;
    let rows = |topic: &str, schema: &SchemaRef| rows_of(&again.records(topic), schema);
    let expected = rows(&topics.windows, &stages.config.aggregate.layout().schema())?;
    let expected_finals = finals(&expected)?;
    let streamed_finals = finals(&streamed.windows)?;
    same_rows(&streamed_finals, std::slice::from_ref(&expected_finals), &WINDOW_KEYS).context("final rows")?;
    ensure!(in_order(&streamed_finals)? == in_order(&expected_finals)?, "final rows come in another order");
    let days = rows(&topics.feature_days, &feature_day::schema())?;
    same_rows(&streamed.feature_days, &[days], &["account_id", "as_of", "feature"]).context("feature days")?;
    let of_periods = rows(&topics.revenue, &revenue::schema())?;
    same_rows(&streamed.revenue, &[of_periods], &check::REVENUE_KEYS).context("revenue")?;
    let lives = |rows: &RecordBatch| without_provenance(&last_lives(rows)?);
    same_rows(&lives(&streamed.windows)?, &[lives(&expected)?], &WINDOW_KEYS).context("last live rows")?;
    same_states(states, &expected_states)?;
    let rejected = |broker: &MemoryBroker| {
        let is_aggregates = |record: &Record| record.header(CONTEXT_HEADERS[4]) == Some(b"aggregate");
        let mut written = messages(broker.records(&topics.rejects).into_iter().filter(is_aggregates));
        // Several members write to the same partitions, so their order is open.
        written.sort();
        written
    };
    ensure!(rejected(broker) == rejected(&again), "other rejects");
    Ok(expected_finals.num_rows())
}

fn score_again(
    broker: &MemoryBroker,
    stages: &Stages,
    streamed: &Streamed,
    states: &BTreeMap<TopicPartition, SnapshotBytes>,
) -> Result<usize> {
    let topics = &stages.config.topics;
    let input = with_input(broker, &stages.config, &topics.windows)?;
    let (again, expected_states) = undisturbed(stages, Kind::Score, &stages.score, input)?;
    let again = again.records(&topics.health);
    let reports = Reports::of(&again)?;
    ensure!(streamed.reports.say_as(&reports), "other reports of panes: {:?}, not {reports:?}", streamed.reports);
    let expected = rows_of(&again, &health::schema())?;
    // Each partition is one sequence of rows, however it was cut into records.
    ensure!(streamed.health == expected, "rows differ: {} and {}", streamed.health.num_rows(), expected.num_rows());
    same_states(states, &expected_states)?;
    Ok(expected.num_rows())
}

fn publish_again(
    broker: &MemoryBroker,
    stages: &Stages,
    streamed: &Streamed,
    states: &BTreeMap<TopicPartition, SnapshotBytes>,
) -> Result<usize> {
    let topics = &stages.config.topics;
    let input = with_input(broker, &stages.config, &topics.health)?;
    let (again, expected_states) = undisturbed(stages, Kind::Publish, &stages.publish, input)?;
    same_states(states, &expected_states)?;
    let mut num_published = 0;
    for (topic, written) in [(&topics.scores, &streamed.scores), (&topics.alerts, &streamed.alerts)] {
        let (written, expected) = (messages(written.iter().cloned()), messages(again.records(topic).into_iter()));
        ensure!(written == expected, "{topic}: {} records, {} expected", written.len(), expected.len());
        num_published += written.len();
    }
    Ok(num_published)
}

/// The tables contain the final rows once, without gap or overlap of claims.
fn tables(world: &World<'_>, streamed: &Streamed) -> Result<usize> {
    let folder = tempfile::tempdir()?;
    for (name, content) in world.objects.borrow().iter() {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().context("no folder")?)?;
        std::fs::write(path, content)?;
    }
    check::tables(streamed, folder.path())
}

type Said = (i32, Option<Vec<u8>>, Option<Vec<u8>>);

/// Partition, key and value of records, in order.
fn messages(records: impl Iterator<Item = Record>) -> Vec<Said> {
    records.map(|record| (record.topic_partition.partition, record.key, record.value.map(Vec::from))).collect()
}

/// Partition and provenance of rows, in the order of the log.
fn in_order(rows: &RecordBatch) -> Result<Vec<(i32, i64, i64)>> {
    let column = |name: &str| rows.column_by_name(name).with_context(|| format!("no column {name}"));
    let partitions = column("partition")?.as_primitive::<Int32Type>();
    let (next, ordinal) =
        (column("next_offset")?.as_primitive::<Int64Type>(), column("ordinal")?.as_primitive::<Int64Type>());
    Ok((0..rows.num_rows()).map(|row| (partitions.value(row), next.value(row), ordinal.value(row))).collect())
}

fn same_states(
    states: &BTreeMap<TopicPartition, SnapshotBytes>,
    expected: &BTreeMap<TopicPartition, SnapshotBytes>,
) -> Result<()> {
    for (tp, expected) in expected {
        let state = states.get(tp).with_context(|| format!("nobody owns {tp}"))?;
        ensure!(state.keys().eq(expected.keys()), "{tp}: parts {:?}, not {:?}", state.keys(), expected.keys());
        for ((name, bytes), expected) in state.iter().zip(expected.values()) {
            let at = bytes.iter().zip(expected).take_while(|(a, b)| a == b).count();
            ensure!(
                bytes == expected,
                "{tp}: part {name} of the state differs from byte {at} on, {} and {} bytes",
                bytes.len(),
                expected.len()
            );
        }
    }
    Ok(())
}

/// Rows without the columns that depend on the cut of the log.
pub fn without_provenance(rows: &RecordBatch) -> Result<RecordBatch> {
    let schema = rows.schema();
    let is_kept = |name: &str| {
        !window::provenance::COLUMNS.iter().any(|column| column.name == name)
            && !["events_next_offset", "changed"].contains(&name)
    };
    let kept: Vec<usize> = (0..rows.num_columns()).filter(|i| is_kept(schema.field(*i).name())).collect();
    Ok(rows.project(&kept)?)
}

/// The rows with windows that end at or before a time, UTC microseconds.
pub fn until(rows: &RecordBatch, end_us: i64) -> Result<RecordBatch> {
    let as_of = rows.column_by_name("as_of").context("no as_of")?.as_primitive::<TimestampMicrosecondType>();
    let keep: BooleanArray = as_of.iter().map(|at| Some(at.is_some_and(|at| at <= end_us))).collect();
    Ok(filter_record_batch(rows, &keep)?)
}
