//! Records that an open transaction hides from readers of committed records.

use std::collections::BTreeMap;
use std::time::Duration;

use tracing::warn;

use crate::record::StableEnd;
use keepwell_core::offset::{NextOffset, TopicPartition};

/// The log reports a transaction each time it has hidden records for this long.
const NAMED_AFTER: Duration = Duration::from_secs(60);

/// Since when the last stable offset of each partition has not moved, while it is below the end.
#[derive(Debug, Default)]
pub struct Hidden {
    still: BTreeMap<TopicPartition, (NextOffset, Duration)>,
}

impl Hidden {
    /// Number of hidden offsets of a partition. A running transaction does not count as hanging: the last stable offset
    /// must not have moved since the last look.
    pub fn look(&mut self, tp: &TopicPartition, StableEnd { stable, high }: StableEnd, now: Duration) -> i64 {
        if high <= stable {
            self.still.remove(tp);
            return 0;
        }
        let (at, since) = self.still.entry(tp.clone()).or_insert((stable, now));
        if *at != stable {
            (*at, *since) = (stable, now);
            return 0;
        }
        let is_first = *since == now;
        if now.saturating_sub(*since) >= NAMED_AFTER {
            *since = now;
            warn!(
                partition = %tp, end = %high,
                "records are hidden behind an open transaction; if its producer is gone: kafka-transactions.sh abort --topic {} --partition {} --start-offset {stable}",
                tp.topic, tp.partition
            );
        }
        if is_first { 0 } else { high.0 - stable.0 }
    }

    /// Forgets a partition that is no longer owned.
    pub fn forget(&mut self, tp: &TopicPartition) {
        self.still.remove(tp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_hides_records_once_it_has_stood_still_and_no_more_when_it_has_ended() {
        let mut hidden = Hidden::default();
        let tp = TopicPartition::new("usage", 1);
        let looks = [(10, 12, 0), (14, 15, 0), (14, 16, 2), (14, 18, 4), (18, 18, 0), (18, 19, 0), (18, 19, 1)];
        for (n, (stable, high, expected)) in looks.into_iter().enumerate() {
            let end = StableEnd { stable: NextOffset(stable), high: NextOffset(high) };
            assert_eq!(hidden.look(&tp, end, Duration::from_secs(n as u64)), expected, "look {n}");
        }
    }
}
