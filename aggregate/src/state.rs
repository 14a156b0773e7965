//! The state of a partition, and the changes that one step makes to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use arrow::array::RecordBatch;
use foldhash::fast::RandomState;
use keepwell_core::event::Event;
use keepwell_core::offset::TopicPartition;
use keepwell_core::pane::Pane;
use keepwell_core::schema::event::{EventRows, Shape};
use keepwell_pipeline::suspect::{PanesEnded, SuspectPane};
use keepwell_pipeline::watermark::Watermarks;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::dedup::EventIds;
use crate::dirty::Dirty;
use crate::feeds::Feeds;
use crate::live_due::LiveDue;
use crate::settings::Settings;
use keepwell_core::accounts::Accounts;
use keepwell_core::interned::{Name, Names};

/// The state of all partitions that this member owns.
pub type State = BTreeMap<TopicPartition, PartitionState>;

/// The changes of one step, by partition.
pub type Changes = BTreeMap<TopicPartition, PartitionChanges>;

/// The state of one partition: the fold of its records.
#[derive(Debug, Clone, Default)]
pub struct PartitionState {
    /// The time of each source, and the watermark.
    pub watermarks: Watermarks,
    /// The newest pane with final rows.
    pub closed: Option<Pane>,
    /// A running close. While it lasts the partition reads no record.
    pub closing: Option<Closing>,
    /// Accounts by account id.
    pub accounts: Accounts<Account>,
    /// Ids of accepted events, to find duplicates.
    pub event_ids: EventIds,
    /// Accounts that need a new live row.
    pub live_due: LiveDue,
    /// What each source usually sends.
    pub feeds: Feeds,
    /// Whether downstream already knows that every source is complete.
    pub is_completion_sent: bool,
    /// Accounts with so many users or features that one step may reach a limit. Derived from `accounts`.
    pub large: BTreeSet<Name>,
    /// Names that accounts share, such as names of features.
    pub names: Names,
    /// What has changed since the last snapshot.
    pub dirty: Dirty,
}

/// The position of a running close.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// The close is writing the rows of this pane now.
    pub pane: Pane,
    /// The last pane that this close covers.
    pub to: Pane,
    /// The last account of `pane` with complete rows.
    pub after: Option<Name>,
    /// The last completed feature of the next account, if a slice ended within that account.
    pub within: Option<Name>,
    /// Slices of the record's output that are already written. The fold of the record itself counts as the first.
    pub slice: u32,
    /// Ordinal of the next row.
    pub ordinal: i64,
    /// The panes of this close in which sources have far fewer events than usual. A snapshot stores them separately.
    #[serde(skip)]
    pub suspect: Vec<SuspectPane>,
}

/// The changes of one step in one partition.
#[derive(Debug, Default)]
pub struct PartitionChanges {
    /// The new times of the sources, if a statement moved them.
    pub watermarks: Option<Watermarks>,
    /// What each source usually sends, if a statement counted events or ended a pane.
    pub feeds: Option<Feeds>,
    /// Panes that ended without any account.
    pub ended: Option<PanesEnded>,
    /// The newest final pane, if the step moved it.
    pub closed: Option<Pane>,
    /// The close that still runs after the step.
    pub closing: Option<Closing>,
    /// Accepted rows, record by record. The merge of the step applies them, so that the step copies nothing.
    pub accepted: Vec<AcceptedRows>,
    /// Accounts that a close changed. None means that the account is removed.
    pub accounts: BTreeMap<Name, Option<Account>>,
    /// Event ids of the step: the key, the event's pane, and the pane under which the key was known before.
    pub event_ids: Vec<(u128, Pane, Option<Pane>)>,
    /// Accounts that got a live row in the step.
    pub sent: Vec<Name>,
    /// The tick at which the live rows were sent.
    pub tick: u64,
    /// Whether downstream knows after this step that every source is complete.
    pub is_completion_sent: bool,
}

/// The accepted rows of one record.
#[derive(Debug)]
pub struct AcceptedRows {
    /// The batch of the record.
    batch: RecordBatch,
    /// The accepted rows of the batch, grouped by account, each group in the order of the record.
    by_account: Vec<Vec<(usize, Shape)>>,
    /// The newest final pane at the time when the rows were judged.
    closed: Option<Pane>,
}

impl AcceptedRows {
    /// Groups these rows of `batch` by account, so that each record looks up an account only once.
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
    /// The state that counts for comparison. It leaves out shared names, and what only makes snapshots smaller.
    pub fn memory(&self) -> impl PartialEq + std::fmt::Debug + '_ {
        let time = (&self.watermarks, &self.feeds, self.closed, &self.closing, self.is_completion_sent);
        (time, &self.accounts, &self.event_ids, &self.live_due, &self.large)
    }

    /// Rebuilds `large` from the accounts.
    pub fn find_large(&mut self, settings: &Settings) {
        let large = self.accounts.range(..).filter(|(_, account)| account.is_large(&settings.limits));
        self.large = large.map(|(name, _)| name.clone()).collect();
    }

    /// Applies the changes of a committed step.
    pub fn merge(&mut self, changes: PartitionChanges, settings: &Settings) {
        for accepted in &changes.accepted {
            // Each record acts as if it were a step of its own. So the cut into steps does not change the state.
            self.closed = accepted.closed.or(self.closed);
            for (id, events) in accepted.accounts() {
                self.apply(id, events, settings);
            }
        }
        if let Some(watermarks) = changes.watermarks {
            self.watermarks = watermarks;
        }
        self.feeds = changes.feeds.unwrap_or(std::mem::take(&mut self.feeds));
        let newly_closed = changes.closed.filter(|closed| self.closed != Some(*closed));
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
        // Once a close, not once a step of it: this looks at every account that is due.
        if let Some(closed) = newly_closed {
            // The final row contains everything up to `closed`. A live row is due only if the account has newer events.
            let accounts = &self.accounts;
            self.live_due.retain(|name| {
                accounts.get(name.as_str()).is_some_and(|account| account.is_ahead_of(closed, settings))
            });
        }
        self.is_completion_sent = changes.is_completion_sent;
    }

    /// Prunes the accounts that have their rows for the last pane of a close. The positions of the close before and
    /// after the step bound this range of accounts.
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

    /// Applies the events of one account. Its live row becomes due.
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
                account.apply(&event, self.closed, settings, &mut self.names);
            }
            if account.is_large(&settings.limits) && !self.large.contains(id) {
                self.large.insert(Name::from(id));
            }
        }
        self.live_due.mark(id);
    }
}
