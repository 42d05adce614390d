//! The container's place on its network: `gourd-net` is found or started, joined, joined again when it dies, and left.
//!
//! ```text
//!   begin ──► connect ──► Join ──► joined ──► (gourd-net lives) ──► leave: half close, until its end
//!                ▲          │ it was on its way out      │ it died
//!                └──────────┴────────────────────────────┘
//! ```
//!
//! All of it happens beside the guest's boot: whoever wants to know the address waits for [`Membership::joined`], and mostly it is
//! there long before. The link (a pair of sockets, one for the monitor) is made once and outlives every `gourd-net`: we keep
//! a duplicate of its end, so that the guest sees lost packets and reset connections at worst, never a dead card.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::network::{self, Join, Joined, Reply, Request};
use proto::supervisor::Failure;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use store::Root;
use store::container::{Endpoint, Spec};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};

use crate::failure;

pub mod carrier;
mod ports;
mod process;
mod talk;
mod translate;

use ports::{Choice, Wanted};
use talk::Command;
pub use talk::Directory;
pub use translate::{attached, framing, wanted};

/// Bytes of the largest packet. An IP packet of this size and its Ethernet header are less than 64 KiB.
pub const MTU: u16 = 65520;

/// How long the network's process may take to let a guest go.
const FAREWELL: Duration = Duration::from_secs(5);

/// One that lives shorter than this dies of something that comes again: a guest's frames, as a rule.
const SHORT_LIFE: Duration = Duration::from_secs(10);

/// The longest that is waited before it is started once more.
const LONGEST_WAIT: Duration = Duration::from_millis(if cfg!(test) { 100 } else { 5000 });

/// The step of joining that is about ports, as `gourd-net` calls it.
const PUBLISH: &str = "publish";

/// Commands to a membership that may wait; more are lost.
const COMMANDS: usize = 64;

/// How often one that was on its way out may be met before something else is wrong.
const TRIES: usize = 20;

/// Both ends of a link: the guest's and the network's.
///
/// # Errors
/// The system has no more descriptors.
pub fn link() -> io::Result<(OwnedFd, OwnedFd)> {
    let (guest, network) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    /// What is on its way, each way; the kernel gives what it allows.
    const BUFFER: usize = 4 << 20;
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&guest, BUFFER);
    Ok((guest, network))
}

/// The Ethernet address of a container's card, of which it has less than 64: locally administered, the rest from its id.
pub fn mac(id: &str, card: u8) -> [u8; 6] {
    let mut mac = [card << 2 | 2; 6];
    for (index, byte) in mac[1..].iter_mut().enumerate() {
        let digits = id.get(2 * index..2 * index + 2).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
    }
    mac
}

type Told = Option<Result<Joined, Failure>>;

/// What a container has on a network beside what its endpoint says.
pub struct Seat {
    /// Its card's Ethernet address.
    pub mac: [u8; 6],
    /// The address that it had.
    pub wish: Option<Ipv4Addr>,
    /// The host's ports that are to lead to it.
    pub publish: Vec<Wanted>,
    /// Where the names of its other networks are asked for; whether there are others.
    pub directory: Arc<Directory>,
    /// See [`network::Request::Elsewhere`].
    pub elsewhere: bool,
    /// See [`Join::framing`].
    pub framing: network::Framing,
}

/// A container on a network.
pub struct Membership {
    joining: Joining,
    commands: mpsc::Sender<Command>,
    leave: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

/// Its way there.
#[derive(Clone)]
pub struct Joining(watch::Receiver<Told>);

impl Membership {
    /// Joins, in the background.
    pub fn begin(
        root: &Root,
        spec: &Spec,
        endpoint: &Endpoint,
        seat: Seat,
        link: OwnedFd,
    ) -> Membership {
        let (told, joined) = watch::channel(None);
        let (leave, leaving) = oneshot::channel();
        let (commands, orders) = mpsc::channel(COMMANDS);
        seat.directory.enter(&endpoint.network, commands.clone());
        let plan = Plan {
            root: root.clone(),
            network: endpoint.network.clone(),
            directory: seat.directory.clone(),
            wanted: seat.publish.clone(),
            join: translate::join(spec, endpoint, seat),
            own: commands.downgrade(),
            missing: Vec::new(),
        };
        let task = tokio::spawn(keep(plan, link, told, orders, leaving));
        Membership {
            joining: Joining(joined),
            commands,
            leave,
            task,
        }
    }

    /// Its way to the network.
    pub fn joining(&self) -> Joining {
        self.joining.clone()
    }

