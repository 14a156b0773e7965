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

/// The stage of an account, and what its rules say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its stage.
    pub stage: Name,
    /// `as_of` of the final row at which it entered the stage, UTC microseconds.
    pub since_us: i64,
    /// The rules of the stages behind the first, in their order.
    pub rules: Vec<Rule>,
}

/// The rule of one stage. It counts as true or false until the contrary has lasted for long enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Name of the stage.
    pub stage: Name,
    /// Whether it counts as true.
    pub counts: bool,
    /// The final row since which the contrary holds, UTC microseconds.
    pub contrary_since_us: Option<i64>,
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
}

impl Rule {
    fn with(before: Option<&Self>, stage: &LifecycleStage, holds: bool, signs: Signs<'_>) -> Self {
        let counts = |counts, contrary_since_us| Self { stage: stage.name.value.clone(), counts, contrary_since_us };
        match before {
            // A rule that was not asked before counts at once, as all rules do on the first row of an account.
            None => counts(holds, None),
            Some(before) if !signs.is_final => before.clone(),
            Some(before) if before.counts == holds => counts(holds, None),
            Some(before) => {
                let since_us = before.contrary_since_us.unwrap_or(signs.as_of_us);
                match signs.as_of_us.saturating_sub(since_us) >= stage.lasting.as_micros() {
                    true => counts(holds, None),
                    false => counts(before.counts, Some(since_us)),
                }
            }
        }
    }
}

impl Standing {
    /// The standing with a row. `stages` says of each stage whether its rule is true on the row. `before` is the
    /// standing after the final row before.
    pub fn with(before: Option<&Self>, stages: &[(&LifecycleStage, bool)], signs: Signs<'_>) -> Option<Self> {
        let ((first, _), others) = stages.split_first()?;
        let known = |stage: &LifecycleStage| before?.rules.iter().find(|rule| rule.stage == stage.name.value);
        // A live row places only who stands nowhere yet.
        let is_placing = signs.is_final || before.is_none();
        let rules = others.iter().map(|(stage, holds)| {
            let known = known(stage);
            Rule::with(known, stage, *holds && (known.is_some() || is_placing), signs)
        });
        let rules: Vec<Rule> = rules.collect();
        let by_rules = || rules.iter().rfind(|rule| rule.counts).map_or(&first.name.value, |rule| &rule.stage).clone();
        let stage = signs.fact.map_or_else(by_rules, Name::from);
        let entered = before.filter(|before| before.stage == stage);
        Some(Self { since_us: entered.map_or(signs.as_of_us, |before| before.since_us), stage, rules })
    }

    /// Where the account is about to move, and since which final row its rules say so, UTC microseconds. None: nowhere.
    pub fn next<'s>(&'s self, first: &'s Name) -> Option<(&'s Name, i64)> {
        let holds = |rule: &&Rule| rule.counts != rule.contrary_since_us.is_some();
        let of_stage = self.rules.iter().rposition(|rule| rule.counts);
        let belongs = self.rules.iter().rposition(|rule| holds(&rule));
        if belongs == of_stage {
            return None;
        }
        // Ahead by the rule that has become true; back by the rule that has become false.
        let why = self.rules.get(belongs.max(of_stage)?)?;
        let to = belongs.and_then(|at| self.rules.get(at)).map_or(first, |rule| &rule.stage);
        Some((to, why.contrary_since_us?))
    }

    /// The rules as text, from which the next row follows: `adoption=+;value=-1709251200000000`. A sign says whether the
    /// rule counts as true, the number since when the contrary holds. None: there is no rule.
    pub fn rules_text(&self) -> Option<String> {
        let rule = |rule: &Rule| {
            let since = rule.contrary_since_us.map_or(String::new(), |us| us.to_string());
            format!("{}={}{since}", rule.stage, if rule.counts { '+' } else { '-' })
        };
        let texts: Vec<String> = self.rules.iter().map(rule).collect();
        (!texts.is_empty()).then(|| texts.join(";"))
    }
}

