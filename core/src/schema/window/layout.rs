//! Which measures a row keeps, of which windows: the columns of the `windows` table as configured.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::super::cell::{Cell, array_of};
use super::super::{Column, MEASURES_KEY, TABLE_KEY};
use super::{PREVIOUS, SETS, TABLE, as_of, key, measure, provenance};

/// Measures that a configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Names of sets, such as `usage`, or of measures, such as `uses`.
    pub of: Vec<String>,
    /// Names of windows. Empty: all.
    pub windows: Vec<String>,
    /// Also of the window of equal length before.
    pub with_previous: bool,
}

/// A column of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaidOut {
    /// Name in the row: `uses_28d`, `previous_uses_28d`, `plan`.
    pub name: String,
    /// The declared column.
    pub column: &'static Column,
    /// For a measure: the index of its [`Part`].
    pub part: Option<usize>,
}

/// The measures of one window, or of the window of equal length before it, that a row keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Index of the window.
    pub window: usize,
    /// Whether these are measures of the window before.
    pub is_previous: bool,
    /// What is kept of each set.
    pub kept: Kept,
}

/// For each set, in the order of [`SETS`], the indices of its kept measures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Usage.
    pub usage: Vec<usize>,
    /// Changes among people.
    pub people: Vec<usize>,
    /// Tickets.
    pub tickets: Vec<usize>,
    /// Survey answers.
    pub surveys: Vec<usize>,
}

impl Kept {
    /// The indices of each set, in the order of [`SETS`].
    pub fn by_set(&self) -> [&[usize]; 4] {
        [&self.usage, &self.people, &self.tickets, &self.surveys]
    }

    fn of(wanted: impl Fn(&str, &str) -> bool) -> Self {
        let [usage, people, tickets, surveys] = SETS.map(|(set, columns)| {
            columns.iter().enumerate().filter(|(_, column)| wanted(set, column.name)).map(|(index, _)| index).collect()
        });
        Self { usage, people, tickets, surveys }
    }

    fn is_empty(&self) -> bool {
        self.by_set().iter().all(|kept| kept.is_empty())
    }
}

/// The columns of a row: what identifies it, the kept measures window by window, the state at the end of the windows,
/// and what it was made from. It is fixed for an epoch.
#[derive(Debug)]
pub struct Layout {
    windows: Vec<String>,
    parts: Vec<Part>,
    columns: Vec<LaidOut>,
    index: HashMap<String, usize>,
    measures: String,
    schema: SchemaRef,
}

impl Layout {
    /// Checks names of sets, measures and windows.
    ///
    /// # Errors
    /// Names a set, measure or window that does not exist.
    pub fn check(windows: &[String], wanted: &[Wanted]) -> Result<(), String> {
        for Wanted { of, windows: named, .. } in wanted {
            if let Some(name) = of.iter().find(|name| !is_set(name) && !is_measure(name)) {
                let sets: Vec<&str> = SETS.iter().map(|(set, _)| *set).collect();
                return Err(format!("{name} is no measure and no set of measures ({})", sets.join(", ")));
            }
            if let Some(name) = named.iter().find(|name| !windows.contains(name)) {
                return Err(format!("{name} is not among aggregate.windows: {}", windows.join(", ")));
            }
        }
        Ok(())
    }

    /// The layout for these windows, shortest first, and what is asked of them. A name that does not exist keeps
    /// nothing; see [`Layout::check`].
    pub fn new(windows: &[String], wanted: &[Wanted]) -> Self {
        let parts = windows.iter().enumerate().flat_map(|(window, period)| {
            [false, true].map(|is_previous| {
                let is_for = |wanted: &&Wanted| {
                    (wanted.windows.is_empty() || wanted.windows.contains(period))
                        && (!is_previous || wanted.with_previous)
                };
                let asked: Vec<&String> = wanted.iter().filter(is_for).flat_map(|wanted| &wanted.of).collect();
                let kept = Kept::of(|set, name| asked.iter().any(|asked| *asked == set || *asked == name));
                Part { window, is_previous, kept }
            })
        });
        let parts: Vec<Part> = parts.filter(|part| !part.kept.is_empty()).collect();
        Self::of_parts(windows.to_vec(), parts)
    }

