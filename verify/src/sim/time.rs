//! Simulated time. The scheduler moves it, and each process reads it through its own clock.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use keepwell_pipeline::clock::Clock;

/// The true time.
#[derive(Debug, Default)]
pub struct Time {
    wall_us: Cell<i64>,
    monotonic: Cell<Duration>,
}

impl Time {
    /// Starts at a wall-clock time, UTC microseconds.
    pub fn at(wall_us: i64) -> Self {
        Self { wall_us: Cell::new(wall_us), monotonic: Cell::default() }
    }

    /// Wall-clock time, UTC microseconds.
    pub fn wall_us(&self) -> i64 {
        self.wall_us.get()
    }

    /// Moves both the wall clock and the monotonic time.
    pub fn advance(&self, by: Duration) {
        self.wall_us.set(self.wall_us.get() + by.as_micros() as i64);
        self.wait(by);
    }

    /// Moves only the monotonic time. The wall clock stops, so there can be no new statement of time.
    pub fn wait(&self, by: Duration) {
        self.monotonic.set(self.monotonic.get() + by);
    }
}

/// The clock of one process.
#[derive(Debug)]
pub struct SimClock {
    time: Rc<Time>,
    skew_us: Cell<i64>,
}

impl SimClock {
    /// A clock without error.
    pub fn of(time: &Rc<Time>) -> Self {
        Self { time: Rc::clone(time), skew_us: Cell::new(0) }
    }

    /// Sets the error of the wall clock.
    pub fn set_wrong_by(&self, skew_us: i64) {
        self.skew_us.set(skew_us);
    }
}

impl Clock for SimClock {
    fn wall_us(&self) -> i64 {
        self.time.wall_us() + self.skew_us.get()
    }

    fn monotonic(&self) -> Duration {
        self.time.monotonic.get()
    }
}
