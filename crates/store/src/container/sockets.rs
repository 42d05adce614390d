//! Sockets' files outside of the root that a supervisor makes on the host, each for one run of its container.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::HostSocket;

/// The socket's file at a path.
///
/// # Errors
/// There is none, or something else.
pub fn identify(path: &Path) -> io::Result<HostSocket> {
    let found = std::fs::symlink_metadata(path)?;
    if !found.file_type().is_socket() {
        let text = "it is no socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    Ok(HostSocket {
        path: path.to_owned(),
        device: found.dev(),
        inode: found.ino(),
    })
}

/// Removes a socket's file, unless another one lies there by now.
///
/// # Errors
/// The system's.
pub fn remove(socket: &HostSocket) -> io::Result<()> {
    match identify(&socket.path) {
        Ok(found) if found == *socket => std::fs::remove_file(&socket.path),
        _ => Ok(()),
    }
}

/// Removes what a dead supervisor left. A number that was free may be another file's by now: one that somebody listens on is left alone.
pub(super) fn sweep(socket: HostSocket) {
    if !is_dead(&socket.path) {
        return;
    }
    if let Err(error) = remove(&socket) {
        let path = socket.path.display();
        tracing::warn!(%error, %path, "a dead container's socket can't be removed");
    }
}

/// Whether a path is a socket that nobody listens on. One whose backlog is full has a listener.
#[must_use]
pub fn is_dead(path: &Path) -> bool {
    // A connection to another kind of file is refused, too.
    if !std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        return false;
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let tried = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .and_then(|socket| rustix::net::connect(&socket, &SocketAddrUnix::new(path)?));
    tried == Err(Errno::CONNREFUSED)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_a_dead_socket_of_ours_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        assert!(identify(&path).is_err());
        let listener = UnixListener::bind(&path).unwrap();
        let ours = identify(&path).unwrap();
        sweep(ours.clone());
        assert!(path.exists(), "somebody listens");
        drop(listener);
        sweep(HostSocket {
            inode: ours.inode + 1,
            ..ours.clone()
        });
        assert!(path.exists(), "another file");
        sweep(ours.clone());
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        remove(&ours).unwrap();
        sweep(ours);
        assert!(path.exists() && identify(&path).is_err() && !is_dead(&path));
    }
}
