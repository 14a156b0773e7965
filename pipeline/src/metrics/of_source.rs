//! Metrics of the raw topics: how much each brings.

use prometheus::{GaugeVec, IntCounterVec};

use super::names::Names;

/// Metrics with a series for each raw topic.
#[derive(Debug, Clone)]
pub(super) struct SourceMetrics {
    pub events: IntCounterVec,
    pub share: GaugeVec,
}

impl SourceMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// Practically none: all names are valid and used once, as a test shows.
    pub fn new(names: &mut Names) -> Result<Self, prometheus::Error> {
        Ok(Self {
            events: names.counter(
                "source_events_total",
                "Accepted events, by raw topic and kind",
                &["stage", "topic", "kind"],
            )?,
            share: names.gauge(
                "source_share",
                "Events of a source in the last hour that ended, as a share of the usual number of this hour of the week; NaN where that is unknown or below 20",
                &["stage", "source"],
            )?,
        })
    }
}
