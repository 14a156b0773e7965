//! The state of a partition, what a step changes in it, and its bytes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use arrow::array::RecordBatch;
use foldhash::fast::RandomState;
use keepwell_core::event::Event;
use keepwell_core::offset::TopicPartition;
use keepwell_core::pane::Pane;
use keepwell_core::schema::event::{EventRows, Shape};
use keepwell_pipeline::watermark::Watermarks;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::dedup::EventIds;
use crate::dirty::Dirty;
use crate::live_due::LiveDue;
use crate::settings::Settings;
use keepwell_core::accounts::Accounts;
use keepwell_core::interned::{Name, Names};

/// All partitions this member owns.
pub type State = BTreeMap<TopicPartition, PartitionState>;

/// What a step changes.
pub type Changes = BTreeMap<TopicPartition, PartitionChanges>;

/// The fold of one partition.
#[derive(Debug, Clone, Default)]
pub struct PartitionState {
    /// Time.
    pub watermarks: Watermarks,
    /// The newest pane that is final.
    pub closed: Option<Pane>,
    /// A close under way. While it lasts no record is taken.
    pub closing: Option<Closing>,
    /// Accounts by id.
    pub accounts: Accounts<Account>,
    /// Event ids.
    pub event_ids: EventIds,
    /// Accounts whose live row is due.
    pub live_due: LiveDue,
    /// Whether it was said downstream that every source is complete.
    pub is_completion_sent: bool,
    /// Accounts of so many users or features that a step may bring them to a limit; known from the accounts.
    pub large: BTreeSet<Name>,
    /// Names that accounts share.
    pub names: Names,
    /// What has changed since it was last saved.
    pub dirty: Dirty,
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
    /// The last feature that was done of the account behind it, where a slice ended within one.
    pub within: Option<Name>,
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
    /// Ids seen, in which pane, and in which they were last seen before.
    pub event_ids: Vec<(u128, Pane, Option<Pane>)>,
    /// Accounts whose live row was sent.
    pub sent: Vec<Name>,
    /// The tick at which it was.
    pub tick: u64,
    /// Completeness was told downstream, or is no longer so.
    pub is_completion_sent: bool,
}

/// The accepted rows of one record.
#[derive(Debug)]
pub struct AcceptedRows {
    /// The record's batch.
    batch: RecordBatch,
    /// Which of its rows: those of one account together, in their order.
    by_account: Vec<Vec<(usize, Shape)>>,
    /// The newest final pane when they were judged.
    closed: Option<Pane>,
}

impl AcceptedRows {
    /// These rows of `batch`, account by account: an account is looked up once a record.
    pub fn new(batch: RecordBatch, accepted: Vec<(usize, Shape)>, closed: Option<Pane>) -> Self {
        let rows = EventRows::new(&batch);
        let mut by_account: Vec<Vec<(usize, Shape)>> = Vec::new();
        let mut places: HashMap<&str, usize, RandomState> = HashMap::default();
        for (row, shape) in accepted {
            let place = *places.entry(rows.account_id(row)).or_insert(by_account.len());
            if place == by_account.len() {
                by_account.push(Vec::new());
            }
            by_account[place].push((row, shape));
        }
        Self { batch, by_account, closed }
    }

    /// The accounts, each with its events in their order.
    pub fn accounts(&self) -> impl Iterator<Item = (&str, impl Iterator<Item = Event<'_>>)> {
        let rows = EventRows::new(&self.batch);
        self.by_account.iter().filter_map(move |of_account| {
            let events = of_account.iter().map(move |(row, shape)| rows.event(*row, *shape));
            Some((rows.account_id(of_account.first()?.0), events))
        })
    }
}

