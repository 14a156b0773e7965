//! Where an account stands in the lifecycle: a fact says so, or rules over its final rows.

use std::collections::BTreeMap;

use arrow::array::{Array, BooleanArray, Float64Array};
use arrow::error::ArrowError;
use keepwell_core::interned::Name;
use keepwell_core::points::Points;
use serde::{Deserialize, Serialize};

use crate::compile::{Compiled, CompiledStage};
use crate::evaluate::CaseWithPast;
use crate::expression::Expression;
use crate::model::LifecycleStage;
use crate::model_schedule::Models;
use crate::windows::{Case, Windows};

/// The stage of an account, and the stage to which it is about to move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its stage.
    pub stage: Name,
    /// `as_of` of the final row at which it entered the stage, UTC microseconds.
    pub since_us: i64,
    /// Where its rows belong if not in its stage, and since which final row, UTC microseconds.
    pub next: Option<(Name, i64)>,
}

/// What one row says about the stage.
#[derive(Debug, Clone, Copy)]
pub struct Signs<'s> {
    /// End of the windows, UTC microseconds.
    pub as_of_us: i64,
    /// Whether the row is final. A live row moves nobody.
    pub is_final: bool,
    /// The fact `stage`. It decides, whatever the rules say.
    pub fact: Option<&'s str>,
    /// Where the row belongs by the rules.
    pub belongs: &'s LifecycleStage,
}

impl Standing {
    /// The standing with a row. `before` is that after the final row before, if the account had one in these stages.
    pub fn with(before: Option<&Self>, signs: Signs<'_>) -> Self {
        let Signs { as_of_us, is_final, fact, belongs } = signs;
        let entered = |stage: &str| Self { stage: Name::from(stage), since_us: as_of_us, next: None };
        let stays = |before: &Self| Self { next: None, ..before.clone() };
        match (fact, before) {
            (Some(fact), Some(before)) if *before.stage == *fact => stays(before),
            (Some(fact), _) => entered(fact),
            (None, None) => entered(&belongs.name.value),
            (None, Some(before)) if !is_final => before.clone(),
            (None, Some(before)) if before.stage == belongs.name.value => stays(before),
            (None, Some(before)) => {
                let known = before.next.as_ref().filter(|(next, _)| *next == belongs.name.value);
                let since_us = known.map_or(as_of_us, |(_, since_us)| *since_us);
                match as_of_us.saturating_sub(since_us) >= belongs.lasting.as_micros() {
                    true => entered(&belongs.name.value),
                    false => Self { next: Some((belongs.name.value.clone(), since_us)), ..before.clone() },
                }
            }
        }
    }
}

/// The place of an account on one row. Empty if its model file has no stages, or the row has no score.
#[derive(Debug, Clone, Default)]
pub struct Place<'m> {
    /// Its standing.
    pub standing: Option<Standing>,
    /// Its stage, if the model file declares it.
    pub stage: Option<&'m LifecycleStage>,
    /// The headline metric of its stage. None: unknown.
    pub metric: Option<Points>,
}

impl Place<'_> {
    /// The stage of the account on this row.
    pub fn stage_of<'p>(&'p self, case: &Case<'p>) -> Option<&'p str> {
        self.standing.as_ref().map(|standing| standing.stage.as_str()).or(case.stage)
    }
}

/// The place of each account, in their order.
///
/// # Errors
/// [`ArrowError`] when the rows do not belong to the `windows` table.
pub fn places<'m>(
    models: &'m Models,
    windows: &Windows<'_>,
    cases: &[CaseWithPast<'_>],
) -> Result<Vec<Place<'m>>, ArrowError> {
    let mut places: Vec<Place<'m>> = vec![Place::default(); cases.len()];
    let mut by_file: BTreeMap<usize, (&'m Compiled, Vec<usize>)> = BTreeMap::new();
    for (index, CaseWithPast { case, .. }) in cases.iter().enumerate().filter(|(_, scene)| scene.case.is_scored()) {
        let file = models.at(case.as_of_us).filter(|(_, file)| !file.stages.is_empty());
        if let Some((number, file)) = file {
            by_file.entry(number).or_insert((file, Vec::new())).1.push(index);
        }
    }
    for (file, indices) in by_file.into_values() {
        let scenes: Vec<CaseWithPast<'_>> = indices.iter().filter_map(|index| cases.get(*index).copied()).collect();
        let columns = StageColumns::of(&file.stages, windows, &scenes)?;
        for (row, (index, scene)) in indices.iter().zip(&scenes).enumerate() {
            places[*index] = columns.place(row, scene);
        }
    }
    Ok(places)
}

/// Rules and metrics of all stages, with a value for each account.
struct StageColumns<'m> {
    stages: &'m [CompiledStage],
    holds: Vec<Option<BooleanArray>>,
    metrics: Vec<Float64Array>,
}

