//! Checks the promises on the outputs of a deployment, against the oracle and among each other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use keepwell_core::schema::columns::Columns;
use keepwell_core::schema::window::{Layout, provenance};
use keepwell_core::schema::{feature_day, health, revenue};
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::Record;
use keepwell_score::recompute::{self, PublishedRows};
use keepwell_sink::alert::Alert;
use serde_json::Value;

use crate::compare::{items_of, over, same_rows};
use crate::held;
use crate::oracle;
use crate::streamed::{Streamed, check_claims, finals, last_lives, stacked, table};

/// What identifies a window row and a score.
const KEYS: [&str; 2] = ["account_id", "as_of"];

/// What identifies a row of revenue.
pub const REVENUE_KEYS: [&str; 4] = ["account_id", "as_of", "period", "period_start"];

/// Number of things that were found equal.
#[derive(Debug)]
pub struct Checked {
    /// Number of final window rows.
    pub windows: usize,
    /// Number of compared columns of a window row.
    pub columns: usize,
    /// Number of live window rows.
    pub live_windows: usize,
    /// Number of feature days.
    pub feature_days: usize,
    /// Number of rows of revenue by period.
    pub revenue: usize,
    /// Number of scores, including the last live ones.
    pub scores: usize,
    /// Number of factors of scores.
    pub factors: usize,
    /// Number of triggers on final rows.
    pub triggers: usize,
    /// Number of accounts with a correct last record on `scores`.
    pub published: usize,
    /// Fates of events in the oracle, with their counts.
    pub fates: BTreeMap<String, u64>,
}

/// Compares everything with the oracle.
///
/// # Errors
/// Names the first cells that differ.
pub async fn against_oracle(streamed: &Streamed, config: &Config) -> Result<Checked> {
    let answer = oracle::answer(&streamed.events, config).await.context("oracle")?;
    let window_finals = finals(&streamed.windows)?;
    let layout = config.aggregate.layout();
    let windows = same_windows(&window_finals, &answer.finals, &layout).context("final window rows")?;
    let lives = last_lives(&streamed.windows)?;
    // An account without a live row in the oracle needs none, even if an event touched it.
    let at_work = accounts_of(&answer.lives)?;
    let touched = accounts_of(&answer.touched)?.into_iter().filter(|account| at_work.contains(account)).collect();
    let live = accounts_of(std::slice::from_ref(&lives))?;
    ensure!(live == touched, "live rows are missing or too many: {:?}", live.symmetric_difference(&touched).next());
    let live_windows =
        same_windows(&lives, &of_accounts(&answer.lives, &lives)?, &layout).context("live window rows")?;
    let feature_days = same_rows(&streamed.feature_days, &answer.feature_days, &["account_id", "as_of", "feature"])
        .context("feature days")?;
    let revenue = same_rows(&streamed.revenue, &answer.revenue, &REVENUE_KEYS).context("revenue")?;
    balances(&streamed.revenue)?;

    // The oracle compares a live row with the last final rows of its account. If final rows followed the live row, it
    // was made from earlier ones. So only live rows after all final rows of their account can be judged.
    let health_finals = finals(&streamed.health)?;
    let health_lives = behind_finals(&last_lives(&streamed.health)?, &health_finals)?;
    let [judged] = &of_accounts(std::slice::from_ref(&lives), &health_lives)?[..] else { anyhow::bail!("no rows") };
    let health = stacked(&health_finals, &health_lives)?;
    let triggers = items_of(&health_finals, "triggers")?;
    let judged_by = PublishedRows { scores: health.clone(), triggers: triggers.clone() };
    let pane_us = config.time.pane.as_micros();
    streamed.versions.check(&streamed.health)?;
    let judged = stacked(&window_finals, judged)?;
    let expected =
        recompute::expected(judged, judged_by, &streamed.versions.files, &layout, pane_us).await.context("scores")?;
    let scores = same_rows(&health, &expected.scores, &KEYS).context("scores")?;
    let item_keys = ["account_id", "as_of", "position"];
    let factors = same_rows(&items_of(&health, "factors")?, &expected.factors, &item_keys).context("factors")?;
    same_rows(&items_of(&health, "drivers")?, &expected.drivers, &item_keys).context("drivers")?;
    let expected = of_finals(&expected.triggers, &health_finals)?;
    let triggers = same_rows(&triggers, &expected, &["account_id", "as_of", "name"]).context("triggers")?;
    Ok(Checked {
        windows,
        columns: layout.columns().len() - provenance::COLUMNS.len(),
        live_windows,
        feature_days,
        revenue,
        scores,
        factors,
        triggers,
        published: published(streamed, config)?,
        fates: answer.fates.into_iter().map(|(fate, count)| (fate, count as u64)).collect(),
    })
}

