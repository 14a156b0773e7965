//! The output of the demo: the worst accounts, their trend, and the factors that cost them points.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use keepwell_core::codec;
use keepwell_core::points::Points;
use keepwell_core::schema::columns::{Columns, millionths};
use keepwell_core::schema::{health, revenue};
use keepwell_pipeline::config::Config;
use keepwell_pipeline::log::memory::MemoryBroker;

use super::{DemoArgs, Outcome};
use crate::last_scores::{Factor, Score};

/// Number of accounts shown.
const SHOWN: usize = 12;
/// Number of accounts named that need attention.
const ATTENTION: usize = 5;
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Scores of final rows as whole numbers, day by day, for each account.
pub fn history(broker: &MemoryBroker, config: &Config) -> Result<BTreeMap<String, Vec<i64>>> {
    let mut history: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for record in broker.records(&config.topics.health) {
        let Some(value) = &record.value else { continue };
        let batch = codec::decode(value, &health::schema())?;
        let rows = health::Reader::of(Columns::Batch(&batch))?;
        for row in (0..batch.num_rows()).filter(|row| rows.is_final.value(*row)) {
            if let Some(score) = millionths(rows.score, row) {
                let score = Points::from_millionths(score).whole();
                history.entry(rows.account_id.value(row).to_owned()).or_default().push(score);
            }
        }
    }
    Ok(history)
}

/// Revenue of all accounts in a quarter, in hundredths.
#[derive(Debug, Default)]
pub struct Quarter {
    /// Its start, UTC microseconds.
    pub start_us: i64,
    /// Revenue just before the start.
    pub opening: i128,
    /// Revenue of accounts that were no customers then.
    pub added: i128,
    /// What customers pay more.
    pub expansion: i128,
    /// What customers pay less, or not any more.
    pub lost: i128,
}

impl Quarter {
    fn percent(&self, kept: i128) -> f64 {
        100.0 * kept as f64 / self.opening as f64
    }

    /// Net revenue retention, percent.
    fn nrr(&self) -> f64 {
        self.percent(self.opening + self.expansion - self.lost)
    }

    /// Gross revenue retention, percent.
    fn grr(&self) -> f64 {
        self.percent(self.opening - self.lost)
    }
}

/// The newest quarter: the sums of the last row of each account.
///
/// # Errors
/// When a record is no batch of the table.
pub fn quarter(broker: &MemoryBroker, config: &Config) -> Result<Quarter> {
    let mut last: BTreeMap<(i64, String), [i128; 6]> = BTreeMap::new();
    for value in broker.records(&config.topics.revenue).iter().filter_map(|record| record.value.as_ref()) {
        let batch = codec::decode(value, &revenue::schema())?;
        let rows = revenue::Reader::of(Columns::Batch(&batch))?;
        for row in (0..batch.num_rows()).map(|row| rows.row(row)).filter(|row| row.period == "quarter") {
            let amounts = [row.opening, row.new, row.reactivated, row.expansion, row.contraction, row.churned];
            let amounts = amounts.map(Option::unwrap_or_default);
            last.insert((row.period_start, row.account_id.to_owned()), amounts);
        }
    }
    let start_us = last.keys().map(|(start_us, _)| *start_us).max().unwrap_or_default();
    let mut quarter = Quarter { start_us, ..Quarter::default() };
    for [opening, new, reactivated, expansion, contraction, churned] in
        last.into_iter().filter(|((start, _), _)| *start == start_us).map(|(_, amounts)| amounts)
    {
        quarter.opening += opening;
        quarter.added += new + reactivated;
        quarter.expansion += expansion;
        quarter.lost += contraction + churned;
    }
    Ok(quarter)
}

