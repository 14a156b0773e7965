//! `keepwell`: one binary to try and operate Keepwell. Each stage is a subcommand.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use keepwell::{
    alerts, audit, backfill, demo, erase, explain, infer, load, model, reference, report, try_input, views,
};
use keepwell_pipeline::acls::rights;
use keepwell_pipeline::config::{Config, ConfigError};
use keepwell_pipeline::process::{self, Cli, ConfigArgs};
use keepwell_pipeline::topics::{Finding, Topics, wanted};

/// Arrow and maps allocate and free memory all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "keepwell", version, about = "Customer health scores from product usage and support tickets, live.")]
struct Keepwell {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a demo fleet of accounts through all stages in this process. Needs no broker.
    Demo(demo::DemoArgs),
    /// Show what each line of a file becomes, or why it is rejected. Needs no broker and no configuration.
    TryInput(try_input::TryInputArgs),
    /// Name the preset that fits the records of a file, or print a mapping to begin with.
    Infer(infer::InferArgs),
    /// Load NDJSON or CSV files into raw topics, merged by event time.
    Load(load::LoadArgs),
    /// Process history into separate outputs: from files without a broker, or from the raw topics into a new epoch.
    Backfill(backfill::BackfillArgs),
    /// Show the last score of an account, down to the contributions that sum to it.
    Explain(explain::ExplainArgs),
    /// Compute stored scores again from stored window rows with plain SQL, and compare.
    Audit(audit::AuditArgs),
    /// Print figures of a month, quarter or year, such as net revenue retention, from the Parquet tables.
    Report(report::ReportArgs),
    /// Remove an account from the Parquet tables: rewrites the files that contain it.
    Erase(erase::EraseArgs),
    /// Publish or forget the alerts that are held, because a source may have died.
    Alerts(alerts::AlertsArgs),
    /// Announce another model file, which takes over at a declared time without a restart.
    Model(model::ModelArgs),
    /// Run collect: HTTP requests in, raw events out.
    Collect(keepwell_collect::cli::Cli),
    /// Run ingest: raw events in, accepted events and rejects out.
    Ingest(keepwell_ingest::cli::Cli),
    /// Run aggregate: accepted events in, window rows and feature days out.
    Aggregate(Cli),
    /// Run score: window rows in, health rows out.
    Score(keepwell_score::cli::Cli),
    /// Run sink: health and window rows in, scores, alerts and Parquet tables out.
    Sink(Cli),
    /// Prints a reference page: tables, metrics and configuration as Markdown, schemas and asyncapi as JSON.
    #[command(alias = "dictionary")]
    Reference {
        /// The page.
        #[arg(value_enum, default_value = "tables")]
        page: reference::Page,
    },
    /// Print views on the Parquet tables as SQL: a row for each window, and a row for each factor.
    Views(views::ViewsArgs),
    /// Compare Keepwell's topics with their wanted settings, and make or change them.
    Topics(TopicsArgs),
}

#[derive(Debug, clap::Args)]
struct TopicsArgs {
    /// The configuration.
    #[command(flatten)]
    config: ConfigArgs,
    /// Replication factor of the topics that `apply` makes.
    #[arg(long, global = true, default_value_t = 3)]
    replication: i32,
    #[command(subcommand)]
    action: TopicsAction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
enum TopicsAction {
    /// Print what `apply` would do.
    Plan,
    /// Make missing topics, raw topics too, and correct the settings that differ.
    Apply,
    /// Exit with 1 when anything differs.
    Check,
    /// Print the rights that each stage needs, as arguments of `kafka-acls.sh`. Does not contact the broker.
    Rights,
}

fn main() -> ExitCode {
    process::guard_files();
    match Keepwell::parse().command {
        Command::Demo(args) => ended(demo::run(&args)),
        Command::TryInput(args) => ended(try_input::run(&args)),
        Command::Infer(args) => ended(infer::run(&args)),
        Command::Load(args) => ended(load::run(&args).map(|count| process::print(&format!("{count} records\n")))),
        Command::Backfill(args) => ended(backfill::run(&args)),
        Command::Explain(args) => ended(explain::run(&args).map(|text| process::print(&text))),
        Command::Audit(args) => ended(audit::run(&args)),
        Command::Report(args) => ended(report::run(&args)),
        Command::Erase(args) => ended(erase::run(&args).map(|text| process::print(&text))),
        Command::Alerts(args) => ended(alerts::run(&args).map(|text| process::print(&text))),
        Command::Model(args) => ended(model::run(&args).map(|text| process::print(&text))),
        Command::Collect(cli) => keepwell_collect::cli::main(&cli),
        Command::Ingest(cli) => keepwell_ingest::cli::main(&cli),
        Command::Aggregate(cli) => process::main("aggregate", &cli, keepwell_aggregate::build),
        Command::Score(cli) => keepwell_score::cli::main(&cli),
        Command::Sink(cli) => keepwell_sink::main(&cli),
        Command::Reference { page } => ended(reference::page(page).map(|text| process::print(&text))),
        Command::Views(args) => ended(views::run(&args).map(|text| process::print(&text))),
        Command::Topics(args) => match args.config.read() {
            Err(error) => fail(2, &error),
            Ok(config) => topics(&config, &args).unwrap_or_else(|error| fail(1, &error)),
        },
    }
}

/// Exit code 0 for success, 2 for a wrong configuration, 1 for any other error. Prints the error.
fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(if error.is::<ConfigError>() { 2 } else { 1 }, &format!("{error:#}")),
    }
}

fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(code)
}

fn topics(config: &Config, args: &TopicsArgs) -> anyhow::Result<ExitCode> {
    if args.action == TopicsAction::Rights {
        for right in rights(config) {
            process::print(&format!(
                "--add --allow-principal User:{}-{} {right}\n",
                config.kafka.group_prefix, right.program
            ));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let topics = Topics::connect(config, args.replication)?;
    let wanted = wanted(config);
    let findings = topics.check(&wanted)?;
    for finding in &findings {
        process::print(&format!("{finding}\n"));
    }
    if findings.is_empty() {
        process::print("all topics are as they should be\n");
    }
    if args.action == TopicsAction::Apply {
        topics.apply(&wanted, &findings)?;
    }
    let is_unfit = match args.action {
        TopicsAction::Plan | TopicsAction::Rights => false,
        TopicsAction::Apply => findings.iter().any(|finding| matches!(finding, Finding::Partitions { .. })),
        TopicsAction::Check => !findings.is_empty(),
    };
    Ok(ExitCode::from(u8::from(is_unfit)))
}
