//! Bands: which band a score is in, and when an account leaves its band.

use serde::Deserialize;
use serde_saphyr::Spanned;

use super::{Model, UNKNOWN};
use keepwell_core::points::Points;

/// One band of a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Band {
    /// Name of the band, e.g. red.
    pub name: Spanned<String>,
    /// Lowest score in the band. A band has either this or `above`.
    pub from: Option<f64>,
    /// Highest score below the band. The band begins directly above it.
    pub above: Option<f64>,
    /// An account stays in the band while its score is at or above this. The default is the start of the band.
    pub leave_below: Option<f64>,
    /// An account stays in the band for at least this many panes.
    #[serde(default)]
    pub dwell_panes: u32,
}

impl Band {
    /// The start of the band as an exact decimal.
    pub fn start(&self) -> Points {
        self.from.or(self.above).and_then(Points::round).unwrap_or_default()
    }

    fn is_reached(&self, score: Points) -> bool {
        if self.above.is_some() { score > self.start() } else { score >= self.start() }
    }

    fn is_kept(&self, score: Points) -> bool {
        self.leave_below.and_then(Points::round).is_some_and(|least| score >= least)
    }
}

/// Which form of the score decides the band.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BandBasis {
    /// The score with all its decimals.
    #[default]
    Exact,
    /// The displayed score.
    Display,
}

/// How a score is displayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Display {
    /// The best displayed score: 100, 10, 5 or 1.
    pub out_of: i64,
    /// Number of decimals displayed.
    pub decimals: u32,
}

impl Default for Display {
    fn default() -> Self {
        Self { out_of: 100, decimals: 0 }
    }
}

impl Display {
    /// The displayed score, rounded once, half-up.
    pub fn of(self, score: Points) -> Points {
        let step = 10_i64.pow(6 - self.decimals.min(6));
        let divisor = (100 / self.out_of.max(1)) * step;
        Points::from_millionths((2 * score.millionths() + divisor).div_euclid(2 * divisor) * step)
    }

    fn exact(self, shown: Points) -> Points {
        Points::from_millionths(shown.millionths() * (100 / self.out_of.max(1)))
    }
}

/// The values that decide the band of a row.
#[derive(Debug, Clone, Copy)]
pub struct Basis<'b> {
    /// The score, if the coverage is high enough.
    pub score: Option<Points>,
    /// The band of the previous final row, and the time since which the account is in it, UTC microseconds.
    pub before: Option<(&'b str, i64)>,
    /// End of the windows, UTC microseconds.
    pub as_of_us: i64,
    /// Width of a pane in microseconds.
    pub pane_us: i64,
}

impl Model {
    /// The band of a row: the previous band if the account stays in it, otherwise the highest band that is reached.
    pub fn band(&self, basis: Basis<'_>) -> &str {
        let Some(score) = basis.score else { return UNKNOWN };
        let score = match self.band_basis {
            BandBasis::Exact => score,
            BandBasis::Display => self.display.exact(self.display.of(score)),
        };
        let reached = self.bands.iter().rposition(|band| band.is_reached(score));
        let before = basis
            .before
            .and_then(|(name, since_us)| Some((self.bands.iter().position(|band| band.name.value == name)?, since_us)));
        let staying = before.filter(|(index, since_us)| {
            self.bands.get(*index).is_some_and(|band| {
                let dwells = basis.as_of_us.saturating_sub(*since_us) < i64::from(band.dwell_panes) * basis.pane_us;
                dwells || (Some(*index) > reached && band.is_kept(score))
            })
        });
        let index = staying.map(|(index, _)| index).or(reached);
        index.and_then(|index| self.bands.get(index)).map_or(UNKNOWN, |band| &band.name.value)
    }
}

#[cfg(test)]
mod tests {
    use crate::model::{Model, parse};

    use super::*;

    fn model(bands: &str, more: &str) -> Model {
        let text = format!(
            "version: 1\nmodels:\n  - name: m\n    period: 28d\n    factors: [{{name: f, sql: uses, normalise: {{linear: {{from: 0, to: 1}}}}, weight: 100}}]\n    bands: {bands}\n{more}"
        );
        parse("model.yaml", &text, &["28d".to_owned()]).unwrap().models.remove(0)
    }

