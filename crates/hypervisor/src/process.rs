//! One monitor process: started confined to what it is handed, watched, killed, reaped.
//!
//! Owned by the task that leads a VM's life; [`Killer`]s may be held by anybody.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, Signal};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use vmm::confine::Prepared;

use crate::config::VmConfig;

/// The most of a monitor's last words that is kept, in bytes.
const LAST_WORDS: usize = 4096;

/// What is put around `gourd-vmm` before it runs. `guest` is how much of the guest's memory is private to it, in bytes.
///
/// Shared folders need the host's users: whose a file is decides what the guest sees. Its own memory is bounded by what it
/// keeps for the guest: at most 88 MiB of what 1,024 connections over vsock may have unread, some KiB for each
/// device and 256 KiB of stack for each thread, of which there are some dozens; and for each share an entry for each of
/// up to a million files that the guest knows.
pub(crate) fn around_ours(config: &VmConfig, guest: u64) -> Prepared {
    const OURS: u64 = 256 << 20;
    const SHARE: u64 = 1 << 30;
    let shares = config.shares.len() as u64 * SHARE;
    let around = vmm::confine::for_ourselves().with_memory(guest.saturating_add(OURS + shares));
    match config.shares.is_empty() {
        true => around.in_namespaces(),
        false => around,
    }
}

/// A monitor process. Dropping it kills it.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    pidfd: AsyncFd<Arc<OwnedFd>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
}

/// Kills one process, and never another that got its number later.
#[derive(Clone)]
pub(crate) struct Killer {
    pidfd: Arc<OwnedFd>,
}

impl Killer {
    /// Sends SIGKILL. A process that is gone already is none the worse.
    pub(crate) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }
}

impl Process {
    /// Starts `command` with `keep` as its only descriptors beyond the standard ones: no input, no output, and last
    /// words on a pipe.
    pub(crate) fn spawn(
        name: &'static str,
        mut command: Command,
        keep: &[BorrowedFd<'_>],
        confinement: Prepared,
    ) -> io::Result<Process> {
        let (words, their_words) = std::io::pipe()?;
        let words = pipe::Receiver::from_owned_fd(words.into())?;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(their_words);
        vmm::spawn::inherit(&mut command, keep, Some(confinement));
        let child = command.spawn()?;
        // The command owns the pipe's writing end: it has to go, or the end of the words never comes.
        drop(command);
        let pid = Pid::from_child(&child);
        let pidfd = Arc::new(rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?);
        Ok(Process {
            name,
            child,
            pidfd: watch(pidfd)?,
            stderr: Some(tokio::spawn(tail(words))),
        })
    }

    /// The process's identifier.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn killer(&self) -> Killer {
        Killer {
            pidfd: self.pidfd.get_ref().clone(),
        }
    }

    /// Waits for the end and reaps. Cancel safe.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            let mut guard = self.pidfd.readable().await?;
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            guard.clear_ready();
        }
    }

    /// How it ended, in words, with the last line that it wrote if it did not end well.
    pub(crate) async fn obituary(&mut self, status: ExitStatus) -> String {
        let name = self.name;
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("{name} exited with code {code}"),
            (None, Some(signal)) => match Signal::from_named_raw(signal) {
                Some(known) => {
                    let known = format!("{known:?}");
                    let known = known.trim_matches('"').trim_start_matches("Signal::");
                    format!("{name} was killed by signal {signal} (SIG{known})")
                }
                None => format!("{name} was killed by signal {signal}"),
            },
            (None, None) => format!("{name} ended"),
        };
        // The pipe ends with the process, unless a child of its own holds it: that must not hold up anybody.
        let words = match self.stderr.take() {
            Some(stderr) => tokio::time::timeout(std::time::Duration::from_secs(1), stderr).await,
            None => return how,
        };
        let words = match words {
            Ok(Ok(words)) => words,
            _ => Vec::new(),
        };
        match last_line(&words) {
            Some(line) => format!("{how}: {line}"),
            None => how,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Does nothing to a child that was reaped.
        if self.child.kill().is_ok() {
            let _ = self.child.try_wait();
        }
    }
}

/// Watches a descriptor that its owner keeps open and in place until it is dropped.
///
/// The safe constructor is deprecated because a `T` could close its descriptor early, or lie about it; its heir is
/// `unsafe`. The two types that are watched here, `Arc<OwnedFd>` and `Control`, do neither.
#[allow(deprecated)]
pub(crate) fn watch<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(inner)
}

/// Reads to the end and keeps the last [`LAST_WORDS`] bytes.
async fn tail(mut from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        let excess = kept.len().saturating_sub(LAST_WORDS);
        kept.drain(..excess);
    }
    kept
}

/// The last line that says something, printable and at most 400 characters long.
fn last_line(words: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(words);
    let line = text.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let clean = line.chars().filter(|letter| !letter.is_control());
    Some(clean.take(400).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(words: &[u8], expect: Option<&str>) {
        assert_eq!(last_line(words).as_deref(), expect);
    }

    #[test]
    fn last_lines() {
        check(b"", None);
        check(b"\n \n", None);
        check(
            b"first\nqemu: could not open\n\n",
            Some("qemu: could not open"),
        );
        check(b"a\x1b[31mred\xff", Some("a[31mred\u{fffd}"));
    }

    async fn obituary(script: &str) -> String {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let mut process =
            Process::spawn("sh", command, &[], vmm::confine::for_ourselves()).unwrap();
        let status = process.ended().await.unwrap();
        process.obituary(status).await
    }

    #[tokio::test]
    async fn obituaries() {
        assert_eq!(obituary("exit 3").await, "sh exited with code 3");
        assert_eq!(
            obituary("echo no such disk >&2; exit 1").await,
            "sh exited with code 1: no such disk"
        );
        assert_eq!(
            obituary("kill -9 $$").await,
            "sh was killed by signal 9 (SIGKILL)"
        );
    }

    #[tokio::test]
    async fn a_killer_kills() {
        let mut command = Command::new("/bin/sleep");
        command.arg("1000");
        let mut process =
            Process::spawn("sleep", command, &[], vmm::confine::for_ourselves()).unwrap();
        let killer = process.killer();
        killer.kill();
        let status = process.ended().await.unwrap();
        assert_eq!(status.signal(), Some(9));
        killer.kill();
    }
}
