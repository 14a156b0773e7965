//! How far an account is in its success plan. A function of its start, segment, milestones and first uses.

use keepwell_pipeline::config::{ReachedBy, SuccessPlan};

use super::View;

/// The plan of an account as of a view. Times are UTC microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'s> {
    /// The plan.
    pub plan: &'s SuccessPlan,
    /// Items whose time has come.
    pub due: i64,
    /// Items that are done.
    pub done: i64,
    /// Items whose time has come and that are not done.
    pub overdue: i64,
    /// The item that is due next, or has been for the longest, and when. None: all are done.
    pub next: Option<(i64, &'s str)>,
    /// When the first value was there, if the plan says what it is.
    pub first_value_us: Option<i64>,
    /// When the first value should be there.
    pub first_value_due_us: Option<i64>,
}

impl View<'_> {
    /// The progress in the first of these plans that is for the account. None: it has not started, or no plan is for it.
    pub fn progress<'s>(&self, plans: &'s [SuccessPlan], started_us: Option<i64>) -> Option<Progress<'s>> {
        let started_us = started_us.filter(|_| !plans.is_empty())?;
        let segment: Option<String> = self.fact("segment").and_then(|text| serde_json::from_str(text).ok());
        let plan = plans.iter().find(|plan| plan.is_for(segment.as_deref()))?;
        let first = plan.first_value.as_ref();
        let mut progress = Progress {
            plan,
            due: 0,
            done: 0,
            overdue: 0,
            next: None,
            first_value_us: first.and_then(|first| self.reached_us(first.reached_by()?)),
            first_value_due_us: first.map(|first| started_us.saturating_add(first.within.as_micros())),
        };
        for item in &plan.items {
            let due_us = started_us.saturating_add(item.due.as_micros());
            let (is_due, is_done) = (due_us <= self.end_us, self.reached_us(item.reached_by()).is_some());
            progress.due += i64::from(is_due);
            progress.done += i64::from(is_done);
            progress.overdue += i64::from(is_due && !is_done);
            if !is_done && progress.next.is_none_or(|(known_us, _)| due_us < known_us) {
                progress.next = Some((due_us, item.name.as_str()));
            }
        }
        Some(progress)
    }

    /// When something was reached, UTC microseconds. None: not by the end of the view.
    fn reached_us(&self, by: ReachedBy<'_>) -> Option<i64> {
        match by {
            ReachedBy::Feature(feature) => self.account.cells.earliest(self, |cell| cell.first_use_us(feature)),
            ReachedBy::Milestone(id) => {
                let events = self.account.histories.milestones.get(id)?.between(self.floor_us, self.end_us);
                let done_us = events.iter().fold(None, |before, event| event.value.done_us.after(before));
                done_us.filter(|done_us| *done_us <= self.end_us)
            }
        }
    }
}
