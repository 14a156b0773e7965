//! One health row: a verdict, compared with what was said before, and what is remembered of it.

use std::collections::BTreeMap;
use std::hash::Hasher;

use pipeline::schema::RowBuilder;
use siphasher::sip::SipHasher13;

use crate::compile::Compiled;
use crate::evaluate::Verdict;
use crate::model::Trigger;
use crate::points::Points;
use crate::state::{Account, LastFinal, Raised, Said};
use crate::windows::Case;

/// Most factors named as drivers.
const MAX_DRIVERS: usize = 3;

/// Where a health row comes from.
#[derive(Debug, Clone, Copy)]
pub struct Provenance {
    /// Epoch of the log.
    pub epoch: u32,
    /// Partition of the windows topic.
    pub partition: i32,
    /// Window rows below this offset are in the row.
    pub next_offset: i64,
    /// Order among rows with the same `next_offset`.
    pub ordinal: i64,
}

/// A trigger on a row.
struct Fired<'m> {
    name: &'m str,
    state: &'static str,
    since_us: i64,
    severity: &'m str,
    playbook: &'m str,
    owner_role: &'m str,
}

/// One health row in the making.
struct Row<'a> {
    case: &'a Case<'a>,
    verdict: &'a Verdict<'a>,
    version: i64,
    band: &'a str,
    previous: Option<&'a LastFinal>,
    drivers: Vec<(&'a str, Points)>,
    fired: Vec<Fired<'a>>,
}

/// Appends the row of an account and says what to remember of it; none means nothing any more.
pub fn append_row(
    rows: &mut RowBuilder,
    case: &Case<'_>,
    verdict: &Verdict<'_>,
    compiled: &Compiled,
    before: Option<&Account>,
    provenance: Provenance,
) -> Option<Account> {
    // Of a final row that comes again, or late behind a newer one, the comparison is with what came before.
    let previous = before.and_then(|account| account.last.as_ref()).filter(|last| last.as_of_us < case.as_of_us);
    let model = model_digest(verdict, compiled.version);
    let row = Row {
        case,
        verdict,
        version: compiled.version,
        band: verdict.rating.band(&verdict.model.model),
        previous,
        drivers: drivers(verdict, previous.filter(|last| last.model == model)),
        fired: fired(case, verdict, previous),
    };
    let digest = row.digest();
    let said = before.and_then(|account| account.said);
    let is_outdated = said.is_some_and(|said| said.as_of_us > case.as_of_us);
    let is_changed = !is_outdated && said.is_none_or(|said| said.digest != digest);
    row.append(rows, is_changed, provenance);
    let said = if is_outdated { said } else { Some(Said { as_of_us: case.as_of_us, digest }) };
    let last = match before {
        _ if case.is_final && (case.is_deleted || case.is_retired) => None,
        _ if case.is_final => Some(row.remembered(model)),
        before => before.and_then(|account| account.last.clone()),
    };
    // Behind its last row nothing is remembered, but for what was said of a newer time.
    let is_over = case.is_final && last.is_none() && !is_outdated;
    (!is_over).then_some(Account { last, said })
}

/// The factors whose contribution changed most since the previous final row of the same model.
fn drivers<'m>(verdict: &'m Verdict<'_>, previous: Option<&LastFinal>) -> Vec<(&'m str, Points)> {
    let before = previous.map(|last| last.contributions.as_slice()).unwrap_or_default();
    let factors = verdict.rating.factors.iter().zip(&verdict.model.model.factors).zip(before);
    let mut deltas: Vec<_> = factors
        .map(|((rated, factor), before)| {
            (factor.name.value.as_str(), rated.contribution.unwrap_or_default() - before.unwrap_or_default())
        })
        .filter(|(_, delta)| *delta != Points::ZERO)
        .collect();
    // A stable sort: the model's order among equal ones.
    deltas.sort_by_key(|(_, delta)| std::cmp::Reverse(delta.millionths().abs()));
    deltas.truncate(MAX_DRIVERS);
    deltas
}

/// Triggers are raised and cleared by final rows; on live rows they are shown as they would be. The last
/// row of an account clears them all, and a row of another model those that it does not know.
fn fired<'m>(case: &Case<'_>, verdict: &Verdict<'m>, previous: Option<&'m LastFinal>) -> Vec<Fired<'m>> {
    let is_last = case.is_deleted || case.is_retired;
    let triggers = verdict.model.model.triggers.iter().zip(&verdict.triggers);
    let holding = triggers.filter(|(_, holds)| **holds && !is_last).map(|(trigger, _)| {
        let before = previous.and_then(|last| last.raised.get(&trigger.name.value));
        let (state, since_us) = match before {
            Some(raised) => ("active", raised.since_us),
            None if case.is_final => ("raised", case.as_of_us),
            None => ("active", case.as_of_us),
        };
        let Trigger { name, severity, playbook, owner_role, .. } = trigger;
        Fired { name: &name.value, state, since_us, severity: severity.name(), playbook, owner_role }
    });
    let mut fired: Vec<Fired<'m>> = holding.collect();
    let before = previous.filter(|_| case.is_final).into_iter().flat_map(|last| &last.raised);
    for (name, raised) in before {
        if !fired.iter().any(|holding| holding.name == name) {
            let Raised { since_us, severity, playbook, owner_role } = raised;
            fired.push(Fired { name, state: "cleared", since_us: *since_us, severity, playbook, owner_role });
        }
    }
    fired
}

