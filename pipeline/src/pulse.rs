//! Shows that a call which waits for the broker is alive.

use crate::clock::{Clock, SystemClock};
use crate::metrics::StageMetrics;
use crate::readiness::Waiting;

/// Reports that a call waiting for the broker is alive, although its loop does not run.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Option<(StageMetrics, SystemClock)>);

impl Pulse {
    /// The pulse of a stage. It must use the same clock as the loop.
    pub fn of(metrics: StageMetrics, clock: SystemClock) -> Self {
        Self(Some((metrics, clock)))
    }

    /// Reports that the call is alive and waits for the broker.
    pub(crate) fn beat(&self) {
        if let Some((metrics, clock)) = &self.0 {
            metrics.tick(clock.monotonic(), &Waiting::Broker);
        }
    }
}
