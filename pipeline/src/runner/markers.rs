//! Transaction markers at the ends of partitions: offsets without a record, which a position must pass all the same.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::warn;

use super::{RunError, Runner};
use crate::clock::Clock;
use crate::log::{Log, Verdict};
use crate::stage::Stage;
use keepwell_core::offset::Position;

/// How long a partition is read to its end before the markers there are passed.
const QUIET: Duration = Duration::from_secs(5);
impl<S: Stage, L: Log, C: Clock> Runner<'_, S, L, C> {
    /// Commits positions behind the transaction markers at the ends of partitions that are read and quiet. Else a log that
    /// retention empties would begin behind the positions, as if records had expired unread. True when none is left.
    pub(super) fn pass_markers(&mut self, is_last: bool) -> Result<bool, RunError> {
        let now = self.session.clock.monotonic();
        let mut positions = BTreeMap::new();
        for (tp, member) in &mut self.members {
            let end = self.session.log.met_end(tp).filter(|end| *end > member.position.next);
            let Some(next) = end.filter(|_| member.num_pending() == 0 && !member.is_replaying()) else {
                member.quiet_since = None;
                continue;
            };
            let since = *member.quiet_since.get_or_insert(now);
            if (is_last || now.saturating_sub(since) >= QUIET) && member.position.slice == 0 {
                positions.insert(tp.clone(), Position { next, ..member.position });
            }
        }
        if positions.is_empty() {
            return Ok(true);
        }
        if let Verdict::Lost(why) = self.session.log.commit(&[], &positions)? {
            warn!(why, "the verdict of a commit is lost; the committed positions decide");
            self.session.log.recover()?;
        }
        let committed = self.session.log.committed(&positions.keys().cloned().collect::<Vec<_>>())?;
        let is_done = committed == positions;
        for (tp, position) in committed.into_iter().filter(|(tp, position)| positions.get(tp) == Some(position)) {
            if let Some(member) = self.members.get_mut(&tp) {
                member.advance(position);
            }
        }
        Ok(is_done)
    }
}
