//! Worked examples. The figures are printed by their sources or computed by hand from their rules, not by this code.

use crate::model::{self, Basis, Missing, Model};
use crate::normalise::Normalise;
use crate::rate::{FactorColumns, FactorValue, One, rate};
use keepwell_core::points::Points;

fn parse(text: &str) -> Model {
    model::parse("example", text, &["28d".to_owned()]).unwrap().models.remove(0)
}

fn rated(model: &Model, values: &[Option<f64>]) -> One {
    rate(model, values.iter().map(|value| FactorValue { value: *value, carried: None }))
}

fn score(model: &Model, values: &[f64]) -> String {
    let values: Vec<Option<f64>> = values.iter().copied().map(Some).collect();
    rated(model, &values).score.unwrap().to_string()
}

fn band(model: &Model, score: f64) -> &str {
    model.band(Basis { score: Points::round(score), before: None, as_of_us: 0, pane_us: 1 })
}

fn normalised(text: &str, value: f64) -> String {
    let normalise: Normalise = serde_saphyr::from_str(text).unwrap();
    normalise.points(value).unwrap().to_string()
}

/// A model with factors that get points as values, by group and weight.
fn given(head: &str, factors: &[(&str, Option<f64>)]) -> Model {
    let mut text = format!("version: 1\nmodels:\n  - name: m\n    period: 28d\n{head}\n    factors:\n");
    for (n, (group, weight)) in factors.iter().enumerate() {
        let group = if group.is_empty() { String::new() } else { format!(", group: {group}") };
        let weight = weight.map(|weight| format!(", weight: {weight}")).unwrap_or_default();
        text +=
            &format!("      - {{name: f{n}{group}, sql: uses, normalise: {{linear: {{from: 0, to: 100}}}}{weight}}}\n");
    }
    parse(&text)
}

const ONE_BAND: &str = "    bands: [{name: all, from: 0}]";

