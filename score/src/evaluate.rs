//! Turns window rows into verdicts. Each account is evaluated by its model: factors, points, bands and conditions are
//! columns over all accounts of a model.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use keepwell_core::interned::Name;
use keepwell_core::schema::columns::TimeArray;

use crate::compile::{CompiledModel, CompiledTrigger};
use crate::evidence::evidence;
use crate::expression::Expression;
use crate::lifecycle::{Place, places};
use crate::model::Basis;
use crate::model_schedule::Models;
use crate::rate::{FactorValue, Rating, Ratings};
use crate::state::{LastFinal, Memory};
use crate::windows::{Case, Windows};
use keepwell_core::points::Points;

/// An account at one time, and what score remembers of it.
#[derive(Debug, Clone, Copy)]
pub struct CaseWithPast<'c> {
    /// The account and its window rows.
    pub case: &'c Case<'c>,
    /// What score remembers from final rows before this one. Empty if there are none.
    pub past: &'c Memory,
}

/// The results for many accounts, model by model.
#[derive(Debug)]
pub struct Verdicts<'m> {
    groups: Vec<Group<'m>>,
    /// Where each account stands in the lifecycle.
    stands: Vec<Place<'m>>,
    /// The group of each account, and its place in it.
    places: Vec<(usize, usize)>,
}

/// The results of one model, by column.
#[derive(Debug)]
struct Group<'m> {
    model: &'m CompiledModel,
    ratings: Ratings<'m>,
    bands: Vec<&'m str>,
    /// One column per value to remember, in the order of the model.
    remember: Vec<Float64Array>,
    /// One per trigger, in the order of the model.
    signs: Vec<Conditions>,
}

/// The conditions of one trigger for all accounts of a model. Unknown counts as no.
#[derive(Debug)]
struct Conditions {
    holds: BooleanArray,
    clears: Option<BooleanArray>,
    /// The columns of the condition as JSON, for rows that may report the trigger.
    evidence: BTreeMap<usize, String>,
}

/// The result for one account at one time.
#[derive(Debug, Clone)]
pub struct Verdict<'v> {
    /// The model that was used.
    pub model: &'v CompiledModel,
    /// The score and its parts.
    pub rating: Rating<'v>,
    /// The band of the row.
    pub band: &'v str,
    /// Where the account stands in the lifecycle.
    pub place: &'v Place<'v>,
    group: &'v Group<'v>,
    row: usize,
}

/// The conditions of one trigger on a row. Unknown counts as no.
#[derive(Debug, Clone, Copy)]
pub struct Sign<'v> {
    /// Whether the condition holds.
    pub holds: bool,
    /// Whether the clearing condition holds, if one is declared.
    pub clears: Option<bool>,
    /// The columns of the condition as JSON, if the row may report the trigger.
    pub evidence: Option<&'v str>,
}

impl Verdicts<'_> {
    /// The results, in the order of the accounts.
    pub fn iter(&self) -> impl Iterator<Item = Verdict<'_>> {
        self.places.iter().zip(&self.stands).map(|((group, row), place)| {
            let (group, row) = (&self.groups[*group], *row);
            Verdict { model: group.model, rating: group.ratings.of(row), band: group.bands[row], place, group, row }
        })
    }
}

impl<'v> Verdict<'v> {
    /// Values to remember, in the order of the model.
    pub fn remember(&self) -> impl Iterator<Item = Option<Points>> {
        self.group.remember.iter().map(|values| value(values, self.row).and_then(Points::round))
    }

    /// The conditions of each trigger, in the order of the model.
    pub fn signs(&self) -> impl Iterator<Item = Sign<'v>> {
        self.group.signs.iter().map(|Conditions { holds, clears, evidence }| Sign {
            holds: is_true(holds, self.row),
            clears: clears.as_ref().map(|clears| is_true(clears, self.row)),
            evidence: evidence.get(&self.row).map(String::as_str),
        })
    }

    /// Whether the condition of any trigger holds.
    pub fn is_any_raised(&self) -> bool {
        self.group.signs.iter().any(|signs| is_true(&signs.holds, self.row))
    }
}

fn is_true(flags: &BooleanArray, row: usize) -> bool {
    flags.is_valid(row) && flags.value(row)
}

