//! One partition that this member owns: its position, and the records that are read but not folded yet.

use std::time::Duration;

use crate::record::Record;
use crate::source_reader::EndProof;
use keepwell_core::offset::{NextOffset, Position};

/// One owned partition.
#[derive(Debug)]
pub(super) struct Member {
    /// Position of the state.
    pub position: Position,
    /// Start position. It counts as the committed position until the first commit.
    pub first: Position,
    /// Records before this position are replayed without output, because they were committed before.
    pub replay_until: Position,
    /// End of the partition when it was started, or when a drain fixed its ends.
    pub drain_to: NextOffset,
    /// The last proof that the partition is read to its end.
    pub proof: Option<EndProof>,
    /// When the broker was last asked for the end.
    pub proof_asked: Option<Duration>,
    /// When a snapshot was last taken.
    pub last_snapshot: Duration,
    /// A position that needs no snapshot: that of the newest one, or the start if nothing was folded since.
    pub saved: Option<NextOffset>,
    /// When the partition was first found read to its end.
    pub quiet_since: Option<Duration>,
    pending: Vec<Record>,
}

impl Member {
    pub fn new(position: Position, replay_until: Position, drain_to: NextOffset, now: Duration) -> Self {
        Self {
            position,
            first: position,
            replay_until,
            drain_to,
            proof: None,
            proof_asked: None,
            last_snapshot: now,
            // Until something is folded, a snapshot contains nothing new.
            saved: Some(position.next),
            quiet_since: None,
            pending: Vec::new(),
        }
    }

    pub fn is_replaying(&self) -> bool {
        (self.position.next, self.position.slice) < (self.replay_until.next, self.replay_until.slice)
    }

    pub fn queue(&mut self, record: Record) {
        if record.offset.next() > self.position.next {
            self.pending.push(record);
        }
    }

    pub fn pending(&self) -> &[Record] {
        &self.pending
    }

    pub fn num_pending(&self) -> usize {
        self.pending.len()
    }

    /// Moves the position and drops the pending records below it.
    pub fn advance(&mut self, position: Position) {
        if position.next != self.position.next {
            self.pending.retain(|record| record.offset.0 >= position.next.0);
            self.proof = None;
        }
        self.position = position;
    }
}
