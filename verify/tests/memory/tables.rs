//! A file appears whole and once, no matter which process writes it and which stopped in the middle.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use keepwell::in_process;
use keepwell_core::partitioner::partition_of;
use keepwell_pipeline::clock::FixedClock;
use keepwell_pipeline::config::{Config, Span, Tables as TablesConfig};
use keepwell_pipeline::log::memory::{MemoryBroker, MemoryLog};
use keepwell_pipeline::metrics::StageMetrics;
use keepwell_pipeline::partition_loop::{Session, Worker};
use keepwell_pipeline::record::{Message, Record};
use keepwell_pipeline::store::Store;
use keepwell_sink::Tables;
use keepwell_verify::fleet::{self, Shape};
use keepwell_verify::streamed::Streamed;
use keepwell_verify::{check, streamed};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::{Deployment, WALL_US, args, config};

const CLOCK: FixedClock = FixedClock { wall_us: WALL_US };

/// The records of the topics that become tables, and a separate broker to write them to.
struct Source {
    config: Config,
    records: Vec<Record>,
    broker: MemoryBroker,
    num_writers: Cell<u32>,
}

impl Source {
    fn new() -> Self {
        let deployment = Deployment::of(&fleet::dirty(31, Shape { accounts: 9, days: 25, usage: 3 }), config(&[]));
        let topics = &deployment.config.topics;
        let of_topic = |topic: &String| deployment.records(topic);
        let records = [&topics.windows, &topics.feature_days, &topics.revenue, &topics.health]
            .into_iter()
            .flat_map(of_topic)
            .collect();
        let config = deployment.config.clone();
        let broker = in_process::broker(&config, 1);
        Self { config, records, broker, num_writers: Cell::new(0) }
    }

    /// Writes a part of each partition's records. `from` and `to` are percentages of the partition.
    fn write(&self, from: usize, to: usize) {
        for partition in self.records.chunk_by(|a, b| a.topic_partition == b.topic_partition) {
            let at = |share: usize| partition.len() * share / 100;
            for record in &partition[at(from)..at(to)] {
                let message = Message {
                    topic: record.topic_partition.topic.clone(),
                    partition: record.topic_partition.partition,
                    timestamp_ms: None,
                    key: None,
                    value: record.value.as_deref().map(<[u8]>::to_vec),
                    headers: record.headers.clone(),
                };
                self.broker.produce(&message).unwrap();
            }
        }
    }

    fn writer(&self, folder: &Path) -> Tables<'static, MemoryLog, FixedClock> {
        let url = format!("file://{}", folder.display());
        let tables = TablesConfig::at(url, 1 << 30, Span::from_secs(60));
        let topics = &self.config.topics;
        // Each writer has its own group, so all believe that they own everything.
        let group = format!("tables-{}", self.num_writers.replace(self.num_writers.get() + 1));
        let log = self
            .broker
            .join(&group, "0", &[&topics.windows, &topics.feature_days, &topics.revenue, &topics.health])
            .unwrap();
        let metrics = StageMetrics::unread("tables").unwrap();
        Tables::new(Session::new(log, &CLOCK, metrics), &self.config, &tables, &args()).unwrap()
    }

    fn check(&self, folder: &Path) -> usize {
        let streamed = Streamed::read(&self.config, |topic| Ok(self.broker.records(topic))).unwrap();
        check::tables(&streamed, folder).unwrap()
    }
}