/// Evaluates accounts, in their order. Each account may occur only once.
///
/// # Errors
/// [`ArrowError`] when the rows do not belong to the `windows` table.
pub fn evaluate<'m>(
    models: &'m Models,
    windows: &Windows<'_>,
    cases: &[CaseWithPast<'_>],
    pane_us: i64,
) -> Result<Verdicts<'m>, ArrowError> {
    let mut by_model: BTreeMap<(usize, usize), (&'m CompiledModel, Vec<usize>)> = BTreeMap::new();
    let stands = places(models, windows, cases)?;
    for (index, (CaseWithPast { case, .. }, place)) in cases.iter().zip(&stands).enumerate() {
        let missing = || ArrowError::ComputeError(format!("no model for {} at {}", case.account_id, case.as_of_us));
        let (version, compiled) = models.at(case.as_of_us).ok_or_else(missing)?;
        let number = compiled.model_of(case.segment, place.stage_of(case));
        let model = compiled.models.get(number).ok_or_else(missing)?;
        by_model.entry((version, number)).or_insert((model, Vec::new())).1.push(index);
    }
    let groups = Vec::with_capacity(by_model.len());
    let mut verdicts = Verdicts { groups, stands, places: vec![(0, 0); cases.len()] };
    for (model, indices) in by_model.into_values() {
        for (row, index) in indices.iter().enumerate() {
            verdicts.places[*index] = (verdicts.groups.len(), row);
        }
        let cases: Vec<CaseWithPast<'_>> = indices.iter().filter_map(|index| cases.get(*index).copied()).collect();
        verdicts.groups.push(Evaluation::new(model, windows, &cases)?.group(pane_us)?);
    }
    Ok(verdicts)
}

/// All accounts of one model.
struct Evaluation<'e, 'm> {
    compiled: &'m CompiledModel,
    cases: &'e [CaseWithPast<'e>],
    /// The columns that the model uses, by window and name.
    windows: BTreeMap<(&'m str, &'m str), ArrayRef>,
    /// Values from earlier final rows, by column.
    past: BTreeMap<&'m str, ArrayRef>,
}

impl<'e, 'm> Evaluation<'e, 'm> {
    fn new(
        compiled: &'m CompiledModel,
        windows: &Windows<'_>,
        cases: &'e [CaseWithPast<'e>],
    ) -> Result<Self, ArrowError> {
        let conditions = compiled.triggers.iter().flat_map(|trigger| [Some(&trigger.when), trigger.clear.as_ref()]);
        let all = compiled.factors.iter().chain(&compiled.remember).chain(conditions.flatten());
        let used = all.flat_map(|compute| compute.columns().map(|name| (compute.period.as_str(), name)));
        let accounts: Vec<&Case<'_>> = cases.iter().map(|c| c.case).collect();
        Ok(Self { compiled, cases, windows: windows.columns(used, &accounts)?, past: past(compiled, cases) })
    }

    fn inputs(&self, compute: &Expression, present: &BTreeMap<&str, ArrayRef>) -> Result<RecordBatch, ArrowError> {
        compute.inputs(self.cases.len(), |name| {
            let of_window = self.windows.get(&(compute.period.as_str(), name));
            of_window.or_else(|| self.past.get(name)).or_else(|| present.get(name)).cloned()
        })
    }

    fn group(&self, pane_us: i64) -> Result<Group<'m>, ArrowError> {
        let none = BTreeMap::new();
        let numbers = |computes: &[Expression]| {
            computes.iter().map(|c| c.numbers(&self.inputs(c, &none)?)).collect::<Result<Vec<_>, ArrowError>>()
        };
        let (factors, remember) = (numbers(&self.compiled.factors)?, numbers(&self.compiled.remember)?);
        let ratings = self.ratings(&factors);
        let bands: Vec<&'m str> = (0..self.cases.len()).map(|row| self.band(row, &ratings.of(row), pane_us)).collect();
        let present = present(self.cases, &ratings, &bands);
        let triggers = self.compiled.triggers.iter().zip(&self.compiled.model.triggers);
        let signs = triggers.map(|(trigger, declared)| self.signs(trigger, &declared.name.value, &present));
        Ok(Group { model: self.compiled, signs: signs.collect::<Result<_, _>>()?, ratings, bands, remember })
    }

    /// The conditions of one trigger, and the evidence of the rows that may report it.
    fn signs(
        &self,
        trigger: &CompiledTrigger,
        name: &Name,
        present: &BTreeMap<&str, ArrayRef>,
    ) -> Result<Conditions, ArrowError> {
        let inputs = self.inputs(&trigger.when, present)?;
        let holds = trigger.when.flags(&inputs)?;
        let clears = trigger.clear.as_ref().map(|clear| clear.flags(&self.inputs(clear, present)?)).transpose()?;
        let is_shown = |(row, scene): &(usize, &CaseWithPast<'_>)| {
            is_true(&holds, *row) || scene.past.episodes.get(name).is_some()
        };
        let shown: Vec<u32> = self.cases.iter().enumerate().filter(is_shown).map(|(row, _)| row as u32).collect();
        let texts = evidence(&inputs, &shown)?;
        let evidence = shown.iter().zip(texts).map(|(row, text)| (*row as usize, text)).collect();
        Ok(Conditions { holds, clears, evidence })
    }

    fn ratings(&self, factors: &[Float64Array]) -> Ratings<'m> {
        let model = &self.compiled.model;
        let mut ratings = Ratings::new(model, &self.compiled.weights);
        let ttls: Vec<Option<i64>> =
            model.factors.iter().map(|factor| factor.missing.unwrap_or(model.missing).ttl_us()).collect();
        for (row, CaseWithPast { case, past }) in self.cases.iter().enumerate() {
            let is_same_model = past.is_of(model);
            let known = model.factors.iter().zip(&ttls).zip(factors).map(|((factor, ttl_us), values)| {
                let carried = ttl_us.filter(|_| is_same_model).and_then(|ttl_us| {
                    let known = past.known.get(&factor.name.value).copied();
                    known.filter(|(_, us)| case.as_of_us.saturating_sub(*us) <= ttl_us)
                });
                FactorValue { value: value(values, row), carried }
            });
            ratings.push(known);
        }
        ratings
    }

    fn band(&self, row: usize, rating: &Rating<'_>, pane_us: i64) -> &'m str {
        let (model, CaseWithPast { case, past }) = (&self.compiled.model, self.cases[row]);
        let before = past.last.as_ref().map(|last| (last.band.as_str(), last.band_since_us));
        model.band(Basis { score: rating.covered(model), before, as_of_us: case.as_of_us, pane_us })
    }
}

