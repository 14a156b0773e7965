//! Figures as data: a file says how each is computed from rows of a table.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::rows::From;

/// The figures that are shipped: file and text.
const SHIPPED: [(&str, &str); 7] = [
    ("kpis/revenue.yaml", include_str!("../../kpis/revenue.yaml")),
    ("kpis/portfolio.yaml", include_str!("../../kpis/portfolio.yaml")),
    ("kpis/product.yaml", include_str!("../../kpis/product.yaml")),
    ("kpis/voice.yaml", include_str!("../../kpis/voice.yaml")),
    ("kpis/effect.yaml", include_str!("../../kpis/effect.yaml")),
    ("kpis/prediction.yaml", include_str!("../../kpis/prediction.yaml")),
    ("kpis/value.yaml", include_str!("../../kpis/value.yaml")),
];

/// A figure.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kpi {
    /// Its name in the output.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// What its value is.
    pub unit: Unit,
    /// The rows it is made of.
    #[serde(default)]
    pub(super) from: From,
    /// SQL over a row; it is summed.
    pub(super) numerator: Option<String>,
    /// SQL over a row; it is summed.
    pub(super) denominator: Option<String>,
    /// SQL condition: the rows that count.
    pub(super) r#where: Option<String>,
    /// Instead: SQL over the values of other figures, by name.
    pub(super) formula: Option<String>,
    /// Whether amounts of different currencies must not be added.
    #[serde(default)]
    pub(super) by_currency: bool,
    /// Where the formula comes from.
    pub source: String,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Percent of the denominator.
    Percent,
    /// The same, where it is no share: -100 to 100.
    Points,
    /// An amount of money; if there is a denominator, for each of it.
    Amount,
    /// A number of things.
    Count,
    /// A number for each of the denominator.
    Mean,
}

/// The figures of a file, given with its name, or the shipped ones.
///
/// # Errors
/// When the file is no list of figures, with line and column; when a figure lacks what its unit needs.
pub fn parse(file: Option<(&str, &str)>) -> Result<Vec<Kpi>> {
    let files = file.map_or(SHIPPED.to_vec(), |file| vec![file]);
    let mut kpis: Vec<Kpi> = Vec::new();
    for (name, text) in files {
        let of_file: Vec<Kpi> =
            serde_saphyr::from_str(text).with_context(|| format!("{name} is no list of figures"))?;
        ensure!(!of_file.is_empty(), "{name} has no figures");
        for kpi in &of_file {
            kpi.check().with_context(|| format!("{name}: {}", kpi.name))?;
        }
        kpis.extend(of_file);
    }
    let mut names = BTreeSet::new();
    for kpi in &kpis {
        ensure!(names.insert(&kpi.name), "there are two figures {:?}", kpi.name);
    }
    for kpi in kpis.iter().filter(|kpi| kpi.formula.is_some()) {
        let summed: Vec<&Kpi> = kpis.iter().filter(|other| other.formula.is_none()).collect();
        let named: Vec<&&Kpi> = summed.iter().filter(|other| kpi.names(other)).collect();
        let names: Vec<&str> = summed.iter().map(|kpi| kpi.name.as_str()).collect();
        ensure!(!named.is_empty(), "{}: the formula names no other figure: there are {}", kpi.name, names.join(", "));
        if let Some(other) = named.iter().find(|other| other.by_currency != kpi.by_currency) {
            bail!("{} and {}, which its formula names: both or none are by_currency", kpi.name, other.name);
        }
    }
    Ok(kpis)
}

impl Kpi {
    fn check(&self) -> Result<()> {
        let is_word = |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        ensure!(is_word(&self.name) && !self.name.is_empty(), "a name has the letters a-z, 0-9 and _");
        if self.formula.is_some() {
            let is_alone = self.numerator.is_none() && self.denominator.is_none() && self.r#where.is_none();
            ensure!(is_alone, "a formula stands alone, without numerator, denominator and where");
            return Ok(());
        }
        ensure!(self.numerator.is_some(), "there is neither a numerator nor a formula");
        match (self.unit, self.denominator.is_some()) {
            (Unit::Percent | Unit::Points | Unit::Mean, false) => bail!("a quotient has a denominator"),
            (Unit::Count, true) => bail!("a count has no denominator"),
            _ => Ok(()),
        }
    }

    /// The words of the formula.
    fn words(&self) -> BTreeSet<String> {
        let formula = self.formula.as_deref().unwrap_or_default();
        let words = formula.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    /// Whether the formula names another figure.
    pub(super) fn names(&self, other: &Self) -> bool {
        self.words().contains(&other.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_shipped_figure_says_what_it_is_and_where_it_comes_from() {
        let kpis = parse(None).unwrap();
        assert!(kpis.len() > 40, "{}", kpis.len());
        assert!(kpis.iter().all(|kpi| !kpi.source.is_empty() && !kpi.title.is_empty()));
    }

    #[test]
    fn a_wrong_file_is_refused_with_line_and_column() {
        let cases = [
            ("- {name: a, title: a, unit: percent, numerator: '1', source: x}", "has a denominator"),
            ("- {name: a, title: a, unit: mean, numerator: '1', source: x}", "has a denominator"),
            ("- {name: a, title: a, unit: count, numerator: '1', denominator: '1', source: x}", "has no denominator"),
            ("- {name: a, title: a, unit: count, source: x}", "neither a numerator nor a formula"),
            ("- {name: a, title: a, unit: count, numerator: '1', formula: b, source: x}", "stands alone"),
            ("- {name: a, title: a, unit: count, formula: 2 * b, source: x}", "names no other figure"),
            ("- {name: a, title: a, unit: count, numerator: '1', from: nowhere, source: x}", "line 1"),
            (
                "- {name: a, title: a, unit: count, numerator: '1', source: x, by_currency: true}\n- {name: b, title: b, unit: mean, formula: 2 * a, source: x}",
                "both or none are by_currency",
            ),
            ("- name: a\n  titel: a\n", "line 2"),
            ("- {name: a-b, title: a, unit: count, numerator: '1', source: x}", "a name has the letters"),
            ("[]", "no figures"),
        ];
        for (text, expected) in cases {
            let why = format!("{:#}", parse(Some(("own.yaml", text))).unwrap_err());
            assert!(why.contains(expected), "{why}");
        }
    }
}
