//! The writer of the `windows` table.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::error::ArrowError;

use super::super::Sparse;
use super::{
    activity, answers, backlog, facts, headcount, key, left_out, milestones, other_facts, outcomes, people, provenance,
    schema, surveys, tickets, usage,
};

/// The measures of one window. None: the account has nothing of the group.
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
    /// Facts with a column of their own.
    pub facts: Option<facts::Row<'r>>,
    /// Facts without a column of their own. They are only on the row of the first window.
    pub other_facts: Option<other_facts::Row<'r>>,
    /// Milestones.
    pub milestones: Option<milestones::Row<'r>>,
    /// Outcomes of alerts. They are only on the row of the first window.
    pub outcomes: Option<outcomes::Row<'r>>,
    /// What did not fit.
    pub left_out: Option<left_out::Row<'r>>,
}

/// One row of an account: the row of one window.
#[derive(Debug)]
pub struct WindowRow<'r> {
    /// What identifies the row.
    pub key: key::Row<'r>,
    /// Measures of the window.
    pub now: MeasuresRow<'r>,
    /// Measures of the window before it.
    pub previous: MeasuresRow<'r>,
    /// What the row was made from.
    pub provenance: provenance::Row<'r>,
}

#[derive(Debug, Default)]
struct Measures {
    usage: Sparse<usage::Rows>,
    people: Sparse<people::Rows>,
    tickets: Sparse<tickets::Rows>,
    surveys: Sparse<surveys::Rows>,
}

impl Measures {
    fn append(&mut self, row: MeasuresRow<'_>) {
        self.usage.append(row.usage);
        self.people.append(row.people);
        self.tickets.append(row.tickets);
        self.surveys.append(row.surveys);
    }

    fn columns(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        let groups =
            [self.usage.columns(1)?, self.people.columns(1)?, self.tickets.columns(1)?, self.surveys.columns(1)?];
        Ok(groups.into_iter().flatten().collect())
    }
}

/// Collects rows: for each account one of each window. The state at the end of the windows is collected once an account.
#[derive(Debug)]
pub struct Writer {
    /// Number of windows, which is the number of rows of an account.
    num_windows: usize,
    key: key::Writer,
    now: Measures,
    previous: Measures,
    backlog: Sparse<backlog::Rows>,
    answers: Sparse<answers::Rows>,
    headcount: Sparse<headcount::Rows>,
    activity: Sparse<activity::Rows>,
    facts: Sparse<facts::Rows>,
    other_facts: Sparse<other_facts::Rows>,
    milestones: Sparse<milestones::Rows>,
    outcomes: Sparse<outcomes::Rows>,
    left_out: Sparse<left_out::Rows>,
    provenance: provenance::Writer,
}

impl Writer {
    /// A writer for so many windows.
    pub fn new(num_windows: usize) -> Self {
        Self {
            num_windows,
            key: key::Writer::default(),
            now: Measures::default(),
            previous: Measures::default(),
            backlog: Sparse::default(),
            answers: Sparse::default(),
            headcount: Sparse::default(),
            activity: Sparse::default(),
            facts: Sparse::default(),
            other_facts: Sparse::default(),
            milestones: Sparse::default(),
            outcomes: Sparse::default(),
            left_out: Sparse::default(),
            provenance: provenance::Writer::default(),
        }
    }

    /// Adds the row of one window. Call it once for each window of an account, and [`Writer::end_account`] after them.
    pub fn append(&mut self, row: WindowRow<'_>) {
        self.key.append(row.key);
        self.now.append(row.now);
        self.previous.append(row.previous);
        self.provenance.append(row.provenance);
    }

    /// Adds the state at the end of the windows to the rows of the account.
    pub fn end_account(&mut self, row: AsOfRow<'_>) {
        self.backlog.append(row.backlog);
        self.answers.append(row.answers);
        self.headcount.append(row.headcount);
        self.activity.append(row.activity);
        self.facts.append(row.facts);
        self.milestones.append(row.milestones);
        self.left_out.append(row.left_out);
        self.other_facts.append(row.other_facts);
        self.outcomes.append(row.outcomes);
        for _ in 1..self.num_windows {
            self.other_facts.append(None);
            self.outcomes.append(None);
        }
    }

    /// Number of rows since the last [`Writer::finish`].
    pub fn num_rows(&self) -> usize {
        self.key.num_rows()
    }

    /// Returns the batch and empties the writer.
    ///
    /// # Errors
    /// [`ArrowError`] when an account has not as many rows as there are windows.
    pub fn finish(&mut self) -> Result<RecordBatch, ArrowError> {
        let each = self.num_windows;
        let columns = [
            self.key.columns()?,
            self.now.columns()?,
            self.previous.columns()?,
            self.backlog.columns(each)?,
            self.answers.columns(each)?,
            self.headcount.columns(each)?,
            self.activity.columns(each)?,
            self.facts.columns(each)?,
            self.other_facts.columns(1)?,
            self.milestones.columns(each)?,
            self.outcomes.columns(1)?,
            self.left_out.columns(each)?,
            self.provenance.columns()?,
        ];
        RecordBatch::try_new(schema(), columns.into_iter().flatten().collect())
    }
}
