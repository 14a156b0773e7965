//! Metrics of the business: figures of periods, accounts by band, triggers that are active.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{GaugeVec, IntGaugeVec};

use super::StageMetrics;
use super::names::Names;

/// Metrics of `keepwell report --every`.
#[derive(Debug, Clone)]
pub(super) struct ReportMetrics {
    figures: GaugeVec,
    accounts: IntGaugeVec,
    triggers: IntGaugeVec,
    groups_left_out: IntGaugeVec,
    newest: GaugeVec,
    ended: GaugeVec,
    /// Labels of the figures, accounts and triggers that are shown. What the next report lacks is removed.
    shown: Arc<Mutex<[BTreeSet<Vec<String>>; 3]>>,
}

impl ReportMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// Practically none: all names are valid and used once, as a test shows.
    pub fn new(names: &mut Names) -> Result<Self, prometheus::Error> {
        Ok(Self {
            figures: names.gauge(
                "report_figure",
                "Figures of the periods that run, in percent, points, money or numbers as each figure says; no series where it is unknown",
                &["stage", "period", "group", "kpi", "currency"],
            )?,
            accounts: names.int_gauge("report_accounts", "Accounts by band", &["stage", "group", "band"])?,
            triggers: names.int_gauge(
                "report_triggers_active",
                "Accounts on which a trigger is raised or active",
                &["stage", "trigger", "severity"],
            )?,
            groups_left_out: names.int_gauge(
                "report_groups_left_out",
                "Groups of accounts beyond the first 50 of a dimension, which have no series",
                &["stage"],
            )?,
            newest: names.gauge(
                "report_newest_timestamp_seconds",
                "End of the newest day that the tables have",
                &["stage"],
            )?,
            ended: names.gauge("report_timestamp_seconds", "When the last report ended", &["stage"])?,
            shown: Arc::default(),
        })
    }
}

/// What a report shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reported {
    /// Values by period, group of accounts, figure and currency.
    pub figures: Vec<([String; 4], f64)>,
    /// Numbers of accounts by group and band.
    pub accounts: Vec<([String; 2], i64)>,
    /// Numbers of accounts by trigger and severity.
    pub triggers: Vec<([String; 2], i64)>,
    /// Groups that are left out.
    pub groups_left_out: i64,
    /// End of the newest day in the tables, UTC microseconds.
    pub newest_us: i64,
}

impl StageMetrics {
    /// Shows a report that ended at this wall-clock time, and nothing of the one before.
    pub fn reported(&self, of: &Reported, wall_us: i64) {
        let metrics = &self.metrics.report;
        let mut now = [const { BTreeSet::new() }; 3];
        let mut labels = |nth: usize, names: &[String]| {
            let all: Vec<String> = std::iter::once(self.stage.to_owned()).chain(names.iter().cloned()).collect();
            now[nth].insert(all.clone());
            all
        };
        for (names, value) in &of.figures {
            metrics.figures.with_label_values(&labels(0, names)).set(*value);
        }
        for (names, count) in &of.accounts {
            metrics.accounts.with_label_values(&labels(1, names)).set(*count);
        }
        for (names, count) in &of.triggers {
            metrics.triggers.with_label_values(&labels(2, names)).set(*count);
        }
        metrics.groups_left_out.with_label_values(&[self.stage]).set(of.groups_left_out);
        metrics.newest.with_label_values(&[self.stage]).set(of.newest_us as f64 / 1e6);
        metrics.ended.with_label_values(&[self.stage]).set(wall_us as f64 / 1e6);
        let mut shown = metrics.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |nth: usize| shown[nth].difference(&now[nth]).cloned().collect::<Vec<_>>();
        let removed = [
            gone(0).iter().map(|labels| metrics.figures.remove_label_values(labels)).collect::<Result<Vec<_>, _>>(),
            gone(1).iter().map(|labels| metrics.accounts.remove_label_values(labels)).collect(),
            gone(2).iter().map(|labels| metrics.triggers.remove_label_values(labels)).collect(),
        ];
        for error in removed.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, "a series of the last report stays");
        }
        *shown = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_report_replaces_the_one_before() {
        let names = |names: [&str; 4]| names.map(str::to_owned);
        let metrics = Metrics::new().unwrap();
        let shown = metrics.stage("report");
        let first = [names(["quarter", "all", "nrr", "EUR"]), names(["quarter", "all", "nrr", "USD"])];
        let band = |band: &str| ["all".to_owned(), band.to_owned()];
        let mut of = Reported {
            figures: first.map(|labels| (labels, 101.5)).into(),
            accounts: vec![(band("red"), 3)],
            triggers: vec![(["usage_drop".to_owned(), "high".to_owned()], 2)],
            ..Reported::default()
        };
        shown.reported(&of, 5_000_000);
        let text = metrics.text().unwrap();
        let nrr = |currency: &str| {
            format!(
                "keepwell_report_figure{{currency=\"{currency}\",group=\"all\",kpi=\"nrr\",period=\"quarter\",stage=\"report\"}}"
            )
        };
        assert!(text.contains(&format!("{} 101.5\n", nrr("EUR"))) && text.contains(&nrr("USD")), "{text}");
        assert!(text.contains("keepwell_report_timestamp_seconds{stage=\"report\"} 5\n"), "{text}");
        of.figures.truncate(1);
        of.accounts = vec![(band("green"), 3)];
        shown.reported(&of, 6_000_000);
        let text = metrics.text().unwrap();
        assert!(text.contains(&nrr("EUR")) && !text.contains(&nrr("USD")), "{text}");
        assert!(text.contains("band=\"green\"") && !text.contains("band=\"red\""), "{text}");
    }
}
