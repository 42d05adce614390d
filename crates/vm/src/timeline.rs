//! When what happened in a container's life, for `--timings`.
//!
//! Moments are nanoseconds of the host's `CLOCK_MONOTONIC`. The guest's moments come in its `CLOCK_BOOTTIME` and are laid beside
//! the host's by the one moment that both know: the hand-shake.

use std::sync::{Mutex, PoisonError};

use proto::agent::HelloReply;
use proto::supervisor::Phase;

/// The moments so far, in no particular order.
#[derive(Debug, Default)]
pub struct Timeline {
    moments: Mutex<Vec<Phase>>,
}

impl Timeline {
    /// Something happened now.
    pub fn mark(&self, name: &str) {
        self.mark_at(name, now_ns());
    }

    /// Something happened at `at_ns`.
    pub fn mark_at(&self, name: &str, at_ns: u64) {
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        if moments.iter().all(|moment| moment.name != name) {
            moments.push(Phase {
                name: name.to_owned(),
                at_ns,
            });
        }
    }

    /// The guest's moments, laid beside the host's: its answer was sent at `reply.answered_ns` of its clock, and came now.
    pub fn mark_guest(&self, reply: &HelloReply) {
        let Some(booted) = now_ns().checked_sub(reply.answered_ns) else {
            return;
        };
        self.mark_at("kernel started", booted);
        for (name, at) in [
            ("init started", reply.init_started_ns),
            ("agent started", reply.agent_started_ns),
            ("agent dialled", reply.dialled_ns),
        ] {
            // The guest is not trusted: a moment later than its own answer is nonsense.
            if at <= reply.answered_ns {
                self.mark_at(name, booted + at);
            }
        }
    }

    /// All moments, in the order of time.
    pub fn phases(&self) -> Vec<Phase> {
        let mut phases = self
            .moments
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        phases.sort_by_key(|phase| phase.at_ns);
        phases
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_moments_are_laid_beside_the_hosts() {
        let timeline = Timeline::default();
        let before = now_ns();
        timeline.mark_guest(&HelloReply {
            init_started_ns: 10,
            agent_started_ns: 20,
            dialled_ns: 30,
            answered_ns: 40,
            ..HelloReply::default()
        });
        let phases = timeline.phases();
        let names: Vec<_> = phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "kernel started",
                "init started",
                "agent started",
                "agent dialled"
            ]
        );
        assert!(phases[0].at_ns + 40 >= before);
        assert_eq!(phases[3].at_ns - phases[0].at_ns, 30);
    }

    #[test]
    fn a_guest_that_lies_about_its_clock_is_left_out() {
        let timeline = Timeline::default();
        timeline.mark_guest(&HelloReply {
            init_started_ns: u64::MAX,
            answered_ns: 40,
            ..HelloReply::default()
        });
        assert!(
            timeline
                .phases()
                .iter()
                .all(|phase| phase.name != "init started")
        );
        timeline.mark_guest(&HelloReply {
            answered_ns: u64::MAX,
            ..HelloReply::default()
        });
    }

    #[test]
    fn the_first_moment_of_a_name_counts() {
        let timeline = Timeline::default();
        timeline.mark_at("first byte", 1);
        timeline.mark_at("first byte", 2);
        assert_eq!(timeline.phases().len(), 1);
        assert_eq!(timeline.phases()[0].at_ns, 1);
    }
}