impl<'m> StageColumns<'m> {
    fn of(stages: &'m [CompiledStage], windows: &Windows<'_>, scenes: &[CaseWithPast<'_>]) -> Result<Self, ArrowError> {
        let all = stages.iter().flat_map(|stage| stage.when.iter().chain([&stage.metric]));
        let used = all.flat_map(|compute| compute.columns().map(|name| (compute.period.as_str(), name)));
        let cases: Vec<&Case<'_>> = scenes.iter().map(|scene| scene.case).collect();
        let columns = windows.columns(used, &cases)?;
        let inputs = |compute: &Expression| {
            compute.inputs(cases.len(), |name| columns.get(&(compute.period.as_str(), name)).cloned())
        };
        let holds = stages.iter().map(|stage| stage.when.as_ref().map(|when| when.flags(&inputs(when)?)).transpose());
        let metrics = stages.iter().map(|stage| stage.metric.numbers(&inputs(&stage.metric)?));
        Ok(Self { stages, holds: holds.collect::<Result<_, _>>()?, metrics: metrics.collect::<Result<_, _>>()? })
    }

    fn place(&self, row: usize, CaseWithPast { case, past }: &CaseWithPast<'_>) -> Place<'m> {
        let holds =
            |holds: &Option<BooleanArray>| holds.as_ref().is_some_and(|holds| holds.is_valid(row) && holds.value(row));
        let Some(belongs) = self.stages.get(self.holds.iter().rposition(holds).unwrap_or(0)) else {
            return Place::default();
        };
        let (as_of_us, is_final, fact) = (case.as_of_us, case.is_final, case.stage);
        let number = |name: &str| self.stages.iter().position(|stage| *stage.stage.name.value == *name);
        let before = past.standing.as_deref().filter(|before| fact.is_some() || number(&before.stage).is_some());
        let standing = Standing::with(before, Signs { as_of_us, is_final, fact, belongs: &belongs.stage });
        let number = number(&standing.stage);
        let metric = number.and_then(|number| self.metrics.get(number)).filter(|metric| metric.is_valid(row));
        Place {
            stage: number.and_then(|number| self.stages.get(number)).map(|stage| &stage.stage),
            metric: metric.and_then(|metric| Points::round(metric.value(row))),
            standing: Some(standing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_US: i64 = 86_400_000_000;

    fn stage(name: &str, lasting: &str) -> LifecycleStage {
        let text =
            format!("{{name: {name}, for: {lasting}, owner_role: csm, action: a, metric: {{name: uses, sql: uses}}}}");
        serde_saphyr::from_str(&text).unwrap()
    }

    /// The stage of each day. `belongs` has a digit a day, the number of the stage; `facts` the first letter of a fact.
    /// A stage to which the account is about to move stands behind it.
    fn days(belongs: &str, facts: &str) -> String {
        let stages = [stage("onboarding", "0d"), stage("adoption", "2d"), stage("value", "1d")];
        let (mut before, mut line) = (None, Vec::new());
        for (day, (place, fact)) in belongs.bytes().zip(facts.bytes()).enumerate() {
            let fact = ["onboarding", "adoption", "value"].into_iter().find(|name| name.as_bytes()[0] == fact);
            let belongs = &stages[usize::from(place - b'0')];
            let signs = Signs { as_of_us: day as i64 * DAY_US, is_final: true, fact, belongs };
            let now = Standing::with(before.as_ref(), signs);
            let next = now.next.as_ref().map_or("", |(next, _)| &next[..1]);
            line.push(format!("{}{next}", now.stage[..1].to_uppercase()));
            before = Some(now);
        }
        line.join(" ")
    }

    #[test]
    fn an_account_moves_once_its_rows_have_belonged_elsewhere_for_long_enough() {
        // belongs, facts, stage of each day
        let cases = [
            ("00111100", "........", "O O Oa Oa A A O O"),
            ("0101011", ".......", "O Oa O Oa O Oa Oa"),
            ("11112111", "........", "A A A A Av A A A"),
            ("0122", "....", "O Oa Ov V"),
            ("0000", "..v.", "O O V O"),
            ("0011", "oooo", "O O O O"),
            ("001111", "oooo..", "O O O O Oa Oa"),
        ];
        for (belongs, facts, expected) in cases {
            assert_eq!(days(belongs, facts), expected, "{belongs} {facts}");
        }
    }

    #[test]
    fn a_live_row_moves_nobody_and_a_first_row_places_at_once() {
        let (onboarding, adoption) = (stage("onboarding", "0d"), stage("adoption", "0d"));
        let signs = |is_final, belongs| Signs { as_of_us: DAY_US, is_final, fact: None, belongs };
        let first = Standing::with(None, signs(false, &adoption));
        assert_eq!((first.stage.as_str(), first.since_us), ("adoption", DAY_US));
        let before = Standing { stage: Name::from("onboarding"), since_us: 0, next: None };
        assert_eq!(Standing::with(Some(&before), signs(false, &adoption)), before);
        assert_eq!(Standing::with(Some(&before), signs(true, &adoption)).stage.as_str(), "adoption");
        assert_eq!(Standing::with(Some(&before), signs(true, &onboarding)), before);
    }
}
