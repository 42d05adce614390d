//! Starts a helper in the right PID namespace, and learns whether it became the process.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use prost::Message;
use proto::agent::Failure;
use proto::agent::failure::Kind;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::PidfdFlags;
use rustix::thread::ThreadNameSpaceType;
use tokio::io::unix::AsyncFd;

use super::process::Process;
use super::stdio::nonblocking;
use super::stream::read;
use super::terminal::Terminal;
use crate::cgroup::Cgroup;
use crate::failure::{Failed, Step};
use crate::helper::{self, Instructions, READY};
use crate::sys::{self, Birth};

/// stdin, stdout and stderr of a process.
pub(super) struct ChildEnds {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// A helper on its way to become the process.
pub(super) struct Starting {
    /// The child, reaped by its own task from now on.
    pub(super) process: Arc<Process>,
    control: AsyncFd<OwnedFd>,
}

/// Starts a helper with `instructions`: as PID 1 of a new PID namespace, or, with `first`, in that process's
/// namespaces.
pub(super) fn spawn(
    mut instructions: Instructions,
    first: Option<&Process>,
    ends: ChildEnds,
    terminal: Option<Terminal>,
    cgroup: &Cgroup,
) -> Result<Starting, Failed> {
    let group = cgroup.open()?;
    let mut birth = Birth {
        stdio: Some([&ends.stdin, &ends.stdout, &ends.stderr].map(AsFd::as_fd)),
        cgroup: Some(group.as_fd()),
        new_pid_namespace: false,
    };
    let ((pid, pidfd), control) = match first {
        // Nothing was asked of this VM before, so nothing has started a thread.
        None => {
            // A pipe, whose code the kernel has used by now: with a socket the start is 3 ms longer under translation.
            let (ours, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
                .step("make", "a pipe for the helper")?;
            birth.new_pid_namespace = true;
            let mut theirs = File::from(theirs);
            let helper = || helper::follow(&instructions, &mut theirs);
            (sys::fork(&birth, helper).step("start", "a helper")?, ours)
        }
        Some(first) => {
            let (mut ours, theirs) = UnixStream::pair().step("make", "a socket for the helper")?;
            let first = first.pidfd().ok_or_else(not_running)?;
            let first = first.get_ref().as_fd();
            // Inherited on purpose: nothing else is started between here and the drop of these.
            let (control, join) = (inheritable(theirs.as_fd())?, inheritable(first)?);
            instructions.join = join.as_raw_fd();
            let socket = CString::new(control.as_raw_fd().to_string()).unwrap_or_default();
            let arguments = [CString::from(crate::HELPER), socket];
            let born = || sys::spawn(crate::SELF, &arguments, &birth);
            let born = in_pid_namespace(first, born)?;
            send(&mut ours, &instructions).step("instruct", "a helper")?;
            (born, ours.into())
        }
    };
    drop(ends);

    let process = Process::adopt(pid, pidfd, terminal, cgroup).step("watch", "a helper")?;
    let control = nonblocking(control).step("watch", "a helper")?;
    Ok(Starting {
        process: Arc::new(process),
        control,
    })
}

/// A copy of `fd` that a new program has under the same number.
pub(super) fn inheritable(fd: BorrowedFd<'_>) -> Result<OwnedFd, Failed> {
    rustix::io::dup(fd).step("duplicate", "a descriptor")
}

fn send(control: &mut UnixStream, instructions: &Instructions) -> std::io::Result<()> {
    let message = instructions.encode_to_vec();
    let length = u32::try_from(message.len()).map_err(std::io::Error::other)?;
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend(message);
    control.write_all(&bytes)
}

/// Has children be born in the PID namespace of `first` while `spawn` runs. `setns` changes where this thread's children
/// go, never the thread itself, so the way back is `setns` to its own.
fn in_pid_namespace<T>(
    first: BorrowedFd<'_>,
    spawn: impl FnOnce() -> std::io::Result<T>,
) -> Result<T, Failed> {
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .step("open", "the agent itself")?;
    let enter = |pidfd| {
        rustix::thread::move_into_thread_name_spaces(pidfd, ThreadNameSpaceType::PROCESS_ID)
    };
    enter(first).map_err(|errno| match errno {
        Errno::SRCH => not_running(),
        errno => Failed::os("join", "the PID namespace", errno),
    })?;
    let spawned = spawn();
    enter(own.as_fd()).step("leave", "the PID namespace")?;
    spawned.map_err(|error| match error.raw_os_error() {
        // The namespace's PID 1 is gone: no process can be born in it.
        Some(libc::ENOMEM) => not_running(),
        _ => Failed::os("start", "a helper", error),
    })
}

fn not_running() -> Failed {
    Failed::invalid("join", "the container", "it is not running")
}

impl Starting {
    /// Waits until the helper became the process, or has failed: then it is reaped already.
    pub(super) async fn finish(self) -> Result<Arc<Process>, Failed> {
        let said = hear(&self.control).await.step("hear from", "a helper")?;
        match verdict(&said) {
            Ok(()) => Ok(self.process),
            Err(failed) => {
                self.process.exit().wait().await;
                Err(failed)
            }
        }
    }
}

/// Everything that is said until the end.
pub(super) async fn hear(control: &AsyncFd<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match read(control, &mut buffer).await? {
            0 => return Ok(said),
            count => said.extend_from_slice(&buffer[..count]),
        }
    }
}

/// What a helper's words mean: [`READY`] and no more is success.
fn verdict(said: &[u8]) -> Result<(), Failed> {
    let ready = READY.to_le_bytes();
    let rest = match said.strip_prefix(&ready) {
        Some([]) => return Ok(()),
        Some(rest) => rest,
        None => said,
    };
    let failure = rest
        .split_first_chunk::<4>()
        .filter(|(length, message)| u32::from_le_bytes(**length) as usize == message.len())
        .and_then(|(_, message)| Failure::decode(message).ok());
    Err(match failure {
        Some(failure) => failure.into(),
        None => Failed::invalid("run", "a helper", "it died before the process ran")
            .of_kind(Kind::Other),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let failure = Failure {
            step: "execve".into(),
            object: "/x".into(),
            message: "no".into(),
            ..Failure::default()
        };
        let message = failure.encode_to_vec();
        let mut failed = u32::try_from(message.len()).unwrap().to_le_bytes().to_vec();
        failed.extend(message);
        let ready = READY.to_le_bytes();
        let text = |said: &[u8]| verdict(said).map_err(|failed| failed.to_string());
        assert_eq!(text(&ready), Ok(()));
        assert_eq!(text(&failed), Err("execve /x: no".into()));
        assert_eq!(
            text(&[&ready[..], &failed].concat()),
            Err("execve /x: no".into())
        );
        let died = "run a helper: it died before the process ran";
        assert_eq!(text(&[]), Err(died.into()));
        assert_eq!(text(&ready[..2]), Err(died.into()));
        assert_eq!(text(&failed[..failed.len() - 1]), Err(died.into()));
    }
}
