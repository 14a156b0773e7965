//! Reads the Parquet tables from their store: rows of some accounts, at some times.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Int64Type, Schema, SchemaRef};
use datafusion::common::{DataFusionError, Result};
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use keepwell_core::schema::time_type;
use keepwell_core::schema::window::Layout;
use keepwell_core::schema::{health, revenue};
use keepwell_pipeline::config::Config;
use keepwell_pipeline::redact;
use keepwell_pipeline::store;
use tokio::runtime::Runtime;

/// The stored tables.
pub struct Stored {
    session: SessionContext,
    runtime: Runtime,
    windows: SchemaRef,
}

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stored").finish_non_exhaustive()
    }
}

/// Final rows of some accounts. Rows that only one of `windows` and `scores` has reached are left out.
#[derive(Debug)]
pub struct Rows {
    /// Rows of `windows`.
    pub windows: RecordBatch,
    /// Rows of `scores`.
    pub scores: RecordBatch,
}

/// Rows as texts. None is null.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Texts {
    /// Names of the columns.
    pub names: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Option<String>>>,
}

fn text_column(column: &ArrayRef) -> Result<StringArray> {
    if matches!(column.data_type(), DataType::Timestamp(..)) {
        let micros = cast(&cast(column, &time_type())?, &DataType::Int64)?;
        return Ok(micros.as_primitive::<Int64Type>().iter().map(|us| us.map(health::rfc3339)).collect());
    }
    Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
}

fn schema_of(table: &str, windows: &SchemaRef) -> SchemaRef {
    match table {
        "windows" => SchemaRef::clone(windows),
        "revenue" => revenue::schema(),
        _ => health::schema(),
    }
}

impl Stored {
    /// Opens the tables below a URL, see [`keepwell_pipeline::store::parse`]. `layout` is that of the window rows.
    ///
    /// # Errors
    /// When the URL is not valid or the store does not respond.
    pub fn open(url: &str, options: &BTreeMap<String, String>, layout: &Layout) -> Result<Self> {
        let external =
            |error: &dyn std::fmt::Display| DataFusionError::Execution(format!("{}: {error}", redact::url(url)));
        let (store, _) = store::parse(url, options).map_err(|error| external(&error))?;
        let parsed = url::Url::parse(url).map_err(|error| external(&error))?;
        // Files are in a folder per month. Older files are in a folder per day.
        let config = SessionConfig::new()
            .with_target_partitions(2)
            .set_bool("datafusion.execution.listing_table_ignore_subdirectory", false);
        let session = SessionContext::new_with_config(config);
        session.register_object_store(&parsed, store);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let windows = layout.schema();
        for table in ["windows", "scores", "revenue"] {
            // Without metadata: the engine refuses a union of tables with different ones.
            let schema = Schema::new(schema_of(table, &windows).fields().clone());
            let options = ParquetReadOptions::default().schema(&schema);
            let place = format!("{}/{table}/", url.trim_end_matches('/'));
            runtime.block_on(session.register_parquet(table, place, options))?;
        }
        Ok(Self { session, runtime, windows })
    }

    /// Opens the tables below `url`, or else those of the configuration.
    ///
    /// # Errors
    /// When there is neither a URL nor a configuration of tables, and see [`Stored::open`].
    pub fn of_config(config: &Config, url: Option<&str>) -> Result<Self> {
        let configured = config.tables.as_ref();
        let url = url.or(configured.map(|tables| &*tables.url)).ok_or_else(|| {
            DataFusionError::Execution("the configuration has no `tables`: name their place with --tables".to_owned())
        })?;
        let options = configured.map(keepwell_pipeline::config::Tables::all_options).transpose();
        let options = options.map_err(DataFusionError::Execution)?.unwrap_or_default();
        Self::open(url, &options, &config.aggregate.layout())
    }

    fn collect(&self, sql: &str) -> Result<Vec<RecordBatch>> {
        let answer = async { self.session.sql(sql).await?.collect().await };
        self.runtime.block_on(answer).map_err(|error| error.context(sql.to_owned()))
    }

