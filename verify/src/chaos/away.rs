//! A neighbour that is away for minutes: the broker, the object store, or the next stage.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::ValueEnum;

use super::processes::ask;
use super::results::Away;
use super::run::Run;
use super::store::Behaviour;

/// Interval between two observations of the processes.
const LOOK: Duration = Duration::from_secs(2);

/// Which neighbour is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Neighbour {
    /// The broker is stopped.
    Broker,
    /// The object store answers with errors.
    Store,
    /// No process of score runs.
    NextStage,
}

impl Run {
    /// Takes a neighbour away for `minutes` and observes every process. The load goes on, except when the broker is
    /// away.
    ///
    /// # Errors
    /// When the deployment does not catch up after the neighbour is back.
    pub fn without(&mut self, neighbour: Neighbour, minutes: u64) -> Result<Away> {
        let name = neighbour.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        let mut away = Away { neighbour: name, minutes, ..Away::default() };
        let before = self.processes.surprises.len();
        self.look(&mut away, true);
        let scores = [0, 1].map(|instance| self.processes.slot("score", instance));
        match neighbour {
            Neighbour::Broker => self.broker.stop()?,
            Neighbour::Store => self.store.set(Behaviour::Fails),
            Neighbour::NextStage => scores.iter().try_for_each(|n| self.processes.kill(*n))?,
        }
        if neighbour == Neighbour::Store {
            // These processes must take over their partitions while the store is away.
            for n in ["aggregate", "score", "sink"].map(|stage| self.processes.slot(stage, 0)) {
                self.processes.kill(n)?;
                self.processes.start(n, None)?;
            }
        }
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60 * minutes) {
            std::thread::sleep(LOOK);
            if neighbour != Neighbour::Broker {
                self.load(4)?;
            }
            self.processes.keep()?;
            self.look(&mut away, false);
        }
        match neighbour {
            Neighbour::Broker => self.broker.again()?,
            Neighbour::Store => self.store.set(Behaviour::Well),
            Neighbour::NextStage => scores.iter().try_for_each(|n| self.processes.start(*n, None))?,
        }
        let caught_up = self.catch_up(Instant::now())?;
        away.caught_up_ms = caught_up.as_millis() as u64;
        away.restarts = self.processes.surprises.len() - before;
        Ok(away)
    }

    fn look(&self, away: &mut Away, is_before: bool) {
        let mut by_stage: BTreeMap<String, u64> = BTreeMap::new();
        for (name, kb) in self.processes.resident_kb() {
            let most = by_stage.entry(name.split('-').next().unwrap_or_default().to_owned()).or_default();
            *most = kb.max(*most);
        }
        for (stage, kb) in by_stage {
            let peaks = if is_before { &mut away.before_kb } else { &mut away.peak_kb };
            let peak = peaks.entry(stage).or_default();
            *peak = kb.max(*peak);
        }
        let mut answers = BTreeSet::new();
        for slot in self.processes.slots.iter().filter(|slot| slot.is_wanted) {
            away.asked += 1;
            let alive = ask(slot.http, "/livez");
            if !alive.starts_with("HTTP/1.1 200") {
                away.not_alive += 1;
                answers.insert(format!("{}: {}", slot.stage, alive.lines().last().unwrap_or_default()));
            }
            let ready = ask(slot.http, "/readyz");
            if !ready.starts_with("HTTP/1.1 200") {
                answers.insert(ready.lines().last().unwrap_or_default().to_owned());
            }
        }
        away.answers.extend(answers);
    }
}
