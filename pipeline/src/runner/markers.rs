//! Transaction markers at the ends of partitions. They take an offset but contain no record; a position must pass them.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::warn;

use super::{RunError, Runner};
use crate::clock::Clock;
use crate::log::{Log, Verdict};
use crate::stage::Stage;
use keepwell_core::offset::Position;

/// How long a partition must be read to its end before its markers are passed.
const QUIET: Duration = Duration::from_secs(5);
impl<S: Stage, L: Log, C: Clock> Runner<'_, S, L, C> {
    /// Commits positions behind the transaction markers of partitions that are quiet and read to their end. Otherwise,
    /// when retention empties a log, it would begin behind the position, as if records had expired unread. Returns true
    /// when no markers are left to pass.
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
