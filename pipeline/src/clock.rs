//! The only module that reads a clock. The core receives time as an argument.
#![allow(clippy::disallowed_methods, reason = "this is the one place that reads the clocks")]

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The source of time for the runner.
pub trait Clock {
    /// Wall-clock time in microseconds since 1970 UTC.
    fn wall_us(&self) -> i64;
    /// Time since an arbitrary start. It never goes back; use it for intervals.
    fn monotonic(&self) -> Duration;
}

impl<C: Clock> Clock for &C {
    fn wall_us(&self) -> i64 {
        (**self).wall_us()
    }

    fn monotonic(&self) -> Duration {
        (**self).monotonic()
    }
}

/// The clocks of the machine.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock with monotonic time that starts now.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn wall_us(&self) -> i64 {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        since_epoch.as_micros() as i64
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// A clock that never moves; for tests and for the in-memory demo.
#[derive(Debug, Clone, Copy)]
pub struct FixedClock {
    /// Wall-clock time in microseconds since 1970 UTC.
    pub wall_us: i64,
}

impl Clock for FixedClock {
    fn wall_us(&self) -> i64 {
        self.wall_us
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
}

/// A clock that is set explicitly; for the demo and for simulations.
#[derive(Debug)]
pub struct SetClock {
    start_us: i64,
    wall_us: AtomicI64,
}

impl SetClock {
    /// A clock that starts at this time, UTC microseconds.
    pub fn at(wall_us: i64) -> Self {
        Self { start_us: wall_us, wall_us: AtomicI64::new(wall_us) }
    }

    /// Sets the time. It never goes back.
    pub fn set(&self, wall_us: i64) {
        self.wall_us.fetch_max(wall_us, Ordering::Relaxed);
    }
}

impl Clock for SetClock {
    fn wall_us(&self) -> i64 {
        self.wall_us.load(Ordering::Relaxed)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.wall_us().abs_diff(self.start_us))
    }
}
