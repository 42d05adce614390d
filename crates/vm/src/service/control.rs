//! Kill, stop, pause, stats, top, update.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use proto::supervisor::{
    Failure, ProcessInfo, StatsReply, StopRequest, TopReply, UpdateRequest, failure::Kind,
};
use store::container::Status;
use store::fault;

use super::Service;
use crate::failure;
use crate::guest::Guest;
use crate::life::{MAIN, Shared};
use crate::supervision::{Dismissal, Now, Supervision};

/// SIGKILL, as every Linux has it.
const KILL: u32 = 9;

/// Billionths of a processor.
const PROCESSOR: u64 = 1_000_000_000;

impl Service {
    /// Sends a signal to the first process.
    pub(super) async fn kill(&self, signal: u32) -> Result<(), Failure> {
        if self.is_restarting() {
            // As Docker: there is no process to send it to, and there shall be none.
            self.supervision.dismiss(Dismissal::Person);
            return Ok(());
        }
        let (run, guest) = self.running().await?;
        self.supervision.note_signal(signal);
        if signal == KILL {
            run.hub.hurry();
        }
        fault::point("vm.signal");
        guest
            .signal(MAIN, signal)
            .await
            .map_err(|failure| self.explain(&run, failure))?;
        self.supervision.emit("kill", &[("signal", &signal)]);
        if signal == KILL || signal == run.spec.stop_signal {
            // One that is frozen could not follow it.
            thaw(&self.supervision, &run, &guest).await;
        }
        Ok(())
    }

    /// Ends the container; returns when its end is on its way.
    pub(super) async fn end(&self, asked: &StopRequest) {
        stop(&self.supervision, Dismissal::Person, asked).await;
    }

    pub(super) async fn set_paused(&self, paused: bool) -> Result<(), Failure> {
        let (run, guest) = self.running().await?;
        let (from, to) = if paused {
            (Status::Running, Status::Paused)
        } else {
            (Status::Paused, Status::Running)
        };
        fault::point("vm.pause");
        let changed = run
            .freezer
            .pause(&guest, paused)
            .await
            .map_err(|failure| self.explain(&run, failure))?;
        fault::point("vm.paused");
        if !changed {
            return Err(if paused {
                self.refusal("is already paused", "")
            } else {
                self.refusal("is not paused", "")
            });
        }
        mark(&self.supervision, from, to);
        Ok(())
    }

    pub(super) async fn statistics(&self) -> Result<StatsReply, Failure> {
        let (run, guest) = self.running().await?;
        let stats = guest
            .stats()
            .await
            .map_err(|failure| self.explain(&run, failure))?;
        Ok(StatsReply {
            failure: None,
            read_ns: stats.read_ns,
            cpu_total_ns: stats.cpu_total_ns,
            cpu_user_ns: stats.cpu_user_ns,
            cpu_system_ns: stats.cpu_system_ns,
            throttled_ns: stats.throttled_ns,
            online_cpus: stats.online_cpus,
            memory_usage: stats.memory_usage,
            memory_cache: stats.memory_cache,
            memory_limit: stats.memory_limit,
            memory_peak: stats.memory_peak,
            oom_kills: stats.oom_kills,
            pids: stats.pids,
            pids_limit: stats.pids_limit,
            block_read_bytes: stats.block_read_bytes,
            block_write_bytes: stats.block_write_bytes,
            block_reads: stats.block_reads,
            block_writes: stats.block_writes,
            network_received_bytes: stats.network_received_bytes,
            network_sent_bytes: stats.network_sent_bytes,
        })
    }

    pub(super) async fn processes(&self) -> Result<TopReply, Failure> {
        let (run, guest) = self.running().await?;
        let top = guest
            .top()
            .await
            .map_err(|failure| self.explain(&run, failure))?;
        let process = |process: proto::agent::ProcessInfo| ProcessInfo {
            pid: process.pid,
            parent: process.parent,
            uid: process.uid,
            user: process.user,
            started_ns: process.started_ns,
            cpu_ns: process.cpu_ns,
            resident: process.resident,
            r#virtual: process.r#virtual,
            terminal: process.terminal,
            state: process.state,
            name: process.name,
            command: process.command,
            threads: process.threads,
            gid: process.gid,
        };
        Ok(TopReply {
            failure: None,
            processes: top.processes.into_iter().map(process).collect(),
            truncated: top.truncated,
        })
    }

