//! The wall clock, as state files and logs note it.

use std::time::{SystemTime, UNIX_EPOCH};

/// Nanoseconds since 1970. Zero for a clock that stands before that.
#[must_use]
pub fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}

/// A part of the past, or of what is to come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeRange {
    /// Nothing before it. Nanoseconds since 1970.
    pub since_ns: Option<u64>,
    /// Nothing after it. Nanoseconds since 1970.
    pub until_ns: Option<u64>,
}

impl TimeRange {
    /// Whether a time lies in it.
    #[must_use]
    pub fn has(&self, time_ns: u64) -> bool {
        self.since_ns.is_none_or(|since| time_ns >= since)
            && self.until_ns.is_none_or(|until| time_ns <= until)
    }

    /// Whether every time does.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }
}