    /// Checks `sql` without running it.
    ///
    /// # Errors
    /// When the SQL is wrong, or names a column that no table has.
    pub fn plan(&self, sql: &str) -> Result<()> {
        self.runtime.block_on(self.session.sql(sql)).map(|_| ())
    }

    /// Runs `sql` and returns its rows as texts. Times are RFC 3339.
    ///
    /// # Errors
    /// When the SQL is wrong, and see [`Stored::accounts`].
    pub fn texts(&self, sql: &str) -> Result<Texts> {
        let mut texts = Texts::default();
        for batch in self.collect(sql)? {
            texts.names = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
            let columns = batch.columns().iter().map(text_column).collect::<Result<Vec<_>>>()?;
            texts.rows.extend((0..batch.num_rows()).map(|row| {
                let cell = |column: &StringArray| column.is_valid(row).then(|| column.value(row).to_owned());
                columns.iter().map(cell).collect()
            }));
        }
        Ok(texts)
    }

    /// Runs `sql` and returns the rows with the schema of `table`.
    fn rows(&self, table: &str, sql: &str) -> Result<RecordBatch> {
        let schema = schema_of(table, &self.windows);
        let batches = self.collect(sql)?.into_iter().map(|batch| {
            let columns = schema.fields().iter().map(|field| {
                let column = batch.column_by_name(field.name());
                let missing = || DataFusionError::Execution(format!("{table} has no column {}", field.name()));
                Ok(cast(column.ok_or_else(missing)?, field.data_type())?)
            });
            Ok(RecordBatch::try_new(SchemaRef::clone(&schema), columns.collect::<Result<Vec<_>>>()?)?)
        });
        Ok(concat_batches(&schema, &batches.collect::<Result<Vec<_>>>()?)?)
    }

    /// All accounts that have a score, in order.
    ///
    /// # Errors
    /// When the store does not respond or a file cannot be read. The functions below fail in the same way.
    pub fn accounts(&self) -> Result<Vec<String>> {
        let mut accounts = Vec::new();
        for batch in self.collect("select distinct account_id from scores order by 1")? {
            let names = cast(batch.column(0), &DataType::Utf8)?;
            accounts.extend(names.as_string::<i32>().iter().flatten().map(str::to_owned));
        }
        Ok(accounts)
    }

    /// All rows of these accounts, up to the last time that both `windows` and `scores` contain.
    ///
    /// # Errors
    /// See [`Stored::accounts`].
    pub fn of(&self, accounts: &[String]) -> Result<Rows> {
        let (Some(first), Some(last)) = (accounts.iter().min(), accounts.iter().max()) else {
            return Err(DataFusionError::Execution("no accounts are named".to_owned()));
        };
        let names: Vec<String> = accounts.iter().map(|name| quoted(name)).collect();
        let named = format!(
            "account_id between {} and {} and account_id in ({})",
            quoted(first),
            quoted(last),
            names.join(", ")
        );
        let of = |table: &str| {
            let sql = format!(
                "with w as (select account_id, max(as_of) as last from windows where {named} group by 1), \
                 s as (select account_id, max(as_of) as last from scores where {named} group by 1), \
                 c as (select w.account_id as id, least(w.last, s.last) as upto from w join s on s.account_id = w.account_id) \
                 select t.* from {table} t join c on c.id = t.account_id and t.as_of <= c.upto where {named}"
            );
            self.rows(table, &sql)
        };
        Ok(Rows { windows: of("windows")?, scores: of("scores")? })
    }

    /// The last score of an account at or before a time (UTC microseconds) as a row of `health`, and the window row of
    /// that score. None if there is no score.
    ///
    /// # Errors
    /// See [`Stored::accounts`].
    pub fn at(&self, account: &str, as_of_us: i64) -> Result<Option<(RecordBatch, RecordBatch)>> {
        let account = quoted(account);
        let last = format!(
            "select max(as_of) from scores where account_id = {account} and as_of <= to_timestamp_micros({as_of_us})"
        );
        let of = |table: &str| {
            self.rows(table, &format!("select * from {table} where account_id = {account} and as_of = ({last})"))
        };
        let scores = of("scores")?;
        if scores.num_rows() == 0 {
            return Ok(None);
        }
        Ok(Some((scores.slice(0, 1), of("windows")?)))
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
