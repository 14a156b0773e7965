//! Sources that die and come back, and what an operator says about alerts that are held.

use std::ops::Range;

use fastrand::Rng;
use keepwell_core::event::Kind;
use keepwell_pipeline::config::{Span, Suspect};
use keepwell_pipeline::suspect::{Decision, Word};

use super::DAY_US;
use crate::fleet::{Raw, Shape};

/// A separate random source, so that old seeds keep all their other choices.
fn random(seed: u64, of: u64) -> Rng {
    Rng::with_seed(seed ^ 0x5_0f5e ^ of.rotate_left(40))
}

/// Bounds that small fleets can reach.
pub fn suspect(seed: u64) -> Suspect {
    let mut rng = random(seed, 1);
    Suspect {
        below: [0.3, 0.6, 0.9][rng.usize(0..3)],
        weeks: rng.u8(2..5),
        min_events: rng.u64(1..6),
        max_dropping: [0.1, 0.3, 0.6, 1.0][rng.usize(0..4)],
        min_accounts: rng.u64(1..4),
        settle: [None, Some(Span::from_secs(0)), Some(Span::from_secs(86_400))][rng.usize(0..3)],
    }
}

/// Whether a source dies in this run: one of four. Then the fleet is long enough to know what is usual.
pub fn shape(seed: u64, shape: Shape) -> Shape {
    match random(seed, 2).u32(0..4) {
        0 => Shape { days: 22 + shape.days % 5, ..shape },
        _ => shape,
    }
}

/// Takes the events of a source that dies for some days of the third week.
pub fn strike(seed: u64, raws: &mut Vec<Raw>) {
    let mut rng = random(seed, 2);
    let Some(first_ms) = raws.iter().map(|raw| raw.at_ms).min().filter(|_| rng.u32(0..4) == 0) else { return };
    let day_ms = DAY_US / 1000;
    let died = [Kind::Usage, Kind::Ticket][rng.usize(0..2)];
    let from_ms = first_ms + rng.i64(14..18) * day_ms;
    let to_ms = from_ms + rng.i64(1..4) * day_ms;
    raws.retain(|raw| raw.kind != died || !(from_ms..to_ms).contains(&raw.at_ms));
}

/// Decisions of an operator, in order of time. In a tidy run there are none: its alerts are compared with those of another
/// run, in which they would come at another moment.
pub fn words(seed: u64, between_us: Range<i64>, is_tidy: bool) -> Vec<(i64, Word)> {
    let mut rng = random(seed, 3);
    let num_words = if is_tidy { 0 } else { rng.usize(0..3) };
    let mut words: Vec<(i64, Word)> = (0..num_words)
        .map(|_| {
            let at_us = rng.i64(between_us.start..between_us.end.max(between_us.start + 1));
            let decision = if rng.bool() { Decision::Release } else { Decision::Drop };
            let until_us = rng.bool().then(|| at_us + rng.i64(0..4) * DAY_US);
            (at_us, Word { decision, until_us })
        })
        .collect();
    words.sort_by_key(|(at_us, _)| *at_us);
    words
}