    pub(super) async fn set_limits(&self, asked: UpdateRequest) -> Result<(), Failure> {
        if asked.restart {
            self.supervision
                .read_policy()
                .map_err(|error| failure::from_error("read the spec", "", &error))?;
        }
        let none =
            asked.memory_limit.is_none() && asked.nano_cpus.is_none() && asked.pids_limit.is_none();
        if none || self.is_restarting() {
            // The next run reads the spec anyhow.
            return Ok(());
        }
        let (run, guest) = self.running().await?;
        check_limits(&run, &asked)?;
        fault::point("vm.update");
        guest
            .update(asked.memory_limit, asked.nano_cpus, asked.pids_limit)
            .await
            .map_err(|failure| self.explain(&run, failure))
    }
}

/// A VM has what it was booted with.
fn check_limits(run: &Shared, asked: &UpdateRequest) -> Result<(), Failure> {
    let vm = &run.spec.vm;
    let refuse = |what: String| {
        Err(Failure {
            kind: Kind::Invalid.into(),
            remedy: "stop the container first, update it, and start it again".to_owned(),
            ..failure::own("set the limits", "", what)
        })
    };
    if let Some(memory) = asked.memory_limit
        && memory > vm.memory
    {
        return refuse(format!(
            "its VM was booted for {} MiB of memory and can't get {} MiB",
            vm.memory >> 20,
            memory.div_ceil(1 << 20)
        ));
    }
    let vcpus = run.vcpus.load(Ordering::Relaxed);
    if let Some(nano_cpus) = asked.nano_cpus
        && nano_cpus > u64::from(vcpus) * PROCESSOR
    {
        let s = if vcpus == 1 { "" } else { "s" };
        return refuse(format!(
            "its VM was booted with {vcpus} processor{s} and can't get {}",
            nano_cpus.div_ceil(PROCESSOR)
        ));
    }
    Ok(())
}

/// Ends the container for good; returns when its end is on its way.
pub async fn stop(supervision: &Arc<Supervision>, why: Dismissal, asked: &StopRequest) {
    supervision.dismiss(why);
    fault::point("vm.stop");
    let Now::Run(run) = supervision.now() else {
        return;
    };
    if supervision.maintenance {
        return;
    }
    run.hub.hurry();
    let Ok(guest) = run.guest().await else {
        return;
    };
    let signal = if asked.signal == 0 {
        run.spec.stop_signal
    } else {
        asked.signal
    };
    let timeout_ms = asked.timeout_ms.unwrap_or(run.spec.stop_timeout_ms);
    if *run.settled.borrow() {
        return;
    }
    supervision.emit("kill", &[("signal", &signal)]);
    thaw(supervision, &run, &guest).await;
    match guest.stop(signal, timeout_ms).await {
        Ok(true) if signal != KILL => supervision.emit("kill", &[("signal", &KILL)]),
        Ok(_) => {}
        // The container may have ended in this very moment; if not, its end is what counts, and it is on its way.
        Err(failure) => {
            let failure = failure::describe(&failure);
            tracing::warn!(%failure, "the agent did not stop the container");
        }
    }
    // Docker tells of the stop after the death.
    let _ = run.settled.subscribe().wait_for(|settled| *settled).await;
    supervision.emit("stop", &[]);
}

/// Lets a container that is about to end run.
async fn thaw(supervision: &Supervision, run: &Shared, guest: &Guest) {
    match run.freezer.thaw(guest).await {
        Ok(true) => mark(supervision, Status::Paused, Status::Running),
        Ok(false) => {}
        Err(failure) => {
            let failure = failure::describe(&failure);
            tracing::warn!(%failure, "the container can't be thawed");
        }
    }
}

/// Writes down that it was paused, or goes on; unless it ended in between.
fn mark(supervision: &Supervision, from: Status, to: Status) {
    let changed = supervision.record.edit(|state| {
        let changed = state.status == from;
        if changed {
            state.status = to;
        }
        changed
    });
    if changed {
        supervision.record.write_or_log();
        let action = if to == Status::Paused {
            "pause"
        } else {
            "unpause"
        };
        supervision.emit(action, &[]);
    }
}