fn value(values: &Float64Array, row: usize) -> Option<f64> {
    values.is_valid(row).then(|| values.value(row))
}

fn float(points: Option<Points>) -> Option<f64> {
    points.map(Points::to_f64)
}

/// The columns about earlier final rows, as `compile` declares them.
fn past<'m>(compiled: &'m CompiledModel, cases: &[CaseWithPast<'_>]) -> BTreeMap<&'m str, ArrayRef> {
    let last = || cases.iter().map(|scene| scene.past.last.as_ref());
    let floats = |values: Float64Array| Arc::new(values) as ArrayRef;
    let as_of: TimeArray = last().map(|last| last.map(|last| last.as_of_us)).collect();
    let band: StringArray = last().map(|last| last.map(|last| last.band.as_str())).collect();
    let mut columns: BTreeMap<&str, ArrayRef> = BTreeMap::from([
        ("previous_as_of", Arc::new(as_of.with_timezone("UTC")) as ArrayRef),
        ("previous_band", Arc::new(band)),
        (
            "previous_score",
            floats(last().map(|last: Option<&LastFinal>| float(last.and_then(|last| last.score))).collect()),
        ),
        ("baseline_score", floats(cases.iter().map(|scene| float(scene.past.baseline)).collect())),
    ]);
    for remember in &compiled.model.remember {
        let of = |CaseWithPast { case, past }: &CaseWithPast<'_>| {
            let values = past.remembered.get(&remember.name.value).filter(|_| past.is_of(&compiled.model));
            let values = values.map(Vec::as_slice).unwrap_or_default();
            let from = values.partition_point(|(us, _)| case.as_of_us.saturating_sub(*us) >= remember.over.as_micros());
            let values = values.get(from..).unwrap_or_default();
            float(remember.by.of(values.iter().map(|(_, value)| *value)))
        };
        columns.insert(&remember.name.value, floats(cases.iter().map(of).collect()));
    }
    columns
}

/// The columns about the row's own score, as `compile` declares them.
fn present(cases: &[CaseWithPast<'_>], ratings: &Ratings<'_>, bands: &[&str]) -> BTreeMap<&'static str, ArrayRef> {
    let rated = || cases.iter().enumerate().map(|(row, scene)| (scene, ratings.of(row)));
    let delta = |(scene, rating): (&CaseWithPast<'_>, Rating<'_>)| {
        let before = scene.past.last.as_ref().and_then(|last| last.score);
        float(rating.score.zip(before).map(|(score, before)| score - before))
    };
    let floats = |values: Float64Array| Arc::new(values) as ArrayRef;
    BTreeMap::from([
        ("score", floats(rated().map(|(_, rating)| float(rating.score)).collect())),
        ("delta", floats(rated().map(delta).collect())),
        ("coverage", floats(rated().map(|(_, rating)| float(Some(rating.coverage))).collect())),
        ("band", Arc::new(StringArray::from_iter_values(bands))),
    ])
}
