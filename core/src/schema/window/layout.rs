//! Which measures a row keeps, of which windows: the columns of the `windows` table as configured.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::super::cell::{Cell, array_of};
use super::super::{Column, MEASURES_KEY, TABLE_KEY};
use super::{PREVIOUS, SETS, TABLE, as_of, feature_group, key, provenance};

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
    /// Name in SQL over one window: `uses`, `previous_uses`, `plan`.
    pub sql_name: String,
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

/// For each set of measures the indices of those that are kept.
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
    /// Each feature group.
    pub groups: Vec<Vec<usize>>,
}

impl Kept {
    /// The indices of each set, in the order of [`Known::sets`].
    fn by_set(&self) -> impl Iterator<Item = &Vec<usize>> {
        [&self.usage, &self.people, &self.tickets, &self.surveys].into_iter().chain(&self.groups)
    }

    fn of(known: &Known, wanted: impl Fn(&str, &str) -> bool) -> Self {
        let mut sets = known.sets.iter().map(|Set { name, measures }| {
            let is_wanted = |(_, (measure, _)): &(usize, &(String, _))| wanted(name, measure);
            measures.iter().enumerate().filter(is_wanted).map(|(index, _)| index).collect::<Vec<_>>()
        });
        let [usage, people, tickets, surveys] = [(); 4].map(|()| sets.next().unwrap_or_default());
        Self { usage, people, tickets, surveys, groups: sets.collect() }
    }

    fn is_empty(&self) -> bool {
        self.by_set().all(Vec::is_empty)
    }
}

/// A set of measures that a configuration can name.
#[derive(Debug)]
struct Set {
    name: String,
    /// Names and declared columns.
    measures: Vec<(String, &'static Column)>,
}

/// All measures that rows can keep: the built-in sets, and one set for each feature group.
#[derive(Debug)]
struct Known {
    sets: Vec<Set>,
}

impl Known {
    fn of(groups: &[String]) -> Self {
        let built_in = SETS.map(|(set, columns)| Set {
            name: set.to_owned(),
            measures: columns.iter().map(|column| (column.name.to_owned(), column)).collect(),
        });
        let of_group = |group: &String| Set {
            name: group.clone(),
            measures: feature_group::COLUMNS
                .iter()
                .map(|column| (format!("{group}_{}", column.name), column))
                .collect(),
        };
        Self { sets: built_in.into_iter().chain(groups.iter().map(of_group)).collect() }
    }

    /// Checks that every name means one thing: sets, measures, those of the window before, and other columns.
    fn check(&self, groups: &[String]) -> Result<(), String> {
        for group in groups {
            let is_word = group.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
            if !is_word || !group.starts_with(|c: char| c.is_ascii_lowercase()) {
                return Err(format!("feature group {group:?}: a name is of small letters, digits and _"));
            }
            let others = key::COLUMNS.iter().chain(as_of()).chain(provenance::COLUMNS).map(|column| column.name);
            let sets = self.sets.iter().map(|set| set.name.as_str());
            let names: Vec<&str> = others.chain(sets).chain(self.measures().map(|(name, _)| name.as_str())).collect();
            let of_group = self.sets.iter().filter(|set| set.name == *group).flat_map(|set| &set.measures);
            let own = std::iter::once(group.as_str()).chain(of_group.map(|(name, _)| name.as_str()));
            let is_taken = |name: &&str| names.iter().filter(|known| *known == name).count() > 1;
            if group.starts_with("previous") || own.into_iter().any(|name| is_taken(&name)) {
                return Err(format!("feature group {group}: a set, a measure or a column has that name"));
            }
        }
        Ok(())
    }

    fn measures(&self) -> impl Iterator<Item = &(String, &'static Column)> {
        self.sets.iter().flat_map(|set| &set.measures)
    }

    fn is_set(&self, name: &str) -> bool {
        self.sets.iter().any(|set| set.name == name)
    }

