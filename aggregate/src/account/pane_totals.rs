//! Cells: the integer sums and the times of an account for each pane.

use keepwell_core::pane::Pane;
use serde::{Deserialize, Serialize};

use super::View;
use super::answers::Surveys;
use keepwell_core::interned::Name;

/// The totals of one account in one pane. All times are UTC microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Time of the last event of any kind.
    pub last_activity_us: i64,
    /// Time of the last event that keeps its exact time (ticket, fact, milestone, person). Such an event can survive a
    /// deletion within the pane.
    pub last_exact_us: Option<i64>,
    /// Time of the last usage event.
    pub last_use_us: Option<i64>,
    /// Time of the first use of the first-value feature.
    pub first_value_us: Option<i64>,
    /// Sums of usage.
    pub usage: Usage,
    /// Survey answers.
    pub surveys: Surveys,
}

/// Sums over usage events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Number of usage events.
    pub events: i64,
    /// Number of uses. One event can report several.
    pub uses: i64,
    /// Total duration in milliseconds, over the events that have a duration.
    pub duration_ms: i64,
    /// Number of events that have a duration.
    pub num_durations: i64,
    /// Total errors, over the events that report errors.
    pub errors: i64,
    /// Number of uses in the events that report errors.
    pub error_uses: i64,
    /// Number of events that report errors.
    pub num_errors: i64,
}

/// The numbers of one usage event.
#[derive(Debug, Clone, Copy)]
pub struct Uses {
    /// Number of uses that the event reports.
    pub count: i64,
    /// Duration in milliseconds, if known.
    pub duration_ms: Option<i64>,
    /// Number of failed uses, if known.
    pub errors: Option<i64>,
}

impl Usage {
    /// Adds one event.
    pub fn add(&mut self, uses: Uses) {
        let Uses { count, duration_ms, errors } = uses;
        self.events += 1;
        self.uses += count;
        self.duration_ms += duration_ms.unwrap_or_default();
        self.num_durations += i64::from(duration_ms.is_some());
        self.errors += errors.unwrap_or_default();
        self.error_uses += if errors.is_some() { count } else { 0 };
        self.num_errors += i64::from(errors.is_some());
    }

    /// The sum of both.
    pub fn plus(self, other: Self) -> Self {
        Self {
            events: self.events + other.events,
            uses: self.uses + other.uses,
            duration_ms: self.duration_ms + other.duration_ms,
            num_durations: self.num_durations + other.num_durations,
            errors: self.errors + other.errors,
            error_uses: self.error_uses + other.error_uses,
            num_errors: self.num_errors + other.num_errors,
        }
    }

    /// Total duration in milliseconds. None if no event has a duration.
    pub fn known_duration_ms(&self) -> Option<i64> {
        (self.num_durations > 0).then_some(self.duration_ms)
    }

    /// Total errors. None if no event reports errors.
    pub fn known_errors(&self) -> Option<i64> {
        (self.num_errors > 0).then_some(self.errors)
    }
}

impl Cell {
    /// Adds one usage event at `at_us`.
    pub fn use_feature(&mut self, at_us: i64, uses: Uses) {
        self.last_use_us = self.last_use_us.max(Some(at_us));
        self.usage.add(uses);
    }
}

/// The cells of an account, oldest first, and a summary of the panes that no window looks at any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cells {
    cells: Vec<(Pane, Cell)>,
    /// The first pane and the times of all forgotten panes.
    settled: Option<Box<(Pane, Cell)>>,
}

impl Cells {
    /// Records an event at `at_us` and returns the cell of its pane.
    pub fn touch(&mut self, pane: Pane, at_us: i64, is_exact: bool) -> &mut Cell {
        let at = match self.cells.binary_search_by_key(&pane, |(known, _)| *known) {
            Ok(at) => at,
            Err(at) => {
                // Grow by one entry, or an eighth: most accounts have few panes, and doubling would take more memory than
                // the entries themselves.
                if self.cells.len() == self.cells.capacity() {
                    self.cells.reserve_exact(1 + self.cells.len() / 8);
                }
                self.cells.insert(at, (pane, Cell { last_activity_us: at_us, ..Cell::default() }));
                at
            }
        };
        let (_, cell) = &mut self.cells[at];
        cell.last_activity_us = cell.last_activity_us.max(at_us);
        if is_exact {
            cell.last_exact_us = cell.last_exact_us.max(Some(at_us));
        }
        cell
    }

    /// Cells that contain only the summary of forgotten panes.
    pub(super) fn of_settled(settled: Option<(Pane, Cell)>) -> Self {
        Self { cells: Vec::new(), settled: settled.map(Box::new) }
    }

    /// The summary of forgotten panes.
    pub(super) fn settled(&self) -> Option<&(Pane, Cell)> {
        self.settled.as_deref()
    }

    /// The panes that have a cell, oldest first.
    pub(super) fn panes(&self) -> impl Iterator<Item = Pane> {
        self.cells.iter().map(|(pane, _)| *pane)
    }