fn drain(writer: &mut Tables<'_, MemoryLog, FixedClock>) {
    writer.run(&AtomicBool::new(false)).unwrap();
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else {
            files.push((path.clone(), std::fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

#[test]
fn a_writer_that_was_overtaken_adopts_the_claims_of_the_other() {
    let source = Source::new();
    let folder = tempfile::tempdir().unwrap();
    let (mut slow, mut other) = (source.writer(folder.path()), source.writer(folder.path()));
    // The slow writer has its partitions and sleeps while another writes the first half.
    drain(&mut slow);
    source.write(0, 50);
    drain(&mut other);
    let claims = source.check(folder.path());
    let half = files(folder.path());
    source.write(50, 100);
    drain(&mut slow);
    assert!(source.check(folder.path()) > claims);
    let whole = files(folder.path());
    assert!(half.iter().all(|file| whole.contains(file)), "what was written stays as it was");
    // Now the other way round: the slow writer is ahead.
    drain(&mut other);
    assert_eq!(files(folder.path()), whole);
}

#[test]
fn a_claim_whose_files_are_missing_is_finished_with_the_same_bytes() {
    let source = Source::new();
    let folder = tempfile::tempdir().unwrap();
    source.write(0, 100);
    drain(&mut source.writer(folder.path()));
    let whole = files(folder.path());
    assert!(source.check(folder.path()) > 0);
    // After a crash between a claim and its files, any of the files can be missing.
    let mut num_removed = 0;
    for (n, (path, _)) in whole.iter().filter(|(path, _)| path.extension().is_some()).enumerate() {
        if n % 3 != 1 {
            std::fs::remove_file(path).unwrap();
            num_removed += 1;
        }
    }
    assert!(num_removed >= 4 && streamed::check_claims(folder.path()).is_err());
    drain(&mut source.writer(folder.path()));
    assert_eq!(files(folder.path()), whole);
}

#[test]
fn a_foreign_claim_and_a_log_that_lost_records_are_named_stops() {
    let source = Source::new();
    source.write(0, 50);
    let stop = |claim: &str| {
        let folder = tempfile::tempdir().unwrap();
        let claims = folder.path().join("_claims/windows/1/0");
        std::fs::create_dir_all(&claims).unwrap();
        std::fs::write(claims.join(format!("{:020}", 0)), claim).unwrap();
        source.writer(folder.path()).run(&AtomicBool::new(false)).unwrap_err().to_string()
    };
    // Columns: the claim, and words that the message must contain.
    let cases: [(&str, &[&str]); 4] = [
        ("{}", &["_claims/windows/1/0", "first"]),
        (r#"{"first":0,"end":0,"files":[],"writer":"x"}"#, &["range is 0 to 0"]),
        (
            r#"{"first":0,"end":100000,"files":[],"writer":"x"}"#,
            &["windows-0", "the tables end at 100000", "--from beginning"],
        ),
        (r#"{"first":0,"end":1,"files":["windows/other.parquet"],"writer":"x"}"#, &["windows-0", "other files"]),
    ];
    for (claim, words) in cases {
        let message = stop(claim);
        for word in words {
            assert!(message.contains(word), "{word:?} is not in: {message}");
        }
    }
}

#[test]
fn an_erased_account_is_in_no_file_and_all_other_rows_are_as_they_were() {
    let source = Source::new();
    let folder = tempfile::tempdir().unwrap();
    source.write(0, 100);
    drain(&mut source.writer(folder.path()));
    let before = files(folder.path());
    let account = "account-003";
    let partition = partition_of(account, source.config.partitions);
    let store = Store::open(&format!("file://{}", folder.path().display()), &Default::default()).unwrap();
    let erased = keepwell_sink::erase::account(&store, source.config.epoch, partition, account).unwrap();
    assert!(erased.num_rows > 60 && erased.num_rewritten >= 3 && erased.num_missing == 0, "{erased:?}");

    let mut num_rows = 0;
    for ((path, was), (same_path, is)) in before.into_iter().zip(files(folder.path())) {
        assert_eq!(path, same_path);
        if was == is {
            continue;
        }
        let (was, is) = (rows_of(was), rows_of(is));
        let ids = was.column_by_name("account_id").unwrap().as_string::<i32>();
        let others = ids.iter().map(|id| Some(id != Some(account))).collect();
        assert_eq!(is, filter_record_batch(&was, &others).unwrap(), "{}", path.display());
        num_rows += was.num_rows() - is.num_rows();
    }
    assert_eq!(num_rows, erased.num_rows);
    let again = keepwell_sink::erase::account(&store, source.config.epoch, partition, account).unwrap();
    assert_eq!((again.num_files, again.num_rewritten, again.num_rows), (erased.num_files, 0, 0));
    // A claimed file that is not written yet will contain the rows of its records.
    std::fs::remove_file(files(folder.path()).into_iter().map(|(path, _)| path).find(is_of(partition)).unwrap())
        .unwrap();
    assert_eq!(keepwell_sink::erase::account(&store, source.config.epoch, partition, account).unwrap().num_missing, 1);
}

fn is_of(partition: i32) -> impl Fn(&PathBuf) -> bool {
    let start = format!("1-{partition:05}-");
    move |path| path.file_name().unwrap().to_str().unwrap().starts_with(&start)
}

fn rows_of(file: Vec<u8>) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(file)).unwrap();
    let schema = reader.schema().clone();
    concat_batches(&schema, &reader.build().unwrap().map(Result::unwrap).collect::<Vec<_>>()).unwrap()
}
