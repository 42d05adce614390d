//! The guest's side of a container's VM: one static program in five roles.
//!
//! ```text
//! PID 1  gourd-init    one thread, synchronous: file systems of the VM, modules; starts the agent, reaps, powers off
//!  └─ gourd-agent      tokio, one thread: dials the host, serves `proto::agent` on that connection, mounts, waits
//!      ├─ gourd-helper ⇒ execve: the container's first process, PID 1 of its own PID namespace
//!      │    └─ …       its children; orphans in that PID namespace are its own to reap
//!      ├─ gourd-helper ⇒ gourd-reaper: the same as PID 1's child, for a container that wants an init
//!      ├─ gourd-helper ⇒ execve: any other process, in the same namespaces
//!      └─ gourd-transfer  reads or writes the container's files for the host, and ends
//! ```
//!
//! The agent and the first helper are forks that go on in the same program: under translation a program's start costs as
//! much as all that the helper does. Later helpers are executed, because the agent may have had other threads by then.
//! Their role is `argv[0]`: the kernel hands unknown words of its command line to PID 1 as arguments, so that it can't be
//! a later one.
//!
//! **Who waits.** A helper *becomes* the container's process, so the agent is the parent of each process that it
//! started, and the one place that collects its status (`agent::process`). PID 1 collects whatever else falls to it and
//! looks at the agent's status only. The agent is no child subreaper: a container's orphans stay in the container's PID
//! namespace, and what the agent leaves behind when it dies belongs to PID 1.
//!
//! **Trust.** The host is trusted; the image and everything that runs in the container are not: paths inside the
//! container are resolved beneath its root, its passwd and group are parsed as hostile bytes.

mod agent;
mod caps;
mod cgroup;
mod clock;
mod failure;
mod helper;
mod init;
mod inroot;
mod modules;
mod rlimits;
mod sys;
mod transfer;
mod users;

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt;

/// `argv[0]` of the helper's role.
const HELPER: &CStr = c"gourd-helper";
/// `argv[0]` of the transfer helper's role.
const TRANSFER: &CStr = c"gourd-transfer";
/// `argv[0]` of the init of a container that asked for one.
const REAPER: &CStr = c"gourd-reaper";
/// What those roles are started from.
const SELF: &CStr = c"/proc/self/exe";

/// A role's exit status when all went well.
const SUCCESS: u8 = 0;
/// A role's exit status when it has said what failed.
const FAILURE: u8 = 1;

/// Plays the role that `argv[0]` and the process id name. Returns the exit status.
pub fn main() -> u8 {
    sys::ignore_broken_pipes();
    let name = std::env::args_os().next().unwrap_or_default();
    if name.as_bytes() == HELPER.to_bytes() {
        helper::main()
    } else if name.as_bytes() == REAPER.to_bytes() {
        helper::reaper::main()
    } else if name.as_bytes() == TRANSFER.to_bytes() {
        transfer::main()
    } else if std::process::id() == 1 {
        init::main()
    } else {
        eprintln!("gourd-init: runs as PID 1 of a gourd VM only");
        2
    }
}
