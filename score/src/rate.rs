//! From normalised values to a score: exact decimals, nothing rounded twice.
//!
//! score = sum(normalised * weight) / sum(weight) over the factors that count, rounded half-up to 6
//! decimals: the weighted mean of composite indicators, with the weight of unknown values carried by the
//! known ones. Each running sum is rounded and a contribution is the step from one to the next: so
//! contributions sum to the score exactly, each within a millionth of its own quotient.

use crate::model::{Missing, Model, UNKNOWN};
use crate::points::{Mean, Points};

/// What became of one factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rated {
    /// What its SQL gave.
    pub value: Option<f64>,
    /// 0-100; none where it is left out.
    pub normalised: Option<Points>,
    /// Weight in the model.
    pub weight: Points,
    /// Weight among the factors that count.
    pub effective_weight: Points,
    /// Its part of the score.
    pub contribution: Option<Points>,
    /// What stood in for an unknown value.
    pub missing: Option<Missing>,
}

/// A score and what it is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Rating {
    /// In the order of the model.
    pub factors: Vec<Rated>,
    /// 0-100; none where no factor counts.
    pub score: Option<Points>,
    /// Share of the weights whose value is known, percent.
    pub coverage: Points,
}

/// Rates the values of one account, in the order of the model's factors.
pub fn rate(model: &Model, values: impl IntoIterator<Item = Option<f64>>) -> Rating {
    let mut factors: Vec<Rated> = model
        .factors
        .iter()
        .zip(values)
        .map(|(factor, value)| {
            let value = value.filter(|value| value.is_finite());
            let known = value.and_then(|value| factor.normalise.points(value));
            let missing = known.is_none().then(|| factor.missing.unwrap_or(model.missing));
            let normalised = match missing {
                None => known,
                Some(Missing::Reweight) => None,
                Some(Missing::Zero) => Some(Points::ZERO),
                Some(Missing::Neutral) => Some(Points::from_millionths(50_000_000)),
            };
            let weight = factor.weight();
            Rated { value, normalised, weight, effective_weight: Points::ZERO, contribution: None, missing }
        })
        .collect();
    let sum = |counts: fn(&Rated) -> bool| factors.iter().filter(|f| counts(f)).map(|f| f.weight).sum::<Points>();
    let (all, counting, known) = (sum(|_| true), sum(|f| f.normalised.is_some()), sum(|f| f.missing.is_none()));
    let (mut running, mut score) = (Mean::over(counting), Points::ZERO);
    for factor in &mut factors {
        if let Some(normalised) = factor.normalised {
            factor.effective_weight = Points::HUNDRED.share(factor.weight, counting);
            let before = score;
            score = running.with(normalised, factor.weight);
            factor.contribution = Some(score - before);
        }
    }
    let score = (counting > Points::ZERO).then_some(score);
    Rating { factors, score, coverage: Points::HUNDRED.share(known, all) }
}

impl Rating {
    /// The band by the model, `unknown` where too little is known.
    pub fn band<'m>(&self, model: &'m Model) -> &'m str {
        let is_covered = Points::round(model.minimum_coverage).is_some_and(|least| self.coverage >= least);
        self.score.filter(|_| is_covered).map_or(UNKNOWN, |score| model.band(score))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model;

    fn example() -> Model {
        let text = include_str!("../models/worked_example.yaml");
        model::parse("worked_example.yaml", text, &["28d".to_owned()]).unwrap().models.remove(0)
    }

    fn texts(rating: &Rating) -> Vec<String> {
        rating.factors.iter().map(|f| f.contribution.map_or("-".to_owned(), |points| points.to_string())).collect()
    }

    #[test]
    fn the_worked_example_gives_74_75_and_is_shown_as_75() {
        let model = example();
        let rating = rate(&model, [Some(8.0), Some(60.0), Some(4.4), Some(70.0)]);
        let normalised: Vec<_> = rating.factors.iter().map(|f| f.normalised.unwrap().to_string()).collect();
        assert_eq!(normalised, ["80", "60", "85", "70"]);
        assert_eq!(texts(&rating), ["28", "15", "21.25", "10.5"]);
        let score = rating.score.unwrap();
        assert_eq!((score.to_string().as_str(), score.whole()), ("74.75", 75));
        assert_eq!(rating.band(&model), "yellow", "bands go by the unrounded score");
        let display = Model { band_basis: model::BandBasis::Display, ..model };
        assert_eq!(rating.band(&display), "green");
    }

    #[test]
    fn an_unknown_value_is_left_out_or_counts_as_the_model_says() {
        let model = example();
        let values = [Some(8.0), None, Some(4.4), None];
        // policy, contributions, score, coverage
        let cases = [
            (Missing::Reweight, ["46.666667", "-", "35.416666", "-"], "82.083333", "60"),
            (Missing::Zero, ["28", "0", "21.25", "0"], "49.25", "60"),
            (Missing::Neutral, ["28", "12.5", "21.25", "7.5"], "69.25", "60"),
        ];
        for (missing, contributions, score, coverage) in cases {
            let rating = rate(&Model { missing, ..model.clone() }, values);
            assert_eq!(texts(&rating), contributions, "{missing:?}");
            assert_eq!(
                (rating.score.unwrap().to_string().as_str(), rating.coverage.to_string().as_str()),
                (score, coverage)
            );
        }
    }

    #[test]
    fn too_little_known_is_no_band_and_nothing_known_is_no_score() {
        let model = example();
        let little = rate(&model, [Some(8.0), None, None, None]);
        assert_eq!((little.score.unwrap().to_string().as_str(), little.band(&model)), ("80", "unknown"));
        let nothing = rate(&model, [None, None, Some(f64::NAN), None]);
        assert_eq!((nothing.score, nothing.band(&model), nothing.coverage), (None, "unknown", Points::ZERO));
    }

    proptest! {
        #[test]
        fn contributions_sum_to_the_score_and_the_score_stays_within_0_and_100(
            values in proptest::collection::vec(proptest::option::of(-10.0..120.0_f64), 4),
            zero in proptest::bool::ANY,
        ) {
            let model = Model { missing: if zero { Missing::Zero } else { Missing::Reweight }, ..example() };
            let rating = rate(&model, values);
            let sum: Points = rating.factors.iter().filter_map(|factor| factor.contribution).sum();
            prop_assert_eq!(sum, rating.score.unwrap_or_default());
            prop_assert!(sum >= Points::ZERO && sum <= Points::HUNDRED);
        }
    }
}
