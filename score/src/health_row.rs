//! One health row: a verdict compared with what was published before, and what is remembered from it.

use std::hash::Hasher;

use keepwell_core::interned::Name;
use keepwell_core::schema::health;
use siphasher::sip::SipHasher13;

use crate::episode::{Episode, Phase, Raised, Signs, Transition};
use crate::evaluate::Verdict;
use crate::small_map::SmallMap;
use crate::state::{Account, LastFinal, Memory, Published};
use crate::windows::{Case, Customer};
use keepwell_core::points::Points;

/// The most factors listed as drivers.
const MAX_DRIVERS: usize = 3;

/// Where a health row comes from.
#[derive(Debug, Clone, Copy)]
pub struct Provenance {
    /// Epoch of the log.
    pub epoch: u32,
    /// Partition of the windows topic.
    pub partition: i32,
    /// The row contains the window rows below this offset.
    pub next_offset: i64,
    /// Number of the row among rows with the same `next_offset`.
    pub ordinal: i64,
}

/// A trigger on a row.
#[derive(Debug)]
struct Fired<'a> {
    name: &'a str,
    transition: Transition,
    severity: &'a str,
    playbook: &'a str,
    owner_role: &'a str,
    evidence: Option<&'a str>,
    outcome: Option<&'a str>,
}

/// One health row.
#[derive(Debug)]
pub struct Row<'a> {
    case: &'a Case<'a>,
    verdict: &'a Verdict<'a>,
    score: Option<Points>,
    band: &'a str,
    band_since_us: i64,
    baseline: Option<Points>,
    previous: Option<&'a LastFinal>,
    drivers: Vec<(&'a str, Points)>,
    fired: Vec<Fired<'a>>,
    is_changed: bool,
}

impl<'a> Row<'a> {
    /// The row of an account, and the new state of the account; none means that nothing is remembered any more. `past`
    /// is what score remembers from final rows before this one.
    pub fn of(
        case: &'a Case<'a>,
        verdict: &'a Verdict<'a>,
        before: Option<&Account>,
        past: &'a Memory,
    ) -> (Self, Option<Account>) {
        let previous = past.last.as_ref();
        let score = verdict.rating.score.filter(|_| case.is_scored());
        let band = case.left().unwrap_or(verdict.band);
        let band_since_us = match previous {
            Some(last) if *last.band == *band => last.band_since_us,
            _ => case.as_of_us,
        };
        let is_grown = case.age_days().is_some_and(|age| age >= verdict.model.model.baseline_day);
        let baseline = past.baseline.or(score.filter(|_| is_grown));
        let (fired, episodes) = fired(case, verdict, past);
        let same_model = previous.filter(|last| last.model == verdict.model.digest && case.is_scored());
        let drivers = drivers(verdict, same_model);
        let is_changed = false;
        let mut row = Row { case, verdict, score, band, band_since_us, baseline, previous, drivers, fired, is_changed };
        let digest = row.digest();
        let published = before.and_then(|account| account.published);
        let is_outdated = published.is_some_and(|published| published.as_of_us > case.as_of_us);
        row.is_changed = !is_outdated && published.is_none_or(|published| published.digest != digest);
        let published = if is_outdated { published } else { Some(Published { as_of_us: case.as_of_us, digest }) };
        let is_last = case.is_final && (case.is_deleted || case.is_retired);
        let memory = match before {
            _ if is_last => Memory::default(),
            Some(account) if !case.is_final || account.is_ahead_of(case) => account.memory.clone(),
            _ if case.is_final => Memory { episodes, ..row.remembered(past) },
            _ => Memory::default(),
        };
        // After an account's last row we keep only what was published for a newer time.
        let is_over = is_last && !is_outdated;
        (row, (!is_over).then_some(Account { memory, published }))
    }

    /// Score, change since the previous final row, and band.
    pub(crate) fn told(&self) -> (Option<Points>, Option<Points>, &'a str) {
        let before = self.previous.and_then(|last| last.score);
        (self.score, self.score.zip(before).map(|(score, before)| score - before), self.band)
    }

