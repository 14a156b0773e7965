//! Compares stored rows with the result of plain SQL over their window rows. A row that differs is drift.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Int64Type};
use datafusion::common::{DataFusionError, Result};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use keepwell_core::schema::columns::Columns;
use keepwell_core::schema::window::Layout;

use super::{PublishedRows, expected, in_millionths, items_of};
use crate::model::ModelFile;
use crate::tables_reader::Rows;

/// The result of an audit.
#[derive(Debug, Default)]
pub struct Audited {
    /// Number of scores that were compared.
    pub num_scores: usize,
    /// Number of scores that were not compared because the model file of their version is not available, by version.
    pub unknown: BTreeMap<i64, usize>,
    /// The rows that differ.
    pub drift: Vec<Drift>,
}

/// A stored row that differs from what its window rows give.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Drift {
    /// Account id.
    pub account_id: String,
    /// End of the windows, UTC microseconds.
    pub as_of_us: i64,
    /// The table (`scores`, `factors`, `drivers` or `triggers`), the row in it, and its columns that differ.
    pub what: String,
}

/// Compares the rows with the result of these versions of the model file, the newest last.
///
/// # Errors
/// When a statement fails.
pub async fn audit(rows: Rows, files: &[ModelFile], layout: &Layout, pane_us: i64) -> Result<Audited> {
    let mut audited = Audited::default();
    for version in Columns::Batch(&rows.scores).int("model_version")?.iter().flatten() {
        match files.iter().any(|file| file.version == version) {
            true => audited.num_scores += 1,
            false => *audited.unknown.entry(version).or_default() += 1,
        }
    }
    let items = |list: &str| items_of(&rows.scores, list);
    let (factors, drivers, triggers) = (items("factors")?, items("drivers")?, items("triggers")?);
    let stored = PublishedRows { scores: rows.scores.clone(), triggers: triggers.clone() };
    let expected = expected(rows.windows, stored, files, layout, pane_us).await?;
    let of_factor: [&str; 4] = ["account_id", "as_of", "position", "name"];
    let sides = [
        ("scores", rows.scores, expected.scores, &of_factor[..2]),
        ("factors", factors, expected.factors, &of_factor[..]),
        ("drivers", drivers, expected.drivers, &of_factor[..]),
        ("triggers", triggers, expected.triggers, &["account_id", "as_of", "name"]),
    ];
    let session = SessionContext::new();
    let judged: BTreeSet<String> = files.iter().map(|file| file.version.to_string()).collect();
    for (name, stored, expected, keys) in sides {
        let Some(schema) = expected.first().map(RecordBatch::schema) else { continue };
        let expected = concat_batches(&schema, &expected)?;
        let stored = in_millionths(&stored)?;
        let sql = statement(name, &stored, &expected, keys);
        for (side, rows) in [("stored", stored), ("expected", expected)] {
            let table = MemTable::try_new(rows.schema(), vec![vec![rows]])?;
            session.register_table(format!("{side}_{name}"), Arc::new(table))?;
        }
        if name == "scores" {
            let versions = judged.iter().cloned().collect::<Vec<_>>().join(", ");
            let sql = format!(
                "create view judged as select account_id, cast(as_of as bigint) as as_of from stored_scores where model_version in ({versions}) \
                union select e.account_id, cast(e.as_of as bigint) from expected_scores e left join stored_scores t on t.account_id = e.account_id and t.as_of = e.as_of where t.account_id is null"
            );
            session.sql(&sql).await?;
        }
        let found = session.sql(&sql).await.map_err(|error: DataFusionError| error.context(sql.clone()))?;
        for batch in found.collect().await? {
            let text = |i: usize| cast(batch.column(i), &DataType::Utf8);
            let (accounts, what) = (text(0)?, text(2)?);
            let (accounts, what) = (accounts.as_string::<i32>(), what.as_string::<i32>());
            let as_of = batch.column(1).as_primitive::<Int64Type>();
            audited.drift.extend((0..batch.num_rows()).map(|row| Drift {
                account_id: accounts.value(row).to_owned(),
                as_of_us: as_of.value(row),
                what: what.value(row).to_owned(),
            }));
        }
    }
    audited.drift.sort();
    Ok(audited)
}

/// SQL for the rows that differ and for the columns that differ. It covers only scores of the available versions.
fn statement(name: &str, stored: &RecordBatch, expected: &RecordBatch, keys: &[&str]) -> String {
    let schema = expected.schema();
    let columns: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    let side = |side: &str, rows: &RecordBatch| {
        let cells = columns.iter().map(|column| comparable(rows, column)).collect::<Vec<_>>().join(", ");
        format!(
            "select s.* from (select {cells} from {side}_{name}) s join judged j on j.account_id = s.account_id and j.as_of = s.as_of"
        )
    };
    let on = keys.iter().map(|key| format!("t.{key} = e.{key}")).collect::<Vec<_>>().join(" and ");
    let differs = |column: &&str| format!("(t.\"{column}\" is distinct from e.\"{column}\")");
    let any = columns.iter().map(differs).collect::<Vec<_>>().join(" or ");
    let named = columns.iter().map(|c| format!("case when {} then '{c}' end", differs(c)));
    let row = match keys {
        [_, _] => "''".to_owned(),
        _ => "' ' || coalesce(t.name, e.name)".to_owned(),
    };
    format!(
        "with t as ({}), e as ({}) select coalesce(t.account_id, e.account_id), coalesce(t.as_of, e.as_of), \
         '{name}' || {row} || ': ' || case when t.account_id is null then 'is missing' when e.account_id is null then 'should not be there' \
         else concat_ws(', ', {}) end from t full outer join e on {on} where {any}",
        side("stored", stored),
        side("expected", expected),
        named.collect::<Vec<_>>().join(", ")
    )
}

/// SQL that converts a column so that both sides can be compared.
fn comparable(rows: &RecordBatch, column: &str) -> String {
    let kind = rows.column_by_name(column).map(|column| column.data_type().clone());
    let to = match kind {
        Some(DataType::Timestamp(_, _)) => "bigint",
        Some(kind) if kind.is_integer() => "bigint",
        Some(DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8) => "varchar",
        _ => return format!("\"{column}\""),
    };
    format!("cast(\"{column}\" as {to}) as \"{column}\"")
}
