//! Unix sockets of the container that lead to the host, and the other way round.
//!
//! ```text
//! a process ─ connects ─► a door ── dials, says the door's id ──► host ─ connects ─► a socket of the host
//! a process ◄─ Connect ── a socket of the container ◄──── agent ── dials, says the stream's id ──► host
//! ```
//!
//! What is copied in between is bounded by a buffer for each way; who does not read holds the other side back. The ends of both
//! halves are passed on apart from each other.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::agent::{BootRequest, ConnectRequest, Socket};
use rustix::fs::OFlags;
use rustix::net::{SocketAddrUnix, SocketFlags};
use rustix::process::Resource;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

use super::mounts::Mounts;
use super::stdio::Dialling;
use super::stream::{Dial, Stream};
use crate::failure::{Failed, Step};
use crate::users;
use crate::{inroot, rlimits};

/// Connections that may wait for the agent.
const BACKLOG: i32 = 512;

/// Connections through one door at once. More wait in its backlog.
const CONNECTIONS: usize = 512;

/// Connections of one door that the host has not taken yet: fewer than it lets wait.
const DIALLING: usize = 16;

/// Bytes of a copy's buffer, each way.
const BUFFER: usize = 16 << 10;

/// Open files of the agent.
const FILES: u64 = 1 << 20;

/// A socket that is listened on.
#[derive(Debug)]
pub(super) struct Door {
    listener: OwnedFd,
    id: Vec<u8>,
}

/// Listens on the request's sockets, which appear in the container. The files themselves are the VM's, under `base`, so that a
/// path may be as long as it likes, its file system read-only, and no socket stays on a disk.
pub(super) fn open(
    request: &BootRequest,
    base: &Path,
    root: &OwnedFd,
    mounts: &mut Mounts,
) -> Result<Vec<Door>, Failed> {
    if request.sockets.is_empty() {
        return Ok(Vec::new());
    }
    std::fs::create_dir_all(base).step("make directory", base.display())?;
    let sockets = request.sockets.iter().enumerate();
    sockets
        .map(|(index, socket)| {
            let path = base.join(index.to_string());
            let listener = listen(&path, socket, root)?;
            mounts.bind_file(root, &path, Path::new(&socket.path), false)?;
            Ok(Door {
                listener,
                id: socket.door.to_vec(),
            })
        })
        .collect()
}

fn listen(path: &PathBuf, socket: &Socket, root: &OwnedFd) -> Result<OwnedFd, Failed> {
    let step = "listen on";
    let load = |path| inroot::load(root.as_fd(), Path::new(path)).step("read", path);
    let identity = users::look_up(&socket.user, &load("/etc/passwd")?, &load("/etc/group")?)
        .map_err(|error| Failed::invalid("look up user", &socket.user, error))?;
    let address = SocketAddrUnix::new(path).step(step, &socket.path)?;
    let listener = proto::unix::socket().step(step, &socket.path)?;
    rustix::net::bind(&listener, &address).step(step, &socket.path)?;
    // Nobody is there who could be faster.
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path, mode).step("change mode of", &socket.path)?;
    std::os::unix::fs::chown(path, Some(identity.uid), Some(identity.gid))
        .step("change owner of", &socket.path)?;
    rustix::net::listen(&listener, BACKLOG).step(step, &socket.path)?;
    Ok(listener)
}

impl Door {
    /// Passes on who comes, until the VM ends.
    pub(super) async fn serve<D: Dial>(self, dial: Arc<D>) {
        if let Err(error) = self.accept_all(dial).await {
            eprintln!("gourd-agent: a socket that leads to the host is closed: {error}");
        }
    }

    async fn accept_all<D: Dial>(self, dial: Arc<D>) -> io::Result<()> {
        let listener = crate::sys::watch(self.listener, Interest::READABLE)?;
        let id: Arc<[u8]> = self.id.into();
        let (places, dialling) = (
            Arc::new(Semaphore::new(CONNECTIONS)),
            Arc::new(Semaphore::new(DIALLING)),
        );
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return Ok(());
            };
            let client = accept(&listener).await?;
            // Nothing pays for this before somebody comes.
            rlimits::set(Resource::Nofile, FILES, FILES)?;
            let (dial, id, dialling) = (Arc::clone(&dial), Arc::clone(&id), Arc::clone(&dialling));
            tokio::spawn(async move {
                // What failed is the host's to say; who came sees the end.
                let _ = pass(client, &*dial, &id, &dialling).await;
                drop(place);
            });
        }
    }
}

