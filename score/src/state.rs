//! What score remembers of each account, and what a step changes in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use pipeline::offset::{NextOffset, TopicPartition};
use pipeline::watermark::Progress;
use serde::{Deserialize, Serialize};

use crate::compile::Compiled;
use crate::points::Points;

/// All partitions this member owns.
pub type State = BTreeMap<TopicPartition, PartitionState>;

/// What a step changes.
pub type Changes = BTreeMap<TopicPartition, PartitionChanges>;

/// Version of the state's bytes; see `stage`.
pub const STATE_VERSION: u32 = 1;

/// The fold of one partition.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PartitionState {
    /// Accounts by id.
    pub accounts: BTreeMap<String, Account>,
    /// How far time was said to have come.
    pub progress: Option<Progress>,
    /// The model that records below an offset were scored with before; replay uses it again.
    #[serde(skip)]
    pub earlier: Option<(NextOffset, Arc<Compiled>)>,
}

/// What is remembered of an account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// The last final row.
    pub last: Option<LastFinal>,
    /// What was last said of it, live or final.
    pub said: Option<Said>,
}

/// What later rows are compared with. Only final rows count, so that timing changes no final row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastFinal {
    /// End of its windows, UTC microseconds.
    pub as_of_us: i64,
    /// Its score.
    pub score: Option<Points>,
    /// Its band.
    pub band: String,
    /// Digest of the model's name, version and factors.
    pub model: u64,
    /// In the order of the model's factors.
    pub contributions: Vec<Option<Points>>,
    /// Triggers that hold, by name.
    pub raised: BTreeMap<String, Raised>,
}

/// A trigger that holds: enough to say that it is cleared, also when the model no longer knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Raised {
    /// `as_of` of the final row that raised it, UTC microseconds.
    pub since_us: i64,
    /// As the model said.
    pub severity: String,
    /// As the model said.
    pub playbook: String,
    /// As the model said.
    pub owner_role: String,
}

/// What was last said of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// End of its windows, UTC microseconds.
    pub as_of_us: i64,
    /// Digest of what a reader of `scores` sees change.
    pub digest: u64,
}

/// What a step changes in one partition.
#[derive(Debug, Default)]
pub struct PartitionChanges {
    /// Accounts that changed; none means forgotten.
    pub accounts: BTreeMap<String, Option<Account>>,
    /// How far time was said to have come.
    pub progress: Option<Progress>,
}

impl PartitionChanges {
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
            match account {
                Some(account) => self.accounts.insert(id, account),
                None => self.accounts.remove(&id),
            };
        }
        self.progress = changes.progress.or(self.progress.take());
    }
}
