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