/// Checks that what moved leads from the opening of each period to its closing.
fn balances(rows: &RecordBatch) -> Result<()> {
    let reader = revenue::Reader::of(Columns::Batch(rows))?;
    for row in (0..rows.num_rows()).map(|row| reader.row(row)) {
        let amounts = [row.opening, row.new, row.expansion, row.reactivated, row.contraction, row.churned, row.closing];
        let Some([opening, new, more, back, less, gone, closing]) = all_known(amounts) else { continue };
        ensure!(opening + new + more + back - less - gone == closing, "revenue does not add up: {row:?}");
        ensure!(less + gone <= opening && (opening == 0 || new + back == 0), "more is lost than there was: {row:?}");
    }
    Ok(())
}

fn all_known<const N: usize>(amounts: [Option<i128>; N]) -> Option<[i128; N]> {
    let known: Vec<i128> = amounts.into_iter().flatten().collect();
    known.try_into().ok()
}

/// Compares the suspect panes of a run without late events with the oracle's.
///
/// # Errors
/// Names the panes that differ.
pub async fn suspect_panes(streamed: &Streamed, config: &Config) -> Result<usize> {
    let Some(ended_us) = streamed.reports.ended_us(config.partitions) else { return Ok(0) };
    let expected = oracle::low_panes(&streamed.events, config, ended_us).await.context("suspect panes")?;
    let low = &streamed.reports.low;
    ensure!(*low == expected, "suspect panes: {low:?}, expected {expected:?}");
    Ok(expected.len())
}

/// Compares window rows, window by window, with the oracle's, which are one row a window. Returns the number of rows.
fn same_windows(rows: &RecordBatch, expected: &[RecordBatch], layout: &Layout) -> Result<usize> {
    for window in layout.windows() {
        let rows = over(rows, layout, window)?;
        let of_window = expected.iter().map(|expected| {
            let periods = cast(expected.column_by_name("period").context("no period")?, &DataType::Utf8)?;
            let is_of = periods.as_string::<i32>().iter().map(|period| Some(period == Some(window.as_str())));
            let expected = filter_record_batch(expected, &is_of.collect::<BooleanArray>())?;
            let schema = expected.schema();
            let is_kept = |column: &usize| rows.schema().index_of(schema.field(*column).name()).is_ok();
            let kept: Vec<usize> = (0..expected.num_columns()).filter(is_kept).collect();
            Ok(expected.project(&kept)?)
        });
        let of_window = of_window.collect::<Result<Vec<_>>>()?;
        same_rows(&rows, &of_window, &KEYS).with_context(|| format!("window {window}"))?;
    }
    Ok(rows.num_rows())
}

fn accounts_of(batches: &[RecordBatch]) -> Result<BTreeSet<String>> {
    let mut accounts = BTreeSet::new();
    for batch in batches {
        let column = cast(batch.column_by_name("account_id").context("no accounts")?, &DataType::Utf8)?;
        accounts.extend(column.as_string::<i32>().iter().flatten().map(str::to_owned));
    }
    Ok(accounts)
}

/// The expected rows of those accounts that occur in `rows`.
fn of_accounts(expected: &[RecordBatch], rows: &RecordBatch) -> Result<Vec<RecordBatch>> {
    let known = accounts_of(std::slice::from_ref(rows))?;
    let kept = expected.iter().map(|batch| {
        let accounts = cast(batch.column_by_name("account_id").context("no accounts")?, &DataType::Utf8)?;
        let is_known = |name: Option<&str>| Some(name.is_some_and(|name| known.contains(name)));
        let keep: BooleanArray = accounts.as_string::<i32>().iter().map(is_known).collect();
        Ok(filter_record_batch(batch, &keep)?)
    });
    kept.collect()
}