async fn accept(listener: &AsyncFd<OwnedFd>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    loop {
        let mut ready = listener.readable().await?;
        match ready.try_io(|listener| Ok(rustix::net::accept_with(listener, flags)?)) {
            Ok(Ok(client)) => return Ok(client),
            // A client that has gone again already.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
}

async fn pass<D: Dial>(
    client: OwnedFd,
    dial: &D,
    id: &[u8],
    dialling: &Semaphore,
) -> Result<(), Failed> {
    let turn = dialling.acquire().await;
    let Some(dialled) = Dialling::begin(dial, id)? else {
        return Ok(());
    };
    let host = dialled.finish().await?;
    let mut reached = [0];
    let count = host
        .receive(&mut reached)
        .await
        .step("wait for", "the host")?;
    drop(turn);
    if count == 0 {
        return Ok(());
    }
    let client = Stream::connected(client).await.step("watch", "a socket")?;
    copy(client, host).await;
    Ok(())
}

/// Both ways, to the end of both, or to the first failure.
async fn copy(mut one: Stream, mut other: Stream) {
    let copied = tokio::io::copy_bidirectional_with_sizes(&mut one, &mut other, BUFFER, BUFFER);
    // Either side sees the end of it.
    let _ = copied.await;
}

/// Connects to a socket of the container for the host. `root` is the container's, as its processes see it.
pub(super) async fn connect<D: Dial>(
    dial: &D,
    root: OwnedFd,
    request: &ConnectRequest,
) -> Result<(), Failed> {
    let step = "connect to";
    let found = inroot::open(root.as_fd(), Path::new(&request.path), OFlags::PATH, 0)
        .step(step, &request.path)?;
    let dialled = Dialling::begin(dial, &request.stream)?
        .ok_or_else(|| Failed::invalid(step, &request.path, "no stream to dial"))?;
    let server = proto::unix::connect(found)
        .await
        .step(step, &request.path)?;
    rlimits::set(Resource::Nofile, FILES, FILES).step("set limit", "RLIMIT_NOFILE")?;
    let server = Stream::connected(server).await.step(step, &request.path)?;
    let host = dialled.finish().await?;
    tokio::spawn(copy(host, server));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// The host's ends of what is dialled.
    #[derive(Default)]
    struct Host(Mutex<Vec<UnixStream>>);

    impl Dial for Host {
        fn dial(&self, port: u32) -> io::Result<OwnedFd> {
            assert_eq!(port, proto::STDIO_PORT);
            let (guest, host) = UnixStream::pair()?;
            guest.set_nonblocking(true)?;
            self.0.lock().unwrap().push(host);
            Ok(guest.into())
        }
    }

    impl Host {
        fn taken(&self) -> tokio::net::UnixStream {
            let stream = self.0.lock().unwrap().pop().unwrap();
            stream.set_nonblocking(true).unwrap();
            tokio::net::UnixStream::from_std(stream).unwrap()
        }
    }

    const ID: [u8; 16] = [7; 16];

    #[tokio::test]
    async fn what_a_process_says_waits_for_the_host() {
        let (host, dialling) = (Host::default(), Semaphore::new(1));
        let (client, process) = UnixStream::pair().unwrap();
        client.set_nonblocking(true).unwrap();
        process.set_nonblocking(true).unwrap();
        let mut process = tokio::net::UnixStream::from_std(process).unwrap();
        process.write_all(b"question").await.unwrap();
        process.shutdown().await.unwrap();
        let talk = async {
            tokio::task::yield_now().await;
            let mut there = host.taken();
            let mut said = [0; 16];
            there.read_exact(&mut said).await.unwrap();
            assert_eq!(said, ID);
            let early = there.try_read(&mut said).map_err(|error| error.kind());
            assert_eq!(early, Err(io::ErrorKind::WouldBlock));
            there.write_all(&[0]).await.unwrap();
            let mut question = Vec::new();
            there.read_to_end(&mut question).await.unwrap();
            assert_eq!(question, b"question");
            there.write_all(b"answer").await.unwrap();
            drop(there);
            let mut answer = Vec::new();
            process.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"answer");
        };
        let (passed, ()) = tokio::join!(pass(client.into(), &host, &ID, &dialling), talk);
        passed.unwrap();
    }

    #[tokio::test]
    async fn a_host_without_a_server_is_an_end() {
        let (host, dialling) = (Host::default(), Semaphore::new(1));
        let (client, mut process) = UnixStream::pair().unwrap();
        let refuse = async {
            tokio::task::yield_now().await;
            drop(host.taken());
        };
        let (passed, ()) = tokio::join!(pass(client.into(), &host, &ID, &dialling), refuse);
        // The host has not heard the id, or has: it is over.
        let _ = passed;
        assert_eq!(process.read(&mut [0; 1]).unwrap(), 0);
        assert_eq!(dialling.available_permits(), 1);
    }
}
