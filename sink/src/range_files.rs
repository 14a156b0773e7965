//! Files of a range: a pure function of the records in it.
//!
//! A range of one partition becomes one Parquet file for each month of `as_of`, sorted by account.
//! Months keep the number of files low when a history covers years.
//! Equal ranges give equal names and equal bytes, whoever writes them.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::{concat, filter_record_batch, interleave_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use keepwell_core::offset::NextOffset;
use keepwell_core::pane::DAY_US;
use keepwell_core::schema::columns::Columns;
use keepwell_core::schema::window::Layout;
use keepwell_core::schema::{feature_day, health, revenue};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

/// A topic with final rows that become tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The topic for the table `windows`.
    Windows,
    /// The topic for the table `feature_days`.
    FeatureDays,
    /// The topic for the table `scores`.
    Health,
    /// The topic for the table `revenue`.
    Revenue,
}

/// A range of offsets of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Source of the rows; it decides which tables they go to.
    pub source: Source,
    /// Epoch of the log.
    pub epoch: u32,
    /// Number of the partition.
    pub partition: i32,
    /// Offset of the first record.
    pub first: NextOffset,
    /// Next offset: behind the last record.
    pub end: NextOffset,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Path below the URL of the tables.
    pub name: String,
    /// The whole content.
    pub content: Vec<u8>,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 4] = [Self::Windows, Self::FeatureDays, Self::Health, Self::Revenue];

    /// Name of the source, as in the claims.
    pub fn name(self) -> &'static str {
        match self {
            Self::Windows => "windows",
            Self::FeatureDays => "feature_days",
            Self::Health => "health",
            Self::Revenue => "revenue",
        }
    }

    /// Schema of the source's records, if window rows have this layout.
    pub fn schema(self, layout: &Layout) -> SchemaRef {
        match self {
            Self::Windows => layout.schema(),
            Self::FeatureDays => feature_day::schema(),
            Self::Health => health::schema(),
            Self::Revenue => revenue::schema(),
        }
    }

    /// The rows of a batch that were made at a close. Live rows are dropped.
    ///
    /// # Errors
    /// [`ArrowError`] when the batch has another schema.
    pub fn finals(self, batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        match self {
            Self::FeatureDays | Self::Revenue => Ok(batch.clone()),
            Self::Windows | Self::Health => filter_record_batch(batch, Columns::Batch(batch).flag("final")?),
        }
    }

    /// The table that this source fills. Its rows are the final rows of the source.
    fn table(self) -> &'static str {
        match self {
            Self::Windows => "windows",
            Self::FeatureDays => "feature_days",
            Self::Health => "scores",
            Self::Revenue => "revenue",
        }
    }
}

fn missing(name: &str) -> ArrowError {
    ArrowError::SchemaError(format!("no column {name}"))
}

