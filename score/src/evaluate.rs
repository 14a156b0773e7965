//! Window rows to ratings: each account by its model, each expression once for all of them.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, RecordBatch};
use arrow::error::ArrowError;

use crate::compile::{Compiled, CompiledModel};
use crate::rate::{Rating, rate};
use crate::windows::{Case, Windows};

/// What the model says of one account at one time.
#[derive(Debug)]
pub struct Verdict<'m> {
    /// The model that was used.
    pub model: &'m CompiledModel,
    /// The score and what it is made of.
    pub rating: Rating,
    /// For each trigger of the model, whether it holds; unknown is no.
    pub triggers: Vec<bool>,
}

/// Evaluates the accounts of a batch, in order.
///
/// # Errors
/// [`ArrowError`] when an expression fails on a row, such as by an overflow.
pub fn evaluate<'m>(
    compiled: &'m Compiled,
    windows: &Windows<'_>,
    cases: &[Case<'_>],
) -> Result<Vec<Verdict<'m>>, ArrowError> {
    let mut by_model: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (index, case) in cases.iter().enumerate() {
        by_model.entry(compiled.model_of(case.segment, case.stage)).or_default().push(index);
    }
    let mut verdicts: Vec<(usize, Verdict<'m>)> = Vec::with_capacity(cases.len());
    for (model, indices) in by_model {
        let Some(model) = compiled.models.get(model) else { continue };
        let cases: Vec<&Case<'_>> = indices.iter().filter_map(|index| cases.get(*index)).collect();
        verdicts.extend(indices.iter().copied().zip(evaluate_model(model, windows, &cases)?));
    }
    verdicts.sort_by_key(|(index, _)| *index);
    Ok(verdicts.into_iter().map(|(_, verdict)| verdict).collect())
}

fn evaluate_model<'m>(
    compiled: &'m CompiledModel,
    windows: &Windows<'_>,
    cases: &[&Case<'_>],
) -> Result<Vec<Verdict<'m>>, ArrowError> {
    let mut used: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for compute in compiled.factors.iter().chain(&compiled.triggers) {
        used.entry(&compute.period).or_default().extend(compute.columns());
    }
    let rows: BTreeMap<&str, RecordBatch> = used
        .into_iter()
        .map(|(period, columns)| Ok((period, windows.rows_of(period, cases, &columns)?)))
        .collect::<Result<_, ArrowError>>()?;
    let rows_of =
        |period: &str| rows.get(period).ok_or_else(|| ArrowError::ComputeError(format!("no rows of window {period}")));
    let factors = compiled.factors.iter().map(|factor| factor.numbers(rows_of(&factor.period)?));
    let factors = factors.collect::<Result<Vec<_>, _>>()?;
    let triggers = compiled.triggers.iter().map(|trigger| trigger.flags(rows_of(&trigger.period)?));
    let triggers = triggers.collect::<Result<Vec<_>, _>>()?;
    let verdict = |row: usize| Verdict {
        model: compiled,
        rating: rate(&compiled.model, factors.iter().map(|values| values.is_valid(row).then(|| values.value(row)))),
        triggers: triggers.iter().map(|flags| flags.is_valid(row) && flags.value(row)).collect(),
    };
    Ok((0..cases.len()).map(verdict).collect())
}
