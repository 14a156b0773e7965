//! The data dictionary: the columns of every table, from the lists that also define the schemas.

use super::{Column, ColumnType, event, feature_day, health, revenue, window};

/// A table, where to find it, and its columns.
struct Table {
    name: &'static str,
    place: &'static str,
    columns: Vec<Column>,
}

fn tables() -> Vec<Table> {
    let table = |name, place, columns: Vec<Column>| Table { name, place, columns };
    vec![
        table(event::TABLE, "topic `keepwell.events`", event::COLUMNS.to_vec()),
        table(
            window::TABLE,
            "topic `keepwell.windows`; Parquet `windows`, final rows",
            window::key::COLUMNS
                .iter()
                .chain(window::windowed())
                .chain(window::feature_group::COLUMNS)
                .chain(window::as_of())
                .chain(window::provenance::COLUMNS)
                .copied()
                .collect(),
        ),
        table(
            feature_day::TABLE,
            "topic `keepwell.feature_days`; Parquet `feature_days`",
            feature_day::COLUMNS.to_vec(),
        ),
        table(revenue::TABLE, "topic `keepwell.revenue`; Parquet `revenue`", revenue::COLUMNS.to_vec()),
        table(health::TABLE, "topic `keepwell.health`; Parquet `scores`, final rows", health::COLUMNS.to_vec()),
    ]
}

fn kind(kind: ColumnType) -> String {
    match kind {
        ColumnType::Text | ColumnType::Label | ColumnType::Json => "text".into(),
        ColumnType::Bytes => "bytes".into(),
        ColumnType::Code => "code".into(),
        ColumnType::Flag => "true or false".into(),
        ColumnType::Int32 => "int32".into(),
        ColumnType::Int64 => "int64".into(),
        ColumnType::Float => "double".into(),
        ColumnType::Money => "decimal(18,2)".into(),
        ColumnType::Points => "decimal(18,6)".into(),
        ColumnType::Time => "UTC microseconds".into(),
        ColumnType::TextMap => "map of texts".into(),
        ColumnType::CountMap => "map of int64".into(),
        ColumnType::List(columns) => {
            let names: Vec<&str> = columns.iter().map(|column| column.name).collect();
            format!("list of ({})", names.join(", "))
        }
    }
}

/// The data dictionary as Markdown.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Tables\n\nWritten by `keepwell reference tables`; a test compares it with this file.\n\n\
         - Null means unknown, never zero.\n\
         - A column that may be null can be added to a version; any other change is a new version.\n\
         - A record of a topic leaves out the columns that are null in all of its rows.\n\
         - In larger records, a column with one value is run-end encoded, and items of lists with few values are dictionary encoded.\n\
         - A measure of a window has a column for each window that keeps it: `uses_{window}` stands for `uses_7d`, `uses_28d` and so on. \
           The same measure of the equal window before is `previous_uses_{window}`. `aggregate.measures` decides which are kept. `{group}` stands for the name of a feature group.\n",
    );
    for Table { name, place, columns } in tables() {
        let mut lines = String::new();
        for declared in columns {
            let Column { name: column, kind: of, nullable, doc, .. } = declared;
            let null = if nullable { "yes" } else { "" };
            let column = match declared {
                _ if window::feature_group::COLUMNS.contains(&declared) => format!("{{group}}_{column}_{{window}}"),
                _ if window::windowed().any(|measure| *measure == declared) => format!("{column}_{{window}}"),
                _ => column.to_owned(),
            };
            lines += &format!("| `{column}` | {} | {null} | {} |\n", kind(of), doc.replace('|', "\\|"));
            if let ColumnType::List(items) = of {
                for item in items {
                    let null = if item.nullable { "yes" } else { "" };
                    lines += &format!("| `{column}.{}` | {} | {null} | {} |\n", item.name, kind(item.kind), item.doc);
                }
            }
        }
        out += &format!("\n## {name}\n\n{place}\n\n| column | type | null | meaning |\n|---|---|---|---|\n{lines}");
    }
    out
}
