//! Cells: the integer sums and the times of an account for each pane.

use std::collections::VecDeque;

use keepwell_core::pane::Pane;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::View;
use super::answers::{Answer, HighAnswers, Surveys};
use keepwell_core::event::Survey;
use keepwell_core::interned::{Name, Names};

/// The totals of one account in one pane. All times are UTC microseconds.
///
/// A pane with usage alone takes 64 bytes in memory, with the pane's number. What few panes have is behind a pointer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cell {
    /// Time of the last event of any kind.
    pub last_activity_us: i64,
    /// Time of the last usage event.
    pub last_use_us: Option<i64>,
    /// Sums of usage.
    pub usage: Tally,
    rare: Option<Box<Rare>>,
}

/// What few panes have. It is there only if something in it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Rare {
    /// Time of the last event that keeps its exact time (ticket, fact, milestone, person). Such an event can survive a
    /// deletion within the pane.
    last_exact_us: Option<i64>,
    /// Time of the first use of the first-value feature.
    first_value_us: Option<i64>,
    /// Survey answers.
    surveys: Surveys,
    /// Time of the first use of each feature that a success plan names, ordered by feature.
    first_uses: Vec<(Name, i64)>,
}

/// What cells have since version 9 of the state: high answers without a person by kind, first uses by feature. A snapshot
/// stores it beside the cell.
pub type SinceVersion9 = (HighAnswers, Vec<(Name, i64)>);

/// Answers of a pane without any.
static NO_SURVEYS: Surveys = Surveys::NONE;

/// A cell as a snapshot stores it: times of the last activity, of the last exact event, of the last use, of the first
/// value; sums of usage; survey answers.
type Stored<S> = (i64, Option<i64>, Option<i64>, Option<i64>, Usage, S);

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let stored: Stored<&Surveys> = (
            self.last_activity_us,
            self.last_exact_us(),
            self.last_use_us,
            self.first_value_us(),
            self.usage.sums(),
            self.surveys(),
        );
        stored.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = Stored::<Surveys>::deserialize(deserializer)?;
        let (last_activity_us, last_exact_us, last_use_us, first_value_us, sums, surveys) = stored;
        let rare = Rare { last_exact_us, first_value_us, surveys, first_uses: Vec::new() };
        let rare = (rare != Rare::default()).then(|| Box::new(rare));
        Ok(Self { last_activity_us, last_use_us, usage: Tally::of(sums), rare })
    }
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

/// [`Usage`] as the state keeps it: durations and errors take memory only where events report them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    events: i64,
    uses: i64,
    /// The sums of the events that report a duration or errors, whole.
    reported: Option<Box<Usage>>,
}

impl Tally {
    /// These sums.
    pub(super) fn of(sums: Usage) -> Self {
        let Usage { events, uses, num_durations, num_errors, .. } = sums;
        let is_reported = num_durations > 0 || num_errors > 0;
        Self { events, uses, reported: is_reported.then(|| Box::new(sums)) }
    }

    /// Adds one event.
    pub fn add(&mut self, uses: Uses) {
        let mut sums = self.sums();
        sums.add(uses);
        match &mut self.reported {
            Some(reported) => **reported = sums,
            None => *self = Self::of(sums),
        }
        (self.events, self.uses) = (sums.events, sums.uses);
    }

    /// The sums.
    pub fn sums(&self) -> Usage {
        let Self { events, uses, .. } = *self;
        self.reported.as_deref().copied().unwrap_or(Usage { events, uses, ..Usage::default() })
    }
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

    /// Records a use of the first-value feature at `at_us`.
    pub fn first_value_at(&mut self, at_us: i64) {
        let first_us = &mut self.rare().first_value_us;
        *first_us = Some(first_us.map_or(at_us, |first| first.min(at_us)));
    }

    /// Records a use at `at_us` of a feature that a success plan names.
    pub fn first_use_at(&mut self, feature: &Name, at_us: i64) {
        let uses = &mut self.rare().first_uses;
        match uses.binary_search_by(|(known, _)| known.cmp(feature)) {
            Ok(at) => uses[at].1 = uses[at].1.min(at_us),
            Err(at) => {
                uses.reserve_exact(1);
                uses.insert(at, (feature.clone(), at_us));
            }
        }
    }

    /// Time of the first use of a feature that a success plan names.
    pub fn first_use_us(&self, feature: &str) -> Option<i64> {
        let uses = &self.rare.as_ref()?.first_uses;
        uses.iter().find(|(known, _)| known.as_str() == feature).map(|(_, first_us)| *first_us)
    }