/// Accounts ordered by score, lowest first. Equal scores are ordered by account id.
pub fn worst_first(scores: &[Score]) -> Vec<&Score> {
    let mut worst: Vec<&Score> = scores.iter().filter(|health| health.score.is_some()).collect();
    worst.sort_by(|a, b| {
        let score = |health: &Score| health.score.unwrap_or(f64::MAX);
        score(a).total_cmp(&score(b)).then_with(|| a.account_id.cmp(&b.account_id))
    });
    worst
}

/// Accounts with a trigger of the last seven days, and these triggers; those with the most revenue first.
pub fn attention(scores: &[Score]) -> Vec<(&Score, Vec<&str>)> {
    let Some(now) = scores.iter().map(|score| score.as_of).max() else { return Vec::new() };
    let week = jiff::SignedDuration::from_hours(7 * 24);
    let mut found = Vec::new();
    for score in scores {
        let new = score.triggers.iter().filter(|trigger| now.duration_since(trigger.since) < week);
        let new: Vec<&str> = new.map(|trigger| trigger.name.as_str()).collect();
        if !new.is_empty() {
            found.push((score, new));
        }
    }
    let revenue = |score: &Score| score.mrr.unwrap_or_default();
    found.sort_by(|(a, _), (b, _)| revenue(b).total_cmp(&revenue(a)).then_with(|| a.account_id.cmp(&b.account_id)));
    found
}

/// The accounts that need somebody this week, and why.
fn write_attention(out: &mut String, scores: &[Score]) -> Result<()> {
    let found = attention(scores);
    writeln!(out, "\nNeed attention this week, by revenue: {} accounts", found.len())?;
    for (score, triggers) in found.iter().take(ATTENTION) {
        let money = format!("{:.0} {}", score.mrr.unwrap_or_default(), score.currency.as_deref().unwrap_or_default());
        let owner = score.owner.as_deref().unwrap_or("nobody");
        let (triggers, costs) = (triggers.join(", "), costs(score));
        writeln!(out, "  {:<11}  {money:>8}  {owner:<6}  {triggers:<38}  {costs}", score.account_id)?;
    }
    Ok(())
}

/// Draws weekly scores as a line of bars.
fn bars(days: &[i64]) -> String {
    let weekly = days.rchunks(7).rev().filter_map(<[i64]>::last);
    weekly.map(|score| BARS.get((*score * 8 / 101) as usize).copied().unwrap_or('?')).collect()
}

/// Up to three factors that cost the most points, with these points.
fn costs(health: &Score) -> String {
    let cost = |factor: &Factor| factor.effective_weight - factor.contribution.unwrap_or_default();
    let mut factors: Vec<_> = health.factors.iter().filter(|factor| factor.contribution.is_some()).collect();
    factors.sort_by(|a, b| cost(b).total_cmp(&cost(a)));
    let named = factors.iter().filter(|factor| cost(factor) >= 0.5).take(3);
    named.map(|factor| format!("{} -{:.0}", factor.name, cost(factor))).collect::<Vec<_>>().join(", ")
}

