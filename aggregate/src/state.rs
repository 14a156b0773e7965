//! The state of a partition, what a step changes in it, and its bytes.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use pipeline::event::Event;
use pipeline::offset::TopicPartition;
use pipeline::pane::Pane;
use pipeline::schema::event::EventRows;
use pipeline::watermark::Watermarks;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::name::Name;
use crate::seen::Seen;
use crate::settings::Settings;

/// All partitions this member owns.
pub type State = BTreeMap<TopicPartition, PartitionState>;

/// What a step changes.
pub type Changes = BTreeMap<TopicPartition, PartitionChanges>;

/// Version of the state's bytes; see `stage`.
pub const STATE_VERSION: u32 = 2;

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
    /// Rows accepted, record by record. They are applied when the step is merged: nothing is copied before.
    pub accepted: Vec<AcceptedRows>,
    /// Accounts that a close changed; none means forgotten.
    pub accounts: BTreeMap<Name, Option<Account>>,
    /// Ids seen.
    pub seen: Vec<(u128, Pane)>,
    /// Accounts whose live row was sent.
    pub sent: Vec<Name>,
    /// Completeness was told downstream, or is no longer so.
    pub is_complete_told: bool,
}

/// The accepted rows of one record.
#[derive(Debug)]
pub struct AcceptedRows {
    /// The record's batch.
    pub batch: RecordBatch,
    /// Which of its rows.
    pub rows: Vec<usize>,
    /// The newest final pane when they were judged.
    pub closed: Option<Pane>,
}

impl AcceptedRows {
    /// The events, in order. Every row was decoded when it was judged.
    pub fn events(&self) -> impl Iterator<Item = Event<'_>> {
        let rows = EventRows::new(&self.batch);
        self.rows.iter().filter_map(move |row| rows.event(*row).ok())
    }
}

impl PartitionState {
    /// Makes the changes of a committed step.
    pub fn merge(&mut self, changes: PartitionChanges, settings: &Settings) {
        for accepted in &changes.accepted {
            // As if each record were a step of its own: the cut into steps leaves no trace.
            self.closed = accepted.closed.or(self.closed);
            for event in accepted.events() {
                self.apply(&event, settings);
            }
        }
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
            self.seen.forget(|pane| settings.is_forgotten(pane, watermark_us));
        }
        for name in changes.sent {
            self.awaiting.remove(&name);
        }
        if let Some(closed) = changes.closed {
            // The final row said it all: a live row is due only for what lies ahead of it.
            let accounts = &self.accounts;
            self.awaiting
                .retain(|name| accounts.get(name).is_some_and(|account| account.is_ahead_of(closed, settings)));
        }
        self.is_complete_told = changes.is_complete_told;
    }

    /// Takes one event into its account, whose live row becomes due.
    fn apply(&mut self, event: &Event<'_>, settings: &Settings) {
        let id = event.account_id.as_ref();
        if !self.accounts.contains_key(id) {
            self.accounts.insert(Name::from(id), Account::default());
        }
        if let Some(account) = self.accounts.get_mut(id) {
            if let Some(closed) = self.closed {
                account.prune(closed, settings);
            }
            account.apply(event, settings);
        }
        if !self.awaiting.contains(id) {
            self.awaiting.insert(Name::from(id));
        }
    }
}
