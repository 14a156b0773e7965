//! The pulse of a call that waits for the broker.

use crate::clock::{Clock, SystemClock};
use crate::metrics::StageMetrics;
use crate::readiness::Waiting;

/// Tells that a call which waits for the broker lives although its loop does not go round.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Option<(StageMetrics, SystemClock)>);

impl Pulse {
    /// The pulse of a stage, by the clock its loop goes by.
    pub fn of(metrics: StageMetrics, clock: SystemClock) -> Self {
        Self(Some((metrics, clock)))
    }

    /// The call lives and waits for the broker.
    pub(crate) fn beat(&self) {
        if let Some((metrics, clock)) = &self.0 {
            metrics.tick(clock.monotonic(), &Waiting::Broker);
        }
    }
}
