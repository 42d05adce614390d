//! Starting a supervisor.
//!
//! We bind its socket before it lives, so that whoever connects queues up and nobody has to poll. It inherits the
//! socket, the container's lock and the leases on the rootfs image and on volumes; our own copies are closed when it has them, or a
//! dead supervisor would look alive for as long as we live.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use store::container::Container;
use store::file;
use store::locate::{self, Programs};
use store::lock::Lock;
use tokio::sync::oneshot;

use crate::volume::Attached;
use crate::{Error, sys};

/// A supervisor that we started.
#[derive(Debug)]
pub(crate) struct Spawned {
    /// Says when its process is gone, and reaped.
    pub(crate) gone: oneshot::Receiver<()>,
    /// A connection that was there before it lived: one that fails at once has removed its socket by the time that anybody else
    /// comes. Not for maintenance, which ends with its last client.
    pub(crate) connection: Option<UnixStream>,
}

/// How a supervisor is to be started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct How {
    /// A primary client comes, and the process must not start before it.
    pub(crate) attached: bool,
    /// The process does not start at all: the VM is there for the container's files.
    pub(crate) maintenance: bool,
    /// The caller's start in nanoseconds of CLOCK_MONOTONIC.
    pub(crate) started: Option<u64>,
}

/// Starts the supervisor of a container whose lock we hold.
pub(crate) fn spawn(
    container: &Container,
    programs: &Programs,
    lock: &Lock,
    rootfs: Option<&Lock>,
    volumes: &[Attached],
    how: How,
) -> Result<Spawned, Error> {
    let program = programs.find(locate::VM)?;
    container.make_disk(lock)?;
    let listener = listen(container)?;
    let path = container.supervisor_socket();
    let connection = (!how.maintenance)
        .then(|| UnixStream::connect(&path))
        .transpose()
        .map_err(file::Error::at("connect to", &path))?;
    let log_path = container.supervisor_log();
    let log = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log_path)
        .map_err(file::Error::at("open", &log_path))?;
    let mut command = Command::new(&program);
    let mut leases = vec![lock];
    leases.extend(rootfs);
    leases.extend(volumes.iter().map(|volume| &volume.lease));
    arguments(&mut command, container, how, &listener, &leases);
    for volume in volumes {
        let access = if volume.read_only { "ro" } else { "rw" };
        let volume = format!("{}:{access}", volume.name);
        command.args(["--volume", &volume]);
    }
    command
        .env("GOURD_ROOT", container.root().path())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let mut inherited = vec![listener.as_fd()];
    inherited.extend(leases.iter().map(|lease| lease.as_fd()));
    let failed = |operation, source| Error::Spawn {
        operation,
        program: program.display().to_string(),
        source,
    };
    let mut child =
        sys::spawn_detached(&mut command, &inherited).map_err(|error| failed("start", error))?;
    let (sender, gone) = oneshot::channel();
    // Reaps it whenever it ends; a process that embeds us may live for longer.
    std::thread::Builder::new()
        .name("reaper".to_owned())
        .spawn(move || {
            if let Err(error) = child.wait() {
                tracing::warn!(%error, "cannot wait for a supervisor");
            }
            // Nobody waits for a detached one.
            let _ = sender.send(());
        })
        .map_err(|error| failed("wait for", error))?;
    Ok(Spawned { gone, connection })
}

fn arguments(
    command: &mut Command,
    container: &Container,
    how: How,
    listener: &UnixListener,
    leases: &[&Lock],
) {
    command.arg("run").arg(container.dir());
    command
        .arg("--socket-fd")
        .arg(listener.as_raw_fd().to_string());
    for lease in leases {
        let number = lease.as_fd().as_raw_fd().to_string();
        command.arg("--lease-fd").arg(number);
    }
    if how.attached {
        command.arg("--attached");
    }
    if how.maintenance {
        command.arg("--maintenance");
    }
    if let Some(started) = how.started {
        command.arg("--started-ns").arg(started.to_string());
    }
}

/// Under the container's lock, so a socket that is there is a dead one's.
fn listen(container: &Container) -> Result<UnixListener, Error> {
    let path = container.supervisor_socket();
    file::remove(&path)?;
    let listener = UnixListener::bind(&path).map_err(file::Error::at("listen on", &path))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
        .map_err(file::Error::at("chmod", &path))?;
    Ok(listener)
}

/// The last line that the supervisor wrote to its log.
pub(crate) fn last_words(container: &Container) -> Option<String> {
    use std::io::{Read, Seek, SeekFrom};
    let mut log = std::fs::File::open(container.supervisor_log()).ok()?;
    let length = log.metadata().ok()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(4096)))
        .ok()?;
    let mut tail = Vec::new();
    log.take(4096).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .map(str::to_owned)
}
