//! A run: a deployment, cycles of load and one fault each, and a judgement on all outputs at the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use keepwell_pipeline::config::Config;
use keepwell_pipeline::crash_points::CrashPoint;

use super::broker::Broker;
use super::fault::Fault;
use super::hostile::{self, Sent};
use super::processes::{Processes, Programs, STAGES};
use super::proxy::Proxy;
use super::results::{Cycle, Verified};
use super::store::{BUCKET, Behaviour, ObjectStore};
use super::watch::Watch;
use crate::fleet::{self, Shape};
use crate::kafka::{Kafka, free_port};
use crate::streamed::Streamed;
use crate::{check, deployment, ledger};

/// Number of partitions of each raw topic.
const RAW_PARTITIONS: i32 = 2;
/// Time limit for catching up. After it the run fails.
const LIMIT: Duration = Duration::from_secs(120);
/// Duration of a fault of the connections or of the store.
const SPELL: Duration = Duration::from_secs(3);
/// Time limit for a process to reach its crash point.
const COMES_WITHIN: Duration = Duration::from_secs(10);
/// About the number of raw records in a cycle.
const LOAD: usize = 60;
/// The consumer groups and what they read.
const GROUPS: [(&str, &str); 4] =
    [("ingest", "raw"), ("aggregate", "events"), ("score", "windows"), ("publish", "health")];

/// The load of a deployment and its length.
#[derive(Debug, Clone, Copy)]
pub struct Load<'l> {
    /// Commit of the programs.
    pub build: &'l str,
    /// The same seed gives the same records.
    pub seed: u64,
    /// The load is enough for this many cycles.
    pub num_cycles: usize,
    /// Number of records of each hostile kind among the others.
    pub hostile: usize,
}

/// A deployment that faults strike.
#[derive(Debug)]
pub struct Run {
    seed: u64,
    build: String,
    rng: Rng,
    config: Config,
    pub(super) processes: Processes,
    watch: Watch,
    kafka: Kafka,
    messages: Vec<Sent>,
    is_hostile: bool,
    num_sent: usize,
    num_cycles: usize,
    pub(super) store: ObjectStore,
    proxy: Proxy,
    pub(super) broker: Broker,
    folder: PathBuf,
}

impl Run {
    /// Starts a deployment in a folder: broker, proxy, object store, topics, and two processes of each stage. Prepares
    /// a load of known content for the given number of cycles.
    ///
    /// # Errors
    /// When a part of the deployment does not start.
    pub fn start(programs: Programs, folder: &Path, load: &Load<'_>) -> Result<Self> {
        let Load { build, seed, num_cycles, hostile } = *load;
        let [port, behind] = [free_port()?, free_port()?];
        let (proxy, store) = (Proxy::before(behind)?, ObjectStore::start()?);
        let broker = Broker::start(&folder.join("kafka"), port, (behind, proxy.port))?;
        let config = configuration(folder, &format!("127.0.0.1:{}", proxy.port), &store)?;
        // The clients that load and watch do not use the proxy.
        let address = format!("127.0.0.1:{port}");
        let kafka = Kafka::at(&address);
        for source in &config.sources {
            // Accept any record timestamp, as brokers before 4.0 do.
            let settings = [("message.timestamp.after.max.ms", "9223372036854775807")];
            kafka.create_topic_with(&source.topic, RAW_PARTITIONS, if hostile > 0 { &settings } else { &[] })?;
        }
        for topic in config.topics.all() {
            kafka.create_topic(topic, config.partitions)?;
        }
        // Twelve accounts produce about 45 raw records a day.
        let days = (num_cycles * LOAD / 45 + 4) as i64;
        let raws = fleet::dirty(seed, Shape { accounts: 12, days, usage: 3 });
        let good = raws
            .iter()
            .enumerate()
            .map(|(n, raw)| Ok((deployment::message(raw, n, RAW_PARTITIONS, &config)?, raw.at_ms)));
        let messages = hostile::among(good.collect::<Result<_>>()?, hostile, RAW_PARTITIONS, &config)?;
        let options = store.options().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut run = Self {
            seed,
            build: build.to_owned(),
            rng: Rng::with_seed(seed),
            watch: Watch::of(&address)?,
            processes: Processes::new(programs, folder, options)?,
            messages,
            is_hostile: hostile > 0,
            num_sent: 0,
            num_cycles: 0,
            folder: folder.to_owned(),
            config,
            kafka,
            store,
            proxy,
            broker,
        };
        for stage in STAGES {
            for instance in 0..2 {
                let n = run.processes.slot(stage, instance);
                run.processes.start(n, None)?;
            }
        }
        run.load(LOAD)?;
        run.catch_up(Instant::now())?;
        Ok(run)
    }