/// The live health rows that are after every final row of their accounts in the log.
fn behind_finals(lives: &RecordBatch, finals: &RecordBatch) -> Result<RecordBatch> {
    let places = |rows: &RecordBatch| -> Result<Vec<(String, i64)>> {
        let accounts = rows.column_by_name("account_id").context("no accounts")?.as_string::<i32>();
        let next = rows.column_by_name("next_offset").context("no offset")?.as_primitive::<Int64Type>();
        Ok((0..rows.num_rows()).map(|row| (accounts.value(row).to_owned(), next.value(row))).collect())
    };
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for (account, next) in places(finals)? {
        let known = last.entry(account).or_insert(next);
        *known = next.max(*known);
    }
    let is_behind = |(account, next): &(String, i64)| Some(last.get(account).is_none_or(|last| next >= last));
    Ok(filter_record_batch(lives, &places(lives)?.iter().map(is_behind).collect::<BooleanArray>())?)
}

/// The expected triggers of final rows. Live rows raise and clear nothing.
fn of_finals(expected: &[RecordBatch], health_finals: &RecordBatch) -> Result<Vec<RecordBatch>> {
    let keys = |batch: &RecordBatch| -> Result<Vec<(String, i64)>> {
        let accounts = cast(batch.column_by_name("account_id").context("no accounts")?, &DataType::Utf8)?;
        let times = batch.column_by_name("as_of").context("no as_of")?.as_primitive::<TimestampMicrosecondType>();
        let accounts = accounts.as_string::<i32>();
        Ok((0..batch.num_rows()).map(|row| (accounts.value(row).to_owned(), times.value(row))).collect())
    };
    let known: BTreeSet<_> = keys(health_finals)?.into_iter().collect();
    let kept = expected.iter().map(|batch| {
        let keep: BooleanArray = keys(batch)?.iter().map(|key| Some(known.contains(key))).collect();
        Ok(filter_record_batch(batch, &keep)?)
    });
    kept.collect()
}

/// The parts of a score that lead to a new record on `scores`.
type News = (Option<u64>, Option<String>, bool, Vec<Option<String>>, (String, i64), Vec<(String, Option<String>)>);

/// Triggers are listed on `scores` in these states.
const HOLDING: [&str; 2] = ["raised", "active"];

fn news_of_row(row: &health::Row<'_>) -> News {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let holding = row.triggers.iter().filter(|trigger| HOLDING.contains(&trigger.state));
    let facts = [row.segment, row.stage, row.owner, row.plan, row.customer_status, row.churn_reason, row.currency];
    let facts = facts.into_iter().chain([row.next_stage]);
    let times = [row.customer_since, row.renews_at, row.next_stage_since].map(|us| us.map(health::rfc3339));
    let mrr = row.mrr.map(|hundredths| format!("{}.{:02}", hundredths / 100, hundredths % 100));
    (
        row.score.map(|score| score.to_f64().to_bits()),
        owned(row.band),
        row.is_retired,
        facts.map(owned).chain(times).chain([mrr]).collect(),
        (row.model.to_owned(), row.model_version),
        holding.map(|trigger| (trigger.name.to_owned(), owned(trigger.outcome))).collect(),
    )
}

fn news_of_record(score: &Value) -> News {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let triggers = score["triggers"].as_array().into_iter().flatten();
    let (customer, mrr) = (&score["customer"], score["mrr"].as_f64().map(|mrr| format!("{mrr:.2}")));
    let facts = ["segment", "stage", "owner", "plan"].map(|fact| &score[fact]);
    let lifecycle = &score["lifecycle"];
    let of_customer = [&customer["status"], &customer["churn_reason"], &score["currency"], &lifecycle["next"]];
    let times = [&customer["since"], &score["renews_at"], &lifecycle["next_since"]];
    (
        score["score"].as_f64().map(f64::to_bits),
        text(&score["band"]),
        score["retired"] == true,
        facts.into_iter().chain(of_customer).chain(times).map(text).chain([mrr]).collect(),
        (text(&score["model"]["name"]).unwrap_or_default(), score["model"]["version"].as_i64().unwrap_or_default()),
        triggers.map(|trigger| (text(&trigger["name"]).unwrap_or_default(), text(&trigger["outcome"]))).collect(),
    )
}

