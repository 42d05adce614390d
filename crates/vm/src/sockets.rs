//! Unix sockets of the host and of the container that lead to each other, over vsock and so without any network.
//!
//! ```text
//!   publish:  client ──► a socket of ours on the host ──► Connect ──► the agent ──► the container's server
//!   mount:    the host's server ◄── we connect ◄── a door's connection ◄── the agent ◄── a process of the container
//! ```
//!
//! The host's files are made before the VM and removed after the process's end; which ones they are stands in the state, so that
//! whoever repairs it removes them after a crash. Who connects before the process runs waits in the backlog.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hypervisor::resolved;
use proto::supervisor::Failure;
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::net::SocketAddrUnix;
use rustix::process::Resource;
use store::container::{HostSocket, SSH_AUTH_SOCK, Spec, Way, sockets};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::failure;
use crate::guest::Guest;
use crate::streams::Streams;

/// Connections that may wait for us; more wait in their own `connect`.
const BACKLOG: i32 = 512;

/// Connections of one socket at once. The device has 1,024 for all of them and stdio.
const CONNECTIONS: usize = 512;

/// Connections that the guest is making at once.
const DIALLING: usize = 16;

/// Bytes of a copy's buffer, each way.
const BUFFER: usize = 32 << 10;

/// The variable that says where the SSH agent is.
const VARIABLE: &str = "SSH_AUTH_SOCK";

/// A container's sockets. Dropping it removes the host's files.
#[derive(Default)]
pub struct Sockets {
    published: Vec<Published>,
    /// Those that the state names.
    files: Vec<HostSocket>,
    mounted: Vec<Mounted>,
}

struct Published {
    listener: StdListener,
    container: String,
}

struct Mounted {
    container: String,
    host: PathBuf,
    arrivals: Option<mpsc::Receiver<UnixStream>>,
}

impl Sockets {
    /// Makes the host's sockets, and looks whether those are there that lead to it. `ssh_agent`: see
    /// [`Supervision::ssh_agent`](crate::supervision::Supervision::ssh_agent).
    ///
    /// # Errors
    /// A path that is taken, leads to nothing, or through a link; no SSH agent.
    pub fn open(spec: &Spec, ssh_agent: &OnceLock<PathBuf>) -> Result<Sockets, Failure> {
        let mut all = Sockets::default();
        for socket in &spec.sockets {
            match socket.way {
                Way::Publish => {
                    let (listener, file) = listen(&socket.host)?;
                    all.files.push(file);
                    all.published.push(Published {
                        listener,
                        container: socket.container.clone(),
                    });
                }
                Way::Mount => {
                    check("mount the socket", &socket.host)?;
                    all.mount(&socket.container, socket.host.clone());
                }
            }
        }
        if spec.ssh {
            let named = || std::env::var_os(VARIABLE).map(PathBuf::from);
            let host = agent(ssh_agent, named).map_err(|failure| Failure {
                remedy: "start one where you start the container: eval \"$(ssh-agent)\" && ssh-add"
                    .to_owned(),
                ..failure
            })?;
            all.mount(SSH_AUTH_SOCK, host);
        }
        Ok(all)
    }

    fn mount(&mut self, container: &str, host: PathBuf) {
        self.mounted.push(Mounted {
            container: container.to_owned(),
            host,
            arrivals: None,
        });
    }

    /// The host's files, for the state.
    pub fn files(&self) -> Vec<HostSocket> {
        self.files.clone()
    }

    /// The container's sockets, for the agent; from now on the guest may connect.
    ///
    /// # Errors
    /// The kernel has no random numbers.
    pub fn doors(
        &mut self,
        streams: &Streams,
        user: &str,
    ) -> Result<Vec<proto::agent::Socket>, Failure> {
        let mut doors = Vec::new();
        for mounted in &mut self.mounted {
            let (id, arrivals) = streams
                .door()
                .map_err(|error| failure::from_error("make a door's id", "", &error))?;
            mounted.arrivals = Some(arrivals);
            doors.push(proto::agent::Socket {
                path: mounted.container.clone(),
                door: id.to_vec().into(),
                user: user.to_owned(),
            });
        }
        Ok(doors)
    }