    /// It is on other networks, too, or not any more.
    pub fn set_elsewhere(&self, elsewhere: bool) {
        // Who does not read does not get it; questions are then answered from here alone.
        let _ = self.commands.try_send(Command::Elsewhere(elsewhere));
    }

    /// Has these ports lead to it, instead of those that it had. As they are then.
    ///
    /// # Errors
    /// One can't be had: it has none then.
    pub async fn publish(
        &self,
        ports: Vec<network::Publish>,
    ) -> Result<Vec<network::Publish>, Failure> {
        let (answer, published) = oneshot::channel();
        let _ = self.commands.send(Command::Publish(ports, answer)).await;
        let gone = || failure::own("publish", "", "the network's process does not answer");
        published.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Leaves; when this was the last, the network's process is gone when this returns.
    pub async fn leave(mut self) {
        let _ = self.leave.send(());
        if tokio::time::timeout(FAREWELL, &mut self.task)
            .await
            .is_err()
        {
            // Its connection ends with the task.
            tracing::warn!("the network's process does not let go");
            self.task.abort();
        }
    }
}

impl Joining {
    /// Where it is on the network.
    ///
    /// # Errors
    /// Why it is not.
    pub async fn joined(&self) -> Result<Joined, Failure> {
        let mut joined = self.0.clone();
        let told = joined.wait_for(Option::is_some).await;
        match told.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(failure::own("join the network", "", "it was given up")),
        }
    }

    /// Waits until joining has failed; for ever when it does not.
    pub async fn failed(&self) -> Failure {
        match self.joined().await {
            Err(failure) => failure,
            Ok(_) => std::future::pending().await,
        }
    }
}

/// Waits until one of them has failed to join; for ever when none does.
pub async fn first_failure(joining: &[Joining]) -> Failure {
    match joining {
        [] => std::future::pending().await,
        all => {
            let failures = all.iter().map(|joining| Box::pin(joining.failed()));
            futures_util::future::select_all(failures).await.0
        }
    }
}

/// What is needed to join.
struct Plan {
    root: Root,
    network: String,
    join: Join,
    /// Ports to choose from, until it has joined once: then `join` has those that it got.
    wanted: Vec<Wanted>,
    directory: Arc<Directory>,
    /// Where this membership's own commands go.
    own: mpsc::WeakSender<Command>,
    /// Ports that it had and could not have again, which are asked for now and then.
    missing: Vec<network::Publish>,
}

/// Joins, and again whenever `gourd-net` dies, until it is told to leave.
async fn keep(
    mut plan: Plan,
    link: OwnedFd,
    told: watch::Sender<Told>,
    mut orders: mpsc::Receiver<Command>,
    mut leaving: oneshot::Receiver<()>,
) {
    let (mut tries, mut wait) = (0, Duration::ZERO);
    loop {
        let result = try_join(&plan, &link).await;
        let (connection, joined) = match result {
            Ok(Some(joined)) => joined,
            // It was on its way out: the next one is ours to start.
            Ok(None) if tries < TRIES => {
                tries += 1;
                continue;
            }
            failed => {
                let again_and_again =
                    || failure::own("join the network", &plan.network, "it ends again and again");
                let failure = failed.err().unwrap_or_else(again_and_again);
                // Until it has been there, whoever starts it is told. Later nobody is, and what is in the way goes by.
                if told.borrow().is_none() {
                    return give_up(&told, failure);
                }
                tries = 0;
                let words = failure::describe(&failure);
                if failure.step == PUBLISH && !plan.join.publish.is_empty() {
                    tracing::error!(failure = %words, network = %plan.network, "the container has no ports until it can have all of them again");
                    plan.missing = std::mem::take(&mut plan.join.publish);
                    continue;
                }
                tracing::error!(failure = %words, network = %plan.network, "the container is not on its network; it tries again");
                if !talk::wait(LONGEST_WAIT, &mut plan, &mut orders, &mut leaving).await {
                    return;
                }
                continue;
            }
        };
        tries = 0;
        let since = Instant::now();
        // The guest lives at this address, with these ports, from now on.
        plan.join.wish = Some(joined.address);
        plan.join.insists = true;
        plan.join.publish.clone_from(&joined.published);
        plan.wanted.clear();
        told.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert(Ok(joined));
            first
        });
        match talk::talk(&connection, &mut plan, &mut orders, &mut leaving).await {
            talk::Ended::Left => return,
            talk::Ended::Died => {
                tracing::warn!(network = %plan.network, "the network's process died: its connections are reset");
                // The first time nobody waits.
                if !talk::wait(wait, &mut plan, &mut orders, &mut leaving).await {
                    return;
                }
                wait = match since.elapsed() < SHORT_LIFE {
                    true => (wait * 2).clamp(Duration::from_millis(100), LONGEST_WAIT),
                    false => Duration::ZERO,
                };
            }
        }
    }
}

