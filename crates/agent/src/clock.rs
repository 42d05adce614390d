//! The guest's clocks, in nanoseconds.

use std::time::{SystemTime, UNIX_EPOCH};

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

/// CLOCK_REALTIME: nanoseconds since 1970.
pub(crate) fn wall_ns() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Sets CLOCK_REALTIME to `ns` since the epoch.
pub(crate) fn set_wall_clock(ns: u64) -> rustix::io::Result<()> {
    let time = Timespec {
        tv_sec: i64::try_from(ns / NANOSECONDS).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(ns % NANOSECONDS).unwrap_or(0),
    };
    clock_settime(ClockId::Realtime, time)
}

/// A clock that is further off than this is set; one that is less off runs faster or slower for a while, so that no program sees time
/// jump.
const FAR: u64 = NANOSECONDS / 2;

/// Closer than this is as close as a message from the host can tell.
const NEAR: u64 = NANOSECONDS / 200;

/// Brings CLOCK_REALTIME to `ns` since the epoch.
pub(crate) fn follow(ns: u64) -> std::io::Result<()> {
    match correction(wall_ns(), ns) {
        Correction::None => Ok(()),
        Correction::Slew(microseconds) => crate::sys::slew(microseconds),
        Correction::Set => Ok(set_wall_clock(ns)?),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Correction {
    None,
    /// Microseconds to go forward, or to stay back.
    Slew(i64),
    Set,
}

fn correction(now: u64, wanted: u64) -> Correction {
    match now.abs_diff(wanted) {
        distance if distance > FAR => Correction::Set,
        distance if distance < NEAR => Correction::None,
        distance => {
            let microseconds = i64::try_from(distance / 1000).unwrap_or(0);
            Correction::Slew(if wanted > now {
                microseconds
            } else {
                -microseconds
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_clocks_are_set_and_near_ones_pushed() {
        let at = 1_800_000_000 * NANOSECONDS;
        assert_eq!(correction(at, at + NEAR - 1), Correction::None);
        assert_eq!(correction(at, at + NEAR), Correction::Slew(5000));
        assert_eq!(correction(at, at - FAR), Correction::Slew(-500_000));
        assert_eq!(correction(at, at + FAR + 1), Correction::Set);
        assert_eq!(correction(at, 0), Correction::Set);
        assert_eq!(correction(0, u64::MAX), Correction::Set);
    }
}
