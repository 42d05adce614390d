//! The services between gourd's processes.
//!
//! [`agent`]: supervisor → guest, on the vsock connection that the agent dialled, by [`ttrpc`].
//! [`supervisor`]: engine → `gourd-vm`, on a unix socket, by gRPC. Each begins with a version exchange (`Hello`).
//! [`network`]: supervisors and engines → `gourd-net`, on a unix socket, and without gRPC.
//! The crate holds no policy: messages, the versions, the ports, and how calls travel: [`ttrpc`], and [`connect`] for gRPC on a
//! connection that exists already, once; and [`unix`], how to connect to a socket by its file.

pub mod connect;
pub mod frames;
pub mod network;
pub mod ttrpc;
pub mod unix;

/// Supervisor → guest. See `proto/agent.proto`.
#[allow(missing_docs, clippy::all, rust_2018_idioms)]
pub mod agent {
    include!(concat!(env!("OUT_DIR"), "/gourd.agent.v1.rs"));
}

/// Engine → supervisor. See `proto/supervisor.proto`.
#[allow(missing_docs, clippy::all, rust_2018_idioms)]
pub mod supervisor {
    tonic::include_proto!("gourd.supervisor.v1");
}

/// The version of the agent's service that this build speaks.
pub const AGENT_PROTOCOL: u32 = 2;

/// The version of the supervisor's service that this build speaks. A CLI also speaks the one before.
pub const SUPERVISOR_PROTOCOL: u32 = 1;

/// The host's vsock port that the agent dials once per boot, from a guest port below 1024.
pub const AGENT_PORT: u32 = 1;

/// The host's vsock port for stdio: one connection per stream, first [`STREAM_ID_LEN`] bytes = the stream's id.
pub const STDIO_PORT: u32 = 2;

/// Bytes of a stream's id.
pub const STREAM_ID_LEN: usize = 16;

/// The names of capabilities without `CAP_`, in the order of their numbers (`linux/capability.h`).
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];
