//! Cells: what is kept of an account per pane, integers only.

use keepwell_core::pane::Pane;
use serde::{Deserialize, Serialize};

use super::View;
use super::answers::Surveys;
use keepwell_core::interned::Name;

/// One pane of one account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Last event of any kind.
    pub last_activity_us: i64,
    /// Last event whose exact time is kept (tickets, facts, milestones, people): it can survive a deletion within the pane.
    pub last_exact_us: Option<i64>,
    /// Last usage.
    pub last_use_us: Option<i64>,
    /// First use of the first-value feature.
    pub first_value_us: Option<i64>,
    /// Usage.
    pub usage: Usage,
    /// Survey answers.
    pub surveys: Surveys,
}

/// Sums over usage events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Events.
    pub events: i64,
    /// Uses.
    pub uses: i64,
    /// Milliseconds, over the events that tell.
    pub duration_ms: i64,
    /// Events that tell a duration.
    pub num_durations: i64,
    /// Errors, over the events that tell.
    pub errors: i64,
    /// Uses of the events that tell errors.
    pub error_uses: i64,
    /// Events that tell errors.
    pub num_errors: i64,
}

/// What one event of usage says.
#[derive(Debug, Clone, Copy)]
pub struct Uses {
    /// Uses it stands for.
    pub count: i64,
    /// Duration, if known.
    pub duration_ms: Option<i64>,
    /// Failed uses, if known.
    pub errors: Option<i64>,
}

impl Usage {
    /// One event.
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

    /// Total duration; none where no event tells.
    pub fn known_duration_ms(&self) -> Option<i64> {
        (self.num_durations > 0).then_some(self.duration_ms)
    }

    /// Total errors; none where no event tells.
    pub fn known_errors(&self) -> Option<i64> {
        (self.num_errors > 0).then_some(self.errors)
    }
}

impl Cell {
    /// One usage event.
    pub fn use_feature(&mut self, at_us: i64, uses: Uses) {
        self.last_use_us = self.last_use_us.max(Some(at_us));
        self.usage.add(uses);
    }
}

/// The cells of an account, oldest first, and what remains of those no window looks at any more.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cells {
    cells: Vec<(Pane, Cell)>,
    /// The first pane and the times of all panes that are forgotten.
    settled: Option<Box<(Pane, Cell)>>,
}

impl Cells {
    /// Notes an event and gives its cell.
    pub fn touch(&mut self, pane: Pane, at_us: i64, is_exact: bool) -> &mut Cell {
        let at = match self.cells.binary_search_by_key(&pane, |(known, _)| *known) {
            Ok(at) => at,
            Err(at) => {
                // One more at a time: most accounts have few, and to double would take more than what they hold.
                self.cells.reserve_exact(1);
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

    /// Cells of which nothing is known but what remains of forgotten panes.
    pub(super) fn of_settled(settled: Option<(Pane, Cell)>) -> Self {
        Self { cells: Vec::new(), settled: settled.map(Box::new) }
    }

    /// What remains of forgotten panes.
    pub(super) fn settled(&self) -> Option<&(Pane, Cell)> {
        self.settled.as_deref()
    }

    /// The panes that have a cell, oldest first.
    pub(super) fn panes(&self) -> impl Iterator<Item = Pane> {
        self.cells.iter().map(|(pane, _)| *pane)
    }

    /// Puts another name in the place of a person's.
    pub(super) fn rename(&mut self, person: &str, name: &Name) {
        self.cells.iter_mut().for_each(|(_, cell)| cell.surveys.rename(person, name));
    }

    /// The cell of a pane.
    pub(super) fn at(&self, pane: Pane) -> Option<&Cell> {
        let at = self.cells.binary_search_by_key(&pane, |(known, _)| *known).ok()?;
        self.cells.get(at).map(|(_, cell)| cell)
    }

    /// Puts a cell behind all others.
    pub(super) fn put(&mut self, pane: Pane, cell: Cell) {
        self.cells.push((pane, cell));
    }

    /// The newest pane.
    pub fn newest(&self) -> Option<Pane> {
        self.cells.last().or(self.settled.as_deref()).map(|(pane, _)| *pane)
    }

    /// The oldest pane.
    pub fn oldest(&self) -> Option<Pane> {
        self.settled.as_deref().or(self.cells.first()).map(|(pane, _)| *pane)
    }

    /// Whether there is no cell.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.settled.is_none()
    }

    /// The cells of `[from, to)`, oldest first.
    pub fn between(&self, from: Pane, to: Pane) -> impl Iterator<Item = &Cell> {
        let first = self.cells.partition_point(|(pane, _)| *pane < from);
        self.cells.get(first..).unwrap_or_default().iter().take_while(move |(pane, _)| *pane < to).map(|(_, cell)| cell)
    }

    /// All cells a view shows, oldest first, the settled one before them.
    fn of<'c>(&'c self, view: &View<'_>) -> impl DoubleEndedIterator<Item = &'c (Pane, Cell)> + use<'c> {
        let (first, last) = (view.first, view.last);
        self.settled.iter().map(Box::as_ref).chain(&self.cells).filter(move |(pane, _)| *pane >= first && *pane <= last)
    }

    /// Within the pane of a deletion only events with exact times can survive.
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

    /// The latest of a time over the cells a view shows.
    pub fn latest(&self, view: &View<'_>, time_us: impl Fn(&Cell) -> Option<i64>) -> Option<i64> {
        self.of(view).filter_map(|(_, cell)| time_us(cell)).max()
    }

    /// The earliest of a time over the cells a view shows.
    pub fn earliest(&self, view: &View<'_>, time_us: impl Fn(&Cell) -> Option<i64>) -> Option<i64> {
        self.of(view).filter_map(|(_, cell)| time_us(cell)).min()
    }

    /// Keeps of the cells before `horizon` only the first pane and the times.
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

    /// Erases all panes up to `pane`; of `pane` itself what happened after `deleted_us` and is kept with exact times stays.
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
