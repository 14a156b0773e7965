//! `keepwell-score try`: scores stored window rows with a model, without Kafka.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use arrow::array::{RecordBatch, new_null_array};
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::json::LineDelimitedWriter;
use keepwell_core::codec;
use keepwell_core::offset::{NextOffset, Offset, Position, TopicPartition};
use keepwell_core::schema::health;
use keepwell_core::schema::window::Layout;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::Record;
use keepwell_pipeline::stage::{Batch, Stage};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::{Score, State};

/// Rows that are scored at once.
const ROWS: usize = 3000;

/// Arguments of `keepwell-score try`.
#[derive(Debug, clap::Args)]
pub struct TryArgs {
    /// Model file to use. The default is the configured one.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Parquet files of the table `windows`. May be repeated.
    #[arg(long, required = true, num_args = 1..)]
    pub windows: Vec<PathBuf>,
    /// Output format.
    #[arg(long, value_enum, default_value = "text")]
    pub output: Output,
}

/// Output format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// One line per score, for people.
    Text,
    /// One row of the `health` table per line, as JSON.
    Json,
}

/// Writes the scores of the rows to `out`, in the order of time and account.
///
/// # Errors
/// When a file is not a table of window rows, or the model file is refused.
pub fn run(config: &Config, args: &TryArgs, out: &mut impl Write) -> Result<()> {
    let mut config = config.clone();
    config.score.model = args.model.clone().or(config.score.model);
    let stage = Score::new(&config)?;
    let tp = TopicPartition::new(config.topics.windows.as_str(), 0);
    let (mut state, start) = (State::default(), Position::at(NextOffset(0)));
    stage.restore(&mut state, &tp, start, None)?;
    for (offset, rows) in (0..).zip(chunks(&sorted(args, &config.aggregate.layout())?)) {
        let value = Some(codec::encode(&rows)?.into());
        let record = Record { value, ..Record::at(tp.clone(), Offset(offset)) };
        let records = std::slice::from_ref(&record);
        let at = Position::at(NextOffset(offset));
        let batch =
            Batch { records: [(tp.clone(), records)].into(), positions: [(tp.clone(), at)].into(), ..Batch::default() };
        let step = stage.apply(&state, &batch)?;
        for value in step.messages.iter().filter_map(|message| message.value.as_ref()) {
            print(&codec::decode(value, &health::schema())?, args.output, out)?;
        }
        stage.merge(&mut state, step.changes);
    }
    Ok(())
}

/// All rows, in the order of time and account.
fn sorted(args: &TryArgs, layout: &Layout) -> Result<RecordBatch> {
    let schema = layout.schema();
    let mut batches = Vec::new();
    for path in &args.windows {
        let named = || path.display().to_string();
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(File::open(path).with_context(named)?).with_context(named)?;
        for batch in reader.build()? {
            let batch = batch.with_context(named)?;
            let columns = schema.fields().iter().map(|field| {
                match batch.column_by_name(field.name()) {
                    Some(column) => Ok(arrow::compute::cast(column, field.data_type())?),
                    // A file of an older build of the same table.
                    None if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
                    None => anyhow::bail!("{}: no column {}", named(), field.name()),
                }
            });
            let columns = columns.collect::<Result<Vec<_>>>()?;
            batches.push(RecordBatch::try_new(schema.clone(), columns).with_context(named)?);
        }
    }
    let all = concat_batches(&schema, &batches)?;
    let by = |name: &str| {
        let values = all.column_by_name(name).with_context(|| format!("no column {name}"))?.clone();
        anyhow::Ok(SortColumn { values, options: None })
    };
    let order = lexsort_to_indices(&[by("as_of")?, by("account_id")?], None)?;
    Ok(take_record_batch(&all, &order)?)
}

/// Divides the rows into chunks.
fn chunks(rows: &RecordBatch) -> impl Iterator<Item = RecordBatch> {
    (0..rows.num_rows()).step_by(ROWS).map(|from| rows.slice(from, ROWS.min(rows.num_rows() - from)))
}

fn print(rows: &RecordBatch, output: Output, out: &mut impl Write) -> Result<()> {
    if output == Output::Json {
        let mut writer = LineDelimitedWriter::new(&mut *out);
        writer.write(rows)?;
        writer.finish()?;
        return Ok(());
    }
    let wanted = ["as_of", "account_id", "score", "display", "band", "coverage", "model"];
    let columns: Vec<usize> = wanted.iter().map(|name| rows.schema().index_of(name)).collect::<Result<_, _>>()?;
    let shown = rows.project(&columns)?;
    let options = arrow::util::display::FormatOptions::default().with_null("-");
    let columns = shown.columns().iter().map(|column| arrow::util::display::ArrayFormatter::try_new(column, &options));
    let columns: Vec<_> = columns.collect::<Result<_, _>>()?;
    for row in 0..shown.num_rows() {
        let cells: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
        writeln!(out, "{}", cells.join("  "))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use parquet::arrow::ArrowWriter;

    use super::*;
    use crate::tests::{GOOD, config, rows};

    #[test]
    fn stored_rows_are_scored_in_the_order_of_time_whatever_their_order_in_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = |day: i64, uses_per_user: f64| {
            let path = folder.path().join(format!("{day}.parquet"));
            let values: Vec<_> = GOOD.iter().copied().skip(1).chain([("uses_per_user", uses_per_user)]).collect();
            let mut rows = rows(day, true, &values);
            if day == 100 {
                // As an older build wrote it.
                rows.remove_column(rows.schema().index_of("csat_satisfied_28d").unwrap());
            }
            let mut writer = ArrowWriter::try_new(File::create(&path).unwrap(), rows.schema(), None).unwrap();
            writer.write(&rows).unwrap();
            writer.close().unwrap();
            path
        };
        let model = Some(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/worked_example.yaml"));
        let windows = vec![file(101, 1.0), file(100, 8.0)];
        let tried_as = |output| {
            let mut out = Vec::new();
            let args = TryArgs { model: model.clone(), windows: windows.clone(), output };
            run(&config(&[]), &args, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let text = tried_as(Output::Text);
        let scores: Vec<&str> = text.lines().map(|line| line.split_whitespace().nth(2).unwrap()).collect();
        assert_eq!(scores, ["74.750000", "50.250000"], "{text}");
        let deltas: Vec<String> = tried_as(Output::Json)
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["delta"].to_string())
            .collect();
        assert_eq!(deltas.len(), 2);
        assert!(deltas[0] == "null" && deltas[1].contains("-24.5"), "{deltas:?}");
    }
}
