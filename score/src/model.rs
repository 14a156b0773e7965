//! The model file: factors, weights, bands and triggers as data, checked with line and column.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use crate::normalise::Normalise;
use crate::points::Points;

/// The default model, built in.
pub const DEFAULT: &str = include_str!("../models/default.yaml");

/// Band of an account of which too little is known.
pub const UNKNOWN: &str = "unknown";

/// A model file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFile {
    /// Rises with every change of meaning; part of every score.
    pub version: i64,
    /// In order of precedence: the first whose `only_for` fits scores an account. The last fits all.
    pub models: Vec<Model>,
}

/// How accounts of some segments and stages are scored.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Name; part of every score.
    pub name: Spanned<String>,
    /// Accounts it is for; all, where nothing is said.
    #[serde(default)]
    pub only_for: OnlyFor,
    /// Window whose row the SQL sees, unless a factor or trigger names another.
    pub period: Spanned<String>,
    /// What stands in for an unknown value, unless a factor says otherwise.
    #[serde(default)]
    pub missing: Missing,
    /// Percent of the weights whose value must be known; below it the band is `unknown`.
    #[serde(default)]
    pub minimum_coverage: f64,
    /// What the weights add up to.
    #[serde(default)]
    pub weights: Weights,
    /// What the score is made of.
    pub factors: Vec<Factor>,
    /// From the worst to the best; the first from 0.
    pub bands: Vec<Band>,
    /// What the bands go by.
    #[serde(default)]
    pub band_basis: BandBasis,
    /// What calls for action.
    #[serde(default)]
    pub triggers: Vec<Trigger>,
}

/// Segments and stages; an empty list means any.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OnlyFor {
    /// Values of the fact `segment`.
    pub segments: Vec<String>,
    /// Values of the fact `stage`.
    pub stages: Vec<String>,
}

impl OnlyFor {
    /// Whether an account is meant.
    pub fn fits(&self, segment: Option<&str>, stage: Option<&str>) -> bool {
        let is_among = |names: &[String], name: Option<&str>| {
            names.is_empty() || name.is_some_and(|name| names.iter().any(|known| known == name))
        };
        is_among(&self.segments, segment) && is_among(&self.stages, stage)
    }

    fn is_for_all(&self) -> bool {
        self.segments.is_empty() && self.stages.is_empty()
    }
}

/// What stands in for an unknown value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The factor is left out; the others carry its weight.
    #[default]
    Reweight,
    /// 0: what is not known to be good is bad.
    Zero,
    /// 50.
    Neutral,
}

impl Missing {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reweight => "reweight",
            Self::Zero => "zero",
            Self::Neutral => "neutral",
        }
    }
}

/// What the weights of a model add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// Exactly 100.
    #[default]
    Percent,
    /// Anything: they count relative to their sum.
    Raw,
}

/// What the bands go by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BandBasis {
    /// The score with all its decimals.
    #[default]
    Exact,
    /// The whole number that is shown.
    Display,
}

/// One factor.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factor {
    /// Name; part of every score.
    pub name: Spanned<String>,
    /// DataFusion SQL over the window row; null means unknown.
    pub sql: Spanned<String>,
    /// Window whose row the SQL sees; the model's, where none is named.
    pub period: Option<Spanned<String>>,
    /// From the value to 0-100.
    pub normalise: Normalise,
    /// Weight.
    pub weight: f64,
    /// What stands in for an unknown value; the model's, where nothing is said.
    pub missing: Option<Missing>,
}

/// One band.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Band {
    /// Name, e.g. red.
    pub name: Spanned<String>,
    /// Lowest score in it.
    pub from: f64,
}

/// One trigger.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    /// Name; part of every alert.
    pub name: Spanned<String>,
    /// DataFusion SQL over the window row that is true when action is called for.
    pub sql: Spanned<String>,
    /// Window whose row the SQL sees; the model's, where none is named.
    pub period: Option<Spanned<String>>,
    /// How much it matters.
    pub severity: Severity,
    /// What to do.
    pub playbook: String,
    /// Who is to do it.
    pub owner_role: String,
}

/// How much a trigger matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Look at it some time.
    Low,
    /// Look at it this week.
    Medium,
    /// Look at it today.
    High,
}

impl Severity {
    /// As in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// Why a model file is refused: file, line, column, and what is allowed.
#[derive(Debug, thiserror::Error)]
#[error("{file}{place}: {why}")]
pub struct ModelError {
    file: String,
    place: String,
    why: String,
}

impl ModelError {
    /// A fault at a place of the file.
    pub fn at(file: &str, place: Location, why: impl fmt::Display) -> Self {
        let place = format!(":{}:{}", place.line(), place.column());
        Self { file: file.to_owned(), place, why: why.to_string() }
    }

