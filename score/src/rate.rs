//! From normalised values to a score, with exact decimals and without double rounding.
//!
//! Every factor has an effective weight in percent, with six decimals. score = sum(normalised * effective weight /
//! 100), rounded half-up to 6 decimals: the weighted mean of composite indicators. Each running sum is rounded, and a
//! contribution is the difference of two running sums. So contributions sum to the score exactly.
//!
//! Effective weights sum to exactly 100: the other factors take the weight of a factor that is left out, in proportion
//! to their own. A group that takes its lowest or highest value gives its whole weight to the factor with that value.

use std::ops::Range;

use crate::model::{Fallback, Model, Reduce, Weights};
use keepwell_core::points::{Points, Sum100, shared_out};

/// The points at which an additive model starts, listed as a factor.
pub const START: &str = "(start)";
/// What the limits 0 and 100 add to an additive score, listed as a factor.
pub const LIMIT: &str = "(limit)";

/// The value of a factor for one row.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FactorValue {
    /// The result of its SQL for this row.
    pub value: Option<f64>,
    /// The last known value and its time in UTC microseconds, if it may be carried.
    pub carried: Option<(f64, i64)>,
}

/// The results for the factors of accounts, by column. The factors of an account follow each other, in the order of the
/// model; an additive model has its start and limit after them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FactorColumns {
    /// The result of its SQL, for this row or carried.
    pub value: Vec<Option<f64>>,
    /// Its points. None if the factor is left out.
    pub normalised: Vec<Option<Points>>,
    /// Weight in the model, percent.
    pub weight: Vec<Points>,
    /// Weight among the factors that count, percent.
    pub effective_weight: Vec<Points>,
    /// Its contribution to the score.
    pub contribution: Vec<Option<Points>>,
    /// The policy that replaced an unknown value.
    pub missing: Vec<Option<&'static str>>,
    /// `as_of` of the final row that the value is carried from, UTC microseconds.
    pub carried_from_us: Vec<Option<i64>>,
}

impl FactorColumns {
    /// Adds some factors of others.
    pub fn extend(&mut self, others: &Self, range: Range<usize>) {
        self.value.extend_from_slice(&others.value[range.clone()]);
        self.normalised.extend_from_slice(&others.normalised[range.clone()]);
        self.weight.extend_from_slice(&others.weight[range.clone()]);
        self.effective_weight.extend_from_slice(&others.effective_weight[range.clone()]);
        self.contribution.extend_from_slice(&others.contribution[range.clone()]);
        self.missing.extend_from_slice(&others.missing[range.clone()]);
        self.carried_from_us.extend_from_slice(&others.carried_from_us[range]);
    }
}

/// The scores of accounts by one model, and their parts.
#[derive(Debug)]
pub struct Ratings<'m> {
    model: &'m Model,
    /// From [`nominal`].
    weights: &'m [Points],
    effective: EffectiveWeights,
    factors: FactorColumns,
    /// Where the factors of each account end.
    ends: Vec<usize>,
    scores: Vec<Option<Points>>,
    coverages: Vec<Points>,
}

/// The score of one account and its parts.
#[derive(Debug, Clone)]
pub struct Rating<'r> {
    /// The factors of all accounts.
    pub factors: &'r FactorColumns,
    /// Those of this account.
    pub range: Range<usize>,
    /// The score, 0-100. None if no factor counts.
    pub score: Option<Points>,
    /// Share of the weights with a known or carried value, percent.
    pub coverage: Points,
}

impl<'m> Ratings<'m> {
    /// Ratings without an account. `weights` comes from [`nominal`].
    pub fn new(model: &'m Model, weights: &'m [Points]) -> Self {
        let (effective, factors) = (EffectiveWeights::of(model), FactorColumns::default());
        Self { model, weights, effective, factors, ends: Vec::new(), scores: Vec::new(), coverages: Vec::new() }
    }