    /// Sets the programs of the next version, for [`Fault::Upgrade`].
    #[must_use]
    pub fn with_next(mut self, next: Option<Programs>) -> Self {
        self.processes.next = next;
        self
    }

    /// Sends the next records of the load.
    pub(super) fn load(&mut self, count: usize) -> Result<()> {
        let next = self.messages.len().min(self.num_sent + count);
        for sent in self.messages[self.num_sent..next].chunk_by(|one, other| one.is_bomb == other.is_bomb) {
            if sent.first().is_some_and(|first| first.is_bomb) {
                sent.iter().try_for_each(|sent| self.kafka.produce_compressed(&sent.message, "zstd"))?;
            } else {
                self.kafka.produce(sent.iter().map(|sent| &sent.message))?;
            }
        }
        self.num_sent = next;
        Ok(())
    }

    /// Waits until every group has read and committed everything in its topics. Returns the time since `from`.
    pub(super) fn catch_up(&mut self, from: Instant) -> Result<Duration> {
        for (group, source) in GROUPS {
            let topics: Vec<String> = match source {
                "raw" => self.config.sources.iter().map(|source| source.topic.clone()).collect(),
                "events" => vec![self.config.topics.events.clone()],
                "windows" => vec![self.config.topics.windows.clone()],
                _ => vec![self.config.topics.health.clone()],
            };
            for topic in topics {
                let ends = self.asked(&topic, |run| run.watch.ends(&topic).map(Some))?;
                let group = format!("{}-{group}", self.config.kafka.group_prefix);
                self.asked(&group, |run| Ok(run.watch.has_passed(&group, &topic, &ends)?.then_some(())))?;
            }
        }
        Ok(from.elapsed())
    }

