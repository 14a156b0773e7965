//! What score remembers of each account, and what a step changes in it.

use std::collections::BTreeMap;

use keepwell_core::accounts::{Accounts, ById};
use keepwell_core::interned::Name;
use keepwell_core::offset::TopicPartition;
use keepwell_pipeline::snapshot::parts::ChangeBuckets;
use keepwell_pipeline::watermark::Progress;
use serde::{Deserialize, Serialize};

use crate::episode::Episode;
use crate::model::Model;
use crate::model_schedule::Models;
use crate::points::Points;
use crate::small_map::SmallMap;

/// All partitions this member owns.
pub type State = BTreeMap<TopicPartition, PartitionState>;

/// What a step changes.
pub type Changes = BTreeMap<TopicPartition, PartitionChanges>;

/// The fold of one partition.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PartitionState {
    /// Accounts by id.
    pub accounts: Accounts<Account>,
    /// How far time was said to have come.
    pub progress: Option<Progress>,
    /// By which model which time is scored; stands beside the state in a snapshot.
    #[serde(skip)]
    pub models: Models,
    /// Which accounts have changed since they were last saved.
    #[serde(skip)]
    pub dirty: ChangeBuckets,
}

/// What is remembered of an account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// What its final rows left behind.
    pub memory: Memory,
    /// What was last said of it, live or final.
    pub published: Option<Published>,
}

/// What final rows leave behind. Live rows leave nothing, so that timing changes no final row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The last final row.
    pub last: Option<LastFinal>,
    /// Score of the first final row at which the account was old enough.
    pub baseline: Option<Points>,
    /// The last known value of each factor that may be carried, and its time, UTC microseconds. Of one model, as
    /// what is remembered: both begin anew when another model takes over.
    pub known: SmallMap<(f64, i64)>,
    /// Values to remember by name: time, UTC microseconds, and value, oldest first.
    pub remembered: SmallMap<Vec<(i64, Points)>>,
    /// Triggers with something to remember, by name.
    pub episodes: SmallMap<Episode>,
}

impl Memory {
    /// Whether the last final row was scored by this model: what is carried and remembered is of one model.
    pub fn is_of(&self, model: &Model) -> bool {
        self.last.as_ref().is_some_and(|last| last.model_name == model.name.value)
    }
}

/// The last final row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastFinal {
    /// End of its windows, UTC microseconds.
    pub as_of_us: i64,
    /// Its score.
    pub score: Option<Points>,
    /// Its band.
    pub band: Name,
    /// Since which final row the account is in that band, UTC microseconds.
    pub band_since_us: i64,
    /// Digest of the model's name, version and factors.
    pub model: u64,
    /// Name of the model.
    pub model_name: Name,
    /// In the order of the row's factors.
    pub contributions: Vec<Option<Points>>,
}

/// What was last said of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// End of its windows, UTC microseconds.
    pub as_of_us: i64,
    /// Digest of what a reader of `scores` sees change.
    pub digest: u64,
}

/// What a step changes in one partition.
#[derive(Debug, Default)]
pub struct PartitionChanges {
    /// Accounts that changed; none means forgotten.
    pub accounts: ById<Option<Account>>,
    /// How far time was said to have come.
    pub progress: Option<Progress>,
    /// The models from now on, where another was announced.
    pub models: Option<Models>,
}

impl PartitionChanges {
    /// The id of an account, the same as before where it is known.
    pub fn id(&self, state: &PartitionState, id: &str) -> Name {
        state.accounts.id(id).cloned().unwrap_or_else(|| Name::from(id))
    }

    /// An account as of now: as changed in this step, else as it was.
    pub fn account<'a>(&'a self, state: &'a PartitionState, id: &str) -> Option<&'a Account> {
        match self.accounts.get(id) {
            Some(changed) => changed.as_ref(),
            None => state.accounts.get(id),
        }
    }
}

impl PartitionState {
    /// Makes the changes of a committed step.
    pub fn merge(&mut self, changes: PartitionChanges) {
        for (id, account) in changes.accounts {
            self.dirty.mark(&id);
            match account {
                Some(account) => self.accounts.insert(id, account),
                None => self.accounts.remove(&id),
            };
        }
        self.progress = changes.progress.or(self.progress.take());
        self.models = changes.models.unwrap_or(std::mem::take(&mut self.models));
    }

    /// Version of the model by which the time that has come is scored.
    pub fn model_version(&self) -> Option<i64> {
        let as_of_us = self.progress.as_ref().and_then(|progress| progress.watermark_us).unwrap_or(i64::MIN);
        self.models.at(as_of_us).map(|(_, model)| model.version)
    }
}
