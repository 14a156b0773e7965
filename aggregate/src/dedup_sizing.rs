//! Estimates before the start how much memory the event ids of a deployment need.

use keepwell_pipeline::config::Config;

use crate::dedup::most_bytes;

const DAY_US: u128 = 86_400_000_000;

/// The estimate that follows from `duplicates.events_per_day`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// The most ids kept at the same time.
    pub num_ids: u64,
    /// Memory of all partitions together, in bytes.
    pub num_bytes: u64,
    /// Memory of one partition, in bytes. Every process needs at least this much.
    pub partition_bytes: u64,
    /// Number of aggregate processes needed to stay below `duplicates.max_bytes` each.
    pub num_processes: u64,
}

impl MemoryEstimate {
    /// The estimate for a configuration. None if it does not give the expected events per day.
    ///
    /// An id is kept until the watermark passes its pane by the lateness. The watermark trails the events by the bound
    /// or the delay. So the ids of this span are kept at the same time: pane + lateness + the largest bound or delay.
    /// Therefore ids = events per day x span in days, at most 16/7 x 17 bytes each.
    pub fn of(config: &Config) -> Option<Self> {
        let per_day = config.duplicates.events_per_day?;
        let behind_us =
            config.sources.iter().map(|source| source.bound.max(source.delay()).as_micros()).max().unwrap_or(0);
        let span_us = config.time.pane.as_micros() + config.time.lateness.as_micros() + behind_us;
        let num_ids = u64::try_from(u128::from(per_day) * span_us.unsigned_abs() as u128 / DAY_US).unwrap_or(u64::MAX);
        let num_bytes = most_bytes(num_ids);
        let partition_bytes = num_bytes.div_ceil(config.partitions.unsigned_abs().into());
        Some(Self {
            num_ids,
            num_bytes,
            partition_bytes,
            num_processes: num_bytes.div_ceil(config.duplicates.max_bytes),
        })
    }

    /// Refuses a configuration that no number of processes can meet.
    ///
    /// # Errors
    /// When the ids of one partition alone need more than `duplicates.max_bytes`.
    pub fn check(&self, config: &Config) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.partition_bytes <= config.duplicates.max_bytes,
            "duplicates.max_bytes: {} are too few: {} events a day keep {} ids, {} bytes for each of {} partitions. Raise it, or \
             lower time.lateness, or start an epoch with more partitions",
            config.duplicates.max_bytes,
            config.duplicates.events_per_day.unwrap_or_default(),
            self.num_ids,
            self.partition_bytes,
            config.partitions
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use keepwell_core::event::Kind;
    use keepwell_core::offset::TopicPartition;
    use keepwell_core::pane::Pane;
    use keepwell_pipeline::stage::{Batch, Stage};

    use super::*;
    use crate::dedup::event_key;
    use crate::{Aggregate, State};

    fn config(duplicates: &str) -> Config {
        let text = format!(
            "{{epoch: 1, partitions: 4, kafka: {{bootstrap_servers: 'k:1'}}, snapshots: {{url: 'memory:///'}}, duplicates: {{{duplicates}}}, \
             sources: [{{topic: u, kind: usage}}, {{topic: t, kind: ticket, delay: 1d}}]}}"
        );
        Config::parse("k.yaml", &text, &[]).unwrap()
    }

    #[test]
    fn the_need_is_rate_times_what_is_kept_and_what_no_process_can_hold_is_refused() {
        assert_eq!(MemoryEstimate::of(&config("")), None);
        // A pane, two days of lateness and a day of delay: four days.
        let config_of_two = config("events_per_day: 7000000, max_bytes: 600000000");
        let need = MemoryEstimate::of(&config_of_two).unwrap();
        assert_eq!(need.num_ids, 28_000_000);
        assert_eq!((need.num_bytes, need.partition_bytes), (64_000_000 * 17, 16_000_000 * 17));
        assert_eq!(need.num_processes, 2);
        need.check(&config_of_two).unwrap();
        let too_small = config("events_per_day: 7000000, max_bytes: 271999999");
        let refused = MemoryEstimate::of(&too_small).unwrap().check(&too_small).unwrap_err().to_string();
        assert!(refused.contains("272000000 bytes for each of 4 partitions"), "{refused}");
    }

    #[test]
    fn a_process_whose_ids_need_more_than_the_bound_stops_by_name() {
        let stage = Aggregate::new(&config("max_bytes: 1100000"));
        let mut state = State::new();
        for (partition, num_ids) in [(0, 28_000), (1, 14_000), (2, 14_000)] {
            let event_ids = &mut state.entry(TopicPartition::new("keepwell.events", partition)).or_default().event_ids;
            (0..num_ids).for_each(|n: u32| event_ids.insert(event_key("acme", Kind::Usage, &n.to_string()), Pane(1)));
            let applied = stage.apply(&state, &Batch::default());
            // One table of 32,768 slots and two of 16,384, with 17 bytes per slot.
            if partition < 2 {
                applied.unwrap();
            } else {
                let why = applied.unwrap_err().to_string();
                assert!(
                    why.starts_with(
                        "56000 event ids of 3 partitions take 1114112 bytes, above duplicates.max_bytes = 1100000"
                    ),
                    "{why}"
                );
            }
        }
    }
}