impl PartitionState {
    /// What the partition remembers: without what is shared or kept only to save less.
    pub fn memory(&self) -> impl PartialEq + std::fmt::Debug + '_ {
        let time = (&self.watermarks, self.closed, &self.closing, self.is_completion_sent);
        (time, &self.accounts, &self.event_ids, &self.live_due, &self.large)
    }

    /// Finds again what is known from the accounts.
    pub fn find_large(&mut self, settings: &Settings) {
        let large = self.accounts.range(..).filter(|(_, account)| account.is_large(&settings.limits));
        self.large = large.map(|(name, _)| name.clone()).collect();
    }

    /// Makes the changes of a committed step.
    pub fn merge(&mut self, changes: PartitionChanges, settings: &Settings) {
        for accepted in &changes.accepted {
            // As if each record were a step of its own: the cut into steps leaves no trace.
            self.closed = accepted.closed.or(self.closed);
            for (id, events) in accepted.accounts() {
                self.apply(id, events, settings);
            }
        }
        if let Some(watermarks) = changes.watermarks {
            self.watermarks = watermarks;
        }
        self.closed = changes.closed.or(self.closed);
        let closing = std::mem::replace(&mut self.closing, changes.closing);
        for (name, account) in changes.accounts {
            self.dirty
                .account(name.as_str(), [self.accounts.get(name.as_str()), account.as_ref()].into_iter().flatten());
            match account {
                Some(account) => self.accounts.insert(name, account),
                None => self.accounts.remove(&name),
            }
        }
        if let Some(closing) = closing {
            self.prune_behind(&closing, settings);
        }
        for (key, pane, before) in changes.event_ids {
            self.event_ids.remember(key, pane, before);
        }
        if let Some(watermark_us) = self.watermarks.watermark_us() {
            self.event_ids.forget(|pane| settings.is_forgotten(pane, watermark_us));
        }
        self.live_due.sent(changes.sent, changes.tick);
        if let Some(closed) = changes.closed {
            // The final row said it all: a live row is due only for what lies ahead of it.
            let accounts = &self.accounts;
            self.live_due.retain(|name| {
                accounts.get(name.as_str()).is_some_and(|account| account.is_ahead_of(closed, settings))
            });
        }
        self.is_completion_sent = changes.is_completion_sent;
    }

    /// Forgets of the accounts, whose rows of the last pane of a close are out, what no later row can show. Where a close
    /// stood before the step, and where it stands now, say which these are.
    fn prune_behind(&mut self, before: &Closing, settings: &Settings) {
        let closed = before.to;
        let from = before.after.as_ref().filter(|_| before.pane == closed).map_or(Bound::Unbounded, Bound::Excluded);
        let to = match &self.closing {
            None => Bound::Unbounded,
            Some(now) => match now.after.as_ref().filter(|_| now.pane == closed) {
                Some(name) => Bound::Included(name),
                None => return,
            },
        };
        self.accounts.for_each_mut((from.cloned(), to.cloned()), |account| {
            self.dirty.before_prune(account, closed);
            account.prune(closed, settings);
        });
        if self.closing.is_none() {
            self.names.forget_unused();
            self.dirty.closed(settings.horizon(closed));
            let accounts = &self.accounts;
            self.large.retain(|name| accounts.get(name).is_some_and(|account| account.is_large(&settings.limits)));
        }
    }

    /// Takes the events of one account in; its live row becomes due.
    fn apply<'e>(&mut self, id: &str, events: impl Iterator<Item = Event<'e>>, settings: &Settings) {
        if self.accounts.get(id).is_none() {
            self.accounts.insert(Name::from(id), Account::default());
            self.dirty.accounts.mark(id);
        }
        if let Some(account) = self.accounts.get_mut(id) {
            for event in events {
                if let Some(closed) = self.closed.filter(|closed| !account.is_pruned(*closed)) {
                    self.dirty.account(id, [&*account]);
                    account.prune(closed, settings);
                }
                self.dirty.event(&event, account, settings);
                account.apply(&event, settings, &mut self.names);
            }
            if account.is_large(&settings.limits) && !self.large.contains(id) {
                self.large.insert(Name::from(id));
            }
        }
        self.live_due.mark(id);
    }
}
