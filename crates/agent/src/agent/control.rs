//! `Pause` and `Update`: what the container's control group lets its processes do.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::Duration;

use proto::agent::failure::Kind;
use proto::agent::{PauseRequest, UpdateRequest};
use rustix::fs::SeekFrom;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::container::{Container, State, lock};
use crate::failure::{Failed, Step};

/// A process that waits for a disk freezes when it has its answer. One that never does must not keep the caller.
const PATIENCE: Duration = Duration::from_secs(10);

/// Freezes the container's processes, or lets them go on; returns when it is so.
pub(super) async fn pause(state: &Mutex<State>, request: &PauseRequest) -> Result<(), Failed> {
    let watch = {
        let mut state = lock(state);
        let container = state.container(&request.container)?;
        if !request.paused {
            return container.thaw();
        }
        if container.running().is_none() {
            return Err(Failed::invalid(
                "pause",
                &request.container,
                "it is not running",
            ));
        }
        let watch = crate::sys::watch(container.booted.cgroup.events()?, Interest::PRIORITY)
            .step("watch", "the control group")?;
        container.paused = true;
        container.booted.cgroup.freeze(true)?;
        watch
    };
    match tokio::time::timeout(PATIENCE, frozen(&watch)).await {
        Ok(result) => result.step("watch", "the control group"),
        Err(_) => {
            lock(state).container(&request.container)?.thaw()?;
            let why = format!(
                "a process of it did not stop within {} s; it goes on",
                PATIENCE.as_secs()
            );
            Err(Failed::invalid("pause", &request.container, why).of_kind(Kind::Other))
        }
    }
}

/// Waits until every process is frozen, or none is left.
async fn frozen(events: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut buffer = [0; 256];
    loop {
        rustix::fs::seek(events.get_ref(), SeekFrom::Start(0))?;
        let count = rustix::io::read(events.get_ref(), &mut buffer)?;
        let text = std::str::from_utf8(&buffer[..count]).unwrap_or_default();
        if settled(text) {
            return Ok(());
        }
        // The kernel tells what changed since the last read, so nothing is lost between the two.
        events.ready(Interest::PRIORITY).await?.clear_ready();
    }
}

/// Whether `cgroup.events` says that nothing runs.
fn settled(events: &str) -> bool {
    events
        .lines()
        .any(|line| line == "frozen 1" || line == "populated 0")
}

/// Sets the limits that the request has.
pub(super) fn update(container: &Container, request: &UpdateRequest) -> Result<(), Failed> {
    let group = &container.booted.cgroup;
    if let Some(bytes) = request.memory_limit {
        group.limit_memory(bytes)?;
    }
    if let Some(nano_cpus) = request.nano_cpus {
        group.limit_cpus(nano_cpus)?;
    }
    if let Some(count) = request.pids_limit {
        group.limit_pids(count)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_a_group() {
        assert!(settled("populated 1\nfrozen 1\n"));
        assert!(settled("populated 0\nfrozen 0\n"));
        assert!(!settled("populated 1\nfrozen 0\n"));
        assert!(!settled(""));
    }
}
