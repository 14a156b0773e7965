//! Which parts of a partition's state have changed, so that a snapshot makes only these anew.
//!
//! Usage and surveys are in the part of their pane, everything else is in the part of the account. To mark too much costs
//! time, to mark too little costs the state: whatever is not plainly the change of one pane marks all of an account.

use std::collections::{BTreeMap, BTreeSet};

use keepwell_core::event::{Body, Event, PersonAction};
use keepwell_core::pane::Pane;
use keepwell_pipeline::snapshot::parts::ChangeBuckets;

use crate::account::Account;
use crate::settings::Settings;

/// What has changed, and how often.
#[derive(Debug, Clone, Default)]
pub struct Dirty {
    /// What is not kept by pane, by account.
    pub accounts: ChangeBuckets,
    panes: Panes,
}

/// How often panes have changed; every pane that is in the state has its place here.
#[derive(Debug, Clone, Default)]
struct Panes {
    revisions: BTreeMap<Pane, u64>,
    count: u64,
}

impl Dirty {
    /// A state that was just restored: these panes are in it, and nothing has changed.
    pub fn restored(panes: impl IntoIterator<Item = Pane>) -> Self {
        let revisions = panes.into_iter().map(|pane| (pane, 0)).collect();
        Self { panes: Panes { revisions, count: 0 }, accounts: ChangeBuckets::default() }
    }

    /// A state whose bytes are saved nowhere in this form: all of these accounts has changed.
    pub fn all<'a>(accounts: impl IntoIterator<Item = &'a Account>) -> Self {
        let mut dirty = Self::default();
        dirty.accounts.mark_all();
        for account in accounts {
            account.panes().for_each(|pane| dirty.pane(pane));
        }
        dirty
    }

    /// Panes and their revisions.
    pub fn panes(&self) -> impl Iterator<Item = (Pane, u64)> {
        self.panes.revisions.iter().map(|(pane, revision)| (*pane, *revision))
    }

    fn pane(&mut self, pane: Pane) {
        self.panes.count += 1;
        self.panes.revisions.insert(pane, self.panes.count);
    }

    /// All of an account changes, as it was and as it will be.
    pub fn account<'a>(&mut self, name: &str, states: impl IntoIterator<Item = &'a Account>) {
        self.accounts.mark(name);
        for pane in states.into_iter().flat_map(Account::panes) {
            self.pane(pane);
        }
    }

    /// An event is about to be taken into its account.
    pub fn event(&mut self, event: &Event<'_>, account: &Account, settings: &Settings) {
        self.pane(settings.panes.pane(event.occurred_us));
        match &event.body {
            Body::Usage { .. } | Body::Survey { .. } => {}
            Body::Person { action: PersonAction::Erased, .. } => self.account(&event.account_id, [account]),
            _ => self.accounts.mark(&event.account_id),
        }
    }

    /// An account is about to be pruned at the close of a pane. Its part is marked with all others when the close is done;
    /// one that was deleted was given out anew by the close, and is marked.
    pub fn before_prune(&mut self, account: &Account, closed: Pane) {
        let told: BTreeSet<Pane> = account.adoption.open_panes().filter(|pane| *pane <= closed).collect();
        told.into_iter().for_each(|pane| self.pane(pane));
    }

    /// A close is done: every account is pruned, and no pane before `horizon` is left.
    pub fn closed(&mut self, horizon: Pane) {
        self.accounts.mark_all();
        self.panes.revisions.retain(|pane, _| *pane >= horizon);
    }
}
