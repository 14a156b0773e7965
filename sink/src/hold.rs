//! Which alerts go out, which are held, and which are dropped.
//!
//! The alerts of a pane wait until every partition has reported the end of the pane. Then one line of this table applies:
//!
//! | the pane is | its alerts are |
//! |---|---|
//! | as usual | published |
//! | suspect, or soon after a suspect one | held |
//! | the first as usual again | published, with those that are held and whose condition still holds |
//!
//! A held alert whose condition has ended meanwhile is dropped: nobody hears of it. The same log gives the same decisions,
//! whatever order the reports of the partitions come in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use keepwell_pipeline::suspect::{Bounds, Decision, Drops, Report, Word};
use serde::{Deserialize, Serialize};

/// An alert that is ready to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// `as_of` of its row, UTC microseconds.
    pub as_of_us: i64,
    /// Its place among the alerts of this pane.
    pub place: u64,
    /// Account id.
    pub account_id: String,
    /// Id of the episode.
    pub alert_id: String,
    /// Whether it says that the episode begins, not that it ends.
    pub is_raise: bool,
    /// Its JSON.
    pub value: Vec<u8>,
}

/// What becomes of alerts in one step.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// To be published now, in this order.
    pub published: Vec<Arc<Ready>>,
    /// How many of these were held.
    pub num_released: u64,
    /// How many are held from now on.
    pub num_held: u64,
    /// How many were forgotten.
    pub num_dropped: u64,
    /// Suspect panes, and why.
    pub suspect: Vec<(i64, String)>,
}

/// The alerts of one partition of `health` that are not published yet, and what decides about them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Holding {
    /// Up to which time each partition has ended its panes, UTC microseconds.
    ended: BTreeMap<i32, i64>,
    /// The drops of panes without a decision, all partitions together.
    drops: BTreeMap<i64, Drops>,
    /// Panes without a decision in which sources are far below their usual number.
    low: BTreeMap<i64, BTreeSet<String>>,
    /// What decides about panes up to an end, as the own partition reported it.
    bounds: BTreeMap<i64, Bounds>,
    /// Every pane up to this end has its decision, UTC microseconds.
    decided_us: Option<i64>,
    /// Alerts of the record at hand whose panes nobody reports.
    passing: Vec<Arc<Ready>>,
    /// Alerts of panes without a decision.
    waiting: BTreeMap<i64, Vec<Arc<Ready>>>,
    /// Alerts that are held, by episode, oldest first.
    held: BTreeMap<String, Vec<Arc<Ready>>>,
    /// Episodes whose raise was dropped. Their end is not published, either.
    dropped: BTreeSet<String>,
    /// Alerts of panes up to this end are held, UTC microseconds.
    held_until_us: Option<i64>,
    /// The last word of an operator that holds for later panes, too.
    word: Option<(Decision, i64)>,
}

impl Holding {
    /// Number of alerts that are held.
    pub fn num_held(&self) -> usize {
        self.held.values().map(Vec::len).sum()
    }

    /// Takes an alert of a pane that nobody reports: it goes out with its record.
    pub fn pass(&mut self, alert: Ready) {
        self.passing.push(Arc::new(alert));
    }

    /// Adds an alert to those of its pane.
    pub fn add(&mut self, mut alert: Ready) {
        let of_pane = self.waiting.entry(alert.as_of_us).or_default();
        alert.place = of_pane.len() as u64;
        of_pane.push(Arc::new(alert));
    }

    /// Takes in the report of a partition. `own` is the partition of these alerts: its report says what decides.
    pub fn report(&mut self, report: Report, own: i32) {
        self.ended.insert(report.partition, report.panes.ended_us);
        let is_open = |as_of_us: i64| Some(as_of_us) > self.decided_us;
        for (as_of_us, more) in report.drops.into_iter().filter(|(as_of_us, _)| is_open(*as_of_us)) {
            let known = self.drops.entry(as_of_us).or_default();
            *known = known.plus(more);
        }
        // Where nobody waits for others, only the own partition's word is there in time.
        if report.partition == own || report.bounds.max_dropping.is_some() {
            for pane in report.panes.suspect.into_iter().filter(|pane| is_open(pane.as_of_us)) {
                self.low.entry(pane.as_of_us).or_default().extend(pane.sources);
            }
        }
        if report.partition == own {
            self.bounds.insert(report.panes.ended_us, report.bounds);
        }
    }

