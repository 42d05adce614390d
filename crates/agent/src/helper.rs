//! The helper: a process with one thread that makes itself the container's process.
//!
//! ```text
//! agent                                   helper (born in the container's PID namespace and control group)
//!   |  length, Instructions  ------------>  |  (over a socket; a fork of the agent has them in its memory, and a pipe)
//!   |                                       |  namespaces, mounts, root, session, user, limits, capabilities
//!   |  <------------  length, Failure   or  |
//!   |  <------------  READY, end of file    |  execve closed socket or pipe: the process runs
//! ```
//!
//! End of file without either means that the helper died. The order of the steps is runc's (`standard_init_linux.go`,
//! `setns_init_linux.go`): a first process and a joining one differ in `namespaces` only.

mod devices;
mod exec;
mod identity;
mod masks;
mod namespaces;
pub(crate) mod reaper;
mod sysctls;

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};

use prost::Message;
use proto::agent::{Failure, Process, Sysctl};

use rustix::process::Resource;

use crate::failure::{Failed, Step};
use crate::{caps, rlimits, sys};

/// Written just before `execve`.
pub(crate) const READY: u32 = u32::MAX;

/// What a helper is told, all of it at once.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Instructions {
    /// The process to become.
    #[prost(message, optional, tag = "1")]
    pub(crate) process: Option<Process>,
    /// The container's root in the VM's mount namespace.
    #[prost(string, tag = "2")]
    pub(crate) rootfs: String,
    /// Host name of the new UTS namespace; a joining process keeps the namespace's.
    #[prost(string, tag = "3")]
    pub(crate) hostname: String,
    /// An inherited pidfd of the container's first process, whose namespaces to join; 0 makes new ones.
    #[prost(int32, tag = "4")]
    pub(crate) join: i32,
    /// For the new namespaces.
    #[prost(message, repeated, tag = "5")]
    pub(crate) sysctls: Vec<Sysctl>,
}

/// The role of a program of its own. The one argument is the number of the inherited socket, where the instructions come.
pub(crate) fn main() -> u8 {
    let control = std::env::args()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidInput))
        .and_then(sys::inherited);
    let mut control = match control {
        Ok(fd) => File::from(fd),
        Err(error) => {
            eprintln!("gourd-helper: no socket to the agent: {error}");
            return crate::FAILURE;
        }
    };
    match receive(&mut control).step("read", "instructions") {
        Ok(instructions) => follow(&instructions, &mut control),
        Err(failed) => fail(failed, &mut control),
    }
}

/// The role of a fork of the agent, which has the instructions already. Comes back with an exit status, after a failure.
pub(crate) fn follow(instructions: &Instructions, control: &mut File) -> u8 {
    let Err(failed) = run(instructions, control);
    fail(failed, control)
}

/// Tells the agent.
fn fail(failed: Failed, control: &mut File) -> u8 {
    let failure = Failure::from(failed).encode_to_vec();
    // When this fails the agent is dead, and with it the VM.
    let _ = send(control, &failure);
    crate::FAILURE
}

fn send(control: &mut File, failure: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(failure.len()).unwrap_or(0);
    control.write_all(&length.to_le_bytes())?;
    control.write_all(failure)
}

fn receive(control: &mut File) -> std::io::Result<Instructions> {
    let mut length = [0; 4];
    control.read_exact(&mut length)?;
    let mut message = Vec::new();
    let length = u64::from(u32::from_le_bytes(length));
    control.take(length).read_to_end(&mut message)?;
    Instructions::decode(message.as_slice()).map_err(std::io::Error::other)
}

fn run(instructions: &Instructions, control: &mut File) -> Result<Infallible, Failed> {
    let process = instructions.process.clone().unwrap_or_default();
    let capabilities = if process.privileged {
        caps::every()
    } else {
        caps::parse(&process.capabilities)
            .map_err(|name| Failed::invalid("look up capability", name, "no such capability"))?
    };
    let limits = limits(&process)?;

    let_oom_killer_choose(process.oom_score_adj)?;
    if instructions.join == 0 {
        namespaces::create(instructions, &process, capabilities)?;
    } else {
        // The agent's own is for its many streams.
        let (soft, hard) = rlimits::KERNELS_FILES;
        rlimits::set(Resource::Nofile, soft, hard).step("set limit", "RLIMIT_NOFILE")?;
        namespaces::join(instructions.join)?;
    }
    rustix::process::setsid().step("make", "session")?;
    if process.tty {
        identity::take_terminal()?;
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let identity = identity::look_up(&process.user, &process.groups)?;
    identity::own_stdio(&identity)?;
    exec::enter_directory(&process.cwd)?;
    for (name, resource, limit) in limits {
        rlimits::set(resource, limit.soft, limit.hard).step("set limit", name)?;
    }
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).step("set", "no new privileges")?;
    }
    caps::bound(capabilities).step("bound", "capabilities")?;
    identity::become_user(&identity)?;
    caps::reduce(capabilities).step("reduce", "capabilities")?;

    let environment = exec::environment(&process, &identity.home);
    let arguments = strings(&process.args)?;
    let program = process.args.first().map_or("", String::as_str);
    sys::reset_signals();
    sys::close_on_exec_from(3).step("mark", "descriptors")?;
    let is_first = instructions.join == 0;
    // Open across execve: the process's own may still fail, and the agent shall hear of it.
    let inherited = (process.init && is_first)
        .then(|| rustix::io::dup(&*control).step("duplicate", "the pipe"))
        .transpose()?;
    let ready = || {
        control
            .write_all(&READY.to_le_bytes())
            .step("tell", "the agent")
    };
    let environment = strings(&environment)?;
    if let Some(inherited) = inherited {
        return reaper::become_one(program, &arguments, &environment, inherited, ready);
    }
    exec::become_program(program, &arguments, &environment, ready)
}

type Limit<'a> = (&'a str, Resource, &'a proto::agent::Rlimit);

fn limits(process: &Process) -> Result<Vec<Limit<'_>>, Failed> {
    let known = |limit: &'_ proto::agent::Rlimit| rlimits::resource(&limit.name);
    process
        .rlimits
        .iter()
        .map(|limit| match known(limit) {
            Some(resource) => Ok((limit.name.as_str(), resource, limit)),
            None => Err(Failed::invalid("set limit", &limit.name, "no such limit")),
        })
        .collect()
}

/// The OOM killer may choose what runs in the container, unlike the agent: the more so, the higher the score (-1000 to
/// 1000).
pub(crate) fn let_oom_killer_choose(score: i32) -> Result<(), Failed> {
    const SCORE: &str = "/proc/self/oom_score_adj";
    std::fs::write(SCORE, score.to_string()).step("write", SCORE)
}

fn strings<S: AsRef<[u8]>>(strings: &[S]) -> Result<Vec<CString>, Failed> {
    strings
        .iter()
        .map(|string| {
            CString::new(string.as_ref()).map_err(|_| {
                let text = String::from_utf8_lossy(string.as_ref());
                Failed::invalid("execve", text.escape_debug(), "a NUL byte inside")
            })
        })
        .collect()
}
