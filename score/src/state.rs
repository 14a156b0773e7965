//! What score remembers of each account, and the changes that one step makes.

use std::collections::BTreeMap;

use keepwell_core::accounts::{Accounts, ById};
use keepwell_core::interned::Name;
use keepwell_core::offset::TopicPartition;
use keepwell_pipeline::snapshot::parts::ChangeBuckets;
use keepwell_pipeline::suspect::{Drops, PanesEnded};
use keepwell_pipeline::watermark::Progress;
use serde::{Deserialize, Serialize};

use crate::contributions::Contributions;
use crate::episode::Episode;
use crate::lifecycle::Standing;
use crate::model::Model;
use crate::model_schedule::Models;
use crate::small_map::SmallMap;
use keepwell_core::points::Points;

/// The state of all partitions that this member owns.
pub type State = BTreeMap<TopicPartition, PartitionState>;

/// The drops of panes that have not ended, by the end of the pane in UTC microseconds.
pub type OpenDrops = BTreeMap<i64, Drops>;

/// The changes of one step, by partition.
pub type Changes = BTreeMap<TopicPartition, PartitionChanges>;

/// The state of one partition: the fold of its records.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct PartitionState {
    /// Accounts by account id.
    pub accounts: Accounts<Account>,
    /// How far time has come, as aggregate last reported it.
    pub progress: Option<Progress>,
    /// Which model scores which time. A snapshot stores it separately.
    #[serde(skip)]
    pub models: Models,
    /// The drops of panes that have not ended. Versions before 5 of the snapshot do not have them.
    #[serde(skip)]
    pub drops: OpenDrops,
    /// Accounts that have changed since the last snapshot.
    #[serde(skip)]
    pub dirty: ChangeBuckets,
}

/// The state of one account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// What score remembers from its final rows.
    pub memory: Memory,
    /// What was last published about it, from a live or a final row.
    pub published: Option<Published>,
}

/// What score remembers from final rows. Live rows change nothing here, so that timing cannot change a final row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The last final row.
    pub last: Option<LastFinal>,
    /// Score of the first final row at which the account was old enough for a baseline.
    pub baseline: Option<Points>,
    /// The last known value of each factor that may be carried, and its time in UTC microseconds. Like `remembered` it
    /// belongs to one model. Both start empty when another model takes over.
    pub known: SmallMap<(f64, i64)>,
    /// Remembered values by name: time in UTC microseconds and value, oldest first.
    pub remembered: SmallMap<Vec<(i64, Points)>>,
    /// Triggers with an episode or a pending condition, by name.
    pub episodes: SmallMap<Episode>,
    /// Where the account stands in the lifecycle, if its model file has stages. A snapshot stores it beside the account.
    #[serde(skip)]
    pub standing: Option<Box<Standing>>,
}

impl Memory {
    /// Whether this model scored the last final row. Otherwise carried and remembered values must not be used.
    pub fn is_of(&self, model: &Model) -> bool {
        self.last.as_ref().is_some_and(|last| last.model_name == model.name.value)
    }
}

/// The last final row of an account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastFinal {
    /// End of its windows, UTC microseconds.
    pub as_of_us: i64,
    /// Its score.
    pub score: Option<Points>,
    /// Its band.
    pub band: Name,
    /// `as_of` of the final row at which the account entered this band, UTC microseconds.
    pub band_since_us: i64,
    /// Digest of the model's name, version and factors.
    pub model: u64,
    /// Name of the model.
    pub model_name: Name,
    /// Contribution of each factor, in the order of the row's factors.
    pub contributions: Contributions,
}

/// What was last published about an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// End of the windows, UTC microseconds.
    pub as_of_us: i64,
    /// Digest of the values that matter to a reader of `scores` when they change.
    pub digest: u64,
}

/// The changes of one step in one partition.
#[derive(Debug, Default)]
pub struct PartitionChanges {
    /// Accounts that changed. None means that the account is removed.
    pub accounts: ById<Option<Account>>,
    /// How far time has come, if a record reported it.
    pub progress: Option<Progress>,
    /// The new schedule of models, if a model was announced.
    pub models: Option<Models>,
    /// Drops of final rows.
    pub drops: OpenDrops,
    /// Panes that have ended, if a record reported it.
    pub ended: Option<PanesEnded>,
}

impl PartitionChanges {
    /// The id of an account. A known account keeps its shared id.
    pub fn id(&self, state: &PartitionState, id: &str) -> Name {
        state.accounts.id(id).cloned().unwrap_or_else(|| Name::from(id))
    }

    /// The present state of an account: from this step if it changed, else from before.
    pub fn account<'a>(&'a self, state: &'a PartitionState, id: &str) -> Option<&'a Account> {
        match self.accounts.get(id) {
            Some(changed) => changed.as_ref(),
            None => state.accounts.get(id),
        }
    }
}

impl PartitionState {
    /// Applies the changes of a committed step.
    pub fn merge(&mut self, changes: PartitionChanges) {
        for (id, account) in changes.accounts {
            self.dirty.mark(&id);
            match account {
                Some(account) => self.accounts.insert(id, account),
                None => self.accounts.remove(&id),
            };
        }
        self.progress = changes.progress.or(self.progress.take());
        // What has ended was reported with the step.
        merge_drops(&mut self.drops, changes.drops, changes.ended.map(|ended| ended.ended_us));
        self.models = changes.models.unwrap_or(std::mem::take(&mut self.models));
    }

    /// Version of the model that scores the time of the watermark.
    pub fn model_version(&self) -> Option<i64> {
        let as_of_us = self.progress.as_ref().and_then(|progress| progress.watermark_us).unwrap_or(i64::MIN);
        self.models.at(as_of_us).map(|(_, model)| model.version)
    }
}

/// Adds the drops of a step to those of the state, and takes out the panes that have ended.
pub fn merge_drops(drops: &mut OpenDrops, changes: OpenDrops, ended_us: Option<i64>) -> Vec<(i64, Drops)> {
    for (as_of_us, more) in changes {
        let known = drops.entry(as_of_us).or_default();
        *known = known.plus(more);
    }
    let Some(ended_us) = ended_us else { return Vec::new() };
    let open = drops.split_off(&ended_us.saturating_add(1));
    std::mem::replace(drops, open).into_iter().collect()
}