    /// Up to which time panes can be decided, if `own` is the partition of these alerts.
    fn decidable_us(&self, own: i32, partitions: i32) -> Option<i64> {
        let (_, bounds) = self.bounds.first_key_value()?;
        match bounds.max_dropping {
            Some(_) if self.ended.len() < usize::try_from(partitions).unwrap_or_default() => None,
            Some(_) => self.ended.values().min().copied(),
            None => self.ended.get(&own).copied(),
        }
    }

    /// Decides about every pane that all partitions have ended, in the order of the panes.
    pub fn decide(&mut self, own: i32, partitions: i32, outcome: &mut Outcome) {
        outcome.published.append(&mut self.passing);
        while let Some(decidable_us) = self.decidable_us(own, partitions) {
            // As far as the oldest report of this partition that still decides.
            let Some((told_us, bounds)) = self.bounds.first_key_value().map(|(told_us, bounds)| (*told_us, *bounds))
            else {
                return;
            };
            let ended_us = decidable_us.min(told_us);
            let known = self.waiting.keys().chain(self.drops.keys()).chain(self.low.keys());
            let panes: BTreeSet<i64> = known.copied().filter(|as_of_us| *as_of_us <= ended_us).collect();
            for as_of_us in panes {
                self.pane(as_of_us, bounds, outcome);
            }
            self.decided_us = self.decided_us.max(Some(ended_us));
            if self.held_until_us.is_some_and(|until_us| until_us < ended_us) {
                self.release(i64::MAX, outcome);
            }
            // The last report decides about panes with a later end, too, as far as it is known.
            if decidable_us < told_us || self.bounds.len() == 1 {
                return;
            }
            self.bounds.pop_first();
        }
    }

    /// Why a pane is suspect, if it is.
    fn reason(&mut self, as_of_us: i64, bounds: Bounds) -> Option<String> {
        let drops = self.drops.remove(&as_of_us).unwrap_or_default();
        let low = self.low.remove(&as_of_us).map(|sources| {
            let sources: Vec<String> = sources.into_iter().collect();
            format!("far fewer events than usual: {}", sources.join(", "))
        });
        let is_judged = drops.scored >= bounds.min_accounts;
        let is_above = |share| drops.dropped as f64 > share * drops.scored as f64;
        let dropping = bounds.max_dropping.filter(|share| is_judged && is_above(*share));
        low.or(dropping.map(|_| format!("{} of {} accounts fell into a lower band", drops.dropped, drops.scored)))
    }

    fn pane(&mut self, as_of_us: i64, bounds: Bounds, outcome: &mut Outcome) {
        let word = self.word.filter(|(_, until_us)| as_of_us <= *until_us).map(|(decision, _)| decision);
        let reason = self.reason(as_of_us, bounds).filter(|_| word != Some(Decision::Release));
        if let Some(reason) = reason {
            self.held_until_us = self.held_until_us.max(Some(as_of_us.saturating_add(bounds.settle_us)));
            outcome.suspect.push((as_of_us, reason));
        }
        let mut alerts = self.waiting.remove(&as_of_us).unwrap_or_default();
        let before = alerts.len();
        // The end of a dropped episode.
        alerts.retain(|alert| !self.dropped.remove(&alert.alert_id));
        outcome.num_dropped += (before - alerts.len()) as u64;
        let is_held =
            self.held_until_us.is_some_and(|until_us| as_of_us <= until_us) && word != Some(Decision::Release);
        if !is_held && self.held.is_empty() {
            self.held_until_us = None;
            outcome.published.append(&mut alerts);
            return;
        }
        let num_new = alerts.len() as u64;
        for alert in alerts {
            self.held.entry(alert.alert_id.clone()).or_default().push(alert);
        }
        match (is_held, word) {
            (true, Some(Decision::Drop)) => self.forget(outcome),
            (true, _) => outcome.num_held += num_new,
            (false, _) => self.release(as_of_us, outcome),
        }
    }

    /// Publishes what is held, except episodes that have begun and ended meanwhile. Alerts of panes before this end count
    /// as released.
    fn release(&mut self, now_us: i64, outcome: &mut Outcome) {
        let mut alerts = Vec::new();
        for episode in std::mem::take(&mut self.held).into_values() {
            let begins = episode.first().is_some_and(|alert| alert.is_raise);
            match begins && episode.last().is_some_and(|alert| !alert.is_raise) {
                true => outcome.num_dropped += episode.len() as u64,
                false => alerts.extend(episode),
            }
        }
        self.publish(alerts, now_us, outcome);
        self.held_until_us = None;
    }

