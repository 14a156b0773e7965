//! A stage as a process: arguments, logs, signals, the loop, exit codes.
#![allow(clippy::disallowed_methods, reason = "I/O edge")]

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

use crate::clock::SystemClock;
use crate::config::{Config, ConfigError, Listen};
use crate::http;
use crate::log::Log;
use crate::log::kafka::settings::{PassBy, Settings};
use crate::log::kafka::{KafkaLog, Member};
use crate::metrics::{Metrics, StageMetrics};
use crate::partition_loop::{Report, Session, Worker};
use crate::runner::{Options, RunError, Runner};

use crate::pulse::Pulse;
use crate::shown;
use crate::snapshot::Snapshots;
use crate::stage::{Completeness, Stage};
use keepwell_core::offset::{NextOffset, TopicPartition};

/// Arguments of every stage.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    /// How the stage is run.
    pub fn run_args(&self) -> &RunArgs {
        &self.run
    }

    /// Whether the configuration is only to be checked.
    pub fn is_check(&self) -> bool {
        self.command.is_some()
    }
}

/// Shown below every stage's help.
pub const EXAMPLES: &str = "Examples:
  run until stopped:        --config keepwell.yaml
  a second process:         --config keepwell.yaml --instance 1
  a backfill, then exit:    --config keepwell.yaml --drain --complete --set time.clock=false
  check a configuration:    --config keepwell.yaml check

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration. Log level: KEEPWELL_LOG (default info).";

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Checks the configuration and prints it resolved, secrets by name only.
    Check,
}

/// Which configuration, for every command that reads one.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// The configuration file.
    #[arg(
        id = "config",
        long = "config",
        short = 'c',
        env = "KEEPWELL_CONFIG",
        global = true,
        default_value = "keepwell.yaml"
    )]
    pub path: PathBuf,
    /// Replaces a value of the configuration: path.to.key=value. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    pub set: Vec<String>,
}

impl ConfigArgs {
    /// The configuration in the file, with the values that are set.
    ///
    /// # Errors
    /// [`ConfigError`] naming file, line and column.
    pub fn read(&self) -> Result<Config, ConfigError> {
        Config::read(&self.path, &self.set)
    }
}

/// How a stage is run.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Name of this process among those of its stage; the same again after a restart.
    #[arg(long, env = "KEEPWELL_INSTANCE", default_value = "0")]
    pub instance: String,
    /// Read to the ends that the topics have now, then exit.
    #[arg(long)]
    pub drain: bool,
    /// With --drain, for ingest: declare that no earlier event will follow, so that panes close.
    #[arg(long, requires = "drain")]
    pub complete: bool,
    /// Where to start partitions that a stop was about: what expired unread, or is in no snapshot, is done without.
    #[arg(long, value_enum)]
    pub from: Option<From>,
    /// Passes by a position that cannot be read: TOPIC:PARTITION=OFFSET. What stands there is missing then. May be repeated.
    /// Ingest passes raw positions by itself, as rejects without bytes.
    #[arg(long, value_name = "TOPIC:PARTITION=OFFSET")]
    pub pass_by: Vec<PassedBy>,
    /// Where to answer /metrics, /livez and /readyz: HOST:PORT, or off. Default: the configuration's `http`.
    #[arg(long, global = true)]
    pub http: Option<Listen>,
    /// Form of the log on standard error.
    #[arg(long, value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,
}

impl RunArgs {
    /// A run in this process that reads to the ends there are, with or without declaring them complete.
    pub fn drained(complete: bool) -> Self {
        Self {
            config: ConfigArgs { path: PathBuf::new(), set: Vec::new() },
            instance: "0".into(),
            drain: true,
            complete,
            from: None,
            pass_by: Vec::new(),
            http: None,
            log_format: LogFormat::Text,
        }
    }
}

/// A position that is to be passed by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedBy(pub TopicPartition, pub NextOffset);

