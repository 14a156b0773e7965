//! One partition this member owns: where it stands and what of it has been read but not yet folded.

use std::time::Duration;

use crate::record::Record;
use crate::stage::EndProof;
use keepwell_core::offset::{NextOffset, Position};

/// One owned partition.
#[derive(Debug)]
pub(super) struct Member {
    /// Where the state stands.
    pub position: Position,
    /// Where it started, when no position was committed.
    pub first: Position,
    /// Until here records are folded in silence: they were committed before.
    pub replay_until: Position,
    /// End of the partition when it was taken up.
    pub drain_to: NextOffset,
    /// The last proof that it is read to its end.
    pub proof: Option<EndProof>,
    /// When the end was last asked for.
    pub proof_asked: Option<Duration>,
    /// When it was last saved.
    pub last_snapshot: Duration,
    /// Position that needs no snapshot: of the newest one, or where nothing was folded since.
    pub saved: Option<NextOffset>,
    /// Since when it is read to its end.
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
            // A snapshot says more than the log only once something was folded.
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

    /// Moves on: records below `position` are done with.
    pub fn advance(&mut self, position: Position) {
        if position.next != self.position.next {
            self.pending.retain(|record| record.offset.0 >= position.next.0);
            self.proof = None;
        }
        self.position = position;
    }
}
