//! The faults that can strike, and a shuffled deck of them.

use std::fmt;

use fastrand::Rng;
use keepwell_pipeline::crash_points::{CrashPoint, PLACES};

use super::processes::STAGES;

/// A fault that strikes in a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of a process. It starts again at once with the same name.
    Kill(&'static str),
    /// SIGKILL of a process. It starts again only after the others have done its work.
    KillAway(&'static str),
    /// A process ends at a crash point in the code.
    Crash(&'static str, CrashPoint),
    /// SIGSTOP until the others have done the work of the process, then SIGCONT.
    Freeze(&'static str),
    /// A third process joins and leaves again.
    Join(&'static str),
    /// Each process in turn is stopped, and its replacement takes up its work as another build would.
    Replace(&'static str),
    /// The stage has one process, then four, then two.
    Rescale(&'static str),
    /// Each process in turn is stopped, and one of the next version takes up its work.
    Upgrade(&'static str),
    /// Each process in turn is stopped, and one of the first version takes up its work.
    Downgrade(&'static str),
    /// SIGKILL of a process, after which its newest snapshots are damaged.
    Damage(&'static str),
    /// SIGKILL of the broker.
    BrokerKilled,
    /// The broker is stopped and started.
    BrokerStopped,
    /// Every connection is cut.
    Cut,
    /// Clients receive no more data on any connection, but can still send.
    HalfClosed,
    /// All data between clients and broker is delayed.
    Delayed,
    /// The object store answers with errors and does nothing.
    StoreFails,
    /// The object store does each write, but answers with an error.
    StoreLies,
    /// The object store takes a second for each answer.
    StoreSlow,
    /// The object store is full.
    StoreFull,
}

impl Fault {
    /// The stage that the fault strikes, if it strikes one.
    pub fn stage(self) -> Option<&'static str> {
        match self {
            Self::Kill(stage)
            | Self::KillAway(stage)
            | Self::Crash(stage, _)
            | Self::Freeze(stage)
            | Self::Join(stage)
            | Self::Replace(stage)
            | Self::Rescale(stage)
            | Self::Upgrade(stage)
            | Self::Downgrade(stage)
            | Self::Damage(stage) => Some(stage),
            _ => None,
        }
    }

    /// Whether the fault ends a process.
    pub fn is_kill(self) -> bool {
        matches!(self, Self::Kill(_) | Self::KillAway(_) | Self::Crash(..) | Self::Damage(_))
    }

    /// Whether the fault ends the broker.
    pub fn is_of_broker(self) -> bool {
        matches!(self, Self::BrokerKilled | Self::BrokerStopped)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Crash(stage, place) => {
                let name = PLACES.into_iter().find(|(known, _)| known == place).map_or("", |(_, name)| name);
                write!(f, "crash {stage} {name}")
            }
            Self::Kill(stage) => write!(f, "kill {stage}"),
            Self::KillAway(stage) => write!(f, "kill-away {stage}"),
            Self::Freeze(stage) => write!(f, "freeze {stage}"),
            Self::Join(stage) => write!(f, "join {stage}"),
            Self::Replace(stage) => write!(f, "replace {stage}"),
            Self::Rescale(stage) => write!(f, "rescale {stage}"),
            Self::Upgrade(stage) => write!(f, "upgrade {stage}"),
            Self::Downgrade(stage) => write!(f, "downgrade {stage}"),
            Self::Damage(stage) => write!(f, "damage {stage}"),
            Self::BrokerKilled => f.write_str("broker-killed"),
            Self::BrokerStopped => f.write_str("broker-stopped"),
            Self::Cut => f.write_str("cut"),
            Self::HalfClosed => f.write_str("half-closed"),
            Self::Delayed => f.write_str("delayed"),
            Self::StoreFails => f.write_str("store-fails"),
            Self::StoreLies => f.write_str("store-lies"),
            Self::StoreSlow => f.write_str("store-slow"),
            Self::StoreFull => f.write_str("store-full"),
        }
    }
}

/// The crash points that a stage reaches.
fn places(stage: &str) -> Vec<CrashPoint> {
    let is_stateful = stage == "aggregate" || stage == "score";
    let comes_to = |place: &CrashPoint| match place {
        CrashPoint::BeforeSnapshot | CrashPoint::AfterSnapshot => is_stateful,
        CrashPoint::InClose => stage == "aggregate",
        CrashPoint::AfterClaim | CrashPoint::InUpload => stage == "sink",
        _ => true,
    };
    PLACES.into_iter().map(|(place, _)| place).filter(comes_to).collect()
}

/// Every fault, some of them several times, shuffled with `rng`.
pub fn deck(rng: &mut Rng) -> Vec<Fault> {
    let mut deck = Vec::new();
    for stage in STAGES {
        deck.extend([Fault::Kill(stage); 7]);
        deck.extend([Fault::KillAway(stage); 2]);
        deck.extend(places(stage).into_iter().map(|place| Fault::Crash(stage, place)));
        deck.extend([Fault::Freeze(stage), Fault::Join(stage), Fault::Replace(stage), Fault::Rescale(stage)]);
    }
    deck.extend([Fault::Damage("aggregate"), Fault::Damage("score")]);
    deck.extend([Fault::BrokerKilled; 4]);
    deck.extend([Fault::BrokerStopped; 3]);
    deck.extend([Fault::Cut, Fault::Cut, Fault::HalfClosed, Fault::Delayed]);
    deck.extend([Fault::StoreFails, Fault::StoreLies, Fault::StoreSlow, Fault::StoreFull]);
    rng.shuffle(&mut deck);
    deck
}

/// All stages upgrade to the next version, go back, and upgrade again. Each time their order comes from `rng`. Kills of
/// random stages are in between.
pub fn upgrades(rng: &mut Rng) -> Vec<Fault> {
    let mut deck = Vec::new();
    for way in [Fault::Upgrade, Fault::Downgrade, Fault::Upgrade] {
        let mut stages = STAGES;
        rng.shuffle(&mut stages);
        for stage in stages {
            deck.extend([way(stage), Fault::Kill(STAGES[rng.usize(0..STAGES.len())])]);
        }
    }
    deck
}