/// Checks that the last record of each account on `scores` is the newest row of the account, and that each record is
/// news. Checks that `alerts` contains what is neither held nor dropped. Returns the number of accounts.
fn published(streamed: &Streamed, config: &Config) -> Result<usize> {
    let reader = health::Reader::of(Columns::Batch(&streamed.health))?;
    let mut rows: Vec<_> = (0..streamed.health.num_rows()).map(|row| reader.row(row)).collect();
    rows.sort_by_key(|row| (row.epoch, row.partition, row.next_offset, row.ordinal));
    let mut newest: BTreeMap<&str, &health::Row<'_>> = BTreeMap::new();
    for row in &rows {
        let known = newest.entry(row.account_id).or_insert(row);
        if row.as_of >= known.as_of {
            *known = row;
        }
    }
    let scores = values::<Value>(&streamed.scores)?;
    for (account, row) in &newest {
        let last = scores
            .get(*account)
            .and_then(|values| values.last())
            .with_context(|| format!("{account} is not on scores"))?;
        let expected = (!row.is_deleted).then(|| news_of_row(row));
        ensure!(last.as_ref().map(news_of_record) == expected, "{account}: scores says {last:?}, health {row:?}");
    }
    for (account, values) in &scores {
        ensure!(newest.contains_key(account.as_str()), "{account} is on scores and not in health");
        for pair in values.windows(2) {
            if let [before, after] = pair {
                let news = |score: &Option<Value>| score.as_ref().map(news_of_record);
                ensure!(news(before) != news(after), "{account}: the same twice: {after:?}");
            }
        }
    }
    let mut episodes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let alerts = values::<Alert>(&streamed.alerts)?;
    for alert in alerts.values().flatten() {
        let alert = alert.as_ref().context("an alert without a value")?;
        episodes.entry(alert.alert_id.clone()).or_default().push(alert.event.clone());
    }
    let is_whole = |events: &[String]| {
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        matches!(events[..], ["raised"] | ["raised", "cleared" | "closed"])
    };
    if let Some((id, events)) = episodes.iter().find(|(_, events)| !is_whole(events)) {
        anyhow::bail!("alert {id}: {events:?}");
    }
    if !streamed.reports.has_words {
        let expected = held::expected(&rows, &streamed.reports, config)?;
        let other = expected.iter().find(|(id, events)| episodes.get(*id) != Some(events));
        let more = episodes.iter().find(|(id, _)| !expected.contains_key(*id));
        ensure!(other.is_none() && more.is_none(), "alerts: missing or other {other:?}, too many {more:?}");
    }
    Ok(newest.len())
}

/// The values of each key, in log order.
fn values<T: serde::de::DeserializeOwned>(records: &[Record]) -> Result<BTreeMap<String, Vec<Option<T>>>> {
    let mut by_key: BTreeMap<String, Vec<Option<T>>> = BTreeMap::new();
    for record in records {
        let key = String::from_utf8(record.key.clone().context("a record without a key")?)?;
        let value = record.value.as_deref().map(serde_json::from_slice).transpose()?;
        by_key.entry(key).or_default().push(value);
    }
    Ok(by_key)
}

/// Checks that the Parquet tables contain each final row of the topics once. Returns the number of claims.
///
/// # Errors
/// Names the first cells that differ.
pub fn tables(streamed: &Streamed, folder: &Path) -> Result<usize> {
    let same = |name: &str, schema, rows: RecordBatch, keys: &[&str]| {
        same_rows(&table(folder, name, &schema)?, &[rows], keys).with_context(|| format!("table {name}"))
    };
    same("windows", streamed.windows.schema(), finals(&streamed.windows)?, &KEYS)?;
    same("feature_days", feature_day::schema(), streamed.feature_days.clone(), &["account_id", "as_of", "feature"])?;
    same("revenue", revenue::schema(), streamed.revenue.clone(), &REVENUE_KEYS)?;
    let health = finals(&streamed.health)?;
    // Lists are compared below, item by item.
    let plain: Vec<usize> =
        (0..health.num_columns()).filter(|i| !health.schema().field(*i).data_type().is_nested()).collect();
    let scores = table(folder, "scores", &health::schema())?;
    same_rows(&scores.project(&plain)?, &[health.project(&plain)?], &KEYS).context("table scores")?;
    for list in ["factors", "drivers", "triggers"] {
        same_rows(&items_of(&scores, list)?, &[items_of(&health, list)?], &["account_id", "as_of", "position"])?;
    }
    check_claims(folder)
}
