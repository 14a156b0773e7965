//! The oracle: every measure as plain DataFusion SQL over all accepted events and their arrival.
//!
//! It is slow, and simple enough to be obviously right. It shares only the schemas and the decoder of `events` with the
//! stages.
//! Watermark, fates, panes, windows and measures are implemented again, in `oracle/*.sql` and `arrival.rs`.

mod arrival;
mod periods;
mod plans;
mod suspect;

use std::sync::Arc;

use anyhow::{Context, Result};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use keepwell_core::schema::window;
use keepwell_pipeline::config::{Answers, Config, Targets};
use keepwell_pipeline::record::Record;

pub use arrival::{Arrivals, read};
pub use suspect::low_panes;

/// The rows that the stages must publish.
#[derive(Debug)]
pub struct Answer {
    /// The final rows, ordered by account, time and period. Maps are `key=value;` texts, times are microseconds.
    pub finals: Vec<RecordBatch>,
    /// The rows of the open pane, as the last live rows must be, in the same form.
    pub lives: Vec<RecordBatch>,
    /// Accounts with an event that no final row contains. Each must have a live row at the end.
    pub touched: Vec<RecordBatch>,
    /// The feature days, ordered by account, pane and feature.
    pub feature_days: Vec<RecordBatch>,
    /// Revenue by period, ordered by account, time, period and its start.
    pub revenue: Vec<RecordBatch>,
    /// Fates with their counts, ordered by name.
    pub fates: Vec<(String, i64)>,
}

/// The SQL files, in the order in which they build on each other.
const STATEMENTS: [&str; 8] = [
    include_str!("oracle/fates.sql"),
    include_str!("oracle/grid.sql"),
    CONTRACTS,
    include_str!("oracle/windows.sql"),
    include_str!("oracle/facts.sql"),
    include_str!("oracle/usage.sql"),
    include_str!("oracle/tickets.sql"),
    include_str!("oracle/rows.sql"),
];

const CONTRACTS: &str = include_str!("oracle/contracts.sql");
const REVENUE: &str = include_str!("oracle/revenue.sql");

/// Computes the answer for the records of `events`, all partitions.
///
/// # Errors
/// When a record cannot be decoded or a statement fails.
pub async fn answer(records: &[Record], config: &Config) -> Result<Answer> {
    let arrivals = read(records, config.time.panes())?;
    let closed_us = arrivals.closed_us;
    let session = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    register(&session, "events", arrivals.events)?;
    register(&session, "fact", vec![arrivals.facts])?;
    register(&session, "entitlement", vec![arrivals.entitlements])?;
    periods::register_calendar(&session, config, &arrivals.closes)?;
    register(&session, "closes", vec![arrivals.closes])?;
    register_settings(&session, config)?;
    let mut statements = Vec::new();
    let revenue = periods::filled(REVENUE, CONTRACTS, config);
    for statement in STATEMENTS.iter().chain([&revenue.as_str()]).flat_map(|file| file.split("-- table ").skip(1)) {
        let (name, sql) = statement.split_once('\n').context("a table without a statement")?;
        statements.push((name, fill(&without_comments(sql), config, closed_us)));
    }
    for (done, (name, sql)) in (1..).zip(&statements) {
        let table = async {
            let frame = session.sql(sql).await?;
            let empty = RecordBatch::new_empty(Arc::clone(frame.schema().inner()));
            let mut batches = frame.collect().await?;
            // Nullability differs between the plan and the batches. A table without rows gets an empty batch.
            if batches.is_empty() {
                batches.push(empty);
            }
            anyhow::Ok(batches)
        };
        register(&session, name, table.await.with_context(|| format!("table {name}"))?)?;
        forget_what_no_later_statement_reads(&session, statements.get(done..).unwrap_or_default())?;
    }
    let collect = async |sql: &str| anyhow::Ok(session.sql(sql).await?.collect().await?);
    let fates = collect("select fate, count(*) as n from fated group by fate order by fate").await?;
    let feature_days = format!(
        "select account_id, (p + 1) * {0} as as_of, feature, events, uses, users, duration_ms, errors from feature_day where (p + 1) * {0} <= {closed_us} order by 1, 2, 3",
        config.time.pane.as_micros()
    );
    Ok(Answer {
        finals: collect(&format!("select * from finals where as_of <= {closed_us} order by account_id, as_of, period"))
            .await?,
        lives: collect(&format!("select * from finals where as_of > {closed_us} order by account_id, as_of, period"))
            .await?,
        touched: collect(&format!(
            "select distinct account_id from accepted where (visible + 1) * {} > {closed_us}",
            config.time.pane.as_micros()
        ))
        .await?,
        feature_days: collect(&feature_days).await?,
        revenue: collect(&format!(
            "select * from revenue where as_of <= {closed_us} order by account_id, as_of, period, period_start"
        ))
        .await?,
        fates: fates.iter().flat_map(pairs).collect(),
    })
}