    /// Rates the values of one account, in the order of the model's factors.
    pub fn push(&mut self, values: impl IntoIterator<Item = FactorValue>) {
        let model = self.model;
        let is_additive = model.weights == Weights::Additive;
        let first = self.factors.value.len();
        let mut known_weight = Points::ZERO;
        for ((factor, known), weight) in model.factors.iter().zip(values).zip(self.weights.iter().copied()) {
            let now = known.value.filter(|value| value.is_finite());
            let found = now.map(|value| (value, None)).or(known.carried.map(|(value, us)| (value, Some(us))));
            let points = found.and_then(|(value, _)| factor.normalise.points(value));
            let policy = factor.missing.unwrap_or(model.missing).fallback();
            let carried_from_us = found.and_then(|(_, us)| us).filter(|_| points.is_some());
            let missing = match points {
                Some(_) => carried_from_us.map(|_| "carry"),
                None => Some(policy.name()),
            };
            let normalised = points.or(match policy {
                Fallback::Reweight => None,
                Fallback::Zero => Some(Points::ZERO),
                Fallback::Neutral if is_additive => Some(Points::ZERO),
                Fallback::Neutral => Some(Points::from_millionths(50_000_000)),
            });
            if points.is_some() {
                known_weight = known_weight + weight;
            }
            self.factors.value.push(found.map(|(value, _)| value));
            self.factors.normalised.push(normalised);
            self.factors.weight.push(weight);
            self.factors.missing.push(missing);
            self.factors.carried_from_us.push(carried_from_us);
        }
        let effective = self.effective.when_counting(model, &self.factors.normalised[first..]);
        self.factors.effective_weight.extend_from_slice(effective);
        let mean = self.mean(first);
        let score = if is_additive { mean.map(|mean| self.added(mean)) } else { mean };
        self.scores.push(score);
        self.coverages.push(if is_additive { share_of_all(known_weight, self.weights) } else { known_weight });
        self.ends.push(self.factors.value.len());
    }

    /// Makes each contribution the difference of two running sums, and returns the last sum.
    fn mean(&mut self, first: usize) -> Option<Points> {
        let (mut running, mut score) = (Sum100::default(), None);
        let FactorColumns { normalised, effective_weight, contribution, .. } = &mut self.factors;
        for (normalised, effective_weight) in normalised[first..].iter().zip(&effective_weight[first..]) {
            let Some(normalised) = *normalised else {
                contribution.push(None);
                continue;
            };
            let before = score.unwrap_or_default();
            let sum = running.with(normalised, *effective_weight);
            contribution.push(Some(sum - before));
            score = Some(sum);
        }
        score
    }

    /// Adds the start, limits the score to 0 to 100, and lists what both add.
    fn added(&mut self, mean: Points) -> Points {
        let start = Points::round(self.model.start).unwrap_or_default();
        let sum = mean + start;
        let score = sum.clamp(Points::ZERO, Points::HUNDRED);
        for points in [start, score - sum] {
            self.factors.value.push(None);
            self.factors.normalised.push(None);
            self.factors.weight.push(Points::ZERO);
            self.factors.effective_weight.push(Points::ZERO);
            self.factors.contribution.push(Some(points));
            self.factors.missing.push(None);
            self.factors.carried_from_us.push(None);
        }
        score
    }

    /// The rating of an account. It must have been added.
    pub fn of(&self, account: usize) -> Rating<'_> {
        let first = if account == 0 { 0 } else { self.ends[account - 1] };
        let (score, coverage) = (self.scores[account], self.coverages[account]);
        Rating { factors: &self.factors, range: first..self.ends[account], score, coverage }
    }
}

/// The share of a part of the weights of an additive model, percent.
fn share_of_all(part: Points, weights: &[Points]) -> Points {
    let all: Points = weights.iter().copied().sum();
    shared_out(Points::HUNDRED, &[part, all - part]).first().copied().unwrap_or_default()
}

/// Effective weights, computed once for each set of factors that count: most accounts know and lack the same.
#[derive(Debug)]
struct EffectiveWeights {
    /// A group that takes its lowest or highest value gives its weight by the points, not only by what counts.
    goes_by_points: bool,
    /// Weights by the factors that count, a bit for each.
    known: Vec<(u128, Vec<Points>)>,
}