    fn is_measure(&self, name: &str) -> bool {
        self.measures().any(|(known, _)| known == name)
    }
}

/// The columns of a row: what identifies it, the kept measures window by window, the state at the end of the windows,
/// and what it was made from. It is fixed for an epoch.
#[derive(Debug)]
pub struct Layout {
    windows: Vec<String>,
    known: Known,
    parts: Vec<Part>,
    columns: Vec<LaidOut>,
    index: HashMap<String, usize>,
    measures: String,
    schema: SchemaRef,
}

impl Layout {
    /// Checks names of feature groups, sets, measures and windows.
    ///
    /// # Errors
    /// Names a set, measure or window that does not exist, a feature group whose names are taken, or one that no row
    /// keeps.
    pub fn check(windows: &[String], groups: &[String], wanted: &[Wanted]) -> Result<(), String> {
        let known = Known::of(groups);
        known.check(groups)?;
        for Wanted { of, windows: named, .. } in wanted {
            if of.is_empty() {
                return Err("an entry names no measure: `of` is empty".to_owned());
            }
            if let Some(name) = of.iter().find(|name| !known.is_set(name) && !known.is_measure(name)) {
                let sets: Vec<&str> = known.sets.iter().map(|set| set.name.as_str()).collect();
                return Err(format!("{name} is no measure and no set of measures ({})", sets.join(", ")));
            }
            if let Some(name) = named.iter().find(|name| !windows.contains(name)) {
                return Err(format!("{name} is not among aggregate.windows: {}", windows.join(", ")));
            }
        }
        let is_kept = |set: &&Set| {
            let mut asked = wanted.iter().flat_map(|wanted| &wanted.of);
            asked.any(|asked| *asked == set.name || set.measures.iter().any(|(name, _)| name == asked))
        };
        match known.sets.iter().skip(SETS.len()).find(|set| !is_kept(set)) {
            Some(Set { name, .. }) => {
                Err(format!("feature group {name}: no row keeps a measure of it; add `- {name}` to aggregate.measures"))
            }
            None => Ok(()),
        }
    }

    /// The layout for these windows, shortest first, these feature groups, and what is asked of them. A name that does
    /// not exist keeps nothing; see [`Layout::check`].
    pub fn new(windows: &[String], groups: &[String], wanted: &[Wanted]) -> Self {
        let known = Known::of(groups);
        let parts = windows.iter().enumerate().flat_map(|(window, period)| {
            [false, true].map(|is_previous| {
                let is_for = |wanted: &&Wanted| {
                    (wanted.windows.is_empty() || wanted.windows.contains(period))
                        && (!is_previous || wanted.with_previous)
                };
                let asked: Vec<&String> = wanted.iter().filter(is_for).flat_map(|wanted| &wanted.of).collect();
                let kept = Kept::of(&known, |set, name| asked.iter().any(|asked| *asked == set || *asked == name));
                Part { window, is_previous, kept }
            })
        });
        let parts: Vec<Part> = parts.filter(|part| !part.kept.is_empty()).collect();
        Self::of_parts(windows.to_vec(), known, parts)
    }

    /// A layout that keeps everything of these windows, also of the windows before.
    pub fn of_everything(windows: &[String]) -> Self {
        let of = SETS.map(|(set, _)| set.to_owned()).to_vec();
        Self::new(windows, &[], &[Wanted { of, windows: Vec::new(), with_previous: true }])
    }