    /// Passes on who connects, for as long as the result lives. The process runs.
    ///
    /// # Errors
    /// A socket can't be watched.
    pub fn begin(&mut self, guest: &Guest, streams: &Arc<Streams>) -> Result<JoinSet<()>, Failure> {
        let mut tasks = JoinSet::new();
        if self.published.is_empty() && self.mounted.is_empty() {
            return Ok(tasks);
        }
        // Two for each connection, and the monitors have been started.
        let limit = rustix::process::getrlimit(Resource::Nofile);
        let raised = rustix::process::Rlimit {
            current: limit.maximum,
            ..limit
        };
        let _ = rustix::process::setrlimit(Resource::Nofile, raised);
        for published in self.published.drain(..) {
            let listener = UnixListener::from_std(published.listener)
                .map_err(|error| failure::from_error("watch a socket", "", &error))?;
            let inward = Inward {
                guest: guest.clone(),
                streams: streams.clone(),
                container: published.container,
                dialling: Semaphore::new(DIALLING),
                complained: AtomicBool::new(false),
            };
            tasks.spawn(accept(listener, Arc::new(inward)));
        }
        for mounted in self.mounted.drain(..) {
            if let Some(arrivals) = mounted.arrivals {
                let outward = Outward {
                    host: mounted.host,
                    complained: AtomicBool::new(false),
                };
                tasks.spawn(take(arrivals, Arc::new(outward)));
            }
        }
        Ok(tasks)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for file in &self.files {
            if let Err(error) = sockets::remove(file) {
                let path = file.path.display();
                tracing::warn!(%error, %path, "a published socket can't be removed");
            }
        }
    }
}

/// A socket of the host's where nothing is.
fn listen(path: &Path) -> Result<(StdListener, HostSocket), Failure> {
    let bind = || -> io::Result<(StdListener, HostSocket)> {
        let socket = proto::unix::socket()?;
        // By its folder's descriptor: what a path leads to may change.
        let folder = resolved::open(path.parent().unwrap_or(path))?;
        let place = place(&folder).join(path.file_name().unwrap_or_default());
        // The file gets the socket's mode: at no moment can anybody else connect (`unix_bind_bsd` in net/unix/af_unix.c).
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&place)?)?;
        let file = HostSocket {
            path: path.to_owned(),
            ..sockets::identify(&place)?
        };
        rustix::net::listen(&socket, BACKLOG)?;
        Ok((socket.into(), file))
    };
    let failed = |error: io::Error| {
        let (message, remedy) = match error.kind() {
            io::ErrorKind::AddrInUse if sockets::is_dead(path) => (
                "a socket is there that nobody listens on".to_owned(),
                "remove the file if it is of no use any more",
            ),
            io::ErrorKind::AddrInUse => (
                "it exists already".to_owned(),
                "choose another path, or stop what has this one",
            ),
            io::ErrorKind::NotFound => (
                "its folder does not exist".to_owned(),
                "make the folder, or choose another path",
            ),
            _ if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
                (resolved::REPLACED.to_owned(), resolved::REMEDY)
            }
            _ => (error.to_string(), ""),
        };
        Failure {
            errno: error.raw_os_error().unwrap_or(0),
            remedy: remedy.to_owned(),
            ..failure::own("publish the socket", path.display().to_string(), message)
        }
    };
    bind().map_err(failed)
}

/// A path to what an open descriptor names: nobody can put another thing there, and it fits into an address.
fn place(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Whether a socket that is to be reached is there.
fn check(step: &str, path: &Path) -> Result<(), Failure> {
    let found = resolved::open(path).and_then(|file| Ok((rustix::fs::fstat(&file)?, file)));
    let (message, remedy) = match found {
        Ok((stat, _)) if FileType::from_raw_mode(stat.st_mode) != FileType::Socket => {
            ("it is no socket".to_owned(), "")
        }
        Ok((_, file)) if sockets::is_dead(&place(&file)) => ("nobody listens on it".to_owned(), ""),
        Ok(_) => return Ok(()),
        Err(Errno::LOOP) => (resolved::REPLACED.to_owned(), resolved::REMEDY),
        Err(errno) => (missing(&errno.into()), ""),
    };
    Err(Failure {
        remedy: remedy.to_owned(),
        ..failure::own(step, path.display().to_string(), message)
    })
}

fn missing(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "it does not exist".to_owned(),
        _ => error.to_string(),
    }
}