fn model_digest(verdict: &Verdict<'_>, version: i64) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(verdict.model.model.name.value.as_bytes());
    hasher.write_i64(version);
    for factor in &verdict.model.model.factors {
        hasher.write(factor.name.value.as_bytes());
        hasher.write_u8(0);
    }
    hasher.finish()
}

impl Fired<'_> {
    fn remembered(&self) -> Raised {
        Raised {
            since_us: self.since_us,
            severity: self.severity.to_owned(),
            playbook: self.playbook.to_owned(),
            owner_role: self.owner_role.to_owned(),
        }
    }
}

impl Row<'_> {
    /// Digest of what a reader of `scores` sees change: score, band, triggers, who and by which model.
    fn digest(&self) -> u64 {
        let mut hasher = SipHasher13::new();
        let mut text = |text: Option<&str>| {
            hasher.write(text.unwrap_or_default().as_bytes());
            hasher.write_u8(u8::from(text.is_some()));
        };
        for fact in [self.case.segment, self.case.stage, self.case.owner, Some(self.band)] {
            text(fact);
        }
        text(Some(&self.verdict.model.model.name.value));
        for fired in self.fired.iter().filter(|fired| fired.state != "cleared") {
            text(Some(fired.name));
        }
        let score = self.verdict.rating.score.filter(|_| !self.case.is_deleted);
        hasher.write_i64(score.map_or(-1, Points::millionths));
        hasher.write_i64(self.version);
        hasher.write_u8(u8::from(self.case.is_deleted) * 2 + u8::from(self.case.is_retired));
        hasher.finish()
    }

    fn remembered(&self, model: u64) -> LastFinal {
        let holding = self.fired.iter().filter(|fired| fired.state != "cleared");
        LastFinal {
            as_of_us: self.case.as_of_us,
            score: self.verdict.rating.score,
            band: self.band.to_owned(),
            model,
            contributions: self.verdict.rating.factors.iter().map(|factor| factor.contribution).collect(),
            raised: holding.map(|fired| (fired.name.to_owned(), fired.remembered())).collect::<BTreeMap<_, _>>(),
        }
    }

    fn append(&self, rows: &mut RowBuilder, is_changed: bool, provenance: Provenance) {
        let Self { case, verdict, previous, .. } = self;
        let points = |points: Option<Points>| points.map(Points::millionths);
        let is_there = !case.is_deleted;
        let score = verdict.rating.score.filter(|_| is_there);
        let previous_score = previous.and_then(|last| last.score);
        rows.text("account_id", Some(case.account_id));
        rows.time("as_of", Some(case.as_of_us));
        rows.flag("final", case.is_final);
        rows.flag("retired", case.is_retired);
        rows.flag("deleted", case.is_deleted);
        rows.points("score", points(score));
        rows.int("display", score.map(Points::whole));
        rows.text("band", is_there.then_some(self.band));
        rows.time("previous_as_of", previous.map(|last| last.as_of_us));
        rows.points("previous_score", points(previous_score));
        rows.text("previous_band", previous.map(|last| last.band.as_str()));
        rows.points("delta", points(score.zip(previous_score).map(|(now, before)| now - before)));
        rows.points("coverage", Some(if is_there { verdict.rating.coverage.millionths() } else { 0 }));
        rows.list("factors", |factors| self.append_factors(factors, is_there));
        rows.list("drivers", |drivers| {
            for (name, delta) in self.drivers.iter().filter(|_| is_there) {
                drivers.text("name", Some(name));
                drivers.points("delta", Some(delta.millionths()));
                drivers.end_row();
            }
        });
        rows.list("triggers", |triggers| {
            for fired in &self.fired {
                triggers.text("name", Some(fired.name));
                triggers.text("state", Some(fired.state));
                triggers.time("since", Some(fired.since_us));
                triggers.text("severity", Some(fired.severity));
                triggers.text("playbook", Some(fired.playbook));
                triggers.text("owner_role", Some(fired.owner_role));
                triggers.end_row();
            }
        });
        rows.text("segment", case.segment);
        rows.text("stage", case.stage);
        rows.text("owner", case.owner);
        rows.text("model", Some(&verdict.model.model.name.value));
        rows.int("model_version", self.version);
        rows.flag("changed", is_changed);
        rows.int32("epoch", provenance.epoch as i32);
        rows.int32("partition", provenance.partition);
        rows.int("next_offset", provenance.next_offset);
        rows.int("ordinal", provenance.ordinal);
        rows.int("events_next_offset", case.events_next_offset);
        rows.time("watermark", case.watermark_us);
        rows.end_row();
    }

    fn append_factors(&self, factors: &mut RowBuilder, is_there: bool) {
        let rated = self.verdict.rating.factors.iter().zip(&self.verdict.model.model.factors);
        for (rated, factor) in rated.filter(|_| is_there) {
            factors.text("name", Some(&factor.name.value));
            factors.float("value", rated.value);
            factors.points("normalised", rated.normalised.map(Points::millionths));
            factors.points("weight", Some(rated.weight.millionths()));
            factors.points("effective_weight", Some(rated.effective_weight.millionths()));
            factors.points("contribution", rated.contribution.map(Points::millionths));
            factors.text("missing", rated.missing.map(crate::model::Missing::name));
            factors.end_row();
        }
    }
}