    /// Asks until there is an answer. It repeats failed requests too, because the broker may be away.
    fn asked<T>(&mut self, what: &str, ask: impl Fn(&Self) -> Result<Option<T>>) -> Result<T> {
        let started = Instant::now();
        loop {
            let why = match ask(self) {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => "not yet".to_owned(),
                Err(error) => format!("{error:#}"),
            };
            if started.elapsed() > LIMIT {
                bail!(
                    "{what} has not caught up within {} s: {why}; logs in {}; {}",
                    LIMIT.as_secs(),
                    self.folder.display(),
                    self.processes.readiness().join("; ")
                );
            }
            self.processes.keep()?;
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends load, strikes with a fault, and measures the time from the fault until all load is processed.
    ///
    /// # Errors
    /// When the deployment does not catch up, or a part of it cannot be started.
    pub fn cycle(&mut self, fault: Fault) -> Result<Cycle> {
        self.num_cycles += 1;
        self.load(LOAD / 2)?;
        std::thread::sleep(Duration::from_millis(self.rng.u64(0..400)));
        let (did_strike, from, outage) = match fault.stage() {
            Some(stage) => self.strike_process(fault, stage)?,
            None if fault.is_of_broker() => self.strike_broker(fault)?,
            None => self.strike_surroundings(fault)?,
        };
        self.load(LOAD / 2)?;
        let caught_up = self.catch_up(from)?;
        Ok(Cycle {
            build: self.build.clone(),
            run: self.seed,
            number: self.num_cycles,
            fault: fault.to_string(),
            is_kill_of: fault.stage().filter(|_| fault.is_kill()).map(str::to_owned),
            is_of_broker: fault.is_of_broker(),
            did_strike,
            outage_ms: outage.as_millis() as u64,
            caught_up_ms: caught_up.as_millis() as u64,
        })
    }

    /// Strikes a process. Returns whether the fault struck, from when to measure, and how long it lasted.
    fn strike_process(&mut self, fault: Fault, stage: &'static str) -> Result<(bool, Instant, Duration)> {
        let n = self.processes.slot(stage, self.rng.usize(0..2));
        let started = Instant::now();
        match fault {
            Fault::Kill(_) => {
                self.processes.kill(n)?;
                self.processes.start(n, None)?;
            }
            Fault::KillAway(_) => {
                self.processes.kill(n)?;
                let caught_up = self.catch_up(started)?;
                self.processes.start(n, None)?;
                // Exclude the start from the measured time: the work after it is separate.
                return Ok((true, Instant::now() - caught_up, Duration::ZERO));
            }
            Fault::Crash(_, place) => return self.crash(n, place),
            Fault::Freeze(_) => {
                self.processes.signal(n, "STOP")?;
                let caught_up = self.catch_up(started)?;
                self.processes.signal(n, "CONT")?;
                return Ok((true, Instant::now() - caught_up, started.elapsed()));
            }
            Fault::Join(_) => {
                let third = self.processes.slot(stage, 2);
                self.processes.start(third, None)?;
                self.load(LOAD / 4)?;
                self.catch_up(started)?;
                self.processes.stop(third)?;
                return Ok((true, Instant::now(), Duration::ZERO));
            }
            Fault::Replace(_) | Fault::Upgrade(_) | Fault::Downgrade(_) => {
                for n in [0, 1].map(|instance| self.processes.slot(stage, instance)) {
                    self.load(LOAD / 4)?;
                    self.processes.stop(n)?;
                    self.processes.slots[n].is_next = matches!(fault, Fault::Upgrade(_));
                    self.processes.start(n, None)?;
                }
            }
            Fault::Rescale(_) => return self.rescale(stage),
            Fault::Damage(_) => {
                self.processes.kill(n)?;
                for partition in 0..self.config.partitions {
                    let topic = if stage == "score" { &self.config.topics.windows } else { &self.config.topics.events };
                    self.store.damage_newest(&format!("snapshots/{stage}/1/{topic}-{partition}/"));
                }
                self.processes.start(n, None)?;
            }
            _ => {}
        }
        Ok((true, started, Duration::ZERO))
    }

    /// Lets a process end at a crash point, and starts it again.
    fn crash(&mut self, n: usize, point: CrashPoint) -> Result<(bool, Instant, Duration)> {
        let started = Instant::now();
        let times = self.rng.u64(1..4);
        self.processes.kill(n)?;
        self.processes.start(n, Some((point, times)))?;
        let mut did_strike = false;
        while !did_strike && started.elapsed() < COMES_WITHIN {
            self.load(LOAD / 6)?;
            did_strike = self.processes.has_ended(n, Duration::from_millis(500))?;
        }
        let struck = Instant::now();
        self.processes.kill(n)?;
        self.processes.start(n, None)?;
        Ok((did_strike, struck, Duration::ZERO))
    }

    /// Runs a stage with one process, then with four, then with two.
    fn rescale(&mut self, stage: &'static str) -> Result<(bool, Instant, Duration)> {
        let started = Instant::now();
        let [_, second, third, fourth] = [0, 1, 2, 3].map(|instance| self.processes.slot(stage, instance));
        self.processes.stop(second)?;
        self.load(LOAD / 4)?;
        self.catch_up(started)?;
        for n in [second, third, fourth] {
            self.processes.start(n, None)?;
        }
        self.load(LOAD / 4)?;
        self.catch_up(started)?;
        let from = Instant::now();
        self.processes.stop(third)?;
        self.processes.stop(fourth)?;
        Ok((true, from, Duration::ZERO))
    }

    fn strike_broker(&mut self, fault: Fault) -> Result<(bool, Instant, Duration)> {
        let started = Instant::now();
        match fault {
            Fault::BrokerKilled => self.broker.kill()?,
            _ => self.broker.stop()?,
        }
        std::thread::sleep(Duration::from_millis(self.rng.u64(0..2000)));
        self.broker.again()?;
        Ok((true, Instant::now(), started.elapsed()))
    }

    fn strike_surroundings(&mut self, fault: Fault) -> Result<(bool, Instant, Duration)> {
        let started = Instant::now();
        let behaviour = match fault {
            Fault::StoreFails => Behaviour::Fails,
            Fault::StoreLies => Behaviour::Lies,
            Fault::StoreSlow => Behaviour::Slow,
            Fault::StoreFull => Behaviour::Full,
            _ => Behaviour::Well,
        };
        self.store.set(behaviour);
        match fault {
            Fault::Cut => self.proxy.cut(),
            Fault::HalfClosed => self.proxy.half_close(),
            Fault::Delayed => self.proxy.delay(Duration::from_millis(200)),
            _ => {
                // The store matters most to a process that starts while the store is faulty.
                let n = self.processes.slot(["aggregate", "score"][self.rng.usize(0..2)], self.rng.usize(0..2));
                self.processes.kill(n)?;
                self.processes.start(n, None)?;
            }
        }
        std::thread::sleep(SPELL);
        self.store.set(Behaviour::Well);
        self.proxy.delay(Duration::ZERO);
        Ok((true, Instant::now(), started.elapsed()))
    }

    /// Sends the rest of the load, drains every stage, and judges all outputs.
    ///
    /// # Errors
    /// When a stage does not exit with success, or its outputs differ from the oracle.
    pub fn judged(mut self) -> Result<Verified> {
        self.load(self.messages.len())?;
        self.catch_up(Instant::now())?;
        self.processes.stop_all()?;
        for (stage, args) in
            [("ingest", vec!["--complete"]), ("aggregate", vec![]), ("score", vec![]), ("sink", vec![])]
        {
            self.processes.drain(stage, &args)?;
        }
        let records = |topic: &str| self.kafka.records(topic);
        let streamed = Streamed::read(&self.config, records)?;
        let mut ledger = match self.is_hostile {
            true => hostile::ledger(&self.messages, &self.config, records)?,
            false => ledger::of_raw(&self.config, records)?,
        };
        ledger::of_keys(&mut ledger, &streamed.scores, &streamed.alerts)?;
        let tables = self.folder.join("tables");
        self.store.copy_to("tables", &tables)?;
        let claims = check::tables(&streamed, &tables).context("tables")?;
        let published = streamed.scores.len() + streamed.alerts.len();
        let streamed = if self.is_hostile { streamed.without(hostile::HUGE)? } else { streamed };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let checked = runtime.block_on(check::against_oracle(&streamed, &self.config)).context("the oracle")?;
        Ok(Verified {
            build: self.build.clone(),
            run: self.seed,
            cycles: self.num_cycles,
            finals: checked.windows,
            scores: checked.scores,
            published,
            claims,
            surprises: std::mem::take(&mut self.processes.surprises),
            hostile: hostile::counts(&self.messages),
            ledger,
        })
    }
}

fn configuration(folder: &Path, address: &str, store: &ObjectStore) -> Result<Config> {
    let sources: BTreeMap<&str, &str> = [
        ("usage", "usage"),
        ("tickets", "ticket"),
        ("surveys", "survey"),
        ("accounts", "account"),
        ("people", "person"),
        ("contracts", "contract"),
    ]
    .into();
    let sources: String =
        sources.iter().map(|(topic, kind)| format!("  - {{topic: {topic}, kind: {kind}}}\n")).collect();
    let options: String = store.options().iter().map(|(name, value)| format!("{name}: '{value}', ")).collect();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/memory/model.yaml");
    let text = format!(
        "epoch: 1\npartitions: 4\nkafka: {{bootstrap_servers: '{address}', group_prefix: chaos, session_timeout: 3s}}\n\
         sources:\n{sources}time: {{clock: false, lateness: 2d}}\n\
         aggregate: {{windows: [2d, 7d, 14d], retire_after: 20d, catalogue: [dashboard, export, import], ticket_categories: [billing, bug], first_value_feature: export}}\n\
         revenue: {{grace: 3d}}\nscore: {{model: '{}'}}\nsnapshots: {{url: 's3://{BUCKET}/snapshots', interval: 1s}}\n\
         tables: {{url: 's3://{BUCKET}/tables', options: {{{options}}}, roll_bytes: 200000, roll_age: 2s}}\n\
         batch: {{max_records: 200}}\n",
        model.display()
    );
    let path = folder.join("keepwell.yaml");
    std::fs::write(&path, text)?;
    Ok(Config::read(&path, &[])?)
}