    fn of_parts(windows: Vec<String>, known: Known, parts: Vec<Part>) -> Self {
        let plain = |column: &'static Column| LaidOut {
            name: column.name.to_owned(),
            sql_name: column.name.to_owned(),
            column,
            part: None,
        };
        let mut columns: Vec<LaidOut> = key::COLUMNS.iter().map(plain).collect();
        for (index, part) in parts.iter().enumerate() {
            let (prefix, window) = (if part.is_previous { PREVIOUS } else { "" }, &windows[part.window]);
            for (set, kept) in known.sets.iter().zip(part.kept.by_set()) {
                columns.extend(kept.iter().filter_map(|at| set.measures.get(*at)).map(|(measure, column)| LaidOut {
                    name: format!("{prefix}{measure}_{window}"),
                    sql_name: format!("{prefix}{measure}"),
                    column,
                    part: Some(index),
                }));
            }
        }
        columns.extend(as_of().chain(provenance::COLUMNS).map(plain));
        let index = columns.iter().enumerate().map(|(index, column)| (column.name.clone(), index)).collect();
        let fields = columns
            .iter()
            .map(|LaidOut { name, column, .. }| Field::new(name, column.kind.data_type(), column.nullable));
        let measures = described(&windows, &known, &parts);
        let metadata = [(TABLE_KEY, TABLE.to_owned()), (MEASURES_KEY, measures.clone())];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into();
        let schema = Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), metadata));
        Self { windows, known, parts, columns, index, measures, schema }
    }

    /// All columns that SQL over one window can name, kept or not: name and declared column.
    pub fn known_columns(&self) -> impl Iterator<Item = (String, &'static Column)> {
        let plain = key::COLUMNS.iter().chain(as_of()).chain(provenance::COLUMNS);
        let plain = plain.map(|column| (column.name.to_owned(), column));
        let measures = ["", PREVIOUS]
            .into_iter()
            .flat_map(|prefix| self.known.measures().map(move |(name, column)| (format!("{prefix}{name}"), *column)));
        plain.chain(measures)
    }

    /// Whether a name is that of a measure of a window.
    pub fn is_measure(&self, name: &str) -> bool {
        self.known.is_measure(name)
    }

    /// Whether rows do not keep a measure of this window, or of the window before it, that they could keep.
    pub fn lacks(&self, name: &str, window: &str) -> bool {
        let measure = name.strip_prefix(PREVIOUS).unwrap_or(name);
        (self.is_measure(name) || self.is_measure(measure)) && self.index_of(name, window).is_none()
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
        let plain = self.index.get(name).filter(|index| self.columns[**index].part.is_none());
        plain.or_else(|| self.index.get(&format!("{name}_{window}"))).copied()
    }

    /// The window of a measure.
    pub fn window_of(&self, column: &LaidOut) -> Option<&String> {
        column.part.map(|index| &self.windows[self.parts[index].window])
    }

    /// The line of `aggregate.measures` that keeps a measure.
    pub fn line_for(name: &str, window: &str) -> String {
        match name.strip_prefix(PREVIOUS) {
            Some(name) => format!("- {{of: [{name}], windows: [{window}], previous: true}}"),
            None => format!("- {{of: [{name}], windows: [{window}]}}"),
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

/// Measures that a set got after its first version.
const LATER: [&str; 2] = ["csat_satisfied", "ces_easy"];

/// The kept measures as text.
fn described(windows: &[String], known: &Known, parts: &[Part]) -> String {
    let mut text = String::new();
    for Part { window, is_previous, kept } in parts {
        let (separator, before) = (if text.is_empty() { "" } else { "; " }, if *is_previous { "before " } else { "" });
        // Writing to a text cannot fail.
        write!(text, "{separator}{before}{}:", windows[*window]).unwrap_or_default();
        for (set, kept) in known.sets.iter().zip(kept.by_set()) {
            // Measures that came later do not make another text of what was whole before.
            let is_early =
                |at: &&usize| set.measures.get(**at).is_some_and(|(_, column)| !LATER.contains(&column.name));
            let num_early = set.measures.iter().filter(|(_, column)| !LATER.contains(&column.name)).count();
            let names: Vec<&str> = match kept.iter().filter(is_early).count() == num_early {
                true => vec![&set.name],
                false => kept.iter().filter_map(|at| set.measures.get(*at)).map(|(name, _)| name.as_str()).collect(),
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
        let asked = [wanted(&["people", "nps"], &[], false), wanted(&["uses", "insights_users"], &["28d"], true)];
        let layout = Layout::new(&windows(), &["insights".to_owned()], &asked);
        let measures: Vec<&str> =
            layout.columns().iter().filter(|column| column.part.is_some()).map(|column| column.name.as_str()).collect();
        let people = ["people_added", "people_removed", "champions_lost", "champions_active"];
        let mut expected: Vec<String> = people.map(|name| format!("{name}_7d")).to_vec();
        expected.push("nps_7d".to_owned());
        expected.push("uses_28d".to_owned());
        expected.extend(people.map(|name| format!("{name}_28d")));
        let rest = ["nps_28d", "insights_users_28d", "previous_uses_28d", "previous_insights_users_28d"];
        expected.extend(rest.map(str::to_owned));
        assert_eq!(measures, expected);
        assert_eq!(
            layout.measures(),
            "7d: people nps; 28d: uses people nps insights_users; before 28d: uses insights_users"
        );
        let name = |name: &str, window: &str| layout.index_of(name, window).map(|i| layout.columns()[i].name.clone());
        assert_eq!(name("uses", "28d").as_deref(), Some("uses_28d"));
        assert_eq!(name("previous_uses", "28d").as_deref(), Some("previous_uses_28d"));
        assert_eq!(name("plan", "7d").as_deref(), Some("plan"));
        assert_eq!(name("insights_users", "28d").as_deref(), Some("insights_users_28d"));
        assert!(
            layout.lacks("insights_uses", "28d") && layout.lacks("previous_nps", "28d") && layout.lacks("uses", "7d")
        );
        assert!(!layout.lacks("uses", "28d") && !layout.lacks("plan", "28d") && !layout.lacks("nothing", "28d"));
        assert_eq!((name("uses", "7d"), name("previous_nps", "28d"), name("nothing", "7d")), (None, None, None));
    }

    #[test]
    fn who_names_every_measure_of_the_first_version_of_a_set_has_the_whole_set_in_later_ones() {
        let early: Vec<&str> = crate::schema::window::surveys::COLUMNS
            .iter()
            .map(|column| column.name)
            .filter(|name| !LATER.contains(name))
            .collect();
        let text = |of: &[&str]| Layout::new(&windows(), &[], &[wanted(of, &["7d"], false)]).measures().to_owned();
        assert_eq!(early.len(), 8);
        assert_eq!([text(&early), text(&["surveys"])], ["7d: surveys", "7d: surveys"]);
        assert_eq!(text(&["nps", "csat_satisfied"]), "7d: nps csat_satisfied");
        assert_eq!(text(&["ces_easy"]), "7d: ces_easy");
    }

    #[test]
    fn what_does_not_exist_is_refused_by_name() {
        // feature group, asked, words of the message
        let taken =
            ["active", "usage", "uses", "people", "previous", "previous_g"].map(|group| (group, "has that name"));
        let no_words = ["Insights", "1st", ""].map(|group| (group, "small letters"));
        let of_groups =
            taken.into_iter().chain(no_words).map(|(group, words)| (group, wanted(&[group], &[], false), words));
        let cases = [
            ("g", wanted(&["use"], &[], false), "use is no measure and no set of measures (usage"),
            ("g", wanted(&["previous_uses"], &[], false), "previous_uses is no measure"),
            ("g", wanted(&["g_use"], &[], false), "g_use is no measure"),
            ("g", wanted(&["uses"], &["30d"], false), "30d is not among aggregate.windows: 7d, 28d"),
            ("g", wanted(&[], &[], false), "names no measure"),
            ("g", wanted(&["uses"], &[], false), "feature group g: no row keeps a measure of it; add `- g`"),
        ];
        for (group, asked, words) in cases.into_iter().chain(of_groups) {
            let why = Layout::check(&windows(), &[group.to_owned()], std::slice::from_ref(&asked)).unwrap_err();
            assert!(why.contains(words), "{group} {asked:?}: {why}");
        }
        let groups = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert!(
            Layout::check(&windows(), &groups(&["g", "g_more"]), &[wanted(&["g", "g_more_uses"], &[], true)]).is_ok()
        );
        let why = Layout::check(&windows(), &groups(&["a", "a_users"]), &[wanted(&["a", "a_users"], &[], false)]);
        assert!(why.is_err_and(|why| why.contains("feature group a")));
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
