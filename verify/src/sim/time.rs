//! Simulated time: it moves when the scheduler says so, and each process sees it through a clock of its own.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use keepwell_pipeline::clock::Clock;

/// True time.
#[derive(Debug, Default)]
pub struct Time {
    wall_us: Cell<i64>,
    monotonic: Cell<Duration>,
}

impl Time {
    /// Time that begins at a wall-clock time, UTC microseconds.
    pub fn at(wall_us: i64) -> Self {
        Self { wall_us: Cell::new(wall_us), monotonic: Cell::default() }
    }

    /// Wall-clock time, UTC microseconds.
    pub fn wall_us(&self) -> i64 {
        self.wall_us.get()
    }

    /// Time goes on.
    pub fn advance(&self, by: Duration) {
        self.wall_us.set(self.wall_us.get() + by.as_micros() as i64);
        self.wait(by);
    }

    /// Intervals go by while the wall clock stands: nothing new can be said about event time.
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
    /// A clock that goes right.
    pub fn of(time: &Rc<Time>) -> Self {
        Self { time: Rc::clone(time), skew_us: Cell::new(0) }
    }

    /// Sets the wall clock wrong by so much.
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
