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

/// Most bytes of the panes in one header, about. A record with much more may be too large for a broker.
const PIECE_BYTES: usize = 200_000;

impl PanesEnded {
    /// The same in several values that each fit into a header, in the order of time.
    pub fn pieces(self) -> Vec<Self> {
        let mut pieces = Vec::new();
        let (mut piece, mut num_bytes) = (Self::default(), 0);
        for pane in self.suspect {
            num_bytes += pane.num_bytes();
            if num_bytes > PIECE_BYTES && !piece.suspect.is_empty() {
                num_bytes = pane.num_bytes();
                pieces.push(std::mem::take(&mut piece));
            }
            piece.ended_us = pane.as_of_us;
            piece.suspect.push(pane);
        }
        pieces.push(Self { ended_us: self.ended_us, ..piece });
        pieces
    }
}

impl SuspectPane {
    /// Bytes of its JSON, about.
    fn num_bytes(&self) -> usize {
        60 + self.sources.iter().map(|topic| topic.len() + 3).sum::<usize>()
    }
}

/// How many accounts dropped in a pane.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Accounts with a score in this pane and a final row before it.
    pub scored: u64,
    /// Of these, accounts that fell into a lower band.
    pub dropped: u64,
}

impl Drops {
    /// These and others.
    pub fn plus(self, more: Self) -> Self {
        let (scored, dropped) = (self.scored.saturating_add(more.scored), self.dropped.saturating_add(more.dropped));
        Self { scored, dropped }
    }
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

/// Bytes of the JSON of a pane's drops, about.
const DROPS_BYTES: usize = 70;

impl Report {
    /// The same in several reports that each fit into a header, in the order of time.
    pub fn pieces(self) -> Vec<Self> {
        let (partition, bounds, last_us) = (self.partition, self.bounds, self.panes.ended_us);
        let piece = |panes, drops| Self { partition, panes, drops, bounds };
        let (mut pieces, mut drops) = (Vec::new(), self.drops.into_iter().peekable());
        for mut panes in self.panes.pieces() {
            let mut of_piece = Vec::new();
            while let Some(next) = drops.next_if(|(as_of_us, _)| *as_of_us <= panes.ended_us) {
                of_piece.push(next);
                if of_piece.len() * DROPS_BYTES > PIECE_BYTES && next.0 < panes.ended_us {
                    let later = panes.suspect.partition_point(|pane| pane.as_of_us <= next.0);
                    let later = panes.suspect.split_off(later);
                    let suspect = std::mem::replace(&mut panes.suspect, later);
                    pieces.push(piece(PanesEnded { ended_us: next.0, suspect }, std::mem::take(&mut of_piece)));
                }
            }
            // A piece without anything says only that time has come; the last one must.
            if !of_piece.is_empty() || !panes.suspect.is_empty() || panes.ended_us == last_us {
                pieces.push(piece(panes, of_piece));
            }
        }
        pieces
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_panes_are_told_in_several_headers_each_complete_up_to_its_end() {
        let suspect = |as_of_us| SuspectPane { as_of_us, sources: vec!["a topic".into()] };
        let panes = PanesEnded { ended_us: 50_000, suspect: (1..20_000).map(suspect).collect() };
        let drops: Vec<_> =
            (1..=50_000).step_by(3).map(|as_of_us| (as_of_us, Drops { scored: 1, dropped: 0 })).collect();
        let bounds = Bounds { max_dropping: None, min_accounts: 1, settle_us: 0 };
        let pieces = Report { partition: 3, panes: panes.clone(), drops: drops.clone(), bounds }.pieces();
        let size = |report: &Report| header(REPORT_HEADER, report).1.unwrap_or_default().len();
        assert!(pieces.len() > 5 && pieces.iter().all(|piece| size(piece) < 300_000));
        let mut ended_us = i64::MIN;
        let (mut told_drops, mut told_panes) = (Vec::new(), Vec::new());
        for piece in pieces {
            assert!(piece.panes.ended_us > ended_us);
            let is_within = |as_of_us: i64| as_of_us > ended_us && as_of_us <= piece.panes.ended_us;
            assert!(piece.drops.iter().all(|(as_of_us, _)| is_within(*as_of_us)));
            told_drops.extend(piece.drops);
            told_panes.extend(piece.panes.suspect);
            ended_us = piece.panes.ended_us;
        }
        assert!(ended_us == 50_000 && told_drops == drops && told_panes == panes.suspect);
    }
}
