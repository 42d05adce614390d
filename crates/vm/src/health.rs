//! Health checks: a command in the container, now and then, and what its results come to.
//!
//! ```text
//!             success                     so many failures in a row
//!  starting ─────────► healthy ◄────────► unhealthy
//!     └────────────────────────────────────▲   success leads back
//!      failures, but not in the start period
//! ```
//!
//! Docker's rules (moby's `daemon/health.go`). One task for each run; it ends with the run.

mod probe;

use std::sync::Arc;
use std::time::Duration;

use store::container::{Health, HealthCheck, HealthResult, HealthStatus};
use tokio::task::JoinHandle;

use crate::guest::Guest;
use crate::life::Shared;
use crate::supervision::Supervision;

/// How long the news of a container's end may take to come here.
const END: Duration = Duration::from_millis(500);

/// Results that are kept.
const KEPT: usize = 5;

/// A watch that ends when this is dropped.
pub struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Watches over a run, if its spec wants that.
pub fn begin(supervision: &Arc<Supervision>, run: &Arc<Shared>, guest: &Guest) -> Option<Watch> {
    let check = run.spec.health.clone()?;
    if check.args.is_empty() {
        return None;
    }
    let watch = watch(supervision.clone(), run.clone(), guest.clone(), check);
    Some(Watch(tokio::spawn(watch)))
}

async fn watch(supervision: Arc<Supervision>, run: Arc<Shared>, guest: Guest, check: HealthCheck) {
    let mut frozen = run.freezer.watch();
    let mut status = HealthStatus::Starting;
    loop {
        tokio::time::sleep(pause(&check, status, run.lasted())).await;
        // One that is frozen is neither well nor ill. The sender lives as long as the run.
        let _ = frozen.wait_for(|frozen| !frozen).await;
        let in_start_period = run.lasted() < nanoseconds(check.start_period_ns);
        let name = supervision.process_name("health");
        let result = probe::run(&run, &guest, &name, &check).await;
        if result.exit_code < 0 {
            // Because the container has just ended, perhaps: then this task is about to, and nothing is held against it.
            tokio::time::sleep(END).await;
        }
        if frozen.has_changed().unwrap_or(true) {
            // It was frozen meanwhile: how long it took says nothing.
            continue;
        }
        let before = status;
        status = supervision.record.edit(|state| {
            let health = state.health.get_or_insert_default();
            // What it was before this run does not count.
            take(health, before, result, check.retries, in_start_period);
            health.status
        });
        supervision.record.show_or_log();
        supervision.record.keep();
        if status != before {
            supervision.emit(&format!("health_status: {}", word(status)), &[]);
        }
    }
}

/// How long to wait before the next check.
fn pause(check: &HealthCheck, status: HealthStatus, lasted: Duration) -> Duration {
    let starting = status == HealthStatus::Starting && lasted < nanoseconds(check.start_period_ns);
    nanoseconds(if starting {
        check.start_interval_ns
    } else {
        check.interval_ns
    })
}

/// What one more result makes of it.
fn take(
    health: &mut Health,
    before: HealthStatus,
    result: HealthResult,
    retries: u32,
    in_start_period: bool,
) {
    health.status = before;
    if result.exit_code == 0 {
        health.failing_streak = 0;
        health.status = HealthStatus::Healthy;
    } else if before != HealthStatus::Starting || !in_start_period {
        health.failing_streak += 1;
        if health.failing_streak >= retries {
            health.status = HealthStatus::Unhealthy;
        }
    }
    health.log.push(result);
    let old = health.log.len().saturating_sub(KEPT);
    health.log.drain(..old);
}

fn nanoseconds(count: u64) -> Duration {
    Duration::from_nanos(count)
}

/// Docker's word.
fn word(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(exit_code: i32) -> HealthResult {
        HealthResult {
            started_ns: 1,
            ended_ns: 2,
            exit_code,
            output: String::new(),
        }
    }

    /// `+` success, `-` failure, in capital positions `s` a failure and `S` a success in the start period.
    fn check(results: &str, expect: &str) {
        let mut health = Health::default();
        let mut seen = String::new();
        for letter in results.chars() {
            let code = i32::from(matches!(letter, '-' | 's'));
            let starting = matches!(letter, 's' | 'S');
            let before = health.status;
            take(&mut health, before, result(code), 3, starting);
            seen.push_str(&word(health.status)[..1]);
        }
        assert_eq!(seen, expect, "{results}");
    }

    /// Oracle: `handleProbeResult` of moby, by hand. s(tarting), h(ealthy), u(nhealthy).
    #[test]
    fn results_make_a_status() {
        check("+", "h");
        check("---", "ssu");
        check("--+", "ssh");
        check("+--+---", "hhhhhhu");
        check("ssss---", "ssssssu");
        check("ss+", "ssh");
        // Once healthy, the start period is over.
        check("Ssss", "hhhu");
        check("---+-", "ssuhh");
        check("----+", "ssuuh");
    }

    #[test]
    fn five_results_are_kept() {
        let mut health = Health::default();
        for code in 0..9 {
            let before = health.status;
            take(&mut health, before, result(code), 3, false);
        }
        let codes: Vec<_> = health.log.iter().map(|result| result.exit_code).collect();
        assert_eq!(codes, [4, 5, 6, 7, 8]);
        assert_eq!(health.failing_streak, 8);
    }

    #[test]
    fn the_start_period_has_an_interval_of_its_own() {
        let spec = HealthCheck {
            interval_ns: 30,
            start_interval_ns: 5,
            start_period_ns: 100,
            ..HealthCheck::default()
        };
        let wait = |status, lasted| pause(&spec, status, Duration::from_nanos(lasted)).as_nanos();
        assert_eq!(wait(HealthStatus::Starting, 99), 5);
        assert_eq!(wait(HealthStatus::Starting, 100), 30);
        assert_eq!(wait(HealthStatus::Healthy, 1), 30);
    }
}
