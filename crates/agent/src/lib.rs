//! The guest's side of a container's VM: one static program in three roles.
//!
//! ```text
//! PID 1  gourd-init    one thread, synchronous: file systems of the VM, modules; starts the agent, reaps, powers off
//!  └─ gourd-agent      tokio, one thread: dials the host, serves `proto::agent` on that connection, mounts, waits
//!      ├─ gourd-helper ⇒ execve: the container's first process, PID 1 of its own PID namespace
//!      │    └─ …       its children; orphans in that PID namespace are its own to reap
//!      └─ gourd-helper ⇒ execve: any other process, in the same namespaces
//! ```
//!
//! The role is `argv[0]`, because the kernel hands unknown words of its command line to PID 1 as arguments, and
//! because a helper is PID 1 too, of the container's namespace.
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
mod users;

use std::ffi::CStr;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

/// `argv[0]` of the agent's role.
const AGENT: &str = "gourd-agent";
/// `argv[0]` of the helper's role.
const HELPER: &CStr = c"gourd-helper";
/// What each role is started from.
const SELF: &CStr = c"/proc/self/exe";

/// Plays the role that `argv[0]` and the process id name.
pub fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    if name.as_bytes() == HELPER.to_bytes() {
        helper::main()
    } else if name.as_bytes() == AGENT.as_bytes() {
        agent::main()
    } else if std::process::id() == 1 {
        init::main()
    } else {
        eprintln!("gourd-init: runs as PID 1 of a gourd VM only");
        ExitCode::from(2)
    }
}