    /// Triggers in this state, in the order of the model.
    pub(crate) fn triggers(&self, phase: Phase) -> impl Iterator<Item = &'a str> {
        self.fired.iter().filter(move |fired| fired.transition.phase == phase).map(|fired| fired.name)
    }

    /// The stage of the lifecycle.
    pub(crate) fn stage(&self) -> Option<&str> {
        self.verdict.place.stage_of(self.case)
    }

    /// Digest of what matters to a reader of `scores`: score, band, active triggers and their outcomes, segment, stage and
    /// the next one, owner, the account as a customer, model and its version, retired.
    fn digest(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        if self.case.is_deleted {
            // All tombstones have the same digest.
            return hasher.finish();
        }
        let mut text = |text: Option<&str>| {
            hasher.write(text.unwrap_or_default().as_bytes());
            hasher.write_u8(u8::from(text.is_some()));
        };
        for fact in [self.case.segment, self.stage(), self.case.owner, Some(self.band)] {
            text(fact);
        }
        text(Some(&self.verdict.model.model.name.value));
        // An account that goes nowhere has the digest of a build that knew no stages.
        if let Some((next, since_us)) = &self.verdict.place.next {
            text(Some(next));
            text(Some(&since_us.to_string()));
        }
        for fired in self.fired.iter().filter(|fired| matches!(fired.transition.phase, Phase::Raised | Phase::Active)) {
            text(Some(fired.name));
            text(fired.outcome);
        }
        hasher.write_i64(self.score.map_or(-1, Points::millionths));
        hasher.write_i64(self.verdict.model.version);
        hasher.write_u8(u8::from(self.case.is_retired));
        if self.case.customer != Customer::default() {
            self.case.customer.hash_into(&mut hasher);
        }
        hasher.finish()
    }

    /// What score remembers from this row, except episodes.
    fn remembered(&self, past: &Memory) -> Memory {
        let (as_of_us, compiled, rating) = (self.case.as_of_us, self.verdict.model, &self.verdict.rating);
        let same_band = self.previous.map(|last| &last.band).filter(|band| ***band == *self.band);
        let contributions = if self.case.is_scored() { rating.contributions() } else { &[] };
        let mut memory = Memory {
            last: Some(LastFinal {
                as_of_us,
                score: self.score,
                band: same_band.cloned().unwrap_or_else(|| Name::from(self.band)),
                band_since_us: self.band_since_us,
                model: compiled.digest,
                model_name: compiled.model.name.value.clone(),
                contributions: contributions.into(),
            }),
            baseline: self.baseline,
            ..Memory::default()
        };
        if !self.case.is_scored() {
            // A customer that comes back begins without old values.
            return memory;
        }
        memory.standing = self.verdict.place.standing.clone().map(Box::new);
        let nothing = Memory::default();
        let past = if past.is_of(&compiled.model) { past } else { &nothing };
        for ((factor, value), missing) in compiled.model.factors.iter().zip(rating.values()).zip(rating.missing()) {
            if factor.missing.unwrap_or(compiled.model.missing).ttl_us().is_none() {
                continue;
            }
            let name = &factor.name.value;
            let now = value.filter(|_| missing.is_none()).map(|value| (value, as_of_us));
            if let Some(known) = now.or(past.known.get(name).copied()) {
                memory.known.insert(name.clone(), known);
            }
        }
        for (remember, value) in compiled.model.remember.iter().zip(self.verdict.remember()) {
            let name = &remember.name.value;
            let mut values = past.remembered.get(name).cloned().unwrap_or_default();
            values.retain(|(us, _)| as_of_us.saturating_sub(*us) < remember.over.as_micros());
            values.extend(value.map(|value| (as_of_us, value)));
            if !values.is_empty() {
                memory.remembered.insert(name.clone(), values);
            }
        }
        memory
    }

    /// Appends the row without its factors; [`crate::factor_lists`] makes those of all rows.
    pub fn append(&self, rows: &mut health::Writer, provenance: Provenance) {
        let Self { case, verdict, previous, score, .. } = self;
        let (score, customer, place) = (*score, case.customer, verdict.place);
        let (standing, stage) = (place.standing.as_ref(), place.stage);
        let next = place.next.as_ref();
        let is_there = !case.is_deleted;
        let previous_score = previous.and_then(|last| last.score);
        let driver = |(name, delta): &(&'a str, Points)| health::driver::Row { name, delta: *delta };
        rows.append(health::Row {
            account_id: case.account_id,
            as_of: case.as_of_us,
            is_final: case.is_final,
            is_retired: case.is_retired,
            is_deleted: case.is_deleted,
            score,
            display: score.map(|score| verdict.model.model.display.of(score)),
            band: Some(self.band).filter(|_| is_there),
            band_since: Some(self.band_since_us).filter(|_| is_there),
            previous_as_of: previous.map(|last| last.as_of_us),
            previous_score,
            previous_band: previous.map(|last| last.band.as_str()),
            delta: score.zip(previous_score).map(|(score, before)| score - before),
            coverage: if case.is_scored() { verdict.rating.coverage } else { Points::ZERO },
            baseline_score: self.baseline.filter(|_| is_there),
            factors: Vec::new(),
            drivers: self.drivers.iter().filter(|_| case.is_scored()).map(driver).collect(),
            triggers: self.fired.iter().map(Fired::row).collect(),
            segment: case.segment,
            stage: self.stage(),
            stage_since: standing.map(|standing| standing.since_us),
            next_stage: next.map(|(next, _)| next.as_str()),
            next_stage_since: next.map(|(_, since_us)| *since_us),
            stage_rules: place.rules.as_deref(),
            stage_owner_role: stage.map(|stage| stage.owner_role.as_str()),
            stage_action: stage.map(|stage| stage.action.as_str()),
            stage_metric: stage.map(|stage| stage.metric.name.as_str()),
            stage_metric_value: place.metric,
            owner: case.owner,
            customer_status: customer.status,
            customer_since: customer.since_us,
            churn_reason: customer.churn_reason,
            plan: customer.plan,
            mrr: customer.mrr_hundredths,
            currency: customer.currency,
            renews_at: customer.renews_us,
            model: &verdict.model.model.name.value,
            model_version: verdict.model.version,
            is_changed: self.is_changed,
            epoch: provenance.epoch as i32,
            partition: provenance.partition,
            next_offset: provenance.next_offset,
            ordinal: provenance.ordinal,
            events_next_offset: case.events_next_offset,
            watermark: case.watermark_us,
        });
    }
}