/// The most sets of factors whose weights are kept.
const MAX_SETS: usize = 64;

impl EffectiveWeights {
    fn of(model: &Model) -> Self {
        let goes_by_points = model.groups.iter().any(|group| matches!(group.by, Reduce::Min | Reduce::Max));
        Self { goes_by_points: goes_by_points || model.factors.len() > 128, known: Vec::new() }
    }

    /// The weights in percent of the factors that count. `points` contains none for factors that do not count.
    fn when_counting(&mut self, model: &Model, points: &[Option<Points>]) -> &[Points] {
        let set = points.iter().rev().fold(0_u128, |set, points| (set << 1) | u128::from(points.is_some()));
        let at = self.known.iter().position(|(known, _)| *known == set && !self.goes_by_points);
        let at = at.unwrap_or_else(|| {
            if self.goes_by_points || self.known.len() == MAX_SETS {
                self.known.clear();
            }
            self.known.push((set, effective(model, points)));
            self.known.len() - 1
        });
        &self.known[at].1
    }
}

/// The weights of a model's factors in percent, when all of them count.
pub fn nominal(model: &Model) -> Vec<Points> {
    shared(model, |_| true, |members| members.iter().map(|(_, weight)| *weight).collect())
}

/// The weights in percent of the factors that count. `points` contains none for factors that do not count.
fn effective(model: &Model, points: &[Option<Points>]) -> Vec<Points> {
    let of = |index: usize| points.get(index).copied().flatten();
    shared(
        model,
        |index| of(index).is_some(),
        |members| {
            let by = members.first().and_then(|(index, _)| reduce_of(model, *index)).unwrap_or_default();
            let chosen = match by {
                Reduce::Weighted | Reduce::Mean => return members.iter().map(|(_, weight)| *weight).collect(),
                // Of equal ones, the first.
                Reduce::Min => members.iter().min_by_key(|(index, _)| of(*index)),
                Reduce::Max => members.iter().rev().max_by_key(|(index, _)| of(*index)),
            };
            let is_chosen = |index: usize| chosen.is_some_and(|(chosen, _)| *chosen == index);
            members.iter().map(|(index, _)| if is_chosen(*index) { Points::HUNDRED } else { Points::ZERO }).collect()
        },
    )
}

fn reduce_of(model: &Model, index: usize) -> Option<Reduce> {
    let name = &model.factors.get(index)?.group.as_ref()?.value;
    model.groups.iter().find(|group| group.name.value == *name).map(|group| group.by)
}

/// Divides 100 percent among the groups that count, and the part of each group among its members that count. `weigh`
/// gives the weights of the members.
fn shared(
    model: &Model,
    counts: impl Fn(usize) -> bool,
    weigh: impl Fn(&[(usize, Points)]) -> Vec<Points>,
) -> Vec<Points> {
    let mut shares = vec![Points::ZERO; model.factors.len()];
    let members = |group: Option<&str>| -> Vec<(usize, Points)> {
        let factors = model.factors.iter().enumerate();
        let is_member = |(index, factor): &(usize, &crate::model::Factor)| {
            factor.group.as_ref().map(|name| name.value.as_str()) == group && counts(*index)
        };
        factors.filter(is_member).map(|(index, factor)| (index, factor.weight(Points::HUNDRED))).collect()
    };
    if model.weights == Weights::Additive {
        for (index, weight) in members(None) {
            shares[index] = weight;
        }
        return shares;
    }
    let groups: Vec<(Vec<(usize, Points)>, Points)> = if model.groups.is_empty() {
        vec![(members(None), Points::HUNDRED)]
    } else {
        model.groups.iter().map(|group| (members(Some(&group.name.value)), group.weight())).collect()
    };
    let counting: Vec<_> = groups.into_iter().filter(|(members, _)| !members.is_empty()).collect();
    let weights: Vec<Points> = counting.iter().map(|(_, weight)| *weight).collect();
    for ((members, _), part) in counting.iter().zip(shared_out(Points::HUNDRED, &weights)) {
        for ((index, _), share) in members.iter().zip(shared_out(part, &weigh(members))) {
            shares[*index] = share;
        }
    }
    shares
}

