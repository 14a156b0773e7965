//! `keepwell views`: views on the Parquet tables as SQL, for the engines that analysts use.
//!
//! The tables hold each value once: one row for all windows, and factors as a list. The views are the long forms.

mod alerts;

use std::path::PathBuf;

use anyhow::Result;
use keepwell_core::event::Kind;
use keepwell_core::schema::health::{self, factor};
use keepwell_core::schema::window::{Layout, long_form};
use keepwell_pipeline::config::{Aggregate, Config, Source};

/// Which views to print.
#[derive(Debug, clap::Args)]
pub struct ViewsArgs {
    /// The engine that reads the views.
    #[arg(long, value_enum, default_value = "duckdb")]
    pub engine: Engine,
    /// Folder or URL of the tables. Default: that of the configuration.
    #[arg(long, required_unless_present = "config")]
    pub tables: Option<String>,
    /// The configuration. Without one, rows have the default windows and measures.
    #[arg(long, env = "KEEPWELL_CONFIG")]
    pub config: Option<PathBuf>,
}

/// An SQL engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// DuckDB.
    Duckdb,
    /// Spark SQL.
    Spark,
    /// DataFusion.
    Datafusion,
}

/// The tables in Parquet files.
const TABLES: [&str; 4] = ["windows", "feature_days", "scores", REVENUE];
/// The table that has no file where no account has contracts.
const REVENUE: &str = "revenue";

/// Columns of `scores` in each row of `score_factors`.
const OF_SCORE: [&str; 8] =
    ["account_id", "as_of", "model", "model_version", "epoch", "partition", "next_offset", "ordinal"];

/// The statements, each with a semicolon and a line break.
///
/// # Errors
/// When the configuration cannot be read.
pub fn run(args: &ViewsArgs) -> Result<String> {
    let config = args.config.as_ref().map(|path| Config::read(path, &[])).transpose()?;
    let layout = config.as_ref().map_or_else(|| Aggregate::default().layout(), |config| config.aggregate.layout());
    let has_contracts = config.as_ref().is_none_or(|config| {
        let may_tell = |source: &Source| source.kind.is_none_or(|kind| kind == Kind::Contract);
        config.sources.iter().any(may_tell)
    });
    // The text of the URL hides what may be a secret; such a place must be named.
    let configured = config.and_then(|config| config.tables).filter(|tables| tables.url.to_string() == *tables.url);
    let configured = configured.map(|tables| tables.url.to_string());
    let tables = args.tables.clone().or(configured);
    let tables = tables.ok_or_else(|| {
        anyhow::anyhow!("the configuration names no place of tables that may be shown: name it with --tables")
    })?;
    // A view on no file at all is an error in some engines.
    let of_table = args.engine.zone().map(|_| None).into_iter().chain(TABLES.map(Some));
    let of_table = of_table.chain(std::iter::repeat(None));
    let all = statements(args.engine, &layout, &tables).into_iter().zip(of_table);
    let wanted = all.filter(|(_, table)| has_contracts || *table != Some(REVENUE));
    Ok(wanted.map(|(statement, _)| statement + ";\n").collect())
}

/// The statements that make the tables at a place known, and the views on them: `windows_long` has a row for each window,
/// `score_factors` one for each factor of a score. `windows_periods` and `scores_periods` have the last final row of each
/// account in a week, month, quarter and year (UTC), `feature_periods` the sums of its `feature_days`. `stages` has a row
/// for each time that an account entered a stage of the lifecycle, `alerts` one for each time that a trigger was raised.
pub fn statements(engine: Engine, layout: &Layout, tables: &str) -> Vec<String> {
    let mut statements: Vec<String> = engine.zone().map(str::to_owned).into_iter().collect();
    statements.extend(TABLES.iter().map(|table| engine.table(table, tables)));
    let create = engine.create();
    statements.push(format!("{create} windows_long as\n{}", long_form(layout, "windows")));
    statements.push(format!("{create} score_factors as\n{}", factors(engine)));
    for (table, schema) in [("windows", layout.schema()), ("scores", health::schema())] {
        let columns: Vec<String> = schema.fields().iter().map(|field| engine.quoted(field.name())).collect();
        statements.push(format!("{create} {table}_periods as\n{}", last_of_periods(engine, table, &columns)));
    }
    statements.push(format!("{create} feature_periods as\n{}", feature_sums(engine)));
    statements.push(format!("{create} stages as\n{STAGES}"));
    statements.push(alerts(engine, None));
    statements
}

/// The statement that makes the view `alerts` on the tables `scores` and `windows`, of their rows after a time (RFC 3339).
pub fn alerts(engine: Engine, after: Option<&str>) -> String {
    format!("{} alerts as\n{}", engine.create(), alerts::alerts(engine, after))
}

