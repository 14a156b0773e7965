//! Which parts of a partition's state have changed, so that a snapshot writes only these parts again.
//!
//! Usage and surveys are in the part of their pane. Everything else is in the part of the account. Marking too much
//! costs time; marking too little loses state. So any change that is not clearly limited to one pane marks the whole
//! account.

use std::collections::{BTreeMap, BTreeSet};

use keepwell_core::event::{Body, Event, PersonAction};
use keepwell_core::pane::Pane;
use keepwell_pipeline::snapshot::parts::ChangeBuckets;

use crate::account::Account;
use crate::settings::Settings;

/// The changes since the restore, with revisions.
#[derive(Debug, Clone, Default)]
pub struct Dirty {
    /// Changes in what is not kept by pane, by account.
    pub accounts: ChangeBuckets,
    panes: Panes,
}

/// The revision of every pane in the state.
#[derive(Debug, Clone, Default)]
struct Panes {
    revisions: BTreeMap<Pane, u64>,
    count: u64,
}

impl Dirty {
    /// A state that was just restored: it contains these panes, and nothing has changed.
    pub fn restored(panes: impl IntoIterator<Item = Pane>) -> Self {
        let revisions = panes.into_iter().map(|pane| (pane, 0)).collect();
        Self { panes: Panes { revisions, count: 0 }, accounts: ChangeBuckets::default() }
    }

    /// A state that was just restored from an older form: no part of its snapshot may be kept.
    pub fn outdated(panes: impl IntoIterator<Item = Pane>) -> Self {
        let revisions = panes.into_iter().map(|pane| (pane, 1)).collect();
        let mut accounts = ChangeBuckets::default();
        accounts.mark_all();
        Self { panes: Panes { revisions, count: 1 }, accounts }
    }

    /// Panes and their revisions.
    pub fn panes(&self) -> impl Iterator<Item = (Pane, u64)> {
        self.panes.revisions.iter().map(|(pane, revision)| (*pane, *revision))
    }

    fn pane(&mut self, pane: Pane) {
        self.panes.count += 1;
        self.panes.revisions.insert(pane, self.panes.count);
    }

    /// Marks a whole account as changed, with the panes of all given states: before and after the change.
    pub fn account<'a>(&mut self, name: &str, states: impl IntoIterator<Item = &'a Account>) {
        self.accounts.mark(name);
        for pane in states.into_iter().flat_map(Account::panes) {
            self.pane(pane);
        }
    }

    /// Marks what an event will change, before it is applied to its account.
    pub fn event(&mut self, event: &Event<'_>, account: &Account, settings: &Settings) {
        self.pane(settings.panes.pane(event.occurred_us));
        match &event.body {
            Body::Usage { .. } | Body::Survey { .. } => {}
            Body::Person { action: PersonAction::Erased, .. } => self.account(&event.account_id, [account]),
            _ => self.accounts.mark(&event.account_id),
        }
    }

    /// Marks the panes that pruning an account will change. The parts of accounts are marked together when the close is
    /// done. A deleted account is already marked, because the close replaced it.
    pub fn before_prune(&mut self, account: &Account, closed: Pane) {
        let open: BTreeSet<Pane> = account.adoption.open_panes().filter(|pane| *pane <= closed).collect();
        open.into_iter().for_each(|pane| self.pane(pane));
    }

    /// Marks a completed close: every account was pruned, and no pane before `horizon` is left.
    pub fn closed(&mut self, horizon: Pane) {
        self.accounts.mark_all();
        self.panes.revisions.retain(|pane, _| *pane >= horizon);
    }
}
