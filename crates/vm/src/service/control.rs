//! Pause, stats, top, update.

use std::sync::atomic::Ordering;

use proto::supervisor::{Failure, ProcessInfo, StatsReply, TopReply, UpdateRequest, failure::Kind};
use store::container::Status;
use store::fault;

use super::Service;
use crate::failure;
use crate::life::Shared;
use crate::supervision::Supervision;

/// Billionths of a processor.
const PROCESSOR: u64 = 1_000_000_000;

impl Service {
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

/// Writes down that it was paused, or goes on; unless it ended in between.
pub(super) fn mark(supervision: &Supervision, from: Status, to: Status) {
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
