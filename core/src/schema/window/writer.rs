//! The writer of the `windows` table.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::error::ArrowError;

use super::super::Sparse;
use super::{
    Kept, Layout, activity, answers, backlog, customer, facts, feature_group, first_days, headcount, key, left_out,
    milestones, other_facts, outcomes, people, provenance, success_plan, surveys, tickets, usage,
};

/// The measures of one window. None: the account has nothing of the set, or the row keeps nothing of it.
#[derive(Debug, Default)]
pub struct MeasuresRow<'r> {
    /// Usage.
    pub usage: Option<usage::Row<'r>>,
    /// Changes among people.
    pub people: Option<people::Row<'r>>,
    /// Tickets.
    pub tickets: Option<tickets::Row<'r>>,
    /// Survey answers.
    pub surveys: Option<surveys::Row<'r>>,
    /// Each feature group. Missing ones are as none.
    pub groups: Vec<Option<feature_group::Row<'r>>>,
}

/// The state of an account at the end of its windows. None: the account has nothing of the group.
#[derive(Debug, Default)]
pub struct AsOfRow<'r> {
    /// Open tickets.
    pub backlog: Option<backlog::Row<'r>>,
    /// Times of survey answers.
    pub answers: Option<answers::Row<'r>>,
    /// People.
    pub headcount: Option<headcount::Row<'r>>,
    /// Times of activity.
    pub activity: Option<activity::Row<'r>>,
    /// The account as a customer, by its contracts.
    pub customer: Option<customer::Row<'r>>,
    /// Facts with a column of their own.
    pub facts: Option<facts::Row<'r>>,
    /// Facts without a column of their own.
    pub other_facts: Option<other_facts::Row<'r>>,
    /// Milestones.
    pub milestones: Option<milestones::Row<'r>>,
    /// The success plan.
    pub success_plan: Option<success_plan::Row<'r>>,
    /// The first days of a customer.
    pub first_days: Option<first_days::Row<'r>>,
    /// Outcomes of alerts.
    pub outcomes: Option<outcomes::Row<'r>>,
    /// What did not fit.
    pub left_out: Option<left_out::Row<'r>>,
}

/// What identifies a row of an account, its measures, and what it was made from.
#[derive(Debug)]
pub struct WindowRow<'r> {
    /// What identifies the row.
    pub key: key::Row<'r>,
    /// The measures of each part of the layout.
    pub measures: Vec<MeasuresRow<'r>>,
    /// What the row was made from.
    pub provenance: provenance::Row<'r>,
}

#[derive(Debug, Default)]
struct Measures {
    usage: Sparse<usage::Rows>,
    people: Sparse<people::Rows>,
    tickets: Sparse<tickets::Rows>,
    surveys: Sparse<surveys::Rows>,
    groups: Vec<Sparse<feature_group::Rows>>,
}

impl Measures {
    fn of(kept: &Kept) -> Self {
        Self { groups: kept.groups.iter().map(|_| Sparse::default()).collect(), ..Self::default() }
    }

    fn append(&mut self, row: MeasuresRow<'_>) {
        self.usage.append(row.usage);
        self.people.append(row.people);
        self.tickets.append(row.tickets);
        self.surveys.append(row.surveys);
        let groups = row.groups.into_iter().chain(std::iter::repeat_with(|| None));
        self.groups.iter_mut().zip(groups).for_each(|(group, row)| group.append(row));
    }

    /// The kept columns.
    fn columns(&mut self, kept: &Kept) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut columns = self.usage.kept(&kept.usage)?;
        columns.append(&mut self.people.kept(&kept.people)?);
        columns.append(&mut self.tickets.kept(&kept.tickets)?);
        columns.append(&mut self.surveys.kept(&kept.surveys)?);
        for (group, kept) in self.groups.iter_mut().zip(&kept.groups) {
            columns.append(&mut group.kept(kept)?);
        }
        Ok(columns)
    }
}

/// Collects rows: one for each account.
#[derive(Debug)]
pub struct Writer {
    layout: Arc<Layout>,
    key: key::Writer,
    /// One for each part of the layout.
    measures: Vec<Measures>,
    backlog: Sparse<backlog::Rows>,
    answers: Sparse<answers::Rows>,
    headcount: Sparse<headcount::Rows>,
    activity: Sparse<activity::Rows>,
    customer: Sparse<customer::Rows>,
    facts: Sparse<facts::Rows>,
    other_facts: Sparse<other_facts::Rows>,
    milestones: Sparse<milestones::Rows>,
    success_plan: Sparse<success_plan::Rows>,
    first_days: Sparse<first_days::Rows>,
    outcomes: Sparse<outcomes::Rows>,
    left_out: Sparse<left_out::Rows>,
    provenance: provenance::Writer,
}

impl Writer {
    /// A writer for rows of this layout.
    pub fn new(layout: &Arc<Layout>) -> Self {
        Self {
            layout: Arc::clone(layout),
            key: key::Writer::default(),
            measures: layout.parts().iter().map(|part| Measures::of(&part.kept)).collect(),
            backlog: Sparse::default(),
            answers: Sparse::default(),
            headcount: Sparse::default(),
            activity: Sparse::default(),
            customer: Sparse::default(),
            facts: Sparse::default(),
            other_facts: Sparse::default(),
            milestones: Sparse::default(),
            success_plan: Sparse::default(),
            first_days: Sparse::default(),
            outcomes: Sparse::default(),
            left_out: Sparse::default(),
            provenance: provenance::Writer::default(),
        }
    }

    /// Adds a row. Call [`Writer::end_account`] after it.
    pub fn append(&mut self, row: WindowRow<'_>) {
        self.key.append(row.key);
        for (part, measures) in self.measures.iter_mut().zip(row.measures) {
            part.append(measures);
        }
        self.provenance.append(row.provenance);
    }

    /// Adds the state at the end of the windows to the row.
    pub fn end_account(&mut self, row: AsOfRow<'_>) {
        self.backlog.append(row.backlog);
        self.answers.append(row.answers);
        self.headcount.append(row.headcount);
        self.activity.append(row.activity);
        self.customer.append(row.customer);
        self.facts.append(row.facts);
        self.other_facts.append(row.other_facts);
        self.milestones.append(row.milestones);
        self.success_plan.append(row.success_plan);
        self.first_days.append(row.first_days);
        self.outcomes.append(row.outcomes);
        self.left_out.append(row.left_out);
    }

    /// Number of rows since the last [`Writer::finish`].
    pub fn num_rows(&self) -> usize {
        self.key.num_rows()
    }

    /// Returns the batch and empties the writer.
    ///
    /// # Errors
    /// [`ArrowError`] when a row does not have the measures of every part of the layout.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let mut columns = self.key.columns()?;
        for (measures, part) in self.measures.iter_mut().zip(self.layout.parts()) {
            columns.append(&mut measures.columns(&part.kept)?);
        }
        let as_of = [
            self.backlog.columns()?,
            self.answers.columns()?,
            self.headcount.columns()?,
            self.activity.columns()?,
            self.customer.columns()?,
            self.facts.columns()?,
            self.other_facts.columns()?,
            self.milestones.columns()?,
            self.success_plan.columns()?,
            self.first_days.columns()?,
            self.outcomes.columns()?,
            self.left_out.columns()?,
            self.provenance.columns()?,
        ];
        columns.extend(as_of.into_iter().flatten());
        RecordBatch::try_new(self.layout.schema(), columns)
    }
}