impl Fired<'_> {
    fn row(&self) -> health::trigger::Row<'_> {
        health::trigger::Row {
            name: self.name,
            state: self.transition.phase.name(),
            since: self.transition.since_us,
            is_news: self.transition.is_news,
            severity: self.severity,
            playbook: self.playbook,
            owner_role: self.owner_role,
            evidence: self.evidence,
            outcome: self.outcome,
        }
    }
}

/// The factors with the greatest change of contribution since the previous final row of the same model and version.
fn drivers<'v>(verdict: &Verdict<'v>, previous: Option<&LastFinal>) -> Vec<(&'v str, Points)> {
    let before = previous.iter().flat_map(|last| last.contributions.iter());
    let factors = verdict.rating.contributions().iter().zip(&verdict.model.model.factors).zip(before);
    let mut deltas: Vec<_> = factors
        .map(|((contribution, factor), before)| {
            (factor.name.value.as_str(), contribution.unwrap_or_default() - before.unwrap_or_default())
        })
        .filter(|(_, delta)| *delta != Points::ZERO)
        .collect();
    // The sort is stable: equal changes keep the order of the model.
    deltas.sort_by_key(|(_, delta)| std::cmp::Reverse(delta.millionths().abs()));
    deltas.truncate(MAX_DRIVERS);
    deltas
}

/// The triggers of the row, and the episodes after it. The last row of an account ends all episodes, and so does that of
/// a customer that has left. A row of another
/// model ends episodes that this model does not know. A live row shows what would happen if it were final.
fn fired<'a>(case: &'a Case<'a>, verdict: &'a Verdict<'a>, past: &'a Memory) -> (Vec<Fired<'a>>, SmallMap<Episode>) {
    let is_last = case.is_retired || !case.is_scored();
    let nothing = Episode::default();
    let (mut fired, mut episodes) = (Vec::new(), SmallMap::default());
    // Most accounts: nothing holds, and nothing did.
    if past.episodes.is_empty() && !verdict.is_any_raised() {
        return (fired, episodes);
    }
    let model = &verdict.model.model;
    for (trigger, sign) in model.triggers.iter().zip(verdict.signs()) {
        let name = &trigger.name.value;
        let before = past.episodes.get(name).unwrap_or(&nothing);
        let since_us = before.raised.as_ref().map(|raised| raised.since_us);
        let alert_id = since_us.map(|since_us| health::alert_id(case.account_id, name, &health::rfc3339(since_us)));
        let outcome = alert_id.and_then(|id| case.outcomes.get(id.as_str()).copied());
        let signs = Signs { as_of_us: case.as_of_us, holds: sign.holds, clears: sign.clears, outcome };
        let (after, transition) = if is_last { before.over(case.as_of_us) } else { before.after(trigger, signs) };
        if let Some(transition) = transition.and_then(|transition| shown(transition, case.is_final)) {
            // An outcome belongs only to the episode of its alert.
            let outcome = outcome.filter(|_| Some(transition.since_us) == since_us);
            fired.push(Fired {
                name,
                transition,
                severity: trigger.severity.name(),
                playbook: &trigger.playbook,
                owner_role: &trigger.owner_role,
                evidence: sign.evidence,
                outcome,
            });
        }
        if !after.is_nothing() {
            episodes.insert(name.clone(), after);
        }
    }
    let is_unknown = |name: &Name| !model.triggers.iter().any(|trigger| trigger.name.value == *name);
    for (name, episode) in past.episodes.iter().filter(|(name, _)| is_unknown(name)) {
        let (after, transition) = episode.over(case.as_of_us);
        if !after.is_nothing() {
            episodes.insert(name.clone(), after);
        }
        let transition = transition.and_then(|transition| shown(transition, case.is_final));
        if let (Some(transition), Some(raised)) = (transition, &episode.raised) {
            let Raised { severity, playbook, owner_role, .. } = raised;
            fired.push(Fired { name, transition, severity, playbook, owner_role, evidence: None, outcome: None });
        }
    }
    (fired, episodes)
}

/// A transition as the row shows it. A live row neither raises nor ends an episode.
fn shown(transition: Transition, is_final: bool) -> Option<Transition> {
    match transition.phase {
        _ if is_final => Some(transition),
        Phase::Cleared => None,
        Phase::Raised => Some(Transition { phase: Phase::Active, is_news: false, ..transition }),
        _ => Some(Transition { is_news: false, ..transition }),
    }
}

impl Account {
    /// Whether the last remembered final row has this time or a later one.
    pub fn is_ahead_of(&self, case: &Case<'_>) -> bool {
        self.memory.last.as_ref().is_some_and(|last| last.as_of_us >= case.as_of_us)
    }
}
