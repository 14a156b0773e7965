//! Panes whose input cannot be trusted: what the stages tell each other about panes that have ended.
//!
//! A source that died looks like customers who leave. So each stage adds what it knows, in the log, behind the rows:
//! ingest counts the events of each source by hour, aggregate compares them with the usual number, score counts the
//! accounts that dropped, and publish holds back the alerts of a pane that is suspect.

use serde::{Deserialize, Serialize};

use crate::record::Record;
pub use crate::record::{REPORT_HEADER, WORD_HEADER};

/// Microseconds in an hour.
pub const HOUR_US: i64 = 3_600_000_000;

/// Header of a record of `windows` that contains [`PanesEnded`] as JSON.
pub const PANES_HEADER: &str = "keepwell.panes";

/// Events of a source, by the hour in which they happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCount {
    /// Topic name.
    pub topic: String,
    /// Hours since 1970-01-01 UTC, and how many events more each has.
    pub hours: Vec<(i64, u64)>,
}

/// A pane in which sources have far fewer events than usual.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuspectPane {
    /// End of the pane, UTC microseconds.
    pub as_of_us: i64,
    /// Names of the topics.
    pub sources: Vec<String>,
}

/// Aggregate's word that panes have ended in its partition. It is behind their rows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PanesEnded {
    /// Every pane up to this end has its rows, UTC microseconds.
    pub ended_us: i64,
    /// Those among them that are suspect since the last such record.
    pub suspect: Vec<SuspectPane>,
}

/// How many accounts dropped in a pane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Accounts with a score in this pane and a final row before it.
    pub scored: u64,
    /// Of these, accounts that fell into a lower band.
    pub dropped: u64,
}

/// When a pane is suspect for its drops, and for how long alerts are held. Part of each report, so that the log alone
/// decides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bounds {
    /// A pane in which more than this share of the accounts drops is suspect. None: nobody waits for other partitions.
    pub max_dropping: Option<f64>,
    /// Fewer accounts than this are not judged.
    pub min_accounts: u64,
    /// How long alerts are held after the last suspect pane, microseconds.
    pub settle_us: i64,
}

/// What score tells every partition of `health` about panes that have ended in one partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The partition that it is about.
    pub partition: i32,
    /// What aggregate said.
    #[serde(flatten)]
    pub panes: PanesEnded,
    /// The drops of each pane with any account, by its end in UTC microseconds.
    pub drops: Vec<(i64, Drops)>,
    /// What decides.
    pub bounds: Bounds,
}

/// What to do with alerts that are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Publish those whose condition still holds.
    Release,
    /// Forget them.
    Drop,
}

/// An operator's decision about alerts that are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Word {
    /// What to do.
    pub decision: Decision,
    /// It holds for suspect panes up to this end, too, UTC microseconds.
    pub until_us: Option<i64>,
}

/// The header of a record that contains this value.
pub fn header<T: Serialize>(name: &str, value: &T) -> (String, Option<Vec<u8>>) {
    // Structures of numbers and texts always have a JSON form.
    (name.to_owned(), Some(serde_json::to_vec(value).unwrap_or_default()))
}

/// The value in a header of a record, if it has this header.
///
/// # Errors
/// When the header cannot be decoded.
pub fn of<T: for<'de> Deserialize<'de>>(record: &Record, name: &str) -> Result<Option<T>, String> {
    let value = record.header(name).map(serde_json::from_slice).transpose();
    value.map_err(|error| format!("header {name}: {error}; was it written by a newer Keepwell?"))
}
