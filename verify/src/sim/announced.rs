//! Other versions of the model file, announced while the deployment runs.

use std::ops::Range;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use keepwell_pipeline::config::Config;
use keepwell_score::model;
use keepwell_score::model_schedule::Announcement;

use super::DAY_US;

/// Changes of another version: effects of weights, memories, carried values, bands, triggers, stages.
const CHANGES: [(&str, &str); 7] = [
    ("{linear: {from: 14, to: 0}}", "{linear: {from: 9, to: 0}}"),
    ("sql: uses, over: 10d, by: mean", "sql: uses + 1, over: 6d, by: max"),
    ("carry: {for: 6d, otherwise: reweight}", "carry: {for: 9d, otherwise: zero}"),
    ("{name: yellow, from: 50, leave_below: 45}", "{name: yellow, from: 55}"),
    ("{name: usage_drop, sql: uses < 0.6", "{name: usage_fall, sql: uses < 0.7"),
    ("when: uses >= 5 and known_days > 1, for: 2d", "when: uses >= 3, for: 3d"),
    ("when: \"tickets_opened > 0 or", "when: \"tickets_opened > 1 or"),
];

/// Announces none, one or two model files, in order of time; sometimes one that must be refused. In a tidy run each
/// takes over at least a day after its announcement.
/// So event time alone decides which model scores a final row.
pub fn files(seed: u64, config: &Config, between_us: Range<i64>, is_tidy: bool) -> Result<Vec<(i64, Announcement)>> {
    // A separate random source, so that old seeds keep all their other choices.
    let mut rng = Rng::with_seed(seed ^ 0x0de1);
    let text = model::read(config.score.model.as_deref().context("the simulation has a model of its own")?)?;
    let mut announced = Vec::new();
    let mut at_us = between_us.start;
    for number in 0..rng.usize(0..3) {
        at_us = rng.i64(at_us..between_us.end.max(at_us + 1));
        let soonest_us = if is_tidy { at_us + DAY_US } else { between_us.start };
        let from = jiff::Timestamp::from_microsecond(soonest_us + rng.i64(0..3 * DAY_US))?;
        // Sometimes the second version is not newer than the first, so it must be refused.
        let version = 8 + (number * rng.usize(0..2)) as i64;
        let mut changed = text.replace("version: 7", &format!("version: {version}"));
        ensure!(changed != text, "the model is not of version 7");
        for (before, after) in CHANGES.iter().filter(|_| rng.bool()) {
            ensure!(text.contains(before), "the model has no {before}");
            changed = changed.replace(before, after);
        }
        announced.push((at_us, Announcement { from, text: changed }));
    }
    Ok(announced)
}
