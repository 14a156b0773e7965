//! The compared systems: Keepwell with four stages, each peer as one JVM.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cost::Cost;
use super::rows::WINDOWS;

/// Default number of partitions of every topic. The peers have as many tasks.
pub const PARTITIONS: i32 = 2;

/// Allowed lateness. No event of the load may be too late, as in a deployment that keeps up, so that their raw bytes
/// are not carried along. Ids are kept for the same time.
const LATENESS: &str = "14d";
/// Bound for events out of order within a partition.
const FLINK_BOUND: Duration = Duration::from_secs(60);
/// Bound for partitions that drift apart in Kafka Streams. Its time is that of the newest record after the re-keying.
const STREAMS_GRACE: Duration = Duration::from_secs(36 * 3600);

/// A system that does the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    /// Keepwell with four stages. It also writes scores and Parquet files.
    Keepwell,
    /// Apache Flink, with its state on the heap or in RocksDB.
    Flink(State),
    /// Kafka Streams, with its stores in memory or in RocksDB.
    Streams(State),
}

/// Where a peer keeps its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// In the heap of the JVM.
    Heap,
    /// In RocksDB, on disk.
    Rocks,
}

impl System {
    /// All systems.
    pub const ALL: [Self; 5] = [
        Self::Keepwell,
        Self::Flink(State::Heap),
        Self::Flink(State::Rocks),
        Self::Streams(State::Heap),
        Self::Streams(State::Rocks),
    ];
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keepwell => "keepwell",
            Self::Flink(State::Heap) => "flink-heap",
            Self::Flink(State::Rocks) => "flink-rocksdb",
            Self::Streams(State::Heap) => "streams-heap",
            Self::Streams(State::Rocks) => "streams-rocksdb",
        })
    }
}

/// Settings of a run.
#[derive(Debug, Clone)]
pub struct Job {
    /// `host:port` of the broker.
    pub broker: String,
    /// Name of the run; groups, transactions and topics have it as a prefix.
    pub name: String,
    /// Name of the raw topic.
    pub input: String,
    /// Day of the first event, in days since 1970.
    pub first_day: i64,
    /// Interval of live rows.
    pub live: Duration,
    /// Commit interval of a peer. Keepwell commits after each batch.
    pub commit: Duration,
    /// Heap size of a JVM, e.g. `4g`.
    pub heap: String,
    /// Managed memory of Flink for RocksDB, e.g. `1g`.
    pub managed: String,
    /// Number of partitions of every topic.
    pub partitions: i32,
    /// Number of processes of each of Keepwell's stages.
    pub processes: usize,
    /// Folder for state, snapshots, logs and files of the run.
    pub folder: PathBuf,
}

impl Job {
    /// The topic with the rows of a system.
    pub fn output(&self, system: System) -> String {
        let Self { name, .. } = self;
        if system == System::Keepwell { format!("{name}-windows") } else { format!("{name}-rows") }
    }

    /// A topic of this run, by its content.
    pub fn topic(&self, of: &str) -> String {
        format!("{}-{of}", self.name)
    }

    /// All topics that a run needs, except the raw one.
    pub fn topics(&self, system: System) -> Vec<String> {
        let of: &[&str] = match system {
            System::Keepwell => &["events", "windows", "feature-days", "health", "scores", "alerts", "rejects"],
            System::Flink(_) => &["rows"],
            System::Streams(_) => &["rows", "events"],
        };
        of.iter().map(|of| self.topic(of)).collect()
    }

    /// The groups and the topics they must have read until the job is done, in the order of the flow.
    pub fn flow(&self, system: System) -> Vec<(String, String)> {
        let (name, input) = (&self.name, self.input.clone());
        match system {
            System::Keepwell => vec![
                (format!("{name}-ingest"), input),
                (format!("{name}-aggregate"), self.topic("events")),
                (format!("{name}-score"), self.topic("windows")),
                (format!("{name}-publish"), self.topic("health")),
            ],
            System::Flink(_) => vec![(name.clone(), input)],
            System::Streams(_) => vec![(name.clone(), input), (name.clone(), self.topic("events"))],
        }
    }