    /// A layout that keeps everything of these windows, also of the windows before.
    pub fn of_everything(windows: &[String]) -> Self {
        let of = SETS.map(|(set, _)| set.to_owned()).to_vec();
        Self::new(windows, &[Wanted { of, windows: Vec::new(), with_previous: true }])
    }

    fn of_parts(windows: Vec<String>, parts: Vec<Part>) -> Self {
        let plain = |column: &'static Column| LaidOut { name: column.name.to_owned(), column, part: None };
        let mut columns: Vec<LaidOut> = key::COLUMNS.iter().map(plain).collect();
        for (index, part) in parts.iter().enumerate() {
            let kept = SETS
                .iter()
                .zip(part.kept.by_set())
                .flat_map(|((_, columns), kept)| kept.iter().filter_map(|column| columns.get(*column)));
            let of_window = |column: &'static Column| LaidOut {
                name: name_of(column.name, part.is_previous, &windows[part.window]),
                column,
                part: Some(index),
            };
            columns.extend(kept.map(of_window));
        }
        columns.extend(as_of().chain(provenance::COLUMNS).map(plain));
        let index = columns.iter().enumerate().map(|(index, column)| (column.name.clone(), index)).collect();
        let fields = columns
            .iter()
            .map(|LaidOut { name, column, .. }| Field::new(name, column.kind.data_type(), column.nullable));
        let measures = described(&windows, &parts);
        let metadata = [(TABLE_KEY, TABLE.to_owned()), (MEASURES_KEY, measures.clone())];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into();
        let schema = Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), metadata));
        Self { windows, parts, columns, index, measures, schema }
    }

    /// Names of the windows, shortest first.
    pub fn windows(&self) -> &[String] {
        &self.windows
    }

    /// What is kept of each window, and of the windows before. Parts of which nothing is kept are left out.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The columns of a row, in order.
    pub fn columns(&self) -> &[LaidOut] {
        &self.columns
    }

    /// The Arrow schema of a row.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// The kept measures as text: `28d: usage nps; before 28d: uses`.
    pub fn measures(&self) -> &str {
        &self.measures
    }

    /// The index of the column that SQL over one window calls `name`: for `uses` over `28d` that of `uses_28d`, for
    /// `plan` its own. None: the row has no such column.
    pub fn index_of(&self, name: &str, window: &str) -> Option<usize> {
        match measure(name) {
            Some((column, is_previous)) => self.index.get(&name_of(column.name, is_previous, window)).copied(),
            None => self.index.get(name).copied(),
        }
    }

    /// What SQL calls a column, and the window over which it does: `uses` over `28d` for `uses_28d`.
    pub fn sql_name(&self, column: &LaidOut) -> (String, Option<&String>) {
        let part = column.part.map(|index| &self.parts[index]);
        let prefix = if part.is_some_and(|part| part.is_previous) { PREVIOUS } else { "" };
        (format!("{prefix}{}", column.column.name), part.map(|part| &self.windows[part.window]))
    }

    /// The line of `aggregate.measures` that keeps a measure.
    pub fn line_for(name: &str, window: &str) -> String {
        match measure(name) {
            Some((column, true)) => format!("- {{of: [{}], windows: [{window}], previous: true}}", column.name),
            _ => format!("- {{of: [{name}], windows: [{window}]}}"),
        }
    }

    /// Rows made by hand, cell by cell. A null cell of a column that must not be null becomes 0, false or empty.
    ///
    /// # Errors
    /// [`ArrowError`] when a cell is not of its column's type.
    pub fn rows<'c>(
        &self,
        num_rows: usize,
        cell: impl Fn(usize, &LaidOut) -> Cell<'c>,
    ) -> Result<RecordBatch, ArrowError> {
        let columns = self.columns.iter().map(|column| {
            let cells: Vec<Cell<'c>> = (0..num_rows).map(|row| cell(row, column)).collect();
            array_of(column.column, &cells)
        });
        RecordBatch::try_new(self.schema(), columns.collect::<Result<_, _>>()?)
    }
}

