//! The guest's wall clock goes with the host's: at once after a step of that one (somebody set it, or the host slept, during which
//! guests stand still), and now and then because no two clocks run alike.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinSet;

use crate::failure;
use crate::guest::Guest;

/// A clock that is off by a hundred millionths gains or loses 60 ms in it.
const NOW_AND_THEN: Duration = Duration::from_secs(600);

/// Keeps the guest's clock right for as long as the result lives. A host that tells of no steps is no reason to fail.
pub fn begin(guest: &Guest) -> JoinSet<()> {
    let mut task = JoinSet::new();
    task.spawn(follow(guest.clone()));
    task
}

async fn follow(guest: Guest) {
    let steps = match Steps::watch() {
        Ok(steps) => Some(steps),
        Err(error) => {
            tracing::warn!(%error, "steps of the host's clock are not seen");
            None
        }
    };
    let step = async || match &steps {
        Some(steps) => steps.next().await,
        None => std::future::pending().await,
    };
    loop {
        tokio::select! {
            () = step() => tracing::info!("the host's clock made a step"),
            () = tokio::time::sleep(NOW_AND_THEN) => {}
        }
        if let Err(failure) = guest.set_clock(store::now_ns()).await {
            let failure = failure::describe(&failure);
            tracing::warn!(%failure, "the guest's clock can't be set");
        }
    }
}

/// Steps of CLOCK_REALTIME: a timer that never fires, and is cancelled by each of them (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`).
struct Steps(AsyncFd<OwnedFd>);

impl Steps {
    fn watch() -> io::Result<Steps> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
        let never = Itimerspec {
            it_interval: Timespec::default(),
            // The kernel's own end of time is in 2262.
            it_value: Timespec {
                tv_sec: 1 << 33,
                tv_nsec: 0,
            },
        };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(&timer, flags, &never)?;
        Ok(Steps(crate::sys::watch(timer, Interest::READABLE)?))
    }

    async fn next(&self) {
        loop {
            let Ok(mut ready) = self.0.readable().await else {
                return std::future::pending().await;
            };
            let read =
                ready.try_io(|timer| rustix::io::read(timer, &mut [0; 8]).map_err(io::Error::from));
            match read {
                // ECANCELED, once for each step.
                Ok(_) => return,
                Err(_would_block) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root, to put the host's clock forward by a nanosecond and back.
    #[tokio::test]
    async fn steps_of_the_clock_are_seen_once_each() {
        let steps = Steps::watch().unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(20), steps.next());
        assert!(quiet.await.is_err(), "no step yet");
        for nanoseconds in [1, -1] {
            crate::sys::step_the_clock(nanoseconds).expect("this test needs root");
            let seen = tokio::time::timeout(Duration::from_secs(10), steps.next());
            seen.await.expect("a step");
            let quiet = tokio::time::timeout(Duration::from_millis(20), steps.next());
            assert!(quiet.await.is_err(), "one step, told twice");
        }
    }
}
