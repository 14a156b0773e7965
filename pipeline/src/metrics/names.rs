//! A registry of metrics that can list what it shows.

use prometheus::core::Collector;
use prometheus::{Error, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};

/// One metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Name, with its unit at the end.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Labels.
    pub labels: Vec<&'static str>,
    /// Meaning.
    pub help: &'static str,
}

/// A registry that remembers what was registered.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub registry: Registry,
    pub named: Vec<Named>,
}

impl Names {
    pub fn counter(&mut self, name: &str, help: &'static str, labels: &[&'static str]) -> Result<IntCounterVec, Error> {
        let metric = IntCounterVec::new(Opts::new(full(name), help), labels)?;
        self.register(metric, named(name, "counter", help, labels))
    }

    pub fn gauge(&mut self, name: &str, help: &'static str, labels: &[&'static str]) -> Result<GaugeVec, Error> {
        let metric = GaugeVec::new(Opts::new(full(name), help), labels)?;
        self.register(metric, named(name, "gauge", help, labels))
    }

    pub fn int_gauge(&mut self, name: &str, help: &'static str, labels: &[&'static str]) -> Result<IntGaugeVec, Error> {
        let metric = IntGaugeVec::new(Opts::new(full(name), help), labels)?;
        self.register(metric, named(name, "gauge", help, labels))
    }

    pub fn histogram(
        &mut self,
        name: &str,
        help: &'static str,
        labels: &[&'static str],
        buckets_s: &[f64],
    ) -> Result<HistogramVec, Error> {
        let metric = HistogramVec::new(HistogramOpts::new(full(name), help).buckets(buckets_s.to_vec()), labels)?;
        self.register(metric, named(name, "histogram", help, labels))
    }

    fn register<M: Collector + Clone + 'static>(&mut self, metric: M, named: Named) -> Result<M, Error> {
        self.registry.register(Box::new(metric.clone()))?;
        self.named.push(named);
        Ok(metric)
    }
}

fn full(name: &str) -> String {
    format!("keepwell_{name}")
}

fn named(name: &str, kind: &'static str, help: &'static str, labels: &[&'static str]) -> Named {
    Named { name: full(name), kind, labels: labels.to_vec(), help }
}
