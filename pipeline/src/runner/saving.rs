//! When the state of a partition is saved as a snapshot.

use std::time::Duration;

use super::{RunError, Runner};
use crate::clock::Clock;
use crate::log::Log;
use crate::snapshot::Header;
use crate::stage::Stage;
use keepwell_core::offset::{Position, TopicPartition};

/// How long each of the last uploads may take at the end of a run.
const LAST_UPLOADS: Duration = Duration::from_secs(60);

impl<S: Stage, L: Log, C: Clock> Runner<'_, S, L, C> {
    /// Saves every partition with a last snapshot that is old enough, and those with a failed upload again.
    pub(super) fn snapshot_where_due(&mut self) -> Result<(), RunError> {
        let now = self.session.clock.monotonic();
        let Some(snapshots) = &mut self.snapshots else { return Ok(()) };
        for (tp, is_written) in snapshots.take_ended() {
            if let Some(member) = self.members.get_mut(&tp) {
                if is_written {
                    self.stage.saved(&mut self.state, &tp, &snapshots.known(&tp));
                } else {
                    member.saved = None;
                }
            }
        }
        let due: Vec<_> = self
            .members
            .iter()
            .filter(|(_, member)| now.saturating_sub(member.last_snapshot) >= self.options.snapshot_interval)
            .map(|(tp, _)| tp.clone())
            .collect();
        for tp in due {
            self.snapshot(&tp, now)?;
        }
        Ok(())
    }

    /// Saves every partition and waits until the uploads are done.
    pub(super) fn snapshot_all(&mut self) -> Result<(), RunError> {
        let now = self.session.clock.monotonic();
        for tp in self.members.keys().cloned().collect::<Vec<_>>() {
            if let Some(snapshots) = &mut self.snapshots {
                snapshots.finish(LAST_UPLOADS);
            }
            self.snapshot(&tp, now)?;
        }
        if let Some(snapshots) = &mut self.snapshots {
            snapshots.finish(LAST_UPLOADS);
        }
        Ok(())
    }

    /// Saves the state of one partition, unless its position is within a record or nothing has changed.
    fn snapshot(&mut self, tp: &TopicPartition, now: Duration) -> Result<(), RunError> {
        let (Some(snapshots), Some(member)) = (&mut self.snapshots, self.members.get_mut(tp)) else {
            return Ok(());
        };
        let Position { next, slice, .. } = member.position;
        if slice > 0 || member.is_replaying() || member.saved == Some(next) {
            return Ok(());
        }
        member.last_snapshot = now;
        if snapshots.is_busy(tp) {
            return Ok(());
        }
        let started = self.session.clock.monotonic();
        let parts = self.stage.snapshot(&self.state, tp, &snapshots.known(tp))?;
        let header = Header {
            stage: self.stage.name().to_owned(),
            epoch: self.options.epoch,
            topic: tp.topic.to_string(),
            partition: tp.partition,
            next,
            holds: Vec::new(),
            names: Default::default(),
        };
        let num_bytes = snapshots.put(header, parts)?;
        let pause = self.session.clock.monotonic().saturating_sub(started);
        self.session.metrics.saved(tp, num_bytes, pause, self.session.clock.wall_us());
        member.saved = Some(next);
        Ok(())
    }
}