    /// Replaces the name of a person in all survey answers.
    pub(super) fn rename(&mut self, person: &str, name: &Name) {
        self.cells.iter_mut().for_each(|(_, cell)| cell.surveys.rename(person, name));
    }

    /// The cell of a pane.
    pub(super) fn at(&self, pane: Pane) -> Option<&Cell> {
        let at = self.cells.binary_search_by_key(&pane, |(known, _)| *known).ok()?;
        self.cells.get(at).map(|(_, cell)| cell)
    }

    /// Appends the cell of a pane that is newer than all others.
    pub(super) fn put(&mut self, pane: Pane, cell: Cell) {
        self.cells.push((pane, cell));
    }

    /// The newest pane with an event.
    pub fn newest(&self) -> Option<Pane> {
        self.cells.last().or(self.settled.as_deref()).map(|(pane, _)| *pane)
    }

    /// The oldest pane with an event, forgotten panes included.
    pub fn oldest(&self) -> Option<Pane> {
        self.settled.as_deref().or(self.cells.first()).map(|(pane, _)| *pane)
    }

    /// Whether there is no cell.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.settled.is_none()
    }

    /// The cells of `[from, to)`, oldest first.
    pub fn between(&self, from: Pane, to: Pane) -> impl Iterator<Item = &(Pane, Cell)> {
        let first = self.cells.partition_point(|(pane, _)| *pane < from);
        self.cells.get(first..).unwrap_or_default().iter().take_while(move |(pane, _)| *pane < to)
    }

    /// All cells that a view shows, oldest first. The summary of forgotten panes comes first.
    fn of<'c>(&'c self, view: &View<'_>) -> impl DoubleEndedIterator<Item = &'c (Pane, Cell)> + use<'c> {
        let (first, last) = (view.first, view.last);
        self.settled.iter().map(Box::as_ref).chain(&self.cells).filter(move |(pane, _)| *pane >= first && *pane <= last)
    }

    /// The pane of a deletion and its last activity, if an event survives there. Only events with exact times can
    /// survive within that pane.
    fn survivor(&self, view: &View<'_>) -> Option<(Pane, i64)> {
        let pane = Pane(view.first.0.checked_sub(1)?);
        let at = self.cells.binary_search_by_key(&pane, |(known, _)| *known).ok()?;
        let last_us = self.cells.get(at)?.1.last_exact_us.filter(|last_us| *last_us > view.floor_us)?;
        (pane <= view.last).then_some((pane, last_us))
    }

    pub(super) fn first_pane(&self, view: &View<'_>) -> Option<Pane> {
        self.survivor(view).map(|(pane, _)| pane).or_else(|| self.of(view).next().map(|(pane, _)| *pane))
    }

    pub(super) fn last_activity_us(&self, view: &View<'_>) -> Option<i64> {
        let survivor = self.survivor(view).map(|(_, last_us)| last_us);
        self.of(view).next_back().map(|(_, cell)| cell.last_activity_us).max(survivor)
    }

    /// The latest value of `time_us` over the cells that a view shows.
    pub fn latest(&self, view: &View<'_>, time_us: impl Fn(&Cell) -> Option<i64>) -> Option<i64> {
        self.of(view).filter_map(|(_, cell)| time_us(cell)).max()
    }

    /// The earliest value of `time_us` over the cells that a view shows.
    pub fn earliest(&self, view: &View<'_>, time_us: impl Fn(&Cell) -> Option<i64>) -> Option<i64> {
        self.of(view).filter_map(|(_, cell)| time_us(cell)).min()
    }

    /// Reduces the cells before `horizon` to the first pane and the times.
    pub(super) fn settle(&mut self, horizon: Pane) {
        let num_old = self.cells.partition_point(|(pane, _)| *pane < horizon);
        for (pane, cell) in self.cells.drain(..num_old) {
            let (first, times) = &mut **self.settled.get_or_insert_with(|| Box::new((pane, Cell::default())));
            *first = (*first).min(pane);
            times.last_activity_us = times.last_activity_us.max(cell.last_activity_us);
            times.last_use_us = times.last_use_us.max(cell.last_use_us);
            times.first_value_us = [times.first_value_us, cell.first_value_us].into_iter().flatten().min();
            times.surveys.merge_times(&cell.surveys);
        }
    }

    /// Erases all panes up to `pane`. In `pane` itself, events with exact times after `deleted_us` stay.
    pub(super) fn erase(&mut self, pane: Pane, deleted_us: i64) {
        self.settled = None;
        self.cells.retain_mut(|(known, cell)| {
            let survivor = cell.last_exact_us.filter(|last_us| *known == pane && *last_us > deleted_us);
            if let Some(last_us) = survivor {
                *cell = Cell { last_activity_us: last_us, last_exact_us: Some(last_us), ..Cell::default() };
            }
            *known > pane || survivor.is_some()
        });
    }
}
