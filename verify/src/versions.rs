//! The versions of the model file in a deployment: the configured one, and those announced in its log.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use keepwell_pipeline::config::Config;
use keepwell_pipeline::record::Record;
use keepwell_score::model::{self, ModelFile};
use keepwell_score::model_schedule::Announcement;

/// A model version. It scores rows after offset `behind` with `as_of` at or after `from_us` (UTC microseconds).
#[derive(Debug)]
struct Version {
    behind: i64,
    from_us: i64,
    number: i64,
}

/// The versions of all partitions.
#[derive(Debug)]
pub struct Versions {
    /// The model files, the newest last.
    pub files: Vec<ModelFile>,
    of_partition: BTreeMap<i32, Vec<Version>>,
}

impl Versions {
    /// Reads the versions from a configuration and from the records of its `windows` topic, each partition in order.
    /// An announced file that is not valid, or with a version that does not rise, is ignored.
    ///
    /// # Errors
    /// When the configured model is refused.
    pub fn of(config: &Config, windows: &[Record]) -> Result<Self> {
        let layout = config.aggregate.layout();
        let periods = layout.windows();
        let first = match &config.score.model {
            Some(path) => model::parse(&path.display().to_string(), &model::read(path)?, periods)?,
            None => model::parse("default", model::DEFAULT, periods)?,
        };
        let mut of_partition: BTreeMap<i32, Vec<Version>> = BTreeMap::new();
        let mut files = BTreeMap::new();
        for record in windows {
            let Ok(Some(announced)) = Announcement::of(record) else { continue };
            let Ok(file) = model::parse("announced", &announced.text, periods) else { continue };
            if keepwell_score::check_model("announced", &announced.text, &layout).is_err() {
                continue;
            }
            let known = of_partition.entry(record.topic_partition.partition).or_default();
            if known.iter().all(|version| version.number < file.version) && file.version > first.version {
                let from_us = announced.from.as_microsecond();
                known.push(Version { behind: record.offset.0, from_us, number: file.version });
                files.insert(file.version, file);
            }
        }
        Ok(Self { files: std::iter::once(first).chain(files.into_values()).collect(), of_partition })
    }

    /// Checks that each health row was scored by the right model. That is the last one announced before the row with a
    /// start time at or before its `as_of`.
    ///
    /// # Errors
    /// Names the first wrong row.
    pub fn check(&self, health: &RecordBatch) -> Result<()> {
        let column = |name: &str| health.column_by_name(name).with_context(|| format!("no column {name}"));
        let versions = column("model_version")?.as_primitive::<Int64Type>();
        let partitions = column("partition")?.as_primitive::<Int32Type>();
        let next = column("next_offset")?.as_primitive::<Int64Type>();
        let as_of = column("as_of")?.as_primitive::<TimestampMicrosecondType>();
        let first = self.files.first().context("no model")?.version;
        for row in 0..health.num_rows() {
            let known = self.of_partition.get(&partitions.value(row)).map(Vec::as_slice).unwrap_or_default();
            // The offset of the row's record is one less.
            let fits = |version: &&Version| version.behind < next.value(row) - 1 && version.from_us <= as_of.value(row);
            let expected = known.iter().rev().find(fits).map_or(first, |version| version.number);
            ensure!(
                versions.value(row) == expected,
                "row {row}: model version {}, expected {expected}",
                versions.value(row)
            );
        }
        Ok(())
    }
}
