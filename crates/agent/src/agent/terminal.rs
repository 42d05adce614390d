//! Terminals of the container's own devpts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Weak};

use proto::agent::TerminalSize;
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;

use super::stdio::nonblocking;
use crate::failure::{Failed, Step};

/// Makes a terminal in the devpts below `rootfs`: the agent's side of it, and the process's.
pub(super) fn open(
    rootfs: &Path,
    size: Option<&TerminalSize>,
) -> Result<(Arc<AsyncFd<OwnedFd>>, OwnedFd), Failed> {
    let multiplexer = rootfs.join("dev/pts/ptmx");
    let name = multiplexer.display();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master =
        rustix::fs::open(&multiplexer, flags, Mode::empty()).step("open terminal", &name)?;
    rustix::pty::unlockpt(&master).step("unlock terminal", &name)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let process = rustix::pty::ioctl_tiocgptpeer(&master, flags).step("open terminal", &name)?;
    let master = Arc::new(nonblocking(master).step("prepare terminal", &name)?);
    if let Some(size) = size {
        Terminal::of(&master).resize(size)?;
    }
    Ok((master, process))
}

/// A process's terminal, for as long as its output is copied: a process that has ended keeps none open.
#[derive(Debug, Clone)]
pub(super) struct Terminal(Weak<AsyncFd<OwnedFd>>);

impl Terminal {
    /// The terminal of this agent's side.
    pub(super) fn of(master: &Arc<AsyncFd<OwnedFd>>) -> Self {
        Self(Arc::downgrade(master))
    }

    /// Tells the terminal its size, and with it the processes on it.
    pub(super) fn resize(&self, size: &TerminalSize) -> Result<(), Failed> {
        let master = self
            .0
            .upgrade()
            .ok_or_else(|| Failed::invalid("resize", "the terminal", "it is gone"))?;
        let cells = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
        let size = Winsize {
            ws_row: cells(size.rows),
            ws_col: cells(size.columns),
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(master.get_ref().as_fd(), size).step("resize", "the terminal")
    }
}