    fn configuration(&self) -> Result<PathBuf> {
        // The model has ten factors and ten triggers, over windows that the peers have too.
        let model = self.folder.join("model.yaml");
        std::fs::write(&model, include_str!("../../scale.yaml").replace("period: 90d", "period: 28d"))?;
        let windows: Vec<String> = WINDOWS.iter().map(|days| format!("{days}d")).collect();
        let topics = ["events", "windows", "feature_days", "revenue", "health", "scores", "alerts", "rejects"];
        let topics: String =
            topics.iter().map(|of| format!("  {of}: {}\n", self.topic(&of.replace('_', "-")))).collect();
        let (folder, live_ms) = (self.folder.display(), self.live.as_millis());
        let Self { broker, name, input, partitions, .. } = self;
        let text = format!(
            "epoch: 1\npartitions: {partitions}\nkafka: {{bootstrap_servers: '{broker}', group_prefix: {name}}}\nsources: [{{topic: {input}, kind: usage}}]\n\
             topics:\n{topics}time: {{clock: false, lateness: {LATENESS}}}\naggregate: {{windows: [{}], live_interval: {live_ms}ms}}\nscore: {{model: '{}'}}\n\
             snapshots: {{url: 'file://{folder}/snapshots'}}\ntables: {{url: 'file://{folder}/tables', roll_age: 5s}}\n\
             http: {{ingest: 'off', aggregate: 'off', score: 'off', sink: 'off'}}\n",
            windows.join(", "),
            model.display(),
        );
        let path = self.folder.join("keepwell.yaml");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Starts a system.
    ///
    /// # Errors
    /// When a program is missing. The error names the command that builds it.
    pub fn start(&self, system: System) -> Result<Running> {
        std::fs::create_dir_all(&self.folder)?;
        let mut running = Running { children: Vec::new() };
        match system {
            System::Keepwell => {
                let configuration = self.configuration()?;
                for (stage, process) in STAGES.iter().flat_map(|stage| (0..self.processes).map(move |n| (stage, n))) {
                    let program = std::env::current_exe()?.with_file_name(format!("keepwell-{stage}"));
                    ensure!(program.exists(), "{}: `cargo build --release --workspace` makes it", program.display());
                    let mut command = Command::new(program);
                    command.env("KEEPWELL_CONFIG", &configuration).args(["--instance", &process.to_string()]);
                    running.start(stage, command, &self.folder.join(format!("{stage}-{process}.log")))?;
                }
            }
            System::Flink(state) => {
                running.start("flink", self.peer("FlinkPeer", state, FLINK_BOUND), &self.folder.join("flink.log"))?
            }
            System::Streams(state) => running.start(
                "streams",
                self.peer("StreamsPeer", state, STREAMS_GRACE),
                &self.folder.join("streams.log"),
            )?,
        }
        Ok(running)
    }

    fn peer(&self, class: &str, state: State, grace: Duration) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/peer");
        let mut command = Command::new(script);
        let state = if state == State::Rocks { "rocksdb" } else { "heap" };
        let ms = |span: Duration| span.as_millis().to_string();
        command.env("PEER_HEAP", &self.heap).arg(class);
        let options = [
            ("broker", self.broker.clone()),
            ("name", self.name.clone()),
            ("input", self.input.clone()),
            ("output", self.topic("rows")),
            ("state", state.to_owned()),
            ("dir", self.folder.display().to_string()),
            ("first-day", self.first_day.to_string()),
            ("grace-ms", ms(grace)),
            ("live-ms", ms(self.live)),
            ("commit-ms", ms(self.commit)),
            ("managed", self.managed.clone()),
        ];
        options.iter().for_each(|(name, value)| {
            command.arg(format!("--{name}")).arg(value);
        });
        command
    }
}

/// Keepwell's programs.
const STAGES: [&str; 4] = ["ingest", "aggregate", "score", "sink"];

/// Running processes with their names. They end when this value is dropped.
#[derive(Debug)]
pub struct Running {
    children: Vec<(String, Child)>,
}

impl Running {
    fn start(&mut self, name: &str, mut command: Command, log: &Path) -> Result<()> {
        let log = std::fs::File::create(log)?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = child.spawn().with_context(|| format!("cannot run {command:?}"))?;
        self.children.push((name.to_owned(), child));
        Ok(())
    }

    /// The cost of the processes since their start, summed by stage.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn costs(&self) -> Result<BTreeMap<String, Cost>> {
        self.children.iter().try_fold(BTreeMap::new(), |mut costs: BTreeMap<String, Cost>, (name, child)| {
            *costs.entry(name.clone()).or_default() += Cost::of(child.id())?;
            Ok(costs)
        })
    }

    /// Checks that no process has ended by itself.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn check(&mut self) -> Result<()> {
        for (name, child) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("{name}, process {}, ended: {status}", child.id());
            }
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                eprintln!("ending process {}: {error}", child.id());
            }
        }
    }
}