    fn of(file: &str, why: impl fmt::Display) -> Self {
        Self { file: file.to_owned(), place: String::new(), why: why.to_string() }
    }
}

/// The text of the model file at `path`.
///
/// # Errors
/// [`ModelError`] when it cannot be read.
pub fn read(path: &Path) -> Result<String, ModelError> {
    std::fs::read_to_string(path).map_err(|error| ModelError::of(&path.display().to_string(), error))
}

/// Reads and checks a model file; `periods` are the configured windows.
///
/// # Errors
/// [`ModelError`] naming file, line and column.
pub fn parse(file: &str, text: &str, periods: &[String]) -> Result<ModelFile, ModelError> {
    let models: ModelFile = serde_saphyr::from_str(text).map_err(|error| ModelError::of(file, error))?;
    let Some((last, others)) = models.models.split_last() else {
        return Err(ModelError::of(file, "models: at least one is needed"));
    };
    if !last.only_for.is_for_all() {
        return Err(ModelError::at(
            file,
            last.name.referenced,
            "the last model must be for all accounts: no `only_for`",
        ));
    }
    if let Some(model) = others.iter().find(|model| model.only_for.is_for_all()) {
        let why = format!("model {} is for all accounts, so no later one is ever used: put it last", model.name.value);
        return Err(ModelError::at(file, model.name.referenced, why));
    }
    unique(file, models.models.iter().map(|model| &model.name))?;
    models.models.iter().try_for_each(|model| model.check(file, periods))?;
    Ok(models)
}

impl Model {
    fn check(&self, file: &str, periods: &[String]) -> Result<(), ModelError> {
        let at = |place: &Spanned<String>, why: String| Err(ModelError::at(file, place.referenced, why));
        let named = self.factors.iter().map(|factor| &factor.period).chain(self.triggers.iter().map(|t| &t.period));
        for period in named.flatten().chain([&self.period]) {
            if !periods.contains(&period.value) {
                return at(
                    period,
                    format!("period {} is not among aggregate.windows: {}", period.value, periods.join(", ")),
                );
            }
        }
        unique(file, self.factors.iter().map(|factor| &factor.name))?;
        unique(file, self.bands.iter().map(|band| &band.name))?;
        unique(file, self.triggers.iter().map(|trigger| &trigger.name))?;
        for factor in &self.factors {
            if let Some(fault) = factor.normalise.fault() {
                return at(&factor.name, format!("factor {}: {fault}", factor.name.value));
            }
            if !(factor.weight() > Points::ZERO && factor.weight <= 1e6) {
                return at(
                    &factor.name,
                    format!("factor {}: weight must be from 0.000001 to 1000000", factor.name.value),
                );
            }
        }
        let sum: Points = self.factors.iter().map(Factor::weight).sum();
        if self.factors.is_empty() || self.weights == Weights::Percent && sum != Points::HUNDRED {
            return at(
                &self.name,
                format!("the weights of model {} sum to {sum}, not to 100; or say `weights: raw`", self.name.value),
            );
        }
        if !(0.0..=100.0).contains(&self.minimum_coverage) {
            return at(&self.name, "minimum_coverage must lie in 0-100 percent".into());
        }
        if let Some(band) = self.bands.iter().find(|band| band.name.value == UNKNOWN) {
            return at(&band.name, format!("the band {UNKNOWN} stands for too little coverage: choose another name"));
        }
        let from: Vec<f64> = self.bands.iter().map(|band| band.from).collect();
        let starts_at_zero = from.first().is_some_and(|first| first.total_cmp(&0.0).is_eq());
        if !starts_at_zero || !from.is_sorted_by(|a, b| a < b) || from.iter().any(|from| *from > 100.0) {
            return at(
                &self.name,
                format!("the bands of model {} must rise from 0 to at most 100: {from:?}", self.name.value),
            );
        }
        Ok(())
    }

    /// The band of a score.
    pub fn band(&self, score: Points) -> &str {
        let basis = match self.band_basis {
            BandBasis::Exact => score,
            BandBasis::Display => Points::from_millionths(score.whole() * 1_000_000),
        };
        let is_reached = |band: &&Band| Points::round(band.from).is_some_and(|from| from <= basis);
        self.bands.iter().rev().find(is_reached).map_or(UNKNOWN, |band| &band.name.value)
    }
}

impl Factor {
    /// The weight, exactly.
    pub fn weight(&self) -> Points {
        Points::round(self.weight).unwrap_or_default()
    }
}

fn unique<'n>(file: &str, names: impl Iterator<Item = &'n Spanned<String>>) -> Result<(), ModelError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        if name.value.is_empty() || !seen.insert(name.value.as_str()) {
            return Err(ModelError::at(
                file,
                name.referenced,
                format!("the name {:?} is empty or used twice", name.value),
            ));
        }
    }
    Ok(())
}