    pub(super) fn since_version_9(&self) -> SinceVersion9 {
        self.rare.as_ref().map_or_else(SinceVersion9::default, |rare| (rare.surveys.high(), rare.first_uses.clone()))
    }

    pub(super) fn take_since_version_9(&mut self, (high, first_uses): SinceVersion9, names: &mut Names) {
        if high != HighAnswers::default() || !first_uses.is_empty() {
            let rare = self.rare();
            rare.surveys.take_high(high);
            rare.first_uses = first_uses.into_iter().map(|(name, first_us)| (names.shared(&name), first_us)).collect();
        }
    }

    /// Adds an answer, by a person if the person is known and counts.
    pub fn take_answer(&mut self, survey: Survey, person: Option<&str>, answer: Answer) {
        self.rare().surveys.take(survey, person, answer);
    }

    /// Takes over the times of the last answers.
    fn take_times(&mut self, surveys: &Surveys) {
        if *surveys != NO_SURVEYS {
            self.rare().surveys.merge_times(surveys);
        }
    }

    fn exact_at(&mut self, at_us: i64) {
        let last_us = &mut self.rare().last_exact_us;
        *last_us = (*last_us).max(Some(at_us));
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn last_exact_us(&self) -> Option<i64> {
        self.rare.as_ref()?.last_exact_us
    }

    /// Time of the first use of the first-value feature.
    pub fn first_value_us(&self) -> Option<i64> {
        self.rare.as_ref()?.first_value_us
    }

    /// Survey answers.
    pub fn surveys(&self) -> &Surveys {
        self.rare.as_ref().map_or(&NO_SURVEYS, |rare| &rare.surveys)
    }
}

/// The cells of an account, oldest first, and a summary of the panes that no window looks at any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cells {
    /// A queue: each day the oldest leaves, and the others must not move for it.
    cells: VecDeque<(Pane, Cell)>,
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
            cell.exact_at(at_us);
        }
        cell
    }

    /// Cells that contain only the summary of forgotten panes.
    pub(super) fn of_settled(settled: Option<(Pane, Cell)>) -> Self {
        Self { cells: VecDeque::new(), settled: settled.map(Box::new) }
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
        for rare in self.cells.iter_mut().filter_map(|(_, cell)| cell.rare.as_mut()) {
            rare.surveys.rename(person, name);
        }
    }

    /// The cell of a pane.
    pub(super) fn at(&self, pane: Pane) -> Option<&Cell> {
        let at = self.cells.binary_search_by_key(&pane, |(known, _)| *known).ok()?;
        self.cells.get(at).map(|(_, cell)| cell)
    }

    /// Appends the cell of a pane that is newer than all others.
    pub(super) fn put(&mut self, pane: Pane, cell: Cell) {
        self.cells.push_back((pane, cell));
    }

    /// The newest pane with an event.
    pub fn newest(&self) -> Option<Pane> {
        self.cells.back().or(self.settled.as_deref()).map(|(pane, _)| *pane)
    }

    /// The oldest pane with an event, forgotten panes included.
    pub fn oldest(&self) -> Option<Pane> {
        self.settled.as_deref().or(self.cells.front()).map(|(pane, _)| *pane)
    }

    /// Whether there is no cell.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.settled.is_none()
    }

    /// The cells of `[from, to)`, oldest first.
    pub fn between(&self, from: Pane, to: Pane) -> impl Iterator<Item = &(Pane, Cell)> {
        let first = self.cells.partition_point(|(pane, _)| *pane < from);
        let end = self.cells.partition_point(|(pane, _)| *pane < to);
        self.cells.range(first..end.max(first))
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
        let last_us = self.cells.get(at)?.1.last_exact_us().filter(|last_us| *last_us > view.floor_us)?;
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
            if let Some(rare) = cell.rare {
                rare.first_value_us.into_iter().for_each(|first_us| times.first_value_at(first_us));
                rare.first_uses.iter().for_each(|(feature, first_us)| times.first_use_at(feature, *first_us));
                times.take_times(&rare.surveys);
            }
        }
    }

    /// Erases all panes up to `pane`. In `pane` itself, events with exact times after `deleted_us` stay.
    pub(super) fn erase(&mut self, pane: Pane, deleted_us: i64) {
        self.settled = None;
        self.cells.retain_mut(|(known, cell)| {
            let survivor = cell.last_exact_us().filter(|last_us| *known == pane && *last_us > deleted_us);
            if let Some(last_us) = survivor {
                *cell = Cell { last_activity_us: last_us, ..Cell::default() };
                cell.exact_at(last_us);
            }
            *known > pane || survivor.is_some()
        });
    }
}
