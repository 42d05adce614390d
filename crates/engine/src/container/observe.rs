//! What a running container uses, what runs in it, and holding it still: stats, top, pause, unpause.

use proto::supervisor::{PauseRequest, StatsRequest, TopRequest};

use super::life::alive;
use crate::{Engine, Error, supervisor};

/// What a container uses at a moment. Sums count since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Nanoseconds of a clock of the VM's, for differences between two of these.
    pub read_ns: u64,
    /// Nanoseconds of processor time, of all processors together.
    pub cpu_total_ns: u64,
    /// In user mode.
    pub cpu_user_ns: u64,
    /// In the kernel.
    pub cpu_system_ns: u64,
    /// Nanoseconds in which it wanted a processor and was not given one.
    pub throttled_ns: u64,
    /// Virtual processors.
    pub online_cpus: u32,
    /// Bytes.
    pub memory_usage: u64,
    /// Bytes of it that could be dropped.
    pub memory_cache: u64,
    /// Bytes; `None` without a limit.
    pub memory_limit: Option<u64>,
    /// The most bytes that it used.
    pub memory_peak: u64,
    /// Processes that were killed for want of memory.
    pub oom_kills: u64,
    /// Processes and threads.
    pub pids: u64,
    /// `None` without a limit.
    pub pids_limit: Option<u64>,
    /// Bytes from disks.
    pub block_read_bytes: u64,
    /// Bytes to disks.
    pub block_write_bytes: u64,
    /// Bytes from the network.
    pub network_received_bytes: u64,
    /// Bytes to the network.
    pub network_sent_bytes: u64,
}

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// In the container: its first process is 1.
    pub pid: u32,
    /// Of the parent.
    pub parent: u32,
    /// The effective user's number.
    pub uid: u32,
    /// The effective group's number.
    pub gid: u32,
    /// The user's name in the container, or the number.
    pub user: String,
    /// Nanoseconds since 1970.
    pub started_ns: u64,
    /// Nanoseconds of processor time.
    pub cpu_ns: u64,
    /// Bytes in memory.
    pub resident: u64,
    /// Bytes of address space.
    pub virtual_size: u64,
    /// `pts/0`; `?` without one.
    pub terminal: String,
    /// As in proc(5): `R`, `S`, `D`, …
    pub state: String,
    /// The program's name.
    pub name: String,
    /// argv joined by spaces; the name in brackets when there is none.
    pub command: String,
    /// How many.
    pub threads: u32,
}

impl Engine {
    /// Freezes all processes of a container.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; it is paused already.
    pub async fn pause(&self, id: &str) -> Result<(), Error> {
        self.set_paused(id, true).await
    }

    /// Lets the processes of a paused container go on.
    ///
    /// # Errors
    /// [`Error::NotRunning`]; it is not paused.
    pub async fn unpause(&self, id: &str) -> Result<(), Error> {
        self.set_paused(id, false).await
    }

    async fn set_paused(&self, id: &str, paused: bool) -> Result<(), Error> {
        let container = self.container(id)?;
        let client = alive(&container).await?;
        let mut rpc = client.rpc.clone();
        let call = rpc.pause(PauseRequest { paused });
        match client.call("pause", call).await?.failure {
            None => Ok(()),
            Some(failure) => Err(supervisor::refusal(failure)),
        }
    }

    /// What a container uses now.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn stats(&self, id: &str) -> Result<Stats, Error> {
        let container = self.container(id)?;
        let client = alive(&container).await?;
        let mut rpc = client.rpc.clone();
        let reply = client.call("stats", rpc.stats(StatsRequest {})).await?;
        if let Some(failure) = reply.failure {
            return Err(supervisor::refusal(failure));
        }
        let limit = |value: u64| Some(value).filter(|value| *value > 0);
        Ok(Stats {
            read_ns: reply.read_ns,
            cpu_total_ns: reply.cpu_total_ns,
            cpu_user_ns: reply.cpu_user_ns,
            cpu_system_ns: reply.cpu_system_ns,
            throttled_ns: reply.throttled_ns,
            online_cpus: reply.online_cpus,
            memory_usage: reply.memory_usage,
            memory_cache: reply.memory_cache,
            memory_limit: limit(reply.memory_limit),
            memory_peak: reply.memory_peak,
            oom_kills: reply.oom_kills,
            pids: reply.pids,
            pids_limit: limit(reply.pids_limit),
            block_read_bytes: reply.block_read_bytes,
            block_write_bytes: reply.block_write_bytes,
            network_received_bytes: reply.network_received_bytes,
            network_sent_bytes: reply.network_sent_bytes,
        })
    }

    /// The processes of a container, in the order of their ids.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn top(&self, id: &str) -> Result<Vec<ProcessInfo>, Error> {
        let container = self.container(id)?;
        let client = alive(&container).await?;
        let mut rpc = client.rpc.clone();
        let reply = client.call("top", rpc.top(TopRequest {})).await?;
        if let Some(failure) = reply.failure {
            return Err(supervisor::refusal(failure));
        }
        if reply.truncated {
            tracing::warn!(name = container.spec().name, "there are more processes");
        }
        let mut processes: Vec<_> = reply
            .processes
            .into_iter()
            .map(|info| ProcessInfo {
                pid: info.pid,
                parent: info.parent,
                uid: info.uid,
                gid: info.gid,
                user: info.user,
                started_ns: info.started_ns,
                cpu_ns: info.cpu_ns,
                resident: info.resident,
                virtual_size: info.r#virtual,
                terminal: info.terminal,
                state: info.state,
                name: info.name,
                command: info.command,
                threads: info.threads,
            })
            .collect();
        processes.sort_by_key(|process| process.pid);
        Ok(processes)
    }
}
