//! How a container is: the shape of `state.json`. [`super::spec`] says who writes it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::spec::{Port, SCHEMA};

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started.
    Created,
    /// A supervisor has it, its process runs or is about to.
    Running,
    /// As running, with its processes frozen.
    Paused,
    /// A supervisor has it and is about to start it again.
    Restarting,
    /// Its process ended, or it was lost.
    Exited,
}

/// `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Where it is; with [`Status::Running`] and a free lock it is dead and wants repair.
    pub status: Status,
    /// The supervisor's process id while running.
    pub pid: Option<u32>,
    /// Nanoseconds since 1970; when its process last started.
    pub started_ns: Option<u64>,
    /// Nanoseconds since 1970; when it last ended.
    pub finished_ns: Option<u64>,
    /// Of the last end.
    pub exit_code: Option<u32>,
    /// The kernel's OOM killer ended it.
    pub oom_killed: bool,
    /// Why it could not start, or how it was lost.
    pub error: Option<String>,
    /// Which driver and acceleration ran it, for example `qemu/tcg`.
    pub driver: Option<String>,
    /// Starts by the restart policy since a person started it.
    #[serde(default)]
    pub restarts: u32,
    /// A person stopped or killed it; the next start clears it.
    #[serde(default)]
    pub stopped: bool,
    /// Of a container with a health check that was started.
    #[serde(default)]
    pub health: Option<Health>,
    /// Where it is on its networks, or was when it last ran: it gets the same addresses when they are free.
    #[serde(default)]
    pub networks: Vec<Attached>,
    /// Sockets of the host's that its supervisor has made, and removes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<HostSocket>,
}

/// A socket's file that a supervisor has made on the host. Which file it is says more than its path, where another one may lie now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSocket {
    /// Absolute.
    pub path: PathBuf,
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

/// Where a container is on a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The network's name.
    pub network: String,
    /// Its own address.
    pub address: Ipv4Addr,
    /// Bits of the subnet.
    pub prefix: u8,
    /// The gateway's address.
    pub gateway: Ipv4Addr,
    /// Its address of IPv6, bits of that subnet, and the gateway's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<(Ipv6Addr, u8, Ipv6Addr)>,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// Its ports, with addresses and numbers that they have now.
    pub ports: Vec<Port>,
}

impl Status {
    /// A supervisor has it: with a free lock it is dead.
    #[must_use]
    pub const fn is_alive(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

impl State {
    /// Of a container that was made and never started.
    #[must_use]
    pub fn created() -> Self {
        Self {
            schema: SCHEMA,
            status: Status::Created,
            pid: None,
            started_ns: None,
            finished_ns: None,
            exit_code: None,
            oom_killed: false,
            error: None,
            driver: None,
            restarts: 0,
            stopped: false,
            health: None,
            networks: Vec::new(),
            sockets: Vec::new(),
        }
    }
}

/// How a container fares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Not known yet.
    #[default]
    Starting,
    /// The last check succeeded.
    Healthy,
    /// As many checks in a row as its retries failed.
    Unhealthy,
}

/// The last health checks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What they come to.
    pub status: HealthStatus,
    /// Failures since the last success.
    pub failing_streak: u32,
    /// The last five, oldest first.
    pub log: Vec<HealthResult>,
}

/// One health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthResult {
    /// Nanoseconds since 1970.
    pub started_ns: u64,
    /// Nanoseconds since 1970.
    pub ended_ns: u64,
    /// -1: it could not be run, or took too long.
    pub exit_code: i32,
    /// The first 4,096 bytes of what it wrote.
    pub output: String,
}