    fn plain(model: &Model, score: f64) -> &str {
        model.band(Basis { score: Points::round(score), before: None, as_of_us: 0, pane_us: 1 })
    }

    #[test]
    fn a_band_begins_at_its_lowest_score_or_above_the_highest_of_the_band_before() {
        // https://support.gainsight.com: 0-50 red, 51-75 yellow, 76-100 green, lower bounds exclusive.
        let exclusive = model("[{name: red, from: 0}, {name: yellow, above: 50}, {name: green, above: 75}]", "");
        let scores = [0.0, 50.0, 50.000_001, 51.0, 75.0, 76.0, 100.0];
        assert_eq!(
            scores.map(|score| plain(&exclusive, score)),
            ["red", "red", "yellow", "yellow", "yellow", "green", "green"]
        );
        let inclusive = model("[{name: red, from: 0}, {name: yellow, from: 50}, {name: green, from: 75}]", "");
        let scores = [49.999_999, 50.0, 74.999_999, 75.0];
        assert_eq!(scores.map(|score| plain(&inclusive, score)), ["red", "yellow", "yellow", "green"]);
    }

    #[test]
    fn any_number_of_bands_and_bands_by_what_is_shown() {
        let four = "[{name: at risk, from: 0}, {name: watch, from: 40}, {name: healthy but monitor, from: 70}, {name: healthy, from: 85}]";
        assert_eq!(plain(&model(four, ""), 74.75), "healthy but monitor");
        let shown = model(
            "[{name: yellow, from: 0}, {name: green, from: 75}]",
            "    band_basis: display\n    display: {out_of: 10, decimals: 1}\n",
        );
        assert_eq!([74.4, 74.5, 74.75].map(|score| plain(&shown, score)), ["yellow", "green", "green"]);
    }

    #[test]
    fn scores_are_shown_rounded_once_and_half_up_in_decimal() {
        // out of, decimals, score, displayed score
        let cases = [
            (100, 0, "74.75", "75"),
            (100, 0, "74.5", "75"),
            (100, 0, "74.499999", "74"),
            (10, 1, "84.5", "8.5"),
            (10, 2, "66.666667", "6.67"),
            (1, 2, "99.5", "1"),
        ];
        for (out_of, decimals, score, shown) in cases {
            let score = Points::round(score.parse().unwrap()).unwrap();
            assert_eq!(Display { out_of, decimals }.of(score).to_string(), shown, "{score}");
        }
    }

    #[test]
    fn an_account_leaves_a_band_below_its_exit_and_after_its_dwell() {
        let model = model(
            "[{name: red, from: 0, dwell_panes: 3}, {name: yellow, from: 50, leave_below: 45}, {name: green, from: 75, leave_below: 70}]",
            "",
        );
        // day, score, expected band
        let days = [
            (1, 76.0, "green"),
            (2, 71.0, "green"),
            (3, 70.0, "green"),
            (4, 69.999_999, "yellow"),
            (5, 74.0, "yellow"),
            (6, 45.0, "yellow"),
            (7, 44.0, "red"),
            (8, 90.0, "red"),
            (9, 51.0, "red"),
            (10, 51.0, "yellow"),
            (11, 75.0, "green"),
            (12, 10.0, "red"),
        ];
        let mut before: Option<(String, i64)> = None;
        for (day, score, expected) in days {
            let before_it = before.as_ref().map(|(band, since)| (band.as_str(), *since));
            let basis = Basis { score: Points::round(score), before: before_it, as_of_us: day, pane_us: 1 };
            let band = model.band(basis).to_owned();
            assert_eq!(band, expected, "day {day}");
            let since = before.filter(|(known, _)| *known == band).map_or(day, |(_, since)| since);
            before = Some((band, since));
        }
    }

    #[test]
    fn an_account_of_which_too_little_is_known_is_in_no_band_whatever_it_was_in() {
        let model = model("[{name: red, from: 0, dwell_panes: 9}]", "");
        let basis = Basis { score: None, before: Some(("red", 0)), as_of_us: 1, pane_us: 1 };
        assert_eq!(model.band(basis), UNKNOWN);
    }
}