/// Names of the tables that the answer itself reads.
const ANSWERED: [&str; 5] = ["finals", "accepted", "fated", "feature_day", "revenue"];

/// Drops tables early; otherwise large data would not fit into memory.
fn forget_what_no_later_statement_reads(session: &SessionContext, later: &[(&str, String)]) -> Result<()> {
    let schema = session.catalog("datafusion").and_then(|catalog| catalog.schema("public")).context("no schema")?;
    let is_read = |table: &str| {
        let mut words = later.iter().flat_map(|(_, sql)| sql.split(|c: char| !c.is_alphanumeric() && c != '_'));
        ANSWERED.contains(&table) || words.any(|word| word == table)
    };
    for table in schema.table_names().iter().filter(|table| !is_read(table)) {
        session.deregister_table(table.as_str())?;
    }
    Ok(())
}

/// Drops comment lines. Those after a statement describe the next table.
fn without_comments(sql: &str) -> String {
    sql.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n")
}

fn pairs(batch: &RecordBatch) -> Vec<(String, i64)> {
    use arrow::array::AsArray;
    let names = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8);
    let counts = batch.column(1).as_primitive::<arrow::datatypes::Int64Type>();
    let Ok(names) = names else { return Vec::new() };
    let names = names.as_string::<i32>();
    (0..batch.num_rows()).map(|row| (names.value(row).to_owned(), counts.value(row))).collect()
}

fn register(session: &SessionContext, name: &str, batches: Vec<RecordBatch>) -> Result<()> {
    let schema = batches.first().with_context(|| format!("table {name} has no schema"))?.schema();
    session.register_table(name, Arc::new(MemTable::try_new(schema, vec![batches])?))?;
    Ok(())
}