impl FromStr for PassedBy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = || {
            let (partition, offset) = text.rsplit_once('=')?;
            let (topic, partition) = partition.rsplit_once(':')?;
            Some(Self(TopicPartition::new(topic, partition.parse().ok()?), NextOffset(offset.parse().ok()?)))
        };
        parts().ok_or_else(|| format!("{text:?} is not TOPIC:PARTITION=OFFSET"))
    }
}

/// Where to start.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum From {
    /// At the first record there is.
    Beginning,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What a stage reads and writes, and its rhythm.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Topics read.
    pub sources: Vec<String>,
    /// Topics written.
    pub outputs: Vec<String>,
    /// How often what waits for the clock may be sent.
    pub tick: Duration,
    /// The same while more records wait.
    pub tick_behind: Duration,
    /// Whether the ends of the sources must be proven.
    pub prove_ends: bool,
}

impl Plan {
    /// The runner's options.
    pub fn options(&self, config: &Config, args: &RunArgs) -> Options {
        Options {
            epoch: config.epoch,
            sources: self.sources.clone(),
            outputs: self.outputs.clone(),
            max_records: config.batch.max_records,
            max_bytes: config.batch.max_bytes,
            tick: self.tick,
            tick_behind: self.tick_behind,
            snapshot_interval: config.snapshots.interval.as_duration(),
            drain: args.drain,
            complete: if args.complete { Completeness::ToLastEvent } else { Completeness::Open },
            from_beginning: args.from.is_some(),
            prove_ends: self.prove_ends,
        }
    }
}

/// Files that are made from now on are for their owner and group alone: tables, snapshots and logs hold people's data.
pub fn guard_files() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
}

/// Starts logging to standard error.
pub fn start_logging(format: LogFormat) {
    let filter = || EnvFilter::try_from_env("KEEPWELL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let is_terminal = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(is_terminal).with_env_filter(filter());
    let started = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        eprintln!("logging was started before: {error}");
    }
}

/// The whole of a stage's `main`.
pub fn main<S>(program: &'static str, cli: &Cli, build: impl Fn(&Config) -> anyhow::Result<(S, Plan)>) -> ExitCode
where
    S: Stage,
    S::State: Default,
{
    main_of(program, &cli.run, cli.is_check(), build, |config, (stage, plan), args, shutdown| {
        run(&stage, Job { config, plan: &plan, args, shutdown })
    })
}

/// The same for a program of several stages, which says in one line what starts: `build` may refuse the configuration, `work` does the rest.
pub fn main_of<B>(
    program: &'static str,
    args: &RunArgs,
    is_check: bool,
    build: impl FnOnce(&Config) -> anyhow::Result<B>,
    work: impl FnOnce(&Config, B, &RunArgs, &Arc<AtomicBool>) -> anyhow::Result<Report>,
) -> ExitCode {
    guard_files();
    start_logging(args.log_format);
    let config = match args.config.read() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let built = match build(&config) {
        Ok(built) => built,
        Err(error) => {
            eprintln!("{}: {error:#}", args.config.path.display());
            return ExitCode::from(2);
        }
    };
    if is_check {
        print(&format!("{config:#?}\n"));
        return ExitCode::SUCCESS;
    }
    info!(
        program,
        version = env!("CARGO_PKG_VERSION"),
        config = %args.config.path.display(),
        epoch = config.epoch,
        brokers = config.kafka.bootstrap_servers,
        instance = args.instance,
        clock = config.time.clock,
        http = %args.http.unwrap_or(config.http.of(program)),
        "starting"
    );
    let report = stopped_by_signals().and_then(|shutdown| work(&config, built, args, &shutdown));
    match report {
        Ok(report) => {
            info!(steps = report.num_steps, messages = report.num_messages, "stopped");
            print_fates(&report);
            ExitCode::SUCCESS
        }
        Err(error) => {
            error!("{error:#}");
            ExitCode::from(1)
        }
    }
}

/// A flag that SIGTERM and SIGINT raise; a second signal ends the process at once.
///
/// # Errors
/// When the system refuses.
pub fn stopped_by_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let shutdown = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&shutdown))?;
        signal_hook::flag::register(signal, Arc::clone(&shutdown))?;
    }
    Ok(shutdown)
}

