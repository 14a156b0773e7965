//! The close of panes: it writes one final row per known account, pane by pane and account by account.
//!
//! The rows are divided into slices of a fixed number of rows. So a close of any size is written in transactions of
//! bounded size, and a restart can go on between two slices. Only the log decides where a slice ends.

use std::collections::BTreeMap;
use std::ops::Bound;

use arrow::array::RecordBatch;
use keepwell_core::pane::Pane;
use keepwell_core::schema::{feature_day, revenue, window};
use keepwell_pipeline::stage::StageError;

use crate::account::{Account, View};
use crate::measure::{Provenance, RowKind, RowOf, append_row};
use crate::revenue::{Of, Periods, append_rows};
use crate::settings::Settings;
use crate::state::{Closing, PartitionState};
use keepwell_core::interned::Name;

/// The most accounts in a slice: accounts without a row take time, too.
const SLICE_ACCOUNTS: usize = 20_000;

/// The result of one step of a close.
#[derive(Debug)]
pub struct Slices {
    /// Window rows.
    pub windows: RecordBatch,
    /// Feature days.
    pub feature_days: RecordBatch,
    /// Revenue by period.
    pub revenue: RecordBatch,
    /// Accounts with facts or outcomes that do not fit into their rows, and how many are left out.
    pub left_out: Vec<(Name, i64)>,
    /// Accounts that changed: their deletion is now reported, or they are forgotten (none).
    pub accounts: BTreeMap<Name, Option<Account>>,
    /// The newest pane that is final after this step.
    pub closed: Option<Pane>,
    /// The position of the close, if anything is left to close.
    pub closing: Option<Closing>,
}

/// Goes on with a close for at most `max_slices` slices. The rows get this provenance, each with its own ordinal.
///
/// # Errors
/// [`StageError`] when the rows do not form a batch.
pub fn close(
    state: &PartitionState,
    mut closing: Closing,
    mut provenance: Provenance,
    max_slices: u32,
    settings: &Settings,
) -> Result<Slices, StageError> {
    let mut tables = Tables::new(closing.pane, settings);
    let mut accounts = BTreeMap::new();
    let mut left_out = Vec::new();
    let mut closed = state.closed;
    let mut slices_left = max_slices;
    let (mut slice_rows, mut slice_accounts) = (0, 0);
    while closing.pane <= closing.to && slices_left > 0 {
        let from = closing.after.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = state.accounts.range((from, Bound::Unbounded));
        let mut next = rest.next();
        while let Some((name, account)) = next.filter(|_| slices_left > 0) {
            provenance.ordinal = closing.ordinal;
            let (before, rows_before) = (tables.num_rows(), tables.num_slice_rows());
            let account = accounts.get(name).map_or(Some(account), Option::as_ref);
            let within = closing.within.take();
            let of = Closed { name, pane: closing.pane, within, max_slices: slices_left as usize, provenance };
            let mut ended = None;
            if let Some(account) = account {
                let part = close_account(&mut tables, account, &of, settings);
                (closing.within, ended) = (part.within, part.ended);
                left_out.extend((part.left_out > 0).then(|| (name.clone(), part.left_out)));
                if let Some(changed) = part.changed {
                    accounts.insert(name.clone(), changed);
                }
            }
            closing.ordinal += (tables.num_rows() - before) as i64;
            (slice_rows, slice_accounts) = (slice_rows + tables.num_slice_rows() - rows_before, slice_accounts + 1);
            if let Some(Ended { slices, rows_behind }) = ended {
                (slice_rows, slice_accounts) = (rows_behind, 0);
                closing.slice += slices;
                slices_left = slices_left.saturating_sub(slices);
            }
            if closing.within.is_some() {
                continue;
            }
            closing.after = Some(name.clone());
            next = rest.next();
            if slice_rows >= settings.slice_rows || slice_accounts >= SLICE_ACCOUNTS {
                (slice_rows, slice_accounts) = (0, 0);
                closing.slice += 1;
                slices_left -= 1;
            }
        }
        if next.is_none() {
            closed = Some(closing.pane);
            closing.pane = closing.pane.next();
            closing.after = None;
            tables.periods = Periods::at(closing.pane, settings);
        }
    }
    let is_done = closing.pane > closing.to;
    Ok(Slices {
        windows: tables.windows.finish()?,
        feature_days: tables.feature_days.finish()?,
        revenue: tables.revenue.finish()?,
        left_out,
        accounts,
        closed,
        closing: (!is_done).then_some(closing),
    })
}

/// The rows of a step, and the calendar periods of its pane.
struct Tables {
    windows: window::Writer,
    feature_days: feature_day::Writer,
    revenue: revenue::Writer,
    periods: Periods,
}

impl Tables {
    fn new(pane: Pane, settings: &Settings) -> Self {
        Self {
            windows: window::Writer::new(&settings.layout),
            feature_days: feature_day::Writer::default(),
            revenue: revenue::Writer::default(),
            periods: Periods::at(pane, settings),
        }
    }