/// The files of a range with these final rows, ordered by name.
///
/// # Errors
/// [`ArrowError`] when the rows cannot be written.
pub fn files(range: Range, finals: &[RecordBatch]) -> Result<Vec<File>, ArrowError> {
    let mut files = Vec::new();
    if finals.is_empty() {
        return Ok(files);
    }
    for (month, rows) in by_month(finals)? {
        let name = format!(
            "{}/month={month}/{}-{:05}-{:020}-{:020}.parquet",
            range.source.table(),
            range.epoch,
            range.partition,
            range.first.0,
            range.end.0
        );
        files.push(File { name, content: parquet(finals, &rows, words(range))? });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

/// Number of scattered rows to copy together at a time. So few stay in the processor's cache until they are written.
const CHUNK_ROWS: usize = 1024;
/// A run of at least this many rows that already follow each other in a batch is written without a copy. The rows of a
/// close come in file order, so most rows are in such runs.
const RUN_ROWS: usize = 64;

/// Position of a row: index of the batch, index of the row in it.
type RowRef = (usize, usize);

/// Sort order of the rows in a file: by account, then time, then the order in which they were made.
const ORDER: [&str; 4] = ["account_id", "as_of", "next_offset", "ordinal"];

/// Groups rows by the UTC month of their `as_of`, for example `2024-03`, in file order. It copies only the columns that
/// order the rows.
fn by_month(batches: &[RecordBatch]) -> Result<BTreeMap<String, Vec<RowRef>>, ArrowError> {
    let of_all = |name: &str| -> Result<Option<ArrayRef>, ArrowError> {
        let parts: Option<Vec<_>> = batches.iter().map(|batch| batch.column_by_name(name).map(AsRef::as_ref)).collect();
        parts.map(|parts| concat(&parts)).transpose()
    };
    let keys: Vec<ArrayRef> = ORDER.iter().filter_map(|name| of_all(name).transpose()).collect::<Result<_, _>>()?;
    let kinds = keys.iter().map(|values| SortField::new(values.data_type().clone())).collect();
    let keys = RowConverter::new(kinds)?.convert_columns(&keys)?;
    let as_of = of_all("as_of")?.ok_or_else(|| missing("as_of"))?;
    let as_of = as_of.as_primitive::<TimestampMicrosecondType>();
    let rows_of = |(batch, rows): (usize, &RecordBatch)| (0..rows.num_rows()).map(move |row| (batch, row));
    let rows: Vec<RowRef> = batches.iter().enumerate().flat_map(rows_of).collect();
    // Compute the month once a day, not once a row: there are few days, however many rows.
    let mut days: BTreeMap<i64, String> = BTreeMap::new();
    let mut months: BTreeMap<String, Vec<RowRef>> = BTreeMap::new();
    let mut order: Vec<usize> = (0..rows.len()).collect();
    // A stable sort is fast on rows that are already in order.
    order.sort_by(|a, b| keys.row(*a).cmp(&keys.row(*b)));
    for index in order {
        let day = as_of.value(index).div_euclid(DAY_US);
        let month = match days.entry(day) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(month_of(day)?),
        };
        match months.get_mut(month) {
            Some(known) => known.push(rows[index]),
            None => drop(months.insert(month.clone(), vec![rows[index]])),
        }
    }
    Ok(months)
}

/// Month of a day, counted in days since 1970; for example `2024-03`.
fn month_of(day: i64) -> Result<String, ArrowError> {
    let time = jiff::Timestamp::from_microsecond(day.saturating_mul(DAY_US));
    Ok(time.map_err(|error| ArrowError::ExternalError(Box::new(error)))?.strftime("%Y-%m").to_string())
}

/// Key in a file's metadata. Its value names the range from which the file was made.
pub(crate) const RANGE_KEY: &str = "keepwell.range";

/// Text that names a range in a file's metadata.
fn words(range: Range) -> String {
    let Range { source, epoch, partition, first, end } = range;
    format!("{} epoch {epoch} partition {partition} offsets [{first}, {end})", source.name())
}

/// The columns whose pages have statistics. Queries look for accounts and times; other columns have them once a file.
const SOUGHT: [&str; 2] = ["account_id", "as_of"];

/// Settings of the Parquet writer for these columns. `of` is the text that names the file's range.
///
/// Integers and times are deltas: most of them repeat or rise. Looking each up in a dictionary takes longer. Texts,
/// floats and decimals are looked up, since they have few values.
///
/// # Errors
/// None in practice: the compression level is valid.
pub fn properties(of: String, columns: &Schema) -> Result<WriterProperties, ArrowError> {
    let level = ZstdLevel::try_new(1).map_err(ArrowError::from)?;
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_key_value_metadata(Some(vec![KeyValue::new(RANGE_KEY.to_owned(), of)]));
    for name in SOUGHT {
        properties = properties.set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::Page);
    }
    let is_delta = |kind: &DataType| matches!(kind, DataType::Int32 | DataType::Int64 | DataType::Timestamp(..));
    for field in columns.fields().iter().filter(|field| is_delta(field.data_type())) {
        let column = ColumnPath::from(field.name().as_str());
        properties = properties
            .set_column_dictionary_enabled(column.clone(), false)
            .set_column_encoding(column, Encoding::DELTA_BINARY_PACKED);
    }
    Ok(properties.build())
}

