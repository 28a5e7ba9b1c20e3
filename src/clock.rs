//! The only reader of time below the command line, and of chance.
//!
//! Enters: nothing. Leaves: the time, or a number that nobody knew before. Always holds: what depends on it is recorded with its epoch.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970, UTC.
pub fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A number that nobody knew before, of 63 bits: JSON and SQL can hold it.
pub fn chance() -> u64 {
    RandomState::new().build_hasher().finish() >> 1
}

/// The time that the running epoch of a pipeline has recorded.
#[derive(Debug, Clone, Default)]
pub struct EpochTime(Arc<AtomicI64>);

impl EpochTime {
    /// An epoch begins that has recorded this time.
    pub fn set(&self, micros: i64) {
        self.0.store(micros, Ordering::Relaxed);
    }

    /// Microseconds since 1970, UTC.
    pub fn micros(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Measures how long something takes.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}