    /// Number of rows by which slices end. Those of revenue are not in it: a close that an older program began must go on
    /// at the same slices.
    fn num_slice_rows(&self) -> usize {
        self.windows.num_rows() + self.feature_days.num_rows()
    }

    fn num_rows(&self) -> usize {
        self.num_slice_rows() + self.revenue.num_rows()
    }
}

/// The account and the pane that are closed.
struct Closed<'n> {
    name: &'n Name,
    pane: Pane,
    /// The last feature that an earlier slice completed.
    within: Option<Name>,
    /// Number of slices that may end within this account.
    max_slices: usize,
    provenance: Provenance,
}

/// Number of slices that ended within an account, and number of its rows in the slice that goes on.
struct Ended {
    slices: u32,
    rows_behind: usize,
}

/// The result of one part of an account's close.
#[derive(Default)]
struct Part {
    /// The new state of the account, if it changed. The inner none means that the account is forgotten.
    changed: Option<Option<Account>>,
    /// The last completed feature, if more features are left.
    within: Option<Name>,
    /// Slices that ended within the account.
    ended: Option<Ended>,
    /// Number of facts and outcomes that do not fit into the rows.
    left_out: i64,
}

/// Writes the rows of one account for one pane. Of an account with many features, it writes as many as the slices have
/// room for.
fn close_account(tables: &mut Tables, account: &Account, of: &Closed<'_>, settings: &Settings) -> Part {
    let Closed { name, pane, within, provenance, .. } = of;
    let (mut provenance, mut left_out) = (*provenance, 0);
    let view = account.view(*pane, settings);
    let mut kind = RowKind { is_final: true, is_retired: false, is_deleted: false };
    if let Some(is_retired) = view.retired(settings).filter(|_| within.is_none()) {
        kind.is_retired = is_retired;
        let of = RowOf { account_id: name.as_str(), kind, provenance };
        left_out = append_row(&mut tables.windows, &view, of, settings);
        provenance.ordinal += 1;
    }
    if within.is_none() {
        let of = Of { account_id: name.as_str(), view: &view, provenance };
        provenance.ordinal += append_rows(&mut tables.revenue, of, &tables.periods, settings);
    }
    let (within, ended) = match *pane >= view.first {
        true => append_features(&mut tables.feature_days, &view, of, provenance.ordinal, settings),
        false => (None, None),
    };
    if within.is_some() || account.histories.deletions.is_empty() {
        return Part { within, ended, left_out, ..Part::default() };
    }
    let is_news =
        account.histories.deletions.iter().any(|deletion| deletion.at_us < view.end_us && !deletion.is_announced);
    if is_news && !view.is_known() {
        kind.is_deleted = true;
        append_row(&mut tables.windows, &view, RowOf { account_id: name.as_str(), kind, provenance }, settings);
    }
    let mut changed = account.clone();
    changed.histories.change(|all| {
        for deletion in all.deletions.iter_mut().filter(|deletion| deletion.at_us < view.end_us) {
            deletion.is_announced = true;
        }
    });
    changed.prune(*pane, settings);
    Part { changed: Some((!changed.is_empty()).then_some(changed)), within: None, ended, left_out }
}

/// Writes the feature days with names greater than the last completed feature. A slice ends when more features are left
/// than it has rows. Returns the last written feature, if more are left than all slices can take.
fn append_features(
    feature_days: &mut feature_day::Writer,
    view: &View<'_>,
    of: &Closed<'_>,
    first_ordinal: i64,
    settings: &Settings,
) -> (Option<Name>, Option<Ended>) {
    let most = settings.slice_rows.max(1) * of.max_slices;
    let left = view.account.adoption.by_feature(of.pane, of.within.as_ref().map(Name::as_str), most);
    for ((feature, usage, num_users), ordinal) in left.iter().take(most).zip(first_ordinal..) {
        feature_days.append(feature_day::Row {
            account_id: of.name.as_str(),
            as_of: view.end_us,
            feature,
            events: usage.events,
            uses: usage.uses,
            users: *num_users as i64,
            duration_ms: usage.known_duration_ms(),
            errors: usage.known_errors(),
            epoch: settings.epoch as i32,
            partition: of.provenance.partition,
            next_offset: of.provenance.next_offset,
            ordinal,
        });
    }
    let last = left.get(most.saturating_sub(1)).filter(|_| left.len() > most).map(|(last, ..)| Name::from(*last));
    let slices = match last {
        Some(_) => of.max_slices,
        None => left.len().saturating_sub(1) / settings.slice_rows.max(1),
    };
    let rows_behind = left.len().min(most) - slices * settings.slice_rows.max(1);
    (last, (slices > 0).then_some(Ended { slices: slices as u32, rows_behind }))
}