/// Writes rows as a Parquet file, and returns its content. `of` names the range.
pub(crate) fn parquet(finals: &[RecordBatch], order: &[RowRef], of: String) -> Result<Vec<u8>, ArrowError> {
    let first = finals.first().ok_or_else(|| ArrowError::SchemaError("a file without rows".into()))?;
    let schema = first.schema();
    let properties = properties(of, &schema)?;
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(ArrowError::from)?;
    let mut write = |rows: &RecordBatch| writer.write(rows).map_err(ArrowError::from);
    let finals: Vec<&RecordBatch> = finals.iter().collect();
    let mut scattered: Vec<RowRef> = Vec::new();
    for run in order.chunk_by(|(batch, row), next| (*batch, row + 1) == *next) {
        let is_short = run.len() < RUN_ROWS;
        scattered.extend(run.iter().filter(|_| is_short));
        if !scattered.is_empty() && (!is_short || scattered.len() >= CHUNK_ROWS) {
            write(&interleave_record_batch(&finals, &scattered)?)?;
            scattered.clear();
        }
        if let (false, [(batch, row), ..]) = (is_short, run) {
            write(&finals[*batch].slice(*row, run.len()))?;
        }
    }
    if !scattered.is_empty() {
        write(&interleave_record_batch(&finals, &scattered)?)?;
    }
    writer.into_inner().map_err(ArrowError::from)
}

#[cfg(test)]
mod tests {
    use arrow::compute::concat_batches;
    use keepwell_core::points::Points;

    use super::*;

    fn day(account: &str, day: i64, feature: &str) -> RecordBatch {
        let mut rows = feature_day::Writer::default();
        rows.append(feature_day::Row {
            account_id: account,
            as_of: day * DAY_US,
            feature,
            events: 1,
            uses: 1,
            users: 1,
            duration_ms: None,
            errors: None,
            epoch: 1,
            partition: 2,
            next_offset: 3,
            ordinal: 4,
        });
        rows.finish().unwrap()
    }