fn give_up(told: &watch::Sender<Told>, failure: Failure) {
    let words = failure::describe(&failure);
    tracing::error!(failure = %words, "the container is on no network");
    told.send_if_modified(|told| {
        let first = told.is_none();
        told.get_or_insert(Err(failure));
        first
    });
}

/// A connection to `gourd-net`, whom we may have started.
struct Connection {
    stream: UnixStream,
    child: std::sync::Mutex<Option<Child>>,
}

impl Connection {
    /// Receives a message; `None`: the other side is gone.
    async fn receive(&self) -> Option<Reply> {
        loop {
            self.stream.readable().await.ok()?;
            let received = self.stream.try_io(Interest::READABLE, || {
                network::receive::<Reply>(self.stream.as_fd())
            });
            match received {
                Ok(message) => return message.map(|(reply, _)| reply),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
    }

    /// Waits until the other side is gone.
    async fn ended(&self) {
        while self.receive().await.is_some() {}
        let child = self.child.lock().ok().and_then(|mut child| child.take());
        if let Some(mut child) = child {
            // It has closed its sockets on its way out.
            let _ = tokio::task::spawn_blocking(move || child.wait()).await;
        }
    }

    /// Says that the guest leaves.
    fn leave(&self) {
        let _ = rustix::net::shutdown(&self.stream, rustix::net::Shutdown::Write);
    }
}

/// Joins once; `None` when `gourd-net` ended without an answer.
async fn try_join(plan: &Plan, link: &OwnedFd) -> Result<Option<(Connection, Joined)>, Failure> {
    let step = "join the network";
    let failed = |error: &dyn std::error::Error| failure::from_error(step, &plan.network, error);
    let (root, name) = (plan.root.clone(), plan.network.clone());
    let connected = tokio::task::spawn_blocking(move || process::connect(&root, &name)).await;
    let (socket, child) = connected.map_err(|error| failed(&error))??;
    let stream = StdStream::from(socket);
    let watched = stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream));
    let connection = Connection {
        stream: watched.map_err(|error| failed(&error))?,
        child: std::sync::Mutex::new(child),
    };
    let mut choice = Choice::new(&plan.wanted);
    loop {
        let mut join = plan.join.clone();
        let refused = match choice.ports() {
            Err(refused) => refused,
            Ok(ports) => {
                join.publish.extend(&ports);
                match ask(&connection, Request::Join(join), link).await {
                    Ok(Some(Reply::Joined(joined))) => return Ok(Some((connection, joined))),
                    // Others of their ranges may be free.
                    Ok(Some(Reply::Refused(refused))) if choice.is_taken(&ports, &refused) => {
                        continue;
                    }
                    Ok(Some(Reply::Refused(refused))) => refused,
                    Ok(Some(_)) => {
                        let what = "it says what nobody asked";
                        return Err(failure::own(step, &plan.network, what));
                    }
                    Ok(None) => return Ok(None),
                    Err(error) => return Err(failed(&error)),
                }
            }
        };
        // One that was started for this guest alone ends now.
        connection.leave();
        connection.ended().await;
        return Err(refusal(refused));
    }
}

/// The answer to a request to join; `None` when `gourd-net` ended without one.
async fn ask(
    connection: &Connection,
    request: Request,
    link: &OwnedFd,
) -> io::Result<Option<Reply>> {
    match network::send(connection.stream.as_fd(), &request, Some(link.as_fd())) {
        Ok(()) => Ok(connection.receive().await),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn refusal(refused: network::Refused) -> Failure {
    Failure {
        errno: refused.errno,
        remedy: remedy(&refused),
        ..failure::own(&refused.step, refused.object, refused.message)
    }
}

fn remedy(refused: &network::Refused) -> String {
    let words = match io::Error::from_raw_os_error(refused.errno).kind() {
        _ if refused.step != PUBLISH => "",
        io::ErrorKind::AddrInUse => {
            "choose another port of the host, or stop what has this one (`ss -lntup` names it)"
        }
        io::ErrorKind::PermissionDenied => {
            "choose a port from 1024 on, or lower net.ipv4.ip_unprivileged_port_start"
        }
        io::ErrorKind::AddrNotAvailable => "`ip address` lists the host's addresses",
        _ if refused.errno == rustix::io::Errno::MFILE.raw_os_error() => {
            "publish fewer, or raise the hard limit of open files (`ulimit -Hn`) of whoever starts containers"
        }
        _ => "",
    };
    words.to_owned()
}

#[cfg(test)]
mod tests;
