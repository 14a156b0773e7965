//! A stage as a process: arguments, logging, signals, the loop, exit codes.
#![allow(clippy::disallowed_methods, reason = "I/O edge")]

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
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
use crate::log::kafka::settings::{PassBy, PassedBy, Settings};
use crate::log::kafka::{KafkaLog, Member};
use crate::metrics::{Metrics, StageMetrics};
use crate::partition_loop::{Report, Session, Worker};
use crate::runner::{Options, RunError, Runner};

use crate::pulse::Pulse;
use crate::redact;
use crate::snapshot::Snapshots;
use crate::source_reader::Completeness;
use crate::stage::Stage;

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
    /// Options of the run.
    pub fn run_args(&self) -> &RunArgs {
        &self.run
    }

    /// Whether the command is `check`, which only checks the configuration.
    pub fn is_check(&self) -> bool {
        self.command.is_some()
    }
}

/// Text below the help of every stage.
pub const EXAMPLES: &str = "Examples:
  run until stopped:        --config keepwell.yaml
  a second process:         --config keepwell.yaml --instance 1
  a backfill, then exit:    --config keepwell.yaml --drain --complete --set time.clock=false
  check a configuration:    --config keepwell.yaml check

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration. Log level: KEEPWELL_LOG (default info).";

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Check the configuration and print it with all defaults. Secrets are shown by name only.
    Check,
}

/// Name of the configuration file, where none is named.
const USUAL_FILE: &str = "keepwell.yaml";

/// The configuration, for every command that reads one.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// Path of the configuration file.
    #[arg(
        id = "config",
        long = "config",
        short = 'c',
        env = "KEEPWELL_CONFIG",
        global = true,
        default_value = USUAL_FILE
    )]
    pub path: PathBuf,
    /// Replace a value of the configuration: path.to.key=value. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", global = true)]
    pub set: Vec<String>,
}

impl ConfigArgs {
    /// Whether no file is named, there is none under the usual name, and nothing is set.
    pub fn is_absent(&self) -> bool {
        self.path == Path::new(USUAL_FILE) && !self.path.exists() && self.set.is_empty()
    }

    /// Reads the configuration file and applies the replaced values.
    ///
    /// # Errors
    /// [`ConfigError`] with file, line and column.
    pub fn read(&self) -> Result<Config, ConfigError> {
        Config::read(&self.path, &self.set)
    }
}

/// Options of a run.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The configuration.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Name of this process among those of its stage. It must be the same after a restart.
    #[arg(long, env = "KEEPWELL_INSTANCE", default_value = "0")]
    pub instance: String,
    /// Read to the present ends of the topics, then exit.
    #[arg(long)]
    pub drain: bool,
    /// With --drain, for ingest: declare that no earlier event will follow, so that panes close.
    #[arg(long, requires = "drain")]
    pub complete: bool,
    /// Where to start after a named stop. Records that expired unread, or that are in no snapshot, are left out.
    #[arg(long, value_enum)]
    pub from: Option<From>,
    /// Pass by a position, readable or not: TOPIC:PARTITION=OFFSET, or OFFSET-LAST for a range. The records there are
    /// missing in the results. Without LAST the end of an unreadable range is searched for. May be repeated.
    /// Ingest passes by unreadable raw records without this option, and writes rejects without bytes for them.
    #[arg(long, value_name = "TOPIC:PARTITION=OFFSET[-LAST]")]
    pub pass_by: Vec<PassedBy>,
    /// Address of /metrics, /livez and /readyz: HOST:PORT, or off. Default: `http` in the configuration.
    #[arg(long, global = true)]
    pub http: Option<Listen>,
    /// Format of the log on standard error.
    #[arg(long, value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,
}

impl RunArgs {
    /// Options of a run in this process that reads to the present ends. `complete` declares them complete.
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

/// Where to start.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum From {
    /// Start at the first record that exists.
    Beginning,
}

/// Format of the log.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// What a stage reads and writes, and how often it publishes.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Topics that the stage reads.
    pub sources: Vec<String>,
    /// Topics that the stage writes.
    pub outputs: Vec<String>,
    /// Interval at which live rows and statements may be sent.
    pub tick: Duration,
    /// The same interval while more records wait to be read.
    pub tick_behind: Duration,
}

impl Plan {
    /// Options for the runner.
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
        }
    }
}

/// Makes new files readable only by their owner and group. Tables, snapshots and logs contain personal data.
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

/// The complete `main` of a stage.
pub fn main<S>(program: &'static str, cli: &Cli, build: impl Fn(&Config) -> anyhow::Result<(S, Plan)>) -> ExitCode
where
    S: Stage,
    S::State: Default,
{
    main_of(program, &cli.run, cli.is_check(), build, |config, (stage, plan), args, shutdown| {
        run(&stage, Job { config, plan: &plan, args, shutdown })
    })
}

/// The same for a program with several stages. `build` may reject the configuration; `work` does the rest.
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

/// A flag that SIGTERM and SIGINT set. A second signal ends the process at once.
///
/// # Errors
/// When the operating system refuses.
pub fn stopped_by_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let shutdown = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&shutdown))?;
        signal_hook::flag::register(signal, Arc::clone(&shutdown))?;
    }
    Ok(shutdown)
}

/// Prints text on standard output, without terminal control characters. A reader that closes early is not an error.
pub fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(redact::lines(text).as_bytes()).and_then(|()| out.flush())
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        eprintln!("standard output: {error}");
    }
}

/// Prints one line for each fate on standard output, e.g. `rejected not_json 3`.
fn print_fates(report: &Report) {
    for (fate, count) in &report.fates {
        let reason = if fate.reason.is_empty() { String::new() } else { format!(" {}", fate.reason) };
        print(&format!("{}{reason} {count}\n", fate.name));
    }
}

/// Everything needed to run a stage on Kafka.
#[derive(Debug, Clone, Copy)]
pub struct Job<'j> {
    /// The configuration.
    pub config: &'j Config,
    /// What the stage reads and writes.
    pub plan: &'j Plan,
    /// Options of the run.
    pub args: &'j RunArgs,
    /// Set when the stage must stop.
    pub shutdown: &'j Arc<AtomicBool>,
}

/// Runs a stage on Kafka until it must stop, or until it is drained.
///
/// # Errors
/// When the stage cannot continue; this is a named stop.
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

/// The same for a program with several stages that serves HTTP for all of them.
///
/// # Errors
/// When the stage cannot continue; this is a named stop.
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
/// When the client rejects its configuration, a topic is missing, or a topic has another partition count.
pub fn join(stage: &str, job: Job<'_>, pulse: Pulse) -> anyhow::Result<KafkaLog> {
    let Job { config, plan, args, shutdown } = job;
    let group = format!("{}-{stage}", config.kafka.group_prefix);
    let sources: Vec<&str> = plan.sources.iter().map(String::as_str).collect();
    let positions = args.pass_by.clone();
    // A reader of raw topics turns unreadable records into rejects. What Keepwell itself wrote must not be lost
    // silently.
    let own = config.topics.all();
    let all = !sources.iter().any(|topic| own.contains(topic));
    let settings = Settings::new(&config.kafka)?.passing_by(PassBy { all, positions });
    let mut log = KafkaLog::join(
        settings,
        Member { group: &group, instance: &args.instance, topics: &sources },
        Arc::clone(shutdown),
        pulse,
    )?;
    check_partitions(&mut log, config, plan)?;
    Ok(log)
}

/// Checks that Keepwell's topics have the partition count of the epoch.
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
