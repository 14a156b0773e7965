//! The long form of the `windows` table, one row for each window, as SQL.

use std::collections::BTreeSet;

use super::{LaidOut, Layout};

/// SQL for the long form of the rows in `from`: one row for an account, time and window, with the columns `period`,
/// `uses`, `previous_uses` and so on. A measure that is kept of some windows only is null in the rows of the others. The
/// statement is for any SQL engine; it is tested in DataFusion, DuckDB and Spark.
pub fn long_form(layout: &Layout, from: &str) -> String {
    // Some columns, such as `final`, have the name of an SQL word in some engine. All engines accept a qualified name.
    let measures = measures(layout);
    let selects = layout.windows().iter().map(|window| {
        let mut columns = Vec::new();
        for LaidOut { name, part, .. } in layout.columns() {
            if part.is_none() {
                columns.push(format!("w.{name}"));
            }
            if name == "as_of" {
                columns.push(format!("'{window}' as period"));
                columns.extend(measures.iter().map(|measure| match layout.index_of(measure, window) {
                    Some(index) => format!("w.{} as {measure}", layout.columns()[index].name),
                    None => format!("null as {measure}"),
                }));
            }
        }
        format!("select {} from {from} w", columns.join(", "))
    });
    selects.collect::<Vec<_>>().join("\nunion all\n")
}

/// Names of the measures that are kept of any window, in order: those of the windows, then those of the windows before.
fn measures(layout: &Layout) -> Vec<String> {
    let kept: BTreeSet<&String> =
        layout.columns().iter().filter(|column| column.part.is_some()).map(|column| &column.sql_name).collect();
    layout.known_columns().map(|(name, _)| name).filter(|name| kept.contains(name)).collect()
}