/// Text on standard output, without what a terminal would obey. A reader that has seen enough and closed it is no error.
pub fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(shown::lines(text).as_bytes()).and_then(|()| out.flush())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("standard output: {error}");
    }
}

/// One line for each fate on standard output, e.g. `rejected not_json 3`.
fn print_fates(report: &Report) {
    for (fate, count) in &report.fates {
        let reason = if fate.reason.is_empty() { String::new() } else { format!(" {}", fate.reason) };
        print(&format!("{}{reason} {count}\n", fate.name));
    }
}

/// What a stage on Kafka is run with.
#[derive(Debug, Clone, Copy)]
pub struct Job<'j> {
    /// The configuration.
    pub config: &'j Config,
    /// What the stage reads and writes.
    pub plan: &'j Plan,
    /// How it is run.
    pub args: &'j RunArgs,
    /// Raised when it is to stop.
    pub shutdown: &'j Arc<AtomicBool>,
}

/// Runs a stage on Kafka until it is to stop, or until it is drained.
///
/// # Errors
/// When the stage must stop by name.
pub fn run<S>(stage: &S, job: Job<'_>) -> anyhow::Result<Report>
where
    S: Stage,
    S::State: Default,
{
    let clock = SystemClock::start();
    let metrics = Metrics::new()?;
    let of_stage = metrics.stage(stage.name());
    if let Listen::At(address) = job.args.http.unwrap_or(job.config.http.of(stage.name())) {
        http::serve(address, metrics, vec![of_stage.clone()], clock)?;
    }
    run_with_metrics(stage, job, clock, of_stage)
}

/// The same for a program of several stages that answers for all of them.
///
/// # Errors
/// When the stage must stop by name.
pub fn run_with_metrics<S>(stage: &S, job: Job<'_>, clock: SystemClock, metrics: StageMetrics) -> anyhow::Result<Report>
where
    S: Stage,
    S::State: Default,
{
    let Job { config, plan, args, shutdown } = job;
    let log = join(stage.name(), job, Pulse::of(metrics.clone(), clock))?;
    let snapshots = match stage.is_stateful() {
        true => Some(Snapshots::open(&config.snapshots.url, config.snapshots.keep)?),
        false => None,
    };
    let options = plan.options(config, args);
    let mut runner = Runner::new(stage, Session::new(log, &clock, metrics), snapshots, options);
    Ok(runner.run(shutdown)?)
}

/// Joins the group of a stage and checks the partition counts of its topics.
///
/// # Errors
/// When the client refuses its configuration, or a topic is missing or has another partition count.
pub fn join(stage: &str, job: Job<'_>, pulse: Pulse) -> anyhow::Result<KafkaLog> {
    let Job { config, plan, args, shutdown } = job;
    let group = format!("{}-{stage}", config.kafka.group_prefix);
    let sources: Vec<&str> = plan.sources.iter().map(String::as_str).collect();
    let positions = args.pass_by.iter().map(|PassedBy(tp, next)| (tp.clone(), *next)).collect();
    // Whoever reads raw topics sets aside what cannot be read; what Keepwell has written must not be missing without a word.
    let settings = Settings::new(&config.kafka)?.passing_by(PassBy { all: plan.prove_ends, positions });
    let mut log = KafkaLog::join(
        settings,
        Member { group: &group, instance: &args.instance, topics: &sources },
        Arc::clone(shutdown),
        pulse,
    )?;
    check_partitions(&mut log, config, plan)?;
    Ok(log)
}

/// Keepwell's topics must have the partition count that is pinned for the epoch.
fn check_partitions(log: &mut impl Log, config: &Config, plan: &Plan) -> Result<(), RunError> {
    let own = config.topics.all();
    for topic in plan.sources.iter().chain(&plan.outputs) {
        let found = log.partitions(topic)?.ok_or_else(|| crate::log::LogError::NoTopic(topic.clone()))?;
        if own.contains(&topic.as_str()) && found != config.partitions {
            return Err(RunError::PartitionCount { topic: topic.clone(), found, expected: config.partitions });
        }
    }
    Ok(())
}
