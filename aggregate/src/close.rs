//! The close of panes: one final row per known account and window, pane after pane, account after account.
//!
//! Rows come in slices of a fixed number of rows, so that a close of any size is sent in transactions of
//! bounded size and a restart can go on between two. Where a slice ends depends on the log alone.

use std::collections::BTreeMap;
use std::ops::Bound;

use arrow::array::RecordBatch;
use pipeline::pane::Pane;
use pipeline::schema::{RowBuilder, feature_day, window};
use pipeline::stage::StageError;

use crate::account::Account;
use crate::measure::{Provenance, RowKind, append_rows};
use crate::settings::Settings;
use crate::state::{Closing, PartitionState};
use pipeline::name::Name;

/// Accounts of a slice at most: those without a row cost time too.
const SLICE_ACCOUNTS: usize = 20_000;

/// What a part of a close brings.
#[derive(Debug)]
pub struct Slices {
    /// Window rows.
    pub windows: RecordBatch,
    /// Feature days.
    pub feature_days: RecordBatch,
    /// Accounts that changed: deletions told, accounts forgotten.
    pub accounts: BTreeMap<Name, Option<Account>>,
    /// The newest pane that is final now.
    pub closed: Option<Pane>,
    /// What is left to close.
    pub closing: Option<Closing>,
}

/// Goes on with a close for at most `max_slices` slices.
///
/// # Errors
/// [`StageError`] when the rows do not form a batch.
pub fn close(
    state: &PartitionState,
    mut closing: Closing,
    partition: i32,
    next_offset: i64,
    max_slices: u32,
    settings: &Settings,
) -> Result<Slices, StageError> {
    let mut windows = window::builder();
    let mut feature_days = feature_day::builder();
    let mut accounts = BTreeMap::new();
    let mut closed = state.closed;
    let mut slices_left = max_slices;
    let (mut slice_rows, mut slice_accounts) = (0, 0);
    let watermark_us = state.watermarks.watermark_us();
    while closing.pane <= closing.to && slices_left > 0 {
        let from = closing.after.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = state.accounts.range((from, Bound::Unbounded));
        loop {
            let Some((name, account)) = rest.next() else {
                closed = Some(closing.pane);
                closing.pane = closing.pane.next();
                break;
            };
            let provenance = Provenance { partition, next_offset, ordinal: closing.ordinal, watermark_us };
            let before = windows.num_rows() + feature_days.num_rows();
            let account = accounts.get(name).map_or(Some(account), Option::as_ref);
            if let Some(account) = account {
                let changed =
                    close_account(&mut windows, &mut feature_days, name, account, closing.pane, provenance, settings);
                if let Some(changed) = changed {
                    accounts.insert(name.clone(), changed);
                }
            }
            let num_rows = windows.num_rows() + feature_days.num_rows() - before;
            closing.ordinal += num_rows as i64;
            slice_rows += num_rows;
            slice_accounts += 1;
            if slice_rows >= settings.slice_rows || slice_accounts >= SLICE_ACCOUNTS {
                (slice_rows, slice_accounts) = (0, 0);
                closing.slice += 1;
                slices_left -= 1;
                if slices_left == 0 {
                    closing.after = Some(name.clone());
                    break;
                }
            }
        }
    }
    let is_done = closing.pane > closing.to;
    Ok(Slices {
        windows: windows.finish()?,
        feature_days: feature_days.finish()?,
        accounts,
        closed,
        closing: (!is_done).then_some(closing),
    })
}

/// The rows of one account for one pane, and what becomes of its state, where that changes.
fn close_account(
    windows: &mut RowBuilder,
    feature_days: &mut RowBuilder,
    name: &Name,
    account: &Account,
    pane: Pane,
    mut provenance: Provenance,
    settings: &Settings,
) -> Option<Option<Account>> {
    let view = account.view(pane, settings);
    let mut kind = RowKind { is_final: true, is_retired: false, is_deleted: false };
    if let Some(is_retired) = view.retired(settings) {
        kind.is_retired = is_retired;
        let before = windows.num_rows();
        append_rows(windows, name.as_str(), &view, kind, provenance, settings);
        provenance.ordinal += (windows.num_rows() - before) as i64;
    }
    if pane >= view.first {
        for ((feature, usage, num_users), ordinal) in
            account.adoption.by_feature(pane).into_iter().zip(provenance.ordinal..)
        {
            feature_days.text("account_id", Some(name.as_str()));
            feature_days.time("as_of", Some(view.end_us));
            feature_days.text("feature", Some(feature));
            feature_days.int("events", usage.events);
            feature_days.int("uses", usage.uses);
            feature_days.int("users", num_users as i64);
            feature_days.int("duration_ms", usage.known_duration_ms());
            feature_days.int("errors", usage.known_errors());
            feature_days.int32("epoch", settings.epoch as i32);
            feature_days.int32("partition", provenance.partition);
            feature_days.int("next_offset", provenance.next_offset);
            feature_days.int("ordinal", ordinal);
            feature_days.end_row();
        }
    }
    if account.deletions.is_empty() {
        return None;
    }
    let is_news = account.deletions.iter().any(|deletion| deletion.at_us < view.end_us && !deletion.is_announced);
    if is_news && !view.is_known() {
        kind.is_deleted = true;
        append_rows(windows, name.as_str(), &view, kind, provenance, settings);
    }
    let mut changed = account.clone();
    for deletion in changed.deletions.iter_mut().filter(|deletion| deletion.at_us < view.end_us) {
        deletion.is_announced = true;
    }
    changed.prune(pane, settings);
    Some((!changed.is_empty()).then_some(changed))
}
