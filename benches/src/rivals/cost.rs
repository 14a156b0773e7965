//! The cost of processes, as the kernel counts it.

use std::ops::AddAssign;
use std::time::Duration;

use anyhow::{Context, Result};

/// The kernel counts processor time in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);

/// Processor time and memory of one or more processes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// Processor time of all threads since the start of the process.
    pub cpu: Duration,
    /// Highest resident memory since the start of the process, in kilobytes.
    pub peak_kb: u64,
}

impl Cost {
    /// The cost of one process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(process_id: u32) -> Result<Self> {
        let read = |what: &str| {
            std::fs::read_to_string(format!("/proc/{process_id}/{what}"))
                .with_context(|| format!("process {process_id}"))
        };
        let (stat, status) = (read("stat")?, read("status")?);
        // After the name, which may contain blanks, come the state and then numbers. User and system time are the 12th
        // and 13th.
        let behind = stat.rsplit_once(')').context("no name in stat")?.1;
        let ticks = behind.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
        let ticks = ticks.sum::<Result<u32, _>>().context("no times in stat")?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
        let peak_kb = peak.trim().trim_end_matches(" kB").parse().context("no VmHWM in status")?;
        Ok(Self { cpu: TICK * ticks, peak_kb })
    }
}

/// Adds up several processes. The sum of the peaks is an upper bound, because they may not be at the same time.
impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.cpu += other.cpu;
        self.peak_kb += other.peak_kb;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_costs_time_and_memory() {
        // Works for some tenths of a second.
        let sum = (0..300_000_000_u64).fold(0, |sum: u64, n| std::hint::black_box(sum.wrapping_add(n)));
        let cost = Cost::of(std::process::id()).unwrap();
        assert!(cost.cpu >= TICK && cost.peak_kb > 1000, "{cost:?} {sum}");
    }
}
