//! The command line of collect: run, or `check`.
#![allow(clippy::disallowed_methods, reason = "I/O edge")]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use keepwell_pipeline::clock::{Clock, SystemClock};
use keepwell_pipeline::config::{Collect, Config, Listen};
use keepwell_pipeline::http;
use keepwell_pipeline::log::LogError;
use keepwell_pipeline::log::kafka::delivery::Delivery;
use keepwell_pipeline::metrics::Metrics;
use keepwell_pipeline::process::{self, ConfigArgs, LogFormat};
use keepwell_pipeline::readiness::Waiting;
use tracing::{error, info, warn};

use crate::doors::Doors;
use crate::server::{self, Server};

/// How often the broker is asked whether it is there.
const LOOK_AT_BROKER: Duration = Duration::from_secs(2);

const EXAMPLES: &str = "Examples:
  run until stopped:        --config keepwell.yaml
  check a configuration:    --config keepwell.yaml check

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration. Log level: KEEPWELL_LOG (default info).";

/// Arguments of `keepwell-collect`.
#[derive(Debug, Parser)]
#[command(version, about, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address of /metrics, /livez and /readyz: HOST:PORT, or off. Default: `http` in the configuration.
    #[arg(long, global = true)]
    http: Option<Listen>,
    /// Format of the log on standard error.
    #[arg(long, value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the configuration and print it with all defaults. Secrets are shown by name only.
    Check,
}

/// Runs the command and returns the exit code of the process.
pub fn main(cli: &Cli) -> ExitCode {
    process::guard_files();
    process::start_logging(cli.log_format);
    let (config, doors) = match configured(&cli.config) {
        Ok(configured) => configured,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    if cli.command.is_some() {
        process::print(&format!("{config:#?}\n"));
        return ExitCode::SUCCESS;
    }
    let listen = cli.http.unwrap_or(config.http.collect);
    let collect = config.collect.clone().unwrap_or_default();
    match process::stopped_by_signals().and_then(|stop| run(&config, &collect, doors, Run { listen, stop: &stop })) {
        Ok(()) => {
            info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            error!("{error:#}");
            ExitCode::from(1)
        }
    }
}

fn configured(args: &ConfigArgs) -> Result<(Config, Doors), String> {
    let config = args.read().map_err(|error| error.to_string())?;
    let doors = Doors::new(&config.collect.clone().unwrap_or_default());
    let doors = doors.map_err(|why| format!("{}: {why}", args.path.display()))?;
    Ok((config, doors))
}

struct Run<'r> {
    listen: Listen,
    stop: &'r Arc<AtomicBool>,
}

fn run(config: &Config, collect: &Collect, doors: Doors, run: Run<'_>) -> anyhow::Result<()> {
    let clock = SystemClock::start();
    let metrics = Metrics::new()?;
    let shown = metrics.stage("collect");
    if let Listen::At(address) = run.listen {
        http::serve(address, metrics, vec![shown.clone()], clock)?;
    }
    let delivery = Delivery::open(&config.kafka, collect.max_pending_bytes)?;
    let server = Arc::new(Server::new(collect, doors, delivery, shown, clock));
    let topics: Vec<String> = collect.topics().into_iter().map(str::to_owned).collect();
    // A topic that is missing is a mistake of the configuration. A broker that is away comes back.
    if let Err(error @ LogError::NoTopic(_)) = look(&server, &topics) {
        return Err(error.into());
    }
    let listener = server::bind(collect.listen)?;
    info!(collect = %listener.local_addr()?, topics = topics.join(", "), "taking requests");
    let (watched, stop) = (Arc::clone(&server), Arc::clone(run.stop));
    let watch = std::thread::Builder::new().name("broker".to_owned()).spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = look(&watched, &topics) {
                warn!(%error, "requests are refused until this is mended");
            }
            // Another process, or this one started again, begins with a new client.
            if watched.delivery.fatal_error().is_some() {
                stop.store(true, Ordering::Relaxed);
            }
            std::thread::park_timeout(LOOK_AT_BROKER);
        }
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(server::serve(listener, Arc::clone(&server), collect.max_connections, run.stop))?;
    watch.thread().unpark();
    if watch.join().is_err() {
        warn!("the look at the broker has broken off");
    }
    if let Some(why) = server.delivery.fatal_error() {
        anyhow::bail!("the Kafka client cannot go on: {why}");
    }
    server.delivery.flush().context("stopping")
}

/// Asks the broker for the topics, and shows whether it answers.
fn look(server: &Server, topics: &[String]) -> Result<(), LogError> {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let found = server.delivery.check(&names);
    // Without one of its topics, the other doors stay open.
    let is_away = matches!(found, Err(LogError::Fatal { .. }));
    let waiting = if is_away { Waiting::Broker } else { Waiting::No };
    server.is_broker_away.store(is_away, Ordering::Relaxed);
    server.metrics.tick(server.clock.monotonic(), &waiting);
    found
}
