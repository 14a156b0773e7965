//! Starts partitions: finds where to start, what to replay without output, and when to stop with a named error.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::{info, warn};

use super::{MAX_SLICES, Member, REPLAY_TURN, RunError, Runner};
use crate::clock::Clock;
use crate::log::{Ends, Log, LogError};
use crate::stage::{Batch, Stage};
use keepwell_core::offset::{NextOffset, Position, TopicPartition};

impl<S: Stage, L: Log, C: Clock> Runner<'_, S, L, C> {
    /// Restores the state of newly assigned partitions and returns the position from which each is read.
    pub(super) fn restore_all(
        &mut self,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, NextOffset>, RunError> {
        let committed = self.session.log.committed(partitions)?;
        self.count_partitions()?;
        let mut starts = BTreeMap::new();
        for tp in partitions {
            let ends = self.session.log.ends(tp)?;
            let target = match committed.get(tp) {
                Some(position) => self.within(tp, *position, ends)?,
                None => self.fresh_start(tp, ends)?,
            };
            let from = self.restore_state(tp, target, ends)?;
            info!(partition = %tp, %from, committed = %target, end = %ends.next, "partition started");
            let mut member = Member::new(from, target, ends.next, self.session.clock.monotonic());
            if self.options.from_beginning {
                // A snapshot records what was left out. Then the next start does not need the operator's option again.
                member.saved = None;
            }
            self.members.insert(tp.clone(), member);
            starts.insert(tp.clone(), from.next);
        }
        Ok(starts)
    }

    /// The start without a committed position: the first record, if nothing shows that there was a position before.
    fn fresh_start(&mut self, tp: &TopicPartition, ends: Ends) -> Result<Position, RunError> {
        if self.options.from_beginning {
            return Ok(Position::at(ends.first));
        }
        let stop = |why: String| RunError::Stop { partition: tp.clone(), why };
        let remedy = "restore the group's position, or start over with --from beginning (rows may then come twice, with higher offsets)";
        if self.stage.is_stateful() {
            if let Some(snapshots) = &self.snapshots
                && snapshots.exist(self.stage.name(), self.options.epoch, tp)?
            {
                return Err(stop(format!("snapshots exist but the group has no committed position: {remedy}")));
            }
            if ends.first > NextOffset(0) {
                return Err(stop(format!("the log begins at {} and nothing below was folded: {remedy}", ends.first)));
            }
        } else if self.has_any_position()? {
            warn!(partition = %tp, "no committed position in a group that has others: it is new, or its topic was made again; read from its start");
            return Ok(Position::at(ends.first));
        }
        for topic in self.options.outputs.clone() {
            let count = self.session.log.partitions(&topic)?.ok_or_else(|| LogError::NoTopic(topic.clone()))?;
            let written = if self.stage.is_stateful() { tp.partition..tp.partition + 1 } else { 0..count };
            for partition in written {
                let output = TopicPartition::new(topic.as_str(), partition);
                // Records of an aborted transaction are not output.
                if self.session.log.ends(&output)?.next > NextOffset(0) && self.session.log.has_output(&output)? {
                    // Output and positions are committed together. So another member may have written its first step
                    // after we read the positions.
                    if !self.stage.is_stateful() && self.has_any_position()? {
                        return Ok(Position::at(ends.first));
                    }
                    return Err(stop(format!(
                        "{output} holds records but the group has no committed position: {remedy}"
                    )));
                }
            }
        }
        Ok(Position::at(ends.first))
    }

    fn has_any_position(&mut self) -> Result<bool, RunError> {
        let all = self.all_partitions();
        Ok(!self.session.log.committed(&all)?.is_empty())
    }

    /// Restores the newest usable snapshot at or below `target` and returns the position where replay begins.
    fn restore_state(&mut self, tp: &TopicPartition, target: Position, ends: Ends) -> Result<Position, RunError> {
        if !self.stage.is_stateful() {
            self.stage.restore(&mut self.state, tp, target, None)?;
            return Ok(target);
        }
        let found = match &mut self.snapshots {
            Some(snapshots) => snapshots.newest(self.stage.name(), self.options.epoch, tp, target)?,
            None => None,
        };
        let (from, saved) = match found {
            Some((position, saved)) => (position, Some(saved)),
            // No snapshot contains what was folded before the log's first record.
            None if ends.first > NextOffset(0) && !self.options.from_beginning => {
                let why = format!(
                    "the group's position is {target} but there is no usable snapshot, and the log begins at {}: is snapshots.url the right \
                     place? Put the snapshots back. To go on with a state of what the log still holds, start once with --from beginning: \
                     what is older is forgotten, then; or rebuild in a new epoch from the raw topics (`keepwell backfill`)",
                    ends.first
                );
                return Err(RunError::Stop { partition: tp.clone(), why });
            }
            None => (Position::at(ends.first), None),
        };
        let is_gap = from.next < ends.first && !self.is_marker(from.next, ends);
        if is_gap && !self.options.from_beginning {
            return Err(RunError::Stop {
                partition: tp.clone(),
                why: format!(
                    "replay must begin at {from} but the log begins at {}: the snapshots are older than the topic's retention. \
                     Raise the retention (`keepwell topics check`). To go on without what expired, start once with --from beginning; \
                     or rebuild in a new epoch from the raw topics (`keepwell backfill`)",
                    ends.first
                ),
            });
        }
        let from = if from.next < ends.first { Position::at(ends.first) } else { from };
        self.stage.restore(&mut self.state, tp, from, saved.as_ref())?;
        Ok(from)
    }

    /// Folds again the records that were committed before. Nothing is written and nothing is counted.
    pub(super) fn replay(&mut self) -> Result<(), RunError> {
        let started = self.session.clock.monotonic();
        let replaying: Vec<_> =
            self.members.iter().filter(|(_, member)| member.is_replaying()).map(|(tp, _)| tp.clone()).collect();
        for tp in replaying {
            while let Some(member) = self.members.get_mut(&tp).filter(|member| member.is_replaying()) {
                // Polls keep the membership alive, so a long replay continues in the next turn.
                if self.session.clock.monotonic().saturating_sub(started) > REPLAY_TURN {
                    self.session.wait = Duration::ZERO;
                    return Ok(());
                }
                let until = member.replay_until;
                let below = member.pending().partition_point(|record| record.offset.0 < until.next.0);
                // Records below `until` are folded together. Slices of the record at `until` are repeated one by one.
                let end = if below == 0 { member.pending().len().min(1) } else { below };
                let records = member.pending().get(..end).unwrap_or_default();
                if records.is_empty() {
                    // A log that ends in transaction markers has no record right below the position.
                    if self.session.log.met_end(&tp).is_some_and(|end| end >= until.next) && until.slice == 0 {
                        member.advance(until);
                    }
                    break;
                }
                if below == 0 && until.slice == 0 {
                    member.advance(until);
                    break;
                }
                let batch = Batch {
                    records: BTreeMap::from([(tp.clone(), records)]),
                    positions: BTreeMap::from([(tp.clone(), member.position)]),
                    // Of the record at the position, only the slices up to that position are repeated.
                    max_slices: match below {
                        0 => until.slice.saturating_sub(member.position.slice).min(MAX_SLICES),
                        _ => MAX_SLICES,
                    },
                    ..Batch::default()
                };
                let step = self.stage.apply(&self.state, &batch)?;
                let Some(position) = step.positions.get(&tp).copied() else { break };
                self.stage.merge(&mut self.state, step.changes);
                member.advance(position);
            }
        }
        Ok(())
    }

    /// Whether only the marker of a transaction was between a position and the first record. Keepwell writes its own
    /// topics only in transactions, so the last offset of each is a marker.
    fn is_marker(&self, next: NextOffset, ends: Ends) -> bool {
        self.stage.source_reader().is_none() && ends.first == ends.next && next.0 + 1 == ends.first.0
    }

    /// Checks a committed position against the log. Returns it, or the log's first position if reading may continue
    /// there.
    fn within(&self, tp: &TopicPartition, position: Position, ends: Ends) -> Result<Position, RunError> {
        if position.next >= ends.first && position.next <= ends.next {
            return Ok(position);
        }
        let at_first = Position { next: ends.first, slice: 0, ..position };
        if position.next > ends.next {
            let why = format!(
                "the committed position {position} is beyond the log's end {}: was the topic deleted and made again? Start a new epoch, or restore the topic",
                ends.next
            );
            return Err(RunError::Stop { partition: tp.clone(), why });
        }
        if self.is_marker(position.next, ends) {
            return Ok(at_first);
        }
        if self.options.from_beginning {
            warn!(partition = %tp, from = %position, to = %ends.first, "records expired unread; it goes on without them");
            return Ok(at_first);
        }
        let why = format!(
            "the committed position {position} is before the log's first record {}: records expired unread. Raise the topic's retention. To go on \
             without them, start once with --from beginning",
            ends.first
        );
        Err(RunError::Stop { partition: tp.clone(), why })
    }
}