    /// Forgets the episodes that began while held. The end of an episode that was published is published, too.
    fn forget(&mut self, outcome: &mut Outcome) {
        let mut alerts = Vec::new();
        for (id, episode) in std::mem::take(&mut self.held) {
            if !episode.first().is_some_and(|alert| alert.is_raise) {
                alerts.extend(episode);
                continue;
            }
            outcome.num_dropped += episode.len() as u64;
            if episode.last().is_some_and(|alert| alert.is_raise) {
                self.dropped.insert(id);
            }
        }
        self.publish(alerts, i64::MAX, outcome);
    }

    fn publish(&mut self, mut alerts: Vec<Arc<Ready>>, now_us: i64, outcome: &mut Outcome) {
        alerts.sort_by_key(|alert| (alert.as_of_us, alert.place));
        outcome.num_released += alerts.iter().filter(|alert| alert.as_of_us < now_us).count() as u64;
        outcome.published.append(&mut alerts);
    }

    /// Does what an operator says.
    pub fn word(&mut self, word: Word, outcome: &mut Outcome) {
        match word.decision {
            Decision::Release => self.release(i64::MAX, outcome),
            // The cause is still in the windows: what comes until it has settled is held as before.
            Decision::Drop => self.forget(outcome),
        }
        self.word = word.until_us.map(|until_us| (word.decision, until_us));
    }

    /// The state as bytes of a snapshot.
    ///
    /// # Errors
    /// None in practice: every value can be serialised.
    pub fn saved(&self) -> Result<Vec<u8>, postcard::Error> {
        let alerts: Vec<&Ready> =
            self.waiting.values().chain(self.held.values()).flatten().map(AsRef::as_ref).collect();
        let waiting: Vec<i64> = self.waiting.keys().copied().collect();
        postcard::to_stdvec(&Saved {
            version: VERSION,
            ended: self.ended.clone(),
            drops: self.drops.clone(),
            low: self.low.clone(),
            bounds: self.bounds.clone(),
            decided_us: self.decided_us,
            waiting,
            alerts,
            dropped: self.dropped.clone(),
            held_until_us: self.held_until_us,
            word: self.word,
        })
    }

    /// The state from a snapshot.
    ///
    /// # Errors
    /// When the version belongs to another program, or the bytes are damaged.
    pub fn restored(bytes: &[u8]) -> Result<Self, String> {
        let damaged = |error: postcard::Error| error.to_string();
        let (version, _) = postcard::take_from_bytes::<u32>(bytes).map_err(damaged)?;
        if version != VERSION {
            return Err(format!("its state has version {version}, this program reads {VERSION}"));
        }
        let saved: Saved<Ready> = postcard::from_bytes(bytes).map_err(damaged)?;
        let mut holding = Self {
            ended: saved.ended,
            drops: saved.drops,
            low: saved.low,
            bounds: saved.bounds,
            decided_us: saved.decided_us,
            dropped: saved.dropped,
            held_until_us: saved.held_until_us,
            word: saved.word,
            ..Self::default()
        };
        for alert in saved.alerts {
            let alert = Arc::new(alert);
            match saved.waiting.contains(&alert.as_of_us) {
                true => holding.waiting.entry(alert.as_of_us).or_default().push(alert),
                false => holding.held.entry(alert.alert_id.clone()).or_default().push(alert),
            }
        }
        Ok(holding)
    }
}

/// Version of the format that is written.
const VERSION: u32 = 1;

/// A [`Holding`] in a snapshot: the alerts in one list, those of the panes in `waiting` first.
#[derive(Serialize, Deserialize)]
struct Saved<A> {
    version: u32,
    ended: BTreeMap<i32, i64>,
    drops: BTreeMap<i64, Drops>,
    low: BTreeMap<i64, BTreeSet<String>>,
    bounds: BTreeMap<i64, Bounds>,
    decided_us: Option<i64>,
    waiting: Vec<i64>,
    alerts: Vec<A>,
    dropped: BTreeSet<String>,
    held_until_us: Option<i64>,
    word: Option<(Decision, i64)>,
}

#[cfg(test)]
mod tests;