/// The whole output.
///
/// # Errors
/// None in practice: it writes into a string.
pub fn text(outcome: &Outcome, args: &DemoArgs) -> Result<String> {
    let mut out = String::new();
    let worst = worst_first(&outcome.scores);
    let alerts: usize = outcome.scores.iter().map(|health| health.triggers.len()).sum();
    writeln!(
        out,
        "{} events of {} accounts over {} days, seed {}: {} accounts scored, {alerts} triggers hold\n",
        outcome.num_events,
        outcome.accounts.len(),
        args.days,
        args.seed,
        worst.len()
    )?;
    writeln!(
        out,
        "  score band    28 d  weekly         account      costs points                            triggers"
    )?;
    for health in worst.iter().take(SHOWN) {
        let days = outcome.history.get(&health.account_id).map(Vec::as_slice).unwrap_or_default();
        let now = health.score.map_or(0, |score| (score + 0.5).floor() as i64);
        let before = days.len().checked_sub(29).and_then(|day| days.get(day));
        let trend = before.map_or("-".to_owned(), |before| format!("{:+}", now - before));
        let triggers: Vec<&str> = health.triggers.iter().map(|trigger| trigger.name.as_str()).collect();
        writeln!(
            out,
            "  {now:>5} {:<7} {trend:>4}  {:<13}  {:<11}  {:<38}  {}",
            health.band.as_deref().unwrap_or("-"),
            bars(days),
            health.account_id,
            costs(health),
            triggers.join(", ")
        )?;
    }
    let mut bands: BTreeMap<&str, usize> = BTreeMap::new();
    for health in &outcome.scores {
        *bands.entry(health.band.as_deref().unwrap_or("none")).or_default() += 1;
    }
    let bands: Vec<String> = bands.iter().map(|(band, count)| format!("{band} {count}")).collect();
    let Quarter { start_us, opening, added, expansion, lost } = &outcome.quarter;
    let start = jiff::Timestamp::from_microsecond(*start_us)?.strftime("%-d %B %Y");
    let thousands = |hundredths: &i128| (hundredths + 50_000) / 100_000;
    let place = args.out.display();
    let worst = worst.first().map_or("account-000", |health| health.account_id.as_str());
    writeln!(out, "\nBands: {}", bands.join(", "))?;
    let in_stage = |stage: &String| outcome.scores.iter().filter(|score| score.stage.as_ref() == Some(stage)).count();
    let stages: Vec<String> = outcome.stages.iter().map(|stage| format!("{stage} {}", in_stage(stage))).collect();
    writeln!(out, "Stages: {}", stages.join(", "))?;
    writeln!(
        out,
        "Revenue a month, in the quarter from {start}: {}k + {}k new + {}k more - {}k lost; NRR {:.1} %, GRR {:.1} %",
        thousands(opening),
        thousands(added),
        thousands(expansion),
        thousands(lost),
        outcome.quarter.nrr(),
        outcome.quarter.grr()
    )?;
    write_attention(&mut out, &outcome.scores)?;
    writeln!(out, "\nWhat was planted:  {place}/planted.json")?;
    writeln!(out, "Why this score:    keepwell explain {worst} --scores {place}/scores.ndjson")?;
    writeln!(
        out,
        "Parquet:           {place}/tables/{{windows,feature_days,scores,revenue}}/*/*.parquet, for example in DuckDB:"
    )?;
    writeln!(
        out,
        "  select as_of, display, band from '{place}/tables/scores/*/*.parquet' where account_id = '{worst}' order by as_of desc limit 14;"
    )?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn triggers_of_the_last_week_need_attention_and_those_with_the_most_revenue_first() {
        let score = |(id, mrr, triggers): (&str, Option<f64>, &[(&str, &str)])| {
            let triggers: Vec<_> = triggers.iter().map(|(name, since)| json!({"name": name, "since": since})).collect();
            let whole = json!({"account_id": id, "as_of": "2026-09-29T00:00:00Z", "owner": null, "mrr": mrr,
                "currency": "EUR", "score": 50.0, "band": "red", "factors": [], "triggers": triggers});
            serde_json::from_value::<Score>(whole).unwrap()
        };
        let (new, old) = ("2026-09-22T00:00:01Z", "2026-09-22T00:00:00Z");
        let scores: Vec<Score> = [
            ("small", Some(10.0), &[("usage_drop", new)][..]),
            ("unknown", None, &[("usage_drop", new)]),
            ("large", Some(9000.0), &[("renewal_due", old), ("turned_red", new)]),
            ("known", Some(9500.0), &[("renewal_due", old)]),
            ("calm", Some(9900.0), &[]),
        ]
        .into_iter()
        .map(score)
        .collect();
        let found: Vec<_> =
            attention(&scores).into_iter().map(|(score, new)| (score.account_id.as_str(), new)).collect();
        assert_eq!(
            found,
            [("large", vec!["turned_red"]), ("small", vec!["usage_drop"]), ("unknown", vec!["usage_drop"])]
        );
    }
}
