//! Connecting to a unix socket whose file is open already: its path may be longer than an address has room for, and between looking at
//! the file and connecting nobody can put another one there.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// How long a server may leave a connection in its full backlog.
const PATIENCE: Duration = Duration::from_secs(30);

/// A socket of a stream that does not block and is closed by `exec`.
///
/// # Errors
/// Descriptors or memory are short.
pub fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let made = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok(made)
}

/// Connects to the server of `file`, an `O_PATH` descriptor of its socket. The connection does not block. A server whose backlog is full
/// is waited for by a thread, 30 seconds at most: nothing but the call itself tells when there is room.
///
/// # Errors
/// As connect(2); `EAGAIN` when the server's backlog stayed full.
pub async fn connect(file: OwnedFd) -> io::Result<OwnedFd> {
    let socket = socket()?;
    match try_connect(&socket, &file) {
        Ok(()) => return Ok(socket),
        Err(Errno::AGAIN) => {}
        Err(errno) => return Err(errno.into()),
    }
    let waiting = tokio::task::spawn_blocking(move || {
        rustix::io::ioctl_fionbio(&socket, false)?;
        set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
        try_connect(&socket, &file)?;
        set_socket_timeout(&socket, Timeout::Send, None)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(socket)
    });
    waiting.await.map_err(io::Error::other)?
}

fn try_connect(socket: &OwnedFd, file: &OwnedFd) -> rustix::io::Result<()> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::net::connect(socket, &SocketAddrUnix::new(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use rustix::fs::{Mode, OFlags};

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::PATH, Mode::empty()).unwrap()
    }

    #[tokio::test]
    async fn who_meets_a_full_backlog_waits_for_the_server() {
        let dir = tempfile::tempdir().unwrap();
        // Longer than an address.
        let dir = dir.path().join("d".repeat(120));
        std::fs::create_dir(&dir).unwrap();
        let folder = open(&dir);
        let short = format!("/proc/self/fd/{}/a.sock", folder.as_raw_fd());
        let server = UnixListener::bind(short).unwrap();
        let path = dir.join("a.sock");
        // The shortest backlog: one waits, the next is told to come again.
        rustix::net::listen(&server, 0).unwrap();
        let _first = connect(open(&path)).await.unwrap();
        let accept = tokio::task::spawn_blocking(move || {
            [server.accept().unwrap().0, server.accept().unwrap().0]
        });
        let second = connect(open(&path)).await.unwrap();
        drop(accept.await.unwrap());
        let flags = rustix::fs::fcntl_getfl(&second).unwrap();
        assert!(flags.contains(OFlags::NONBLOCK));
        assert!(connect(folder).await.is_err(), "a folder");
        let error = connect(open(&path)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