/// Hiver's guide: usage depth 80, training 60, ticket CSAT 85 and billing 70 at 35/25/25/15 % give 28 + 15 + 21.25 +
/// 10.5 = 74.75. It is displayed as 75, "healthy but monitor".
#[test]
fn eighty_sixty_eighty_five_and_seventy_give_74_75_shown_as_75() {
    let model = parse(include_str!("../../models/worked_example.yaml"));
    let rating = rated(&model, &[Some(8.0), Some(60.0), Some(4.4), Some(70.0)]);
    let FactorColumns { normalised, contribution, .. } = &rating.factors;
    let texts = |points: &[Option<Points>]| points.iter().map(|points| points.unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(texts(normalised), ["80", "60", "85", "70"]);
    assert_eq!(texts(contribution), ["28", "15", "21.25", "10.5"]);
    let score = rating.score.unwrap();
    assert_eq!((score.to_string().as_str(), model.display.of(score).to_string().as_str()), ("74.75", "75"));
    assert_eq!(band(&model, 74.75), "yellow", "bands go by the unrounded score");
    let by_display = Model { band_basis: model::BandBasis::Display, ..model };
    assert_eq!(band(&by_display, 74.75), "green");
}

/// The same without training, by hand: 59.75 / 0.75 = 79.67; 59.75; 59.75 + 12.5 = 72.25.
#[test]
fn without_training_it_is_79_67_reweighted_59_75_with_zero_and_72_25_with_neutral() {
    let model = parse(include_str!("../../models/worked_example.yaml"));
    for (missing, expected) in [(Missing::Reweight, "79.666667"), (Missing::Zero, "59.75"), (Missing::Neutral, "72.25")]
    {
        let rating = rated(&Model { missing, ..model.clone() }, &[Some(8.0), None, Some(4.4), Some(70.0)]);
        assert_eq!(rating.score.unwrap().to_string(), expected);
        assert_eq!(rating.coverage.to_string(), "75");
    }
}

/// Planhat: the score is 0-10 and starts at 5. A linear factor turns NPS 0..10 into -5..+5. The test uses the scale of
/// 100.
#[test]
fn additive_from_5_with_linear_nps() {
    let factor = "{name: nps, sql: nps, normalise: {linear: {from: 0, to: 10, points: [-50, 50]}}}";
    let model = parse(&format!(
        "version: 1\nmodels:\n  - name: m\n    period: 28d\n    weights: additive\n    start: 50\n    display: {{out_of: 10, decimals: 1}}\n{ONE_BAND}\n    factors: [{factor}]\n"
    ));
    // answer, points on the scale of 100, score on the scale of 10
    for (nps, points, shown) in [(0.0, "-50", "0"), (7.0, "20", "7"), (10.0, "50", "10")] {
        let rating = rated(&model, &[Some(nps)]);
        assert_eq!(rating.factors.contribution[0].unwrap().to_string(), points);
        assert_eq!(model.display.of(rating.score.unwrap()).to_string(), shown);
    }
    assert_eq!(rated(&model, &[None]).score, None);
    // A hard rule, "NPS below 6: -3": 5 gives -3, 6 gives nothing.
    let rule = "steps: [{in: '(-inf, 6)', points: -30}, {in: '[6, inf)', points: 0}]";
    assert_eq!([5.0, 6.0].map(|nps| normalised(rule, nps)), ["-30", "0"]);
}

/// The part below 0 or above 100 is listed, so that contributions still sum to the score.
#[test]
fn an_additive_score_is_limited_and_says_by_how_much() {
    let head = format!("    weights: additive\n    start: 50\n{ONE_BAND}");
    let rating = rated(&given(&head, &[("", None), ("", Some(50.0))]), &[Some(40.0), Some(80.0)]);
    let contributions: Vec<String> =
        rating.factors.contribution.iter().map(|points| points.unwrap().to_string()).collect();
    assert_eq!(contributions, ["40", "40", "50", "-30"]);
    assert_eq!(rating.score, Some(Points::HUNDRED));
}

/// Vitally: three integrations, on, on and off, give (10 + 10 + 0) / 3 = 6.67. That is healthy, with bands of equal
/// thirds.
#[test]
fn thirds_of_three_levels() {
    let head = "    groups: [{name: g, by: mean, weight: 100}]\n    display: {out_of: 10, decimals: 2}\n    bands: [{name: poor, from: 0}, {name: concerning, from: 33.333333}, {name: healthy, from: 66.666667}]";
    let model = given(head, &[("g", None), ("g", None), ("g", None)]);
    let rating = rated(&model, &[Some(100.0), Some(100.0), Some(0.0)]);
    let score = rating.score.unwrap();
    assert_eq!((score.to_string().as_str(), model.display.of(score).to_string().as_str()), ("66.666667", "6.67"));
    assert_eq!(band(&model, score.to_f64()), "healthy");
}

/// Catalyst: groups of 10, 7.5 and 6 at 50/30/20 % give 8.45. It is displayed as 8.5: half-up in decimal, where binary
/// gives 8.4.
#[test]
fn groups_10_7_5_and_6_are_8_45_shown_8_5() {
    let head = format!("    display: {{out_of: 10, decimals: 1}}\n{ONE_BAND}");
    let model = given(&head, &[("", Some(50.0)), ("", Some(30.0)), ("", Some(20.0))]);
    let score = rated(&model, &[Some(100.0), Some(75.0), Some(60.0)]).score.unwrap();
    assert_eq!((score.to_string().as_str(), model.display.of(score).to_string().as_str()), ("84.5", "8.5"));
    assert_eq!(format!("{:.1}", 8.45_f64), "8.4", "what binary would show");
}

/// Catalyst: inputs of 9.8, 9.4 and 7: average 8.7 (8.733 before rounding), highest 9.8, lowest 7.
#[test]
fn group_reducers() {
    for (by, expected) in [("mean", "87.333333"), ("max", "98"), ("min", "70")] {
        let head = format!("    groups: [{{name: g, by: {by}, weight: 100}}]\n{ONE_BAND}");
        let model = given(&head, &[("g", None), ("g", None), ("g", None)]);
        assert_eq!(score(&model, &[98.0, 94.0, 70.0]), expected, "{by}");
    }
}

/// Natero: 80 (weight 2); 76 and 65 (3); 90 (3); 54 (2): (160 + 211.5 + 270 + 108) / 10 = 74.95. Natero rounds each
/// component, 71 for the second. This gives 75.1, displayed as 75.
#[test]
fn components_with_raw_weights() {
    let groups = "[{name: a, weight: 2}, {name: b, by: mean, weight: 3}, {name: c, weight: 3}, {name: d, weight: 2}]";
    let head = format!("    weights: raw\n    groups: {groups}\n{ONE_BAND}");
    let one = Some(1.0);
    let model = given(&head, &[("a", one), ("b", None), ("b", None), ("c", one), ("d", one)]);
    let score = rated(&model, &[Some(80.0), Some(76.0), Some(65.0), Some(90.0), Some(54.0)]).score.unwrap();
    assert_eq!((score.to_string().as_str(), model.display.of(score).to_string().as_str()), ("74.95", "75"));
}

/// Totango: 5 good, 3 average and 2 poor customers at 100/60/40 give 760 / 10 = 76.
#[test]
fn a_portfolio() {
    let head = format!("    weights: raw\n{ONE_BAND}");
    let model = given(&head, &[("", Some(5.0)), ("", Some(3.0)), ("", Some(2.0))]);
    assert_eq!(score(&model, &[100.0, 60.0, 40.0]), "76");
}

/// ChurnZero: active days in 14 days: daily 9 and more, weekly 5-8, occasional 2-4, inactive 0-1.
#[test]
fn usage_frequency() {
    let steps = "steps: [{in: '(-inf, 1]', points: 0}, {in: '(1, 4]', points: 33}, {in: '(4, 8]', points: 66}, {in: '(8, inf)', points: 100}]";
    let days = [9.0, 8.0, 5.0, 4.0, 2.0, 1.0, 0.0];
    assert_eq!(days.map(|days| normalised(steps, days)), ["100", "66", "66", "33", "33", "0", "0"]);
}

/// GitLab: licence use below 10 %, 10-50 %, 51-75 %, above 75 %, by age of the account in months: 2-6, 6-9, above 9. 40
/// % at 5, 7, 10 months: yellow, red, red. 60 %: green, yellow, red. There is one factor per age, unknown at other
/// ages.
#[test]
fn licence_use_by_age() {
    let ages = [
        "steps: [{in: '(-inf, 10)', points: 0}, {in: '[10, 50]', points: 50}, {in: '(50, inf)', points: 100}]",
        "steps: [{in: '(-inf, 50]', points: 0}, {in: '(50, 75]', points: 50}, {in: '(75, inf)', points: 100}]",
        "steps: [{in: '(-inf, 75]', points: 0}, {in: '(75, inf)', points: 100}]",
    ];
    assert_eq!(ages.map(|steps| normalised(steps, 40.0)), ["50", "0", "0"]);
    assert_eq!(ages.map(|steps| normalised(steps, 60.0)), ["100", "50", "0"]);
}

/// Gainsight's own score: depth is the share of users with 10 and more sessions in 4 weeks: green from 50 %, lime 35,
/// yellow 20, orange 10. Breadth is the number of features used: green from 4. 50 % and 4 features: green and green.
#[test]
fn depth_by_share_of_healthy_users_and_breadth_by_features() {
    let depth = "steps: [{in: '(-inf, 10)', points: 0}, {in: '[10, 20)', points: 25}, {in: '[20, 35)', points: 50}, {in: '[35, 50)', points: 75}, {in: '[50, inf)', points: 100}]";
    assert_eq!([50.0, 35.0, 20.0, 10.0, 0.0].map(|share| normalised(depth, share)), ["100", "75", "50", "25", "0"]);
    assert_eq!([4.0, 3.0, 2.0, 1.0, 0.0].map(|n| normalised("ratio: {target: 4}", n)), ["100", "75", "50", "25", "0"]);
}

/// An enterprise account of the open-source example: four dimensions 91.6, 82.0, 78.5, 90.1 at 30/25/20/25 % give
/// 86.205, printed as 86.2; green from 75.
#[test]
fn four_dimensions_of_an_enterprise_account() {
    let head = "    display: {out_of: 100, decimals: 1}\n    bands: [{name: red, from: 0}, {name: yellow, from: 50}, {name: green, from: 75}]";
    let model = given(head, &[("", Some(30.0)), ("", Some(25.0)), ("", Some(20.0)), ("", Some(25.0))]);
    let score = rated(&model, &[Some(91.6), Some(82.0), Some(78.5), Some(90.1)]).score.unwrap();
    assert_eq!((score.to_string().as_str(), model.display.of(score).to_string().as_str()), ("86.205", "86.2"));
    assert_eq!(band(&model, score.to_f64()), "green");
}