/// The place of an account on one row. Empty if its model file has no stages, or the row has no score.
#[derive(Debug, Clone, Default)]
pub struct Place<'m> {
    /// Its standing.
    pub standing: Option<Standing>,
    /// Its stage, if the model file declares it.
    pub stage: Option<&'m LifecycleStage>,
    /// Where it is about to move, and since which final row, UTC microseconds.
    pub next: Option<(Name, i64)>,
    /// What its rules say, as text.
    pub rules: Option<String>,
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
        let stages: Vec<(&LifecycleStage, bool)> =
            self.stages.iter().zip(&self.holds).map(|(stage, when)| (&stage.stage, holds(when))).collect();
        let signs = Signs { as_of_us: case.as_of_us, is_final: case.is_final, fact: case.stage };
        let Some(standing) = Standing::with(past.standing.as_deref(), &stages, signs) else { return Place::default() };
        let number = self.stages.iter().position(|stage| stage.stage.name.value == standing.stage);
        let metric = number.and_then(|number| self.metrics.get(number)).filter(|metric| metric.is_valid(row));
        let first = stages.first().map(|(stage, _)| &stage.name.value).filter(|_| case.stage.is_none());
        let next = first.and_then(|first| standing.next(first));
        Place {
            stage: number.and_then(|number| self.stages.get(number)).map(|stage| &stage.stage),
            metric: metric.and_then(|metric| Points::round(metric.value(row))),
            next: next.map(|(next, since_us)| (next.clone(), since_us)),
            rules: standing.rules_text(),
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

    /// The stage of each day, from the days on which the rules of adoption (two days) and value (three days) are true,
    /// and the first letter of the fact. A stage to which the account is about to move stands behind it.
    fn days(adoption: &str, value: &str, facts: &str) -> String {
        let stages = [stage("onboarding", "0d"), stage("adoption", "2d"), stage("value", "3d")];
        let (mut before, mut line) = (None, Vec::new());
        for (day, fact) in facts.bytes().enumerate() {
            let fact = ["onboarding", "adoption", "value"].into_iter().find(|name| name.as_bytes()[0] == fact);
            let is_one = |text: &str| text.as_bytes()[day] == b'1';
            let rules = [(&stages[0], false), (&stages[1], is_one(adoption)), (&stages[2], is_one(value))];
            let signs = Signs { as_of_us: day as i64 * DAY_US, is_final: true, fact };
            let now = Standing::with(before.as_ref(), &rules, signs).unwrap();
            let next = now.next(&stages[0].name.value).filter(|_| fact.is_none()).map_or("", |(next, _)| &next[..1]);
            line.push(format!("{}{next}", now.stage[..1].to_uppercase()));
            before = Some(now);
        }
        line.join(" ")
    }

    #[test]
    fn an_account_moves_once_a_rule_has_been_true_or_false_for_long_enough() {
        // adoption, value, facts, stage of each day
        let cases = [
            ("00111100000", "00000000000", "...........", "O O Oa Oa A A Ao Ao O O O"),
            ("0101011", "0000000", ".......", "O Oa O Oa O Oa Oa"),
            ("1111111", "0010111", ".......", "A A Av A Av Av Av"),
            ("11111111", "00111100", "........", "A A Av Av Av V Va Va"),
            // What swings further on does not keep an account from what is true all the time.
            ("0111111", "0101010", ".......", "O Ov Oa Av A Av A"),
            ("0011", "0011", "....", "O O Ov Ov"),
            ("00000", "00000", "..v..", "O O V O O"),
            ("001111", "000000", "oooo..", "O O O O A A"),
        ];
        for (adoption, value, facts, expected) in cases {
            assert_eq!(days(adoption, value, facts), expected, "{adoption} {value} {facts}");
        }
    }

    #[test]
    fn a_live_row_moves_nobody_and_a_first_row_places_at_once() {
        let (onboarding, adoption) = (stage("onboarding", "0d"), stage("adoption", "0d"));
        let with = |before: Option<&Standing>, is_final, holds| {
            let signs = Signs { as_of_us: DAY_US, is_final, fact: None };
            Standing::with(before, &[(&onboarding, false), (&adoption, holds)], signs).unwrap()
        };
        let first = with(None, false, true);
        assert_eq!((first.stage.as_str(), first.since_us), ("adoption", DAY_US));
        let rule = Rule { stage: Name::from("adoption"), counts: false, contrary_since_us: None };
        let before = Standing { stage: Name::from("onboarding"), since_us: 0, rules: vec![rule] };
        assert_eq!(with(Some(&before), false, true), before);
        assert_eq!(with(Some(&before), true, true).stage.as_str(), "adoption");
        assert_eq!(with(Some(&before), true, false), before);
        // A new version of the model file has added the stage.
        let before = Standing { rules: Vec::new(), ..before };
        assert_eq!(with(Some(&before), false, true).stage.as_str(), "onboarding");
        assert_eq!(with(Some(&before), true, true).stage.as_str(), "adoption");
    }
}