fn is_set(name: &str) -> bool {
    SETS.iter().any(|(set, _)| *set == name)
}

fn is_measure(name: &str) -> bool {
    measure(name).is_some_and(|(_, is_previous)| !is_previous)
}

fn name_of(measure: &str, is_previous: bool, window: &str) -> String {
    let prefix = if is_previous { PREVIOUS } else { "" };
    format!("{prefix}{measure}_{window}")
}

fn described(windows: &[String], parts: &[Part]) -> String {
    let mut text = String::new();
    for Part { window, is_previous, kept } in parts {
        let (separator, before) = (if text.is_empty() { "" } else { "; " }, if *is_previous { "before " } else { "" });
        // Writing to a text cannot fail.
        write!(text, "{separator}{before}{}:", windows[*window]).unwrap_or_default();
        for ((set, columns), kept) in SETS.iter().zip(kept.by_set()) {
            let names: Vec<&str> = match kept.len() == columns.len() {
                true => vec![set],
                false => kept.iter().filter_map(|index| columns.get(*index)).map(|column| column.name).collect(),
            };
            names.iter().for_each(|name| text.extend([" ", name]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows() -> Vec<String> {
        ["7d", "28d"].map(str::to_owned).to_vec()
    }

    fn wanted(of: &[&str], windows: &[&str], with_previous: bool) -> Wanted {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Wanted { of: owned(of), windows: owned(windows), with_previous }
    }

    #[test]
    fn a_row_keeps_what_is_asked_for_window_by_window() {
        let asked = [wanted(&["people", "nps"], &[], false), wanted(&["uses"], &["28d"], true)];
        let layout = Layout::new(&windows(), &asked);
        let measures: Vec<&str> =
            layout.columns().iter().filter(|column| column.part.is_some()).map(|column| column.name.as_str()).collect();
        let people = ["people_added", "people_removed", "champions_lost", "champions_active"];
        let mut expected: Vec<String> = people.map(|name| format!("{name}_7d")).to_vec();
        expected.push("nps_7d".to_owned());
        expected.push("uses_28d".to_owned());
        expected.extend(people.map(|name| format!("{name}_28d")));
        expected.extend(["nps_28d".to_owned(), "previous_uses_28d".to_owned()]);
        assert_eq!(measures, expected);
        assert_eq!(layout.measures(), "7d: people nps; 28d: uses people nps; before 28d: uses");
        let name = |name: &str, window: &str| layout.index_of(name, window).map(|i| layout.columns()[i].name.clone());
        assert_eq!(name("uses", "28d").as_deref(), Some("uses_28d"));
        assert_eq!(name("previous_uses", "28d").as_deref(), Some("previous_uses_28d"));
        assert_eq!(name("plan", "7d").as_deref(), Some("plan"));
        assert_eq!((name("uses", "7d"), name("previous_nps", "28d"), name("nothing", "7d")), (None, None, None));
    }

    #[test]
    fn what_does_not_exist_is_refused_by_name() {
        // asked, words of the message
        let cases = [
            (wanted(&["use"], &[], false), "use is no measure and no set of measures (usage"),
            (wanted(&["previous_uses"], &[], false), "previous_uses is no measure"),
            (wanted(&["uses"], &["30d"], false), "30d is not among aggregate.windows: 7d, 28d"),
        ];
        for (asked, words) in cases {
            let why = Layout::check(&windows(), std::slice::from_ref(&asked)).unwrap_err();
            assert!(why.contains(words), "{asked:?}: {why}");
        }
    }

    #[test]
    fn the_line_for_a_measure_keeps_it() {
        for name in ["uses", "previous_uses"] {
            assert!(Layout::line_for(name, "28d").contains("{of: [uses], windows: [28d]"));
        }
    }

    #[test]
    fn no_two_columns_have_one_name() {
        let layout = Layout::of_everything(&windows());
        assert_eq!(layout.index.len(), layout.columns.len());
    }
}
