//! When a container that ended is started again, and after how long. Docker's rules (moby's `restartmanager`).

use std::time::Duration;

use store::container::{Restart, RestartPolicy};

/// Before the first start again.
const FIRST: Duration = Duration::from_millis(100);

/// Each wait is twice as long as the one before, up to this.
const LONGEST: Duration = Duration::from_secs(60);

/// A container that ran for so long was well: the waits begin anew.
const STEADY: Duration = Duration::from_secs(10);

/// A container's policy, and how it fared so far.
#[derive(Debug)]
pub struct Restarts {
    restart: Restart,
    count: u32,
    delay: Duration,
}

impl Restarts {
    /// Of a container that a person started.
    pub fn new(restart: Restart) -> Self {
        Restarts {
            restart,
            count: 0,
            delay: Duration::ZERO,
        }
    }

    /// Another policy from now on.
    pub fn set(&mut self, restart: Restart) {
        self.restart = restart;
    }

    /// How often it was started again.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// The container ended after `lasted`: how long to wait before it is started again; `None` when it is not.
    pub fn next(&mut self, exit_code: u32, lasted: Duration) -> Option<Duration> {
        if lasted >= STEADY {
            self.delay = Duration::ZERO;
        }
        if !self.wants(exit_code) {
            return None;
        }
        self.delay = if self.delay.is_zero() {
            FIRST
        } else {
            (self.delay * 2).min(LONGEST)
        };
        self.count += 1;
        Some(self.delay)
    }

    /// Whether any policy is left at the end of a wait.
    pub fn holds(&self) -> bool {
        self.restart.policy != RestartPolicy::No
    }

    fn wants(&self, exit_code: u32) -> bool {
        match self.restart.policy {
            RestartPolicy::No => false,
            RestartPolicy::OnFailure => {
                let maximum = self.restart.maximum;
                exit_code != 0 && (maximum == 0 || self.count < maximum)
            }
            // A person's stop does not come here.
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(9999);

    fn policy(policy: RestartPolicy, maximum: u32) -> Restarts {
        Restarts::new(Restart { policy, maximum })
    }

    fn waits(restarts: &mut Restarts, exit_code: u32, count: usize) -> Vec<u128> {
        (0..count)
            .map_while(|_| restarts.next(exit_code, SHORT))
            .map(|wait| wait.as_millis())
            .collect()
    }

    #[test]
    fn waits_double_up_to_a_minute() {
        let mut always = policy(RestartPolicy::Always, 0);
        let expect = [
            100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000,
        ];
        assert_eq!(waits(&mut always, 0, 12), expect);
        assert_eq!(always.count(), 12);
    }

    #[test]
    fn ten_seconds_of_running_begin_anew() {
        let mut always = policy(RestartPolicy::UnlessStopped, 0);
        waits(&mut always, 1, 5);
        let wait = always.next(1, Duration::from_secs(10));
        assert_eq!(wait, Some(FIRST));
        assert_eq!(waits(&mut always, 1, 1), [200]);
        assert_eq!(always.count(), 7);
    }

    #[test]
    fn on_failure_counts() {
        assert_eq!(
            waits(&mut policy(RestartPolicy::OnFailure, 2), 1, 9).len(),
            2
        );
        assert_eq!(
            waits(&mut policy(RestartPolicy::OnFailure, 0), 255, 9).len(),
            9
        );
        assert_eq!(
            waits(&mut policy(RestartPolicy::OnFailure, 2), 0, 9).len(),
            0
        );
        assert_eq!(waits(&mut policy(RestartPolicy::No, 0), 1, 9).len(), 0);
    }

    #[test]
    fn a_policy_can_be_changed() {
        let mut restarts = policy(RestartPolicy::Always, 0);
        waits(&mut restarts, 0, 3);
        restarts.set(Restart::default());
        assert!(!restarts.holds());
        assert_eq!(restarts.next(1, SHORT), None);
    }
}