fn texts<T: AsRef<str>>(values: impl IntoIterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn register_settings(session: &SessionContext, config: &Config) -> Result<()> {
    let table = |columns: Vec<(&str, ArrayRef)>| RecordBatch::try_from_iter(columns);
    let (aggregate, pane_us) = (&config.aggregate, config.time.pane.as_micros());
    let panes = aggregate.windows.iter().map(|window| window.as_micros() / pane_us);
    let numbers = 0..2 * panes.clone().max().unwrap_or_default();
    let numbers = table(vec![("n", Arc::new(Int64Array::from_iter_values(numbers)) as ArrayRef)])?;
    register(session, "numbers", vec![numbers])?;
    let periods = texts(aggregate.windows.iter().map(ToString::to_string));
    let windows = table(vec![("period", periods), ("panes", Arc::new(Int64Array::from_iter_values(panes)))])?;
    let target_ms = |t: &Targets| {
        let spans = [t.low, t.normal, t.high, t.urgent];
        Arc::new(Int64Array::from_iter_values(spans.map(|span| span.as_duration().as_millis() as i64))) as ArrayRef
    };
    let targets = table(vec![
        ("priority", Arc::new(Int64Array::from_iter_values(1..=4))),
        ("first_response_ms", target_ms(&aggregate.first_response_target)),
        ("resolution_ms", target_ms(&aggregate.resolution_target)),
    ])?;
    register(session, "windows", vec![windows])?;
    register(session, "target", vec![targets])?;
    register(session, "category", vec![table(vec![("category", texts(&aggregate.ticket_categories))])?])?;
    register(session, "catalogue", vec![table(vec![("feature", texts(&aggregate.catalogue))])?])?;
    let groups = aggregate.feature_groups.iter();
    let patterns = groups.flat_map(|(name, patterns)| patterns.iter().map(move |pattern| (name, like(pattern))));
    let (names, patterns): (Vec<&String>, Vec<String>) = patterns.unzip();
    register(session, "feature_group", vec![table(vec![("name", texts(names)), ("pattern", texts(patterns))])?])?;
    for (name, rows) in plans::tables(&aggregate.success_plans)? {
        register(session, name, vec![rows])?;
    }
    register(session, "champion_role", vec![table(vec![("role", texts(&aggregate.champion_roles))])?])?;
    Ok(())
}

/// A pattern as SQL has it.
fn like(pattern: &str) -> String {
    let escaped = pattern.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
    escaped.replace('*', "%")
}

/// Puts the configuration's numbers and the repeated column lists into a statement.
fn fill(sql: &str, config: &Config, closed_us: i64) -> String {
    let aggregate = &config.aggregate;
    let of_group = |group: &String| {
        window::feature_group::COLUMNS.iter().map(|column| format!("{group}_{}", column.name)).collect::<Vec<_>>()
    };
    let measures: Vec<String> = window::windowed()
        .map(|column| column.name.to_owned())
        .chain(aggregate.feature_groups.keys().flat_map(of_group))
        .collect();
    let columns = |side: &str, prefix: &str| {
        measures.iter().map(|name| format!("{side}.{name} as {prefix}{name}")).collect::<Vec<_>>().join(", ")
    };
    let group_columns = aggregate.feature_groups.keys().map(|name| {
        format!(
            ", coalesce(gr_{name}.uses, 0) as {name}_uses, coalesce(gr_{name}.users, 0) as {name}_users, \
             coalesce(gr_{name}.active_days, 0) as {name}_active_days, \
             cast(coalesce(gr_{name}.users, 0) as double) / cast(s.active_users as double) as {name}_user_share"
        )
    });
    let group_joins = aggregate.feature_groups.keys().map(|name| {
        format!(
            "left join w_group gr_{name} on gr_{name}.feature_group = '{name}' and gr_{name}.account_id = g.account_id \
             and gr_{name}.p = g.p and gr_{name}.period = g.period and gr_{name}.is_previous = g.is_previous\n"
        )
    });
    let within = |what: &str, limit: &str| {
        let by_priority = (1..=4).flat_map(|n| {
            let of = format!("sum(case when is_{what} and priority_now = {n}");
            [
                format!("{of} then 1 else 0 end) as {what}_n_{n}"),
                format!("{of} and age_ms <= {limit} then 1 else 0 end) as {what}_in_{n}"),
            ]
        });
        by_priority.collect::<Vec<_>>().join(", ")
    };
    let as_of: Vec<String> = window::as_of().map(|column| format!("a.{}", column.name)).collect();
    let lengths = aggregate.windows.iter().map(|window| window.as_micros() / config.time.pane.as_micros());
    let longest = lengths.max().unwrap_or(1);
    let mut catalogue = aggregate.catalogue.clone();
    catalogue.sort();
    catalogue.dedup();
    [
        ("{width}", config.time.pane.as_micros().to_string()),
        ("{closed}", closed_us.to_string()),
        ("{longest}", longest.to_string()),
        ("{lateness}", config.time.lateness.as_micros().to_string()),
        ("{grace}", config.revenue.grace.as_micros().to_string()),
        ("{retire}", aggregate.retire_after.as_micros().to_string()),
        ("{first_value_feature}", aggregate.first_value_feature.clone().unwrap_or_default()),
        ("{catalogue_size}", catalogue.len().to_string()),
        ("{all_answers}", (aggregate.answers == Answers::All).to_string()),
        ("{now_columns}", columns("n", "")),
        ("{previous_columns}", columns("b", "previous_")),
        ("{as_of_columns}", as_of.join(", ")),
        ("{group_columns}", group_columns.collect()),
        ("{group_joins}", group_joins.collect()),
        (
            "{within_target}",
            [within("response", "first_response_ms"), within("resolution", "resolution_ms")].join(", "),
        ),
    ]
    .iter()
    .fold(sql.to_owned(), |sql, (name, value)| sql.replace(name, value))
}
