//! The outputs of a deployment, read back from its topics and tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use arrow::array::{AsArray, RecordBatch, Scalar, StringArray, UInt32Array};
use arrow::compute::kernels::cmp;
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};
use keepwell_core::codec;
use keepwell_core::schema::event::schema as event_schema;
use keepwell_core::schema::{feature_day, health, revenue};
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::Record;
use keepwell_sink::claim::Claim;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::compare;
use crate::held::Reports;
use crate::versions::Versions;

/// All outputs of a deployment.
#[derive(Debug)]
pub struct Streamed {
    /// Records of `events`.
    pub events: Vec<Record>,
    /// Window rows, live and final.
    pub windows: RecordBatch,
    /// The versions of the model file, configured and announced.
    pub versions: Versions,
    /// Rows of `feature_days`.
    pub feature_days: RecordBatch,
    /// Rows of `revenue`.
    pub revenue: RecordBatch,
    /// Health rows, live and final.
    pub health: RecordBatch,
    /// Records of `scores`, each partition in order.
    pub scores: Vec<Record>,
    /// Records of `alerts`, each partition in order.
    pub alerts: Vec<Record>,
    /// What the partitions of `health` say about panes that have ended.
    pub reports: Reports,
}

impl Streamed {
    /// Reads the topics of a deployment. `records` returns the records of a topic.
    ///
    /// # Errors
    /// When a topic cannot be read or a record is not a batch of its table.
    pub fn read(config: &Config, records: impl Fn(&str) -> Result<Vec<Record>>) -> Result<Self> {
        let topics = &config.topics;
        let windows = records(&topics.windows)?;
        let of_health = records(&topics.health)?;
        Ok(Self {
            events: records(&topics.events)?,
            windows: compare::rows_of(&windows, &config.aggregate.layout().schema())?,
            versions: Versions::of(config, &windows)?,
            feature_days: compare::rows_of(&records(&topics.feature_days)?, &feature_day::schema())?,
            revenue: compare::rows_of(&records(&topics.revenue)?, &revenue::schema())?,
            health: compare::rows_of(&of_health, &health::schema())?,
            scores: records(&topics.scores)?,
            alerts: records(&topics.alerts)?,
            reports: Reports::of(&of_health)?,
        })
    }
}

impl Streamed {
    /// The same outputs without one account.
    ///
    /// # Errors
    /// When a record is not a batch of its table.
    pub fn without(mut self, account: &str) -> Result<Self> {
        let name = Scalar::new(StringArray::from(vec![account]));
        let others = |rows: &RecordBatch| -> Result<RecordBatch> {
            let ids = rows.column_by_name("account_id").context("no accounts")?;
            Ok(filter_record_batch(rows, &cmp::neq(ids, &name)?)?)
        };
        for record in &mut self.events {
            let Some(value) = &record.value else { continue };
            let rows = others(&codec::decode(value, &event_schema())?)?;
            record.value = (rows.num_rows() > 0).then(|| codec::encode(&rows)).transpose()?.map(Into::into);
        }
        for rows in [&mut self.windows, &mut self.feature_days, &mut self.revenue, &mut self.health] {
            *rows = others(rows)?;
        }
        self.scores.retain(|record| record.key.as_deref() != Some(account.as_bytes()));
        self.alerts.retain(|record| record.key.as_deref() != Some(account.as_bytes()));
        Ok(self)
    }
}

/// The final rows of `windows` or `health`.
///
/// # Errors
/// When there is no such column.
pub fn finals(rows: &RecordBatch) -> Result<RecordBatch> {
    compare::where_flag(rows, "final", true)
}

