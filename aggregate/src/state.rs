//! The state of a partition, what a step changes in it, and its bytes.

use std::collections::{BTreeMap, BTreeSet};

use pipeline::offset::TopicPartition;
use pipeline::pane::Pane;
use pipeline::watermark::Watermarks;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::name::Name;
use crate::seen::Seen;

/// All partitions this member owns.
pub type State = BTreeMap<TopicPartition, PartitionState>;

/// What a step changes.
pub type Changes = BTreeMap<TopicPartition, PartitionChanges>;

/// Version of the state's bytes; see `stage`.
pub const STATE_VERSION: u32 = 1;

/// The fold of one partition.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Time.
    pub watermarks: Watermarks,
    /// The newest pane that is final.
    pub closed: Option<Pane>,
    /// A close under way. While it lasts no record is taken.
    pub closing: Option<Closing>,
    /// Accounts by id.
    pub accounts: BTreeMap<Name, Account>,
    /// Event ids.
    pub seen: Seen,
    /// Accounts whose live row is due.
    pub awaiting: BTreeSet<Name>,
    /// Whether it was said downstream that every source is complete.
    pub is_complete_told: bool,
}

/// Where a close stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// The pane whose rows are being sent.
    pub pane: Pane,
    /// The last pane to close.
    pub to: Pane,
    /// The last account of `pane` that was done.
    pub after: Option<Name>,
    /// Slices done.
    pub slice: u32,
    /// Ordinal of the next row.
    pub ordinal: i64,
}

/// What a step changes in one partition.
#[derive(Debug, Default)]
pub struct PartitionChanges {
    /// Time, where it moved.
    pub watermarks: Option<Watermarks>,
    /// The newest final pane, where it moved.
    pub closed: Option<Pane>,
    /// The close under way after the step.
    pub closing: Option<Closing>,
    /// Accounts that changed; none means forgotten.
    pub accounts: BTreeMap<Name, Option<Account>>,
    /// Ids seen.
    pub seen: Vec<(u128, Pane)>,
    /// Accounts whose live row became due.
    pub awaiting: BTreeSet<Name>,
    /// Accounts whose live row was sent.
    pub sent: Vec<Name>,
    /// Completeness was told downstream, or is no longer so.
    pub is_complete_told: bool,
}

impl PartitionState {
    /// Makes the changes of a committed step.
    pub fn merge(&mut self, changes: PartitionChanges, is_forgotten: impl Fn(Pane, i64) -> bool) {
        if let Some(watermarks) = changes.watermarks {
            self.watermarks = watermarks;
        }
        self.closed = changes.closed.or(self.closed);
        self.closing = changes.closing;
        for (name, account) in changes.accounts {
            match account {
                Some(account) => self.accounts.insert(name, account),
                None => self.accounts.remove(&name),
            };
        }
        for (key, pane) in changes.seen {
            self.seen.insert(key, pane);
        }
        if let Some(watermark_us) = self.watermarks.watermark_us() {
            self.seen.forget(|pane| is_forgotten(pane, watermark_us));
        }
        self.awaiting.extend(changes.awaiting);
        for name in changes.sent {
            self.awaiting.remove(&name);
        }
        self.is_complete_told = changes.is_complete_told;
    }

    /// The state of an account: as changed in this step, else as it was.
    pub fn account<'s>(&'s self, changes: &'s PartitionChanges, name: &str) -> Option<&'s Account> {
        match changes.accounts.get(name) {
            Some(changed) => changed.as_ref(),
            None => self.accounts.get(name),
        }
    }
}