impl<'r> Rating<'r> {
    /// The value of each factor.
    pub fn values(&self) -> &'r [Option<f64>] {
        &self.factors.value[self.range.clone()]
    }

    /// The contribution of each factor.
    pub fn contributions(&self) -> &'r [Option<Points>] {
        &self.factors.contribution[self.range.clone()]
    }

    /// The policy that replaced the value of each factor.
    pub fn missing(&self) -> &'r [Option<&'static str>] {
        &self.factors.missing[self.range.clone()]
    }

    /// The score, if the coverage reaches the minimum of the model.
    pub fn covered(&self, model: &Model) -> Option<Points> {
        let is_covered = Points::round(model.minimum_coverage).is_some_and(|least| self.coverage >= least);
        self.score.filter(|_| is_covered)
    }
}

/// The rating of one account, for tests.
#[cfg(test)]
#[derive(Debug)]
pub struct One {
    /// Its factors.
    pub factors: FactorColumns,
    /// Its score.
    pub score: Option<Points>,
    /// Its coverage.
    pub coverage: Points,
    /// Whether the coverage reaches the minimum of the model.
    pub is_covered: bool,
}

/// Rates one account.
#[cfg(test)]
pub fn rate(model: &Model, values: impl IntoIterator<Item = FactorValue>) -> One {
    let weights = nominal(model);
    let mut ratings = Ratings::new(model, &weights);
    ratings.push(values);
    let rating = ratings.of(0);
    let (score, coverage, is_covered) = (rating.score, rating.coverage, rating.covered(model).is_some());
    One { factors: ratings.factors, score, coverage, is_covered }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{self, Missing};

    fn example() -> Model {
        let text = include_str!("../models/worked_example.yaml");
        model::parse("worked_example.yaml", text, &["28d".to_owned()]).unwrap().models.remove(0)
    }

    fn rated(model: &Model, values: impl IntoIterator<Item = Option<f64>>) -> One {
        rate(model, values.into_iter().map(|value| FactorValue { value, carried: None }))
    }

    fn texts(rating: &One) -> Vec<String> {
        let of = |contribution: &Option<Points>| contribution.map_or("-".to_owned(), |points| points.to_string());
        rating.factors.contribution.iter().map(of).collect()
    }

    #[test]
    fn an_unknown_value_is_left_out_or_counts_as_the_model_says() {
        let model = example();
        let values = [Some(8.0), None, Some(4.4), None];
        // policy, contributions, score, coverage
        let cases = [
            (Missing::Reweight, ["46.666666", "-", "35.416667", "-"], "82.083333", "60"),
            (Missing::Zero, ["28", "0", "21.25", "0"], "49.25", "60"),
            (Missing::Neutral, ["28", "12.5", "21.25", "7.5"], "69.25", "60"),
        ];
        for (missing, contributions, score, coverage) in cases {
            let rating = rated(&Model { missing, ..model.clone() }, values);
            assert_eq!(texts(&rating), contributions, "{missing:?}");
            assert_eq!(
                (rating.score.unwrap().to_string().as_str(), rating.coverage.to_string().as_str()),
                (score, coverage)
            );
        }
    }

    #[test]
    fn a_carried_value_counts_as_known_and_says_from_when_it_is() {
        let model = example();
        let now = |value| FactorValue { value: Some(value), carried: Some((0.0, 1)) };
        let carried = FactorValue { value: None, carried: Some((60.0, 7)) };
        let rating = rate(&model, [now(8.0), carried, now(4.4), now(70.0)]);
        assert_eq!((rating.score.unwrap().to_string().as_str(), rating.coverage), ("74.75", Points::HUNDRED));
        let factors: Vec<_> = rating.factors.missing.into_iter().zip(rating.factors.carried_from_us).collect();
        assert_eq!(factors, [(None, None), (Some("carry"), Some(7)), (None, None), (None, None)]);
    }

    #[test]
    fn too_little_known_is_not_covered_and_nothing_known_is_no_score() {
        let model = example();
        let little = rated(&model, [Some(8.0), None, None, None]);
        assert_eq!((little.score.unwrap().to_string().as_str(), little.is_covered), ("80", false));
        let nothing = rated(&model, [None, None, Some(f64::NAN), None]);
        assert_eq!((nothing.score, nothing.coverage), (None, Points::ZERO));
    }

    fn grouped(text: &str) -> Model {
        let text =
            format!("version: 1\nmodels:\n  - name: m\n    period: 28d\n    bands: [{{name: all, from: 0}}]\n{text}");
        model::parse("grouped", &text, &["28d".to_owned()]).unwrap().models.remove(0)
    }

    #[test]
    fn a_group_gives_its_weight_to_the_members_that_count() {
        let group = |by: &str| {
            let weight = if by == "weighted" { ", weight: 50" } else { "" };
            let factor = |n: u8| {
                format!(
                    "      - {{name: f{n}, group: g, sql: uses, normalise: {{linear: {{from: 0, to: 100}}}}{weight}}}\n"
                )
            };
            grouped(&format!(
                "    groups: [{{name: g, by: {by}, weight: 80}}, {{name: h, weight: 20}}]\n    factors:\n{}{}      - {{name: f3, group: h, sql: uses, normalise: {{linear: {{from: 0, to: 100}}}}, weight: 100}}\n",
                factor(1),
                factor(2)
            ))
        };
        // reducer, values, effective weights, score
        let cases = [
            ("weighted", [Some(40.0), Some(60.0), Some(90.0)], ["40", "40", "20"], "58"),
            ("mean", [Some(40.0), Some(60.0), Some(90.0)], ["40", "40", "20"], "58"),
            ("min", [Some(40.0), Some(60.0), Some(90.0)], ["80", "0", "20"], "50"),
            ("max", [Some(40.0), Some(60.0), Some(90.0)], ["0", "80", "20"], "66"),
            ("min", [Some(40.0), Some(40.0), Some(90.0)], ["80", "0", "20"], "50"),
            ("max", [Some(40.0), Some(40.0), Some(90.0)], ["80", "0", "20"], "50"),
            ("mean", [None, Some(60.0), Some(90.0)], ["0", "80", "20"], "66"),
            ("min", [None, None, Some(90.0)], ["0", "0", "100"], "90"),
        ];
        for (by, values, weights, score) in cases {
            let rating = rated(&group(by), values);
            let found: Vec<String> = rating.factors.effective_weight.iter().map(ToString::to_string).collect();
            assert_eq!(found, weights, "{by} {values:?}");
            assert_eq!(rating.score.unwrap().to_string(), score, "{by} {values:?}");
        }
    }

    proptest! {
        #[test]
        fn contributions_sum_to_the_score_and_the_score_stays_within_0_and_100(
            values in proptest::collection::vec(proptest::option::of(-10.0..120.0_f64), 4),
            zero in proptest::bool::ANY,
            is_additive in proptest::bool::ANY,
        ) {
            let weights = if is_additive { Weights::Additive } else { Weights::Percent };
            let model = Model { missing: if zero { Missing::Zero } else { Missing::Reweight }, weights, start: 30.0, ..example() };
            let rating = rated(&model, values);
            let sum: Points = rating.factors.contribution.iter().copied().flatten().sum();
            prop_assert_eq!(sum, rating.score.unwrap_or_default());
            prop_assert!(sum >= Points::ZERO && sum <= Points::HUNDRED);
            let effective: Points = rating.factors.effective_weight.iter().copied().sum();
            prop_assert!(is_additive || rating.score.is_none() || effective == Points::HUNDRED);
        }
    }
}