    #[test]
    fn a_range_gives_one_sorted_file_a_month_in_whatever_order_its_rows_came() {
        let range =
            Range { source: Source::FeatureDays, epoch: 1, partition: 2, first: NextOffset(7), end: NextOffset(9) };
        let pieces = [day("b", 20_000, "f"), day("a", 20_001, "f"), day("a", 20_030, "f")];
        let files = super::files(range, &pieces).unwrap();
        let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
        let name = |month: &str| format!("feature_days/month={month}/1-00002-{:020}-{:020}.parquet", 7, 9);
        assert_eq!(names, [name("2024-10"), name("2024-11")]);
        let whole = concat_batches(&feature_day::schema(), &pieces).unwrap();
        assert_eq!(super::files(range, &[whole]).unwrap(), files);
        let content = bytes_of(&files[0]);
        assert_eq!(content.column(0).as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn rows_come_in_the_order_of_a_file_however_long_their_runs_are_in_the_batches() {
        let range =
            Range { source: Source::FeatureDays, epoch: 1, partition: 2, first: NextOffset(7), end: NextOffset(9) };
        let rows = |names: Vec<String>| {
            let rows: Vec<RecordBatch> = names.iter().map(|name| day(name, 20_000, "f")).collect();
            concat_batches(&feature_day::schema(), &rows).unwrap()
        };
        let name = |n: usize| format!("{n:05}");
        // The first run is written without a copy. Then single rows of two batches alternate, more of them than one
        // copy takes. Then comes another run.
        let turns = 1000..1000 + 3 * CHUNK_ROWS;
        let batches = [
            rows((0..3 * RUN_ROWS).chain(turns.clone().filter(|n| n % 2 == 0)).map(name).collect()),
            rows(turns.clone().filter(|n| n % 2 == 1).chain(9000..9000 + 2 * RUN_ROWS).map(name).collect()),
        ];
        let files = super::files(range, &batches).unwrap();
        let [file] = files.as_slice() else { panic!("{} files", files.len()) };
        let expected: Vec<String> = (0..3 * RUN_ROWS).chain(turns).chain(9000..9000 + 2 * RUN_ROWS).map(name).collect();
        assert_eq!(names_of(file), expected);
    }

    /// A score of an account with this number of factors.
    fn score_of(account: &str, num_factors: usize) -> RecordBatch {
        let names: Vec<String> = (0..num_factors).map(|n| format!("{account}{n}")).collect();
        let factor = |name| health::factor::Row {
            name,
            group: None,
            value: None,
            normalised: None,
            weight: Points::HUNDRED,
            effective_weight: Points::HUNDRED,
            contribution: None,
            missing: None,
            carried_from: None,
        };
        let mut rows = health::Writer::default();
        rows.append(health::Row {
            account_id: account,
            as_of: 1,
            is_final: true,
            is_retired: false,
            is_deleted: false,
            score: None,
            display: None,
            band: None,
            band_since: None,
            previous_as_of: None,
            previous_score: None,
            previous_band: None,
            delta: None,
            coverage: Points::ZERO,
            baseline_score: None,
            factors: names.iter().map(|name| factor(name.as_str())).collect(),
            drivers: Vec::new(),
            triggers: Vec::new(),
            segment: None,
            stage: None,
            stage_since: None,
            next_stage: None,
            next_stage_since: None,
            stage_rules: None,
            stage_owner_role: None,
            stage_action: None,
            stage_metric: None,
            stage_metric_value: None,
            owner: None,
            customer_status: None,
            customer_since: None,
            churn_reason: None,
            plan: None,
            mrr: None,
            currency: None,
            renews_at: None,
            model: "model",
            model_version: 1,
            is_changed: false,
            epoch: 1,
            partition: 1,
            next_offset: 1,
            ordinal: 1,
            events_next_offset: 1,
            watermark: None,
        });
        rows.finish().unwrap()
    }

    #[test]
    fn factors_stand_by_account_and_in_the_order_of_the_model() {
        let range = Range { source: Source::Health, epoch: 1, partition: 2, first: NextOffset(7), end: NextOffset(9) };
        let whole = |batches: &[RecordBatch]| concat_batches(&health::schema(), batches).unwrap();
        let expected = whole(&[score_of("a", 3), score_of("b", 1), score_of("c", 2), score_of("d", 0)]);
        let batches = [whole(&[score_of("c", 2), score_of("a", 3)]), whole(&[score_of("d", 0), score_of("b", 1)])];
        // The rows come in several batches, in one, and in a slice of one.
        for batches in [&batches[..], &[whole(&batches)], &[whole(&[score_of("0", 5), whole(&batches)]).slice(1, 4)]] {
            let [file] = &super::files(range, batches).unwrap()[..] else { panic!("one file") };
            assert!(file.name.starts_with("scores/month="), "{}", file.name);
            assert_eq!(bytes_of(file).columns(), expected.columns());
        }
    }

    fn names_of(file: &File) -> Vec<String> {
        let content = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(
            file.content.clone(),
        ));
        let batches = content.unwrap().build().unwrap().map(|batch| batch.unwrap());
        batches
            .flat_map(|batch| {
                batch.column(0).as_string::<i32>().iter().flatten().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect()
    }

    fn bytes_of(file: &File) -> RecordBatch {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f.parquet");
        std::fs::write(&path, &file.content).unwrap();
        let file = std::fs::File::open(path).unwrap();
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        reader.build().unwrap().next().unwrap().unwrap()
    }
}