/// The last live row of each account, if it is newer than the account's last final row.
///
/// # Errors
/// When a column is missing.
pub fn last_lives(rows: &RecordBatch) -> Result<RecordBatch> {
    let text = |name: &str| rows.column_by_name(name).map(|column| column.as_string::<i32>());
    let accounts = text("account_id").context("no accounts")?;
    let as_of = rows.column_by_name("as_of").context("no as_of")?.as_primitive::<TimestampMicrosecondType>();
    let is_final = rows.column_by_name("final").context("no final")?.as_boolean();
    let number = |name: &str| rows.column_by_name(name).map(|column| column.as_primitive::<Int64Type>());
    let (next, ordinal) = (number("next_offset").context("no offset")?, number("ordinal").context("no ordinal")?);
    let mut closed: BTreeMap<&str, i64> = BTreeMap::new();
    let mut last: BTreeMap<&str, (i64, i64, usize)> = BTreeMap::new();
    for row in 0..rows.num_rows() {
        if is_final.value(row) {
            let newest = closed.entry(accounts.value(row)).or_insert(i64::MIN);
            *newest = as_of.value(row).max(*newest);
        } else {
            let place = (next.value(row), ordinal.value(row), row);
            last.entry(accounts.value(row)).and_modify(|known| *known = place.max(*known)).or_insert(place);
        }
    }
    let is_newer = |row: &usize| closed.get(accounts.value(*row)).is_none_or(|closed| as_of.value(*row) > *closed);
    let rows_kept = last.values().map(|(_, _, row)| *row).filter(is_newer).map(|row| row as u32);
    Ok(take_record_batch(rows, &rows_kept.collect::<UInt32Array>())?)
}

/// The rows of both batches, one after the other.
///
/// # Errors
/// When the batches are of different tables.
pub fn stacked(upper: &RecordBatch, lower: &RecordBatch) -> Result<RecordBatch> {
    Ok(concat_batches(&upper.schema(), [upper, lower])?)
}

/// Reads a table from the Parquet files below `folder`.
///
/// # Errors
/// When a file cannot be read or has another schema.
pub fn table(folder: &Path, name: &str, schema: &SchemaRef) -> Result<RecordBatch> {
    let mut batches = Vec::new();
    for path in files_below(&folder.join(name))? {
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        for batch in ParquetRecordBatchReaderBuilder::try_new(file)?.build()? {
            let batch = batch.with_context(|| path.display().to_string())?;
            let batch = codec::as_columns(&batch, schema);
            let batch = batch.with_context(|| format!("{} has other columns than {name}", path.display()))?;
            batches.push(batch.with_schema(schema.clone())?);
        }
    }
    Ok(concat_batches(schema, &batches)?)
}

/// Number of rows of a table, from the metadata of its files.
///
/// # Errors
/// When a file is damaged.
pub fn num_rows(folder: &Path, name: &str) -> Result<u64> {
    let mut sum = 0;
    for path in files_below(&folder.join(name))? {
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        sum += ParquetRecordBatchReaderBuilder::try_new(file)?.metadata().file_metadata().num_rows() as u64;
    }
    Ok(sum)
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if !folder.exists() {
        return Ok(files);
    }
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        // A kill during a write leaves `NAME#1`. No reader's pattern and no listing of the store includes it.
        let is_staged = path.file_name().is_some_and(|name| name.to_string_lossy().contains('#'));
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else if !is_staged {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Checks that claims follow each other without gap or overlap, that their files exist, and that there are no other
/// files. Returns the number of claims.
///
/// # Errors
/// Names the first claim or file that breaks the rule.
pub fn check_claims(folder: &Path) -> Result<usize> {
    let mut claimed = BTreeSet::new();
    let mut ends: BTreeMap<PathBuf, i64> = BTreeMap::new();
    let paths = files_below(&folder.join("_claims"))?;
    for path in &paths {
        let claim: Claim = serde_json::from_slice(&std::fs::read(path)?).with_context(|| path.display().to_string())?;
        let partition = path.parent().context("a claim without a folder")?.to_owned();
        let end = ends.entry(partition).or_insert(0);
        ensure!(claim.first.0 == *end, "{} begins at {}, the one before ends at {end}", path.display(), claim.first);
        *end = claim.end.0;
        claimed.extend(claim.files.iter().map(|file| folder.join(file)));
    }
    let is_data = |path: &PathBuf| !path.starts_with(folder.join("_claims"));
    let there: BTreeSet<PathBuf> = files_below(folder)?.into_iter().filter(is_data).collect();
    ensure!(there == claimed, "files and claims differ: {:?}", there.symmetric_difference(&claimed).next());
    Ok(paths.len())
}
