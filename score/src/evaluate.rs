//! Turns window rows into verdicts. Each account is evaluated by its model, and each expression once for all accounts
//! of a model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray};
use arrow::error::ArrowError;
use keepwell_core::schema::columns::TimeArray;

use crate::compile::CompiledModel;
use crate::evidence::evidence;
use crate::expression::Expression;
use crate::model::Basis;
use crate::model_schedule::Models;
use crate::rate::{FactorValue, Rating, rate};
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

/// The result of the model for one account at one time.
#[derive(Debug)]
pub struct Verdict<'m> {
    /// The model that was used.
    pub model: &'m CompiledModel,
    /// The score and its parts.
    pub rating: Rating,
    /// The band of the row.
    pub band: &'m str,
    /// Values to remember, in the order of the model.
    pub remember: Vec<Option<Points>>,
    /// The conditions of each trigger, in the order of the model.
    pub signs: Vec<Sign>,
}

/// The conditions of one trigger on a row. Unknown counts as no.
#[derive(Debug)]
pub struct Sign {
    /// Whether the condition holds.
    pub holds: bool,
    /// Whether the clearing condition holds, if one is declared.
    pub clears: Option<bool>,
    /// The columns of the condition as JSON, if the row may report the trigger.
    pub evidence: Option<String>,
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
) -> Result<Vec<Verdict<'m>>, ArrowError> {
    let mut by_model: BTreeMap<(usize, usize), (&'m CompiledModel, Vec<usize>)> = BTreeMap::new();
    for (index, CaseWithPast { case, .. }) in cases.iter().enumerate() {
        let missing = || ArrowError::ComputeError(format!("no model for {} at {}", case.account_id, case.as_of_us));
        let (version, compiled) = models.at(case.as_of_us).ok_or_else(missing)?;
        let number = compiled.model_of(case.segment, case.stage);
        let model = compiled.models.get(number).ok_or_else(missing)?;
        by_model.entry((version, number)).or_insert((model, Vec::new())).1.push(index);
    }
    let mut verdicts: Vec<(usize, Verdict<'m>)> = Vec::with_capacity(cases.len());
    for (model, indices) in by_model.into_values() {
        let cases: Vec<CaseWithPast<'_>> = indices.iter().filter_map(|index| cases.get(*index).copied()).collect();
        let evaluation = Evaluation::new(model, windows, &cases)?;
        verdicts.extend(indices.iter().copied().zip(evaluation.verdicts(pane_us)?));
    }
    verdicts.sort_by_key(|(index, _)| *index);
    Ok(verdicts.into_iter().map(|(_, verdict)| verdict).collect())
}

/// All accounts of one model.
struct Evaluation<'e, 'm> {
    compiled: &'m CompiledModel,
    cases: &'e [CaseWithPast<'e>],
    /// The rows of each window that the model uses.
    rows: BTreeMap<&'m str, RecordBatch>,
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
        let mut used: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for compute in all {
            used.entry(&compute.period).or_default().extend(compute.columns());
        }
        let accounts: Vec<&Case<'_>> = cases.iter().map(|c| c.case).collect();
        let rows =
            used.into_iter().map(|(period, columns)| Ok((period, windows.rows_of(period, &accounts, &columns)?)));
        let rows = rows.collect::<Result<_, ArrowError>>()?;
        Ok(Self { compiled, cases, rows, past: past(compiled, cases) })
    }

    fn inputs(&self, compute: &Expression, present: &BTreeMap<&str, ArrayRef>) -> Result<RecordBatch, ArrowError> {
        let rows = self.rows.get(compute.period.as_str());
        compute.inputs(self.cases.len(), |name| {
            let of_window = rows.and_then(|rows| rows.column_by_name(name));
            of_window.or_else(|| self.past.get(name)).or_else(|| present.get(name)).cloned()
        })
    }

    fn verdicts(&self, pane_us: i64) -> Result<Vec<Verdict<'m>>, ArrowError> {
        let none = BTreeMap::new();
        let numbers = |computes: &[Expression]| {
            computes.iter().map(|c| c.numbers(&self.inputs(c, &none)?)).collect::<Result<Vec<_>, ArrowError>>()
        };
        let (factors, remember) = (numbers(&self.compiled.factors)?, numbers(&self.compiled.remember)?);
        let rated: Vec<(Rating, &'m str)> =
            (0..self.cases.len()).map(|row| self.rated(row, &factors, pane_us)).collect();
        let present = present(self.cases, &rated);
        let mut signs: Vec<Vec<Sign>> =
            rated.iter().map(|_| Vec::with_capacity(self.compiled.triggers.len())).collect();
        for (trigger, declared) in self.compiled.triggers.iter().zip(&self.compiled.model.triggers) {
            let inputs = self.inputs(&trigger.when, &present)?;
            let holds = trigger.when.flags(&inputs)?;
            let clears = trigger.clear.as_ref().map(|clear| clear.flags(&self.inputs(clear, &present)?)).transpose()?;
            let is_true = |flags: &BooleanArray, row: usize| flags.is_valid(row) && flags.value(row);
            let is_shown = |(row, scene): &(usize, &CaseWithPast<'_>)| {
                is_true(&holds, *row) || scene.past.episodes.get(&declared.name.value).is_some()
            };
            let shown = self.cases.iter().enumerate().filter(is_shown).map(|(row, _)| row as u32).collect::<Vec<_>>();
            let mut evidence = shown.iter().zip(evidence(&inputs, &shown)?).peekable();
            for (row, signs) in signs.iter_mut().enumerate() {
                let evidence = evidence.next_if(|(shown, _)| **shown as usize == row).map(|(_, evidence)| evidence);
                let clears = clears.as_ref().map(|clears| is_true(clears, row));
                signs.push(Sign { holds: is_true(&holds, row), clears, evidence });
            }
        }
        let verdicts = rated.into_iter().zip(signs).enumerate().map(|(row, ((rating, band), signs))| Verdict {
            model: self.compiled,
            rating,
            band,
            remember: remember.iter().map(|values| value(values, row).and_then(Points::round)).collect(),
            signs,
        });
        Ok(verdicts.collect())
    }

    fn rated(&self, row: usize, factors: &[Float64Array], pane_us: i64) -> (Rating, &'m str) {
        let (compiled, CaseWithPast { case, past }) = (self.compiled, self.cases[row]);
        let model = &compiled.model;
        let known = model.factors.iter().zip(factors).map(|(factor, values)| {
            let carried = factor.missing.unwrap_or(model.missing).ttl_us().and_then(|ttl_us| {
                let known = past.known.get(&factor.name.value).copied().filter(|_| past.is_of(model));
                known.filter(|(_, us)| case.as_of_us.saturating_sub(*us) <= ttl_us)
            });
            FactorValue { value: value(values, row), carried }
        });
        let rating = rate(model, &compiled.weights, known);
        let before = past.last.as_ref().map(|last| (last.band.as_str(), last.band_since_us));
        let basis = Basis { score: rating.covered(model), before, as_of_us: case.as_of_us, pane_us };
        let band = model.band(basis);
        (rating, band)
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
fn present(cases: &[CaseWithPast<'_>], rated: &[(Rating, &str)]) -> BTreeMap<&'static str, ArrayRef> {
    let delta = |(scene, (rating, _)): (&CaseWithPast<'_>, &(Rating, &str))| {
        let before = scene.past.last.as_ref().and_then(|last| last.score);
        float(rating.score.zip(before).map(|(score, before)| score - before))
    };
    let floats = |values: Float64Array| Arc::new(values) as ArrayRef;
    let band: StringArray = rated.iter().map(|(_, band)| Some(*band)).collect();
    BTreeMap::from([
        ("score", floats(rated.iter().map(|(rating, _)| float(rating.score)).collect())),
        ("delta", floats(cases.iter().zip(rated).map(delta).collect())),
        ("coverage", floats(rated.iter().map(|(rating, _)| float(Some(rating.coverage))).collect())),
        ("band", Arc::new(band)),
    ])
}