/// Where the SSH agent is, if somebody listens there. The links of the path that is `named` are followed the first time.
fn agent(
    known: &OnceLock<PathBuf>,
    named: impl Fn() -> Option<PathBuf>,
) -> Result<PathBuf, Failure> {
    let step = "forward the SSH agent";
    let host = match known.get() {
        Some(known) => known.clone(),
        None => {
            let named = named().filter(|path| !path.as_os_str().is_empty());
            let named =
                named.ok_or_else(|| failure::own(step, "", format!("{VARIABLE} is not set")))?;
            named
                .canonicalize()
                .map_err(|error| failure::own(step, named.display().to_string(), missing(&error)))?
        }
    };
    check(step, &host)?;
    Ok(known.get_or_init(|| host).clone())
}

/// Both ways, to the end of both, or to the first failure; either side sees it.
async fn copy(mut one: UnixStream, mut other: UnixStream) {
    let copied = tokio::io::copy_bidirectional_with_sizes(&mut one, &mut other, BUFFER, BUFFER);
    let _ = copied.await;
}

/// A published socket.
struct Inward {
    guest: Guest,
    streams: Arc<Streams>,
    container: String,
    dialling: Semaphore,
    /// The log says it once in a row.
    complained: AtomicBool,
}

async fn accept(listener: UnixListener, inward: Arc<Inward>) {
    let mut connections = JoinSet::new();
    loop {
        let full = connections.len() >= CONNECTIONS;
        tokio::select! {
            accepted = listener.accept(), if !full => match accepted {
                Ok((client, _)) => {
                    let inward = inward.clone();
                    connections.spawn(async move { inward.pass(client).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "a published socket takes no connection");
                    // Descriptors are short: until some are given back.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Inward {
    async fn pass(&self, client: UnixStream) {
        match self.reach().await {
            Ok(Some(guest)) => {
                self.complained.store(false, Ordering::Relaxed);
                copy(client, guest).await;
            }
            Ok(None) => {}
            Err(failure) => {
                if !self.complained.swap(true, Ordering::Relaxed) {
                    let words = failure::describe(&failure);
                    tracing::warn!(failure = %words, "a published socket leads nowhere");
                }
            }
        }
    }

    async fn reach(&self) -> Result<Option<UnixStream>, Failure> {
        let _turn = self.dialling.acquire().await;
        let expected = self.streams.expect();
        let expected =
            expected.map_err(|error| failure::from_error("make a stream's id", "", &error))?;
        let id = expected.id();
        self.guest.connect(self.container.clone(), id).await?;
        Ok(expected.arrived().await)
    }
}

/// A socket of the host's that the container reaches.
struct Outward {
    host: PathBuf,
    /// The log says it once in a row: the guest may connect as often as it likes.
    complained: AtomicBool,
}

async fn take(mut arrivals: mpsc::Receiver<UnixStream>, outward: Arc<Outward>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            arrived = arrivals.recv() => {
                let Some(guest) = arrived else { return };
                // The agent makes no more than these: what comes on top is closed.
                if connections.len() < CONNECTIONS {
                    let outward = outward.clone();
                    connections.spawn(async move { outward.pass(guest).await });
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

impl Outward {
    async fn pass(&self, mut guest: UnixStream) {
        match reach(&self.host).await {
            Ok(host) => {
                self.complained.store(false, Ordering::Relaxed);
                // The agent waits for this one.
                if guest.write_all(&[0]).await.is_ok() {
                    copy(guest, host).await;
                }
            }
            Err(error) => {
                if !self.complained.swap(true, Ordering::Relaxed) {
                    let path = self.host.display();
                    tracing::warn!(%error, %path, "the host's socket can't be reached");
                }
            }
        }
    }
}

/// Looked up for each connection, because a server that starts anew makes its socket anew; without following a link, because a
/// guest may write its folder.
async fn reach(path: &Path) -> io::Result<UnixStream> {
    let file = resolved::open(path).map_err(resolved::explain)?;
    let socket = proto::unix::connect(file).await?;
    UnixStream::from_std(StdStream::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::container::Socket;

    fn spec(way: Way, host: &Path) -> Spec {
        Spec {
            sockets: vec![Socket {
                way,
                host: host.to_owned(),
                container: "/a".to_owned(),
            }],
            ..Spec::default()
        }
    }

    fn open(spec: &Spec) -> Result<Sockets, Failure> {
        Sockets::open(spec, &OnceLock::new())
    }

    fn refused(way: Way, host: &Path) -> String {
        let failure = open(&spec(way, host)).err().expect("refused");
        assert_eq!(failure.object, host.display().to_string());
        failure.message
    }

    #[test]
    fn files_come_and_go_with_their_mode() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        assert_eq!(refused(Way::Mount, &path), "it does not exist");
        let opened = open(&spec(Way::Publish, &path)).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(opened.files(), [sockets::identify(&path).unwrap()]);
        assert_eq!(refused(Way::Publish, &path), "it exists already");
        assert!(open(&spec(Way::Mount, &path)).is_ok());
        drop(opened);
        assert!(!path.exists());
        drop(StdListener::bind(&path).unwrap());
        assert_eq!(refused(Way::Mount, &path), "nobody listens on it");
        let words = "a socket is there that nobody listens on";
        assert_eq!(refused(Way::Publish, &path), words);
        assert!(path.exists(), "it is not ours");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(refused(Way::Mount, &path), "it is no socket");
        assert_eq!(refused(Way::Publish, &path), "it exists already");
        let missing = dir.path().join("none/a.sock");
        assert_eq!(refused(Way::Publish, &missing), "its folder does not exist");
    }

    /// A folder that a guest can write, with a link in it to where its user has other sockets.
    fn with_a_link() -> (tempfile::TempDir, PathBuf) {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().canonicalize().unwrap();
        for name in ["bus", "work"] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        std::os::unix::fs::symlink("../bus", dir.join("work/link")).unwrap();
        (temporary, dir)
    }

    #[tokio::test]
    async fn a_socket_is_reached_again_and_no_link_is() {
        let (_temporary, dir) = with_a_link();
        let (bus, path) = (dir.join("bus/a.sock"), dir.join("work/a.sock"));
        let bus_server = StdListener::bind(&bus).unwrap();
        bus_server.set_nonblocking(true).unwrap();
        let server = StdListener::bind(&path).unwrap();
        assert!(open(&spec(Way::Mount, &path)).is_ok());
        reach(&path).await.unwrap();
        drop(server);
        let refused = reach(&path).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        // Its server starts anew.
        std::fs::remove_file(&path).unwrap();
        let server = StdListener::bind(&path).unwrap();
        reach(&path).await.unwrap();
        // The guest puts a link there, and in place of a folder.
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&bus, &path).unwrap();
        for path in [path, dir.join("work/link/a.sock")] {
            let refused = reach(&path).await.unwrap_err().to_string();
            assert_eq!(refused, resolved::REPLACED);
            let mounted = super::tests::refused(Way::Mount, &path);
            assert_eq!(mounted, resolved::REPLACED);
        }
        let heard = bus_server.accept().map(drop).unwrap_err();
        assert_eq!(heard.kind(), io::ErrorKind::WouldBlock);
        drop(server);
    }

    #[test]
    fn nothing_is_published_behind_a_link() {
        let (_temporary, dir) = with_a_link();
        let path = dir.join("work/link/a.sock");
        assert_eq!(refused(Way::Publish, &path), resolved::REPLACED);
        assert_eq!(std::fs::read_dir(dir.join("bus")).unwrap().count(), 0);
        // At the end of its path a link is in the way, wherever it leads.
        std::os::unix::fs::symlink("none", dir.join("work/a.sock")).unwrap();
        let taken = refused(Way::Publish, &dir.join("work/a.sock"));
        assert_eq!(taken, "it exists already");
    }

    #[test]
    fn the_ssh_agent_is_where_it_was_at_the_first_run() {
        let (_temporary, dir) = with_a_link();
        let (known, path) = (OnceLock::new(), dir.join("work/named"));
        let find = || agent(&known, || Some(path.clone()));
        let failure = agent(&known, || Some(PathBuf::new())).unwrap_err();
        assert_eq!(failure.message, "SSH_AUTH_SOCK is not set");
        assert_eq!(find().unwrap_err().message, "it does not exist");
        let real = dir.join("bus/agent.sock");
        std::os::unix::fs::symlink(&real, &path).unwrap();
        let _server = StdListener::bind(&real).unwrap();
        assert_eq!(find().unwrap(), real);
        let other = dir.join("bus/other.sock");
        let _other = StdListener::bind(&other).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert_eq!(find().unwrap(), real);
    }
}
