//! Work beside the pipeline, repeated by the clock, with metrics of its own.
#![allow(clippy::disallowed_methods, reason = "I/O edge: the clock says when")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use keepwell_pipeline::clock::{Clock, SystemClock};
use keepwell_pipeline::config::{Listen, Span};
use keepwell_pipeline::http;
use keepwell_pipeline::metrics::{Metrics, StageMetrics};
use keepwell_pipeline::process::{LogFormat, start_logging, stopped_by_signals};
use keepwell_pipeline::readiness::Waiting;

/// Does `work` every so often until the process is asked to stop. `stage` is its name in metrics, which `at` serves.
///
/// # Errors
/// When the address cannot be bound.
pub fn repeat(
    stage: &'static str,
    every: Span,
    at: Listen,
    mut work: impl FnMut(&SystemClock, &StageMetrics),
) -> Result<()> {
    start_logging(LogFormat::Text);
    let (clock, shutdown) = (SystemClock::start(), stopped_by_signals()?);
    let metrics = Metrics::new()?;
    let shown = metrics.stage(stage);
    if let Listen::At(address) = at {
        http::serve(address, metrics, vec![shown.clone()], clock)?;
    }
    let mut due = clock.monotonic();
    while !shutdown.load(Ordering::Relaxed) {
        shown.tick(clock.monotonic(), &Waiting::No);
        if clock.monotonic() >= due {
            work(&clock, &shown);
            due = clock.monotonic() + every.as_duration();
        }
        rest(&shutdown);
    }
    Ok(())
}

fn rest(shutdown: &AtomicBool) {
    if !shutdown.load(Ordering::Relaxed) {
        std::thread::park_timeout(Duration::from_millis(500));
    }
}
