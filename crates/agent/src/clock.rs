//! The guest's clocks, in nanoseconds.

use rustix::time::{ClockId, Timespec, clock_settime};

const NANOSECONDS: u64 = 1_000_000_000;

/// CLOCK_BOOTTIME: nanoseconds since the kernel's start.
pub(crate) fn boottime_ns() -> u64 {
    // Not rustix's: that parses the vDSO for itself, which glibc has done already.
    let now = crate::sys::boottime();
    u64::try_from(now.tv_sec)
        .unwrap_or(0)
        .saturating_mul(NANOSECONDS)
        .saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// Sets CLOCK_REALTIME to `ns` since the epoch.
pub(crate) fn set_wall_clock(ns: u64) -> rustix::io::Result<()> {
    let time = Timespec {
        tv_sec: i64::try_from(ns / NANOSECONDS).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ns % NANOSECONDS).unwrap_or(0),
    };
    clock_settime(ClockId::Realtime, time)
}