/// SQL for entries into stages of the lifecycle, and exits. `left_for` is the next stage, or churned, expired, retired,
/// deleted, or null where the model file has no stages any more. Both it and `left_at` are null while the account is in the
/// stage. `entered_at` may be before the first row of the table.
const STAGES: &str = "select account_id, segment, owner, stage, came_from, entered_at, left_at, left_for from (
select *, lead(as_of) over (partition by account_id order by as_of) as left_at, lead(moved_to) over (partition by account_id order by as_of) as left_for from (
select *, case when retired then 'retired' when deleted then 'deleted' when stage_since is not null then stage when band in ('churned', 'expired') then band end as moved_to, stage_since as entered_at from (
select *, lag(stage_since) over (partition by account_id order by as_of) as since_before, lag(stage) over (partition by account_id order by as_of) as came_from from (
select *, row_number() over (partition by account_id, as_of order by epoch desc, next_offset desc, ordinal desc) as nth from scores where final
) each_row where nth = 1) rows_in_order
where (stage_since is distinct from since_before) or retired) changes) entries where stage_since is not null and not retired";

/// The periods of calendars in UTC.
const PERIODS: [&str; 4] = ["week", "month", "quarter", "year"];

/// SQL for rows with the period that each is in, once for each length of a period, as `period` and `period_start`.
fn in_periods(engine: Engine, table: &str) -> String {
    // The end of a row is exclusive.
    let time = match engine {
        Engine::Duckdb => "timezone('UTC', as_of) - interval 1 microsecond",
        Engine::Spark | Engine::Datafusion => "as_of - interval '1 microsecond'",
    };
    let starts: String =
        PERIODS.iter().map(|kind| format!("when '{kind}' then date_trunc('{kind}', {time}) ")).collect();
    let kinds = PERIODS.map(|kind| format!("('{kind}')")).join(", ");
    format!(
        "select *, cast(case period {starts}end as date) as period_start from {table} cross join (values {kinds}) kinds(period)"
    )
}

/// SQL for the last final row of each account in each period.
fn last_of_periods(engine: Engine, table: &str, columns: &[String]) -> String {
    let nth = "row_number() over (partition by account_id, period, period_start order by as_of desc, epoch desc, next_offset desc, ordinal desc)";
    format!(
        "select period, period_start, {} from (select *, {nth} as nth from ({}) each_period where final) ranked where nth = 1",
        columns.join(", "),
        in_periods(engine, table)
    )
}

/// SQL for what accounts did with each feature in each period. Users of days cannot be added.
fn feature_sums(engine: Engine) -> String {
    let sums = ["events", "uses", "duration_ms", "errors"].map(|name| format!("cast(sum({name}) as bigint) as {name}"));
    format!(
        "select period, period_start, account_id, feature, count(*) as days, {} from ({}) each_period group by period, period_start, account_id, feature",
        sums.join(", "),
        in_periods(engine, "feature_days")
    )
}

impl Engine {
    fn create(self) -> &'static str {
        match self {
            Self::Spark => "create or replace temporary view",
            Self::Duckdb | Self::Datafusion => "create or replace view",
        }
    }

    /// The statement after which days begin in UTC, where the engine has a time zone of its own.
    fn zone(self) -> Option<&'static str> {
        match self {
            Self::Duckdb => Some("set TimeZone = 'UTC'"),
            Self::Spark => Some("set spark.sql.session.timeZone=UTC"),
            Self::Datafusion => None,
        }
    }

    /// The statement that makes the files of a table known.
    fn table(self, table: &str, tables: &str) -> String {
        let place = format!("{}/{table}", tables.trim_end_matches('/')).replace('\'', "''");
        match self {
            Self::Duckdb => {
                let place = place.trim_start_matches("file://");
                let create = self.create();
                format!(
                    "{create} {table} as from read_parquet('{place}/*/*.parquet', hive_partitioning = false, union_by_name = true)"
                )
            }
            Self::Spark => {
                format!("{} {table} using parquet options (path '{place}', mergeSchema 'true')", self.create())
            }
            Self::Datafusion => format!("create external table {table} stored as parquet location '{place}/'"),
        }
    }

    /// A name as this engine quotes it.
    fn quoted(self, name: &str) -> String {
        let mark = if self == Self::Spark { '`' } else { '"' };
        format!("{mark}{name}{mark}")
    }
}

/// SQL for one row for each factor of each score, with its position in the model.
fn factors(engine: Engine) -> String {
    let of_score: Vec<String> = OF_SCORE.iter().map(|name| format!("w.{}", engine.quoted(name))).collect();
    let of_factor = factor::COLUMNS.iter().map(|column| {
        let name = if column.name == "name" { "factor" } else { column.name };
        format!("w.f['{}'] as {}", column.name, engine.quoted(name))
    });
    let of_factor: Vec<String> = of_factor.collect();
    let source = match engine {
        Engine::Duckdb => "select *, unnest(range(len(factors))) as position, unnest(factors) as f from scores",
        Engine::Spark => "select s.*, position, f from scores s lateral view posexplode(factors) as position, f",
        Engine::Datafusion => {
            "select *, unnest(range(0, cast(array_length(factors) as bigint))) as position, unnest(factors) as f from scores"
        }
    };
    format!("select {}, w.position, {} from ({source}) w", of_score.join(", "), of_factor.join(", "))
}
