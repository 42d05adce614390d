//! `StatPath`, `Read`, `Write`: starts a transfer helper, hands it the stream, and passes its words on.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use prost::Message;
use proto::agent::failure::Kind;
use proto::agent::{ReadRequest, StatPathRequest, WriteRequest};
use tokio::io::unix::AsyncFd;

use super::container::{Container, KILL, State, lock};
use super::process::{Exit, Process};
use super::spawn::{hear, inheritable};
use super::stdio::{Dialling, nonblocking};
use super::stream::{Dial, Stream};
use crate::failure::{Failed, Step};
use crate::sys::{self, Birth};
use crate::transfer::{Order, Outcome};

/// What a call asks for: one of the three.
#[derive(Default)]
pub(super) struct Work {
    pub(super) container: String,
    /// The stream's id, for the two that have one.
    pub(super) stream: Option<Vec<u8>>,
    pub(super) stat: Option<StatPathRequest>,
    pub(super) read: Option<ReadRequest>,
    pub(super) write: Option<WriteRequest>,
}

/// Does it to the end.
pub(super) async fn run<D: Dial>(
    dial: Arc<D>,
    state: Arc<Mutex<State>>,
    work: Work,
) -> Result<Outcome, Failed> {
    lock(&state).container(&work.container)?;
    let stream = match &work.stream {
        Some(id) => {
            let dialling = Dialling::begin(&*dial, id)?
                .ok_or_else(|| Failed::invalid("dial", "a stream", "it has no id"))?;
            Some(dialling.finish().await?)
        }
        None => None,
    };
    let (process, control) = {
        let mut state = lock(&state);
        let container = state.container(&work.container)?;
        let (process, control) = start(container, work, stream.as_ref())?;
        container.transfers.retain(|other| !other.exit().ended());
        container.transfers.push(Arc::clone(&process));
        (process, control)
    };
    // It has the socket: the agent's own copy would keep the stream's end from the host.
    drop(stream);
    let said = hear(&control).await.step("hear from", "a transfer helper");
    process.exit().wait().await;
    let said = said?;
    match Outcome::decode(said.as_slice()) {
        Ok(mut outcome) if !said.is_empty() => match outcome.failure.take() {
            Some(failure) => Err(failure.into()),
            None => Ok(outcome),
        },
        _ => Err(died(process.exit().now())),
    }
}

/// Of a helper that said nothing.
fn died(exit: Option<Exit>) -> Failed {
    let why = match exit {
        Some(exit) if exit.signal == KILL => {
            "the container was stopped meanwhile, or the VM has no memory left"
        }
        _ => "it died before it was done",
    };
    Failed::invalid("run", "a transfer helper", why).of_kind(Kind::Other)
}

fn start(
    container: &Container,
    work: Work,
    stream: Option<&Stream>,
) -> Result<(Arc<Process>, AsyncFd<OwnedFd>), Failed> {
    let (mut ours, theirs) = UnixStream::pair().step("make", "a socket for the helper")?;
    let first = container.running().and_then(|first| first.pidfd());
    // Inherited on purpose: nothing else is started between here and the drop of these.
    let join = match &first {
        Some(first) => Some(inheritable(first.get_ref().as_fd())?),
        None => None,
    };
    let theirs = inheritable(theirs.as_fd())?;
    let text = |path: &std::path::Path| path.display().to_string();
    let overlay = container.booted.overlay.as_ref();
    let order = Order {
        rootfs: text(&container.booted.rootfs),
        image: overlay.map_or(String::new(), |overlay| text(&overlay.image)),
        upper: overlay.map_or(String::new(), |overlay| text(&overlay.upper)),
        join: join.as_ref().map_or(0, AsRawFd::as_raw_fd),
        stat: work.stat,
        read: work.read,
        write: work.write,
    };
    let socket = CString::new(theirs.as_raw_fd().to_string()).unwrap_or_default();
    let arguments = [CString::from(crate::TRANSFER), socket];
    let stream = stream
        .map(Stream::blocking)
        .transpose()
        .step("prepare", "a stream")?;
    let errors = rustix::stdio::stderr();
    let birth = Birth {
        stdio: stream.map(|stream| [stream, stream, errors]),
        ..Birth::default()
    };
    let (pid, pidfd) =
        sys::spawn(crate::SELF, &arguments, &birth).step("start", "a transfer helper")?;
    drop((theirs, join));
    let process = Process::adopt(pid, pidfd, None, &container.booted.cgroup)
        .step("watch", "a transfer helper")?;
    let message = order.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    ours.write_all(&[&length.to_le_bytes()[..], &message].concat())
        .step("instruct", "a transfer helper")?;
    let control = nonblocking(ours.into()).step("watch", "a transfer helper")?;
    Ok((Arc::new(process), control))
}
