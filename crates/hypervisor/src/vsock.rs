//! The supervisor's end of `gourd-vmm`'s control socket: listening on host ports, dialling guest ports.
//!
//! One task owns the socket. It trusts the messages' shape only: a connection for a port that nobody listens on is
//! closed, an answer that nobody waits for is dropped, a message that is none ends the VM.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc, oneshot};
use vmm::control::{Control, ControlError, HowEnded, Msg, VERSION};

use crate::driver::{Error, Listener};

/// Connections of one port that wait for `accept`. More are closed: a guest that dials faster than the supervisor
/// accepts gets refusals, not the supervisor's memory.
const BACKLOG: usize = 64;

/// Asks the task that owns the control socket.
#[derive(Clone)]
pub(crate) struct Vsock {
    requests: mpsc::UnboundedSender<(Msg, Option<OwnedFd>)>,
    shared: Arc<Mutex<Shared>>,
    ending: Arc<Notify>,
}

#[derive(Default)]
struct Shared {
    /// What was asked and is not done.
    asked: HashMap<u32, oneshot::Sender<()>>,
    /// How the guest ended its machine, if `gourd-vmm` runs one.
    ended: Option<HowEnded>,
    /// What the log has heard of devices' troubles: a bit for each slot's first, 32 bits on one for what came later.
    troubled: u64,
    listeners: HashMap<u32, mpsc::Sender<(UnixStream, u32)>>,
    dials: HashMap<u32, oneshot::Sender<u32>>,
    next_dial: u32,
    gone: bool,
}

impl Vsock {
    /// Takes our end of the control socket. The second part is the task's work: it ends with the reason when
    /// `gourd-vmm` is gone or talks nonsense.
    pub(crate) fn new(
        control: Control,
    ) -> io::Result<(Vsock, impl Future<Output = ControlError> + Send + 'static)> {
        control.set_nonblocking(true)?;
        let control = crate::process::watch(control)?;
        let (requests, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Mutex::new(Shared::default()));
        let vsock = Vsock {
            requests,
            shared: shared.clone(),
            ending: Arc::default(),
        };
        let ending = vsock.ending.clone();
        let task = async move {
            let error = converse(&control, receiver, &shared, &ending).await;
            let mut shared = lock(&shared);
            shared.gone = true;
            // Whoever accepts or dials learns from the closed channel.
            shared.listeners.clear();
            shared.dials.clear();
            shared.asked.clear();
            error
        };
        Ok((vsock, task))
    }

    /// Listens on a host port. `None`: somebody does already.
    pub(crate) fn listen(&self, port: u32) -> Result<Listener, Error> {
        let (sender, incoming) = mpsc::channel(BACKLOG);
        {
            let mut shared = lock(&self.shared);
            if shared.listeners.contains_key(&port) {
                return Err(Error::PortInUse { port });
            }
            if !shared.gone {
                shared.listeners.insert(port, sender);
            }
        }
        self.request(Msg::Listen { port }, None);
        let vsock = self.clone();
        let close = move || {
            lock(&vsock.shared).listeners.remove(&port);
            vsock.request(Msg::Unlisten { port }, None);
        };
        Ok(Listener::new(port, incoming, Box::new(close)))
    }

    /// Dials a guest port. `Ok(None)`: `gourd-vmm` is gone.
    pub(crate) async fn connect(&self, port: u32) -> Result<Option<UnixStream>, Error> {
        let system = |operation| move |source| Error::System { operation, source };
        let (ours, theirs) =
            std::os::unix::net::UnixStream::pair().map_err(system("socketpair"))?;
        ours.set_nonblocking(true)
            .map_err(system("set O_NONBLOCK"))?;
        let ours = UnixStream::from_std(ours).map_err(system("watch a socket"))?;
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut shared = lock(&self.shared);
            if shared.gone {
                return Ok(None);
            }
            let id = shared.next_dial;
            shared.next_dial = id.wrapping_add(1);
            shared.dials.insert(id, sender);
            id
        };
        // If this future is dropped meanwhile, so is our end, which gives the attempt up.
        let _forget = Forget { vsock: self, id };
        self.request(Msg::Connect { id, port }, Some(theirs.into()));
        match answer.await {
            Ok(0) => Ok(Some(ours)),
            Ok(errno) if errno == Errno::CONNREFUSED.raw_os_error() as u32 => {
                Err(Error::Refused { port })
            }
            Ok(errno) => Err(Error::System {
                operation: "connect to the guest",
                source: io::Error::from_raw_os_error(errno as i32),
            }),
            Err(_) => Ok(None),
        }
    }

    /// Asks for something of a machine and waits until it is done. `None`: `gourd-vmm` is gone.
    pub(crate) async fn ask(&self, msg: impl FnOnce(u32) -> Msg) -> Option<()> {
        let (sender, answer) = oneshot::channel();
        let id = {
            let mut shared = lock(&self.shared);
            if shared.gone {
                return None;
            }
            let id = shared.next_dial;
            shared.next_dial = id.wrapping_add(1);
            shared.asked.insert(id, sender);
            id
        };
        self.request(msg(id), None);
        answer.await.ok()
    }

    /// Tells a machine something that has no answer.
    pub(crate) fn tell(&self, msg: Msg) {
        self.request(msg, None);
    }

    /// How the guest ended its machine, if it has.
    pub(crate) fn ended(&self) -> Option<HowEnded> {
        lock(&self.shared).ended
    }

    /// Waits until the guest has ended its machine. For one waiter.
    pub(crate) async fn ending(&self) {
        self.ending.notified().await;
    }

    fn request(&self, msg: Msg, fd: Option<OwnedFd>) {
        // The task is gone only when gourd-vmm is: then there is nobody to ask.
        let _ = self.requests.send((msg, fd));
    }
}

/// Forgets a dial that nobody waits for.
struct Forget<'a> {
    vsock: &'a Vsock,
    id: u32,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        lock(&self.vsock.shared).dials.remove(&self.id);
    }
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    // Nothing panics while it is held, and a half-done change could not be left behind.
    shared
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Sends what is asked for and hands out what comes, until the other side is gone.
async fn converse(
    control: &AsyncFd<Control>,
    mut requests: mpsc::UnboundedReceiver<(Msg, Option<OwnedFd>)>,
    shared: &Mutex<Shared>,
    ending: &Notify,
) -> ControlError {
    let mut queue: VecDeque<(Msg, Option<OwnedFd>)> = VecDeque::new();
    loop {
        let step = tokio::select! {
            Some(request) = requests.recv() => {
                queue.push_back(request);
                send(control.get_ref(), &mut queue)
            }
            ready = control.ready(Interest::READABLE) => match ready {
                Ok(mut ready) => match receive(control.get_ref(), shared, ending) {
                    Err(ControlError::WouldBlock) => {
                        ready.clear_ready();
                        Ok(())
                    }
                    other => other,
                },
                Err(error) => Err(ControlError::Io(error)),
            },
            ready = control.ready(Interest::WRITABLE), if !queue.is_empty() => match ready {
                Ok(mut ready) => match send(control.get_ref(), &mut queue) {
                    Ok(()) if !queue.is_empty() => {
                        ready.clear_ready();
                        Ok(())
                    }
                    other => other,
                },
                Err(error) => Err(ControlError::Io(error)),
            },
        };
        if let Err(error) = step {
            return error;
        }
    }
}

/// Sends as much of the queue as there is room for.
fn send(
    control: &Control,
    queue: &mut VecDeque<(Msg, Option<OwnedFd>)>,
) -> Result<(), ControlError> {
    while let Some((msg, fd)) = queue.front() {
        match control.send(*msg, fd.as_ref().map(AsFd::as_fd)) {
            Ok(()) => drop(queue.pop_front()),
            Err(ControlError::WouldBlock) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Shared {
    /// Whether the log may hear of this slot: twice, whatever a monitor says that has fallen to its guest.
    fn is_news(&mut self, slot: u16) -> bool {
        let first = 1u64.checked_shl(slot.into()).filter(|_| slot < 32);
        let bits = first.map_or([0; 2], |first| [first, first << 32]);
        let news = bits.into_iter().find(|bit| bit & !self.troubled != 0);
        self.troubled |= news.unwrap_or(0);
        news.is_some()
    }
}

/// A device's name by its number (virtio 1.2, section 5).
fn device_name(id: u16) -> &'static str {
    match id {
        1 => "network",
        2 => "block",
        4 => "entropy",
        5 => "balloon",
        19 => "socket",
        26 => "file system",
        _ => "unknown",
    }
}

/// Receives one message and hands it out.
fn receive(control: &Control, shared: &Mutex<Shared>, ending: &Notify) -> Result<(), ControlError> {
    let (msg, fd) = control.recv()?;
    match (msg, fd) {
        (Msg::Dialled { port, guest_port }, Some(fd)) => {
            let Some(listener) = lock(shared).listeners.get(&port).cloned() else {
                return Ok(());
            };
            let stream = std::os::unix::net::UnixStream::from(fd);
            stream.set_nonblocking(true).map_err(ControlError::Io)?;
            let stream = UnixStream::from_std(stream).map_err(ControlError::Io)?;
            if listener.try_send((stream, guest_port)).is_err() {
                tracing::debug!(port, "closed a guest's connection that nobody accepts");
            }
        }
        (Msg::Connected { id, errno }, None) => {
            let dial = lock(shared).dials.remove(&id);
            if let Some(dial) = dial {
                let _ = dial.send(errno);
            }
        }
        (Msg::Done { id }, None) => {
            let asked = lock(shared).asked.remove(&id);
            if let Some(asked) = asked {
                let _ = asked.send(());
            }
        }
        (
            Msg::Counters {
                slot,
                device,
                violations,
                failures,
            },
            None,
        ) => {
            if lock(shared).is_news(slot) {
                let device = device_name(device);
                tracing::warn!(
                    device,
                    slot,
                    violations,
                    failures,
                    "the guest did what no sane driver does, or the host refused a device's requests"
                );
            }
        }
        (Msg::Ended { how }, None) => {
            lock(shared).ended.get_or_insert(how);
            ending.notify_one();
        }
        (
            Msg::Ready {
                version,
                landlock_abi,
                seccomp,
            },
            None,
        ) => {
            if version != VERSION {
                let kind = io::ErrorKind::Unsupported;
                let text = format!("gourd-vmm speaks version {version}, want {VERSION}");
                return Err(ControlError::Io(io::Error::new(kind, text)));
            }
            tracing::debug!(landlock_abi, seccomp, "gourd-vmm is ready");
        }
        (msg, fd) => {
            let kind = io::ErrorKind::InvalidData;
            let text = format!("gourd-vmm sent {msg:?} (descriptor: {})", fd.is_some());
            return Err(ControlError::Io(io::Error::new(kind, text)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tokio::io::AsyncReadExt;

    /// A `gourd-vmm` made of its protocol only.
    fn pair() -> (Vsock, Control) {
        let (ours, theirs) = Control::pair().unwrap();
        let (vsock, task) = Vsock::new(ours).unwrap();
        tokio::spawn(task);
        (vsock, Control::new(theirs))
    }

    async fn next(control: &Control) -> (Msg, Option<OwnedFd>) {
        control.set_nonblocking(true).unwrap();
        loop {
            match control.recv() {
                Err(ControlError::WouldBlock) => tokio::task::yield_now().await,
                other => return other.unwrap(),
            }
        }
    }

    #[tokio::test]
    async fn a_listener_gets_what_the_guest_dials() {
        let (vsock, vmm) = pair();
        let mut listener = vsock.listen(1).unwrap();
        assert_eq!(next(&vmm).await.0, Msg::Listen { port: 1 });
        assert!(matches!(vsock.listen(1), Err(Error::PortInUse { port: 1 })));
        let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let dialled = |port| Msg::Dialled {
            port,
            guest_port: 1000,
        };
        vmm.send(dialled(9), Some(far.as_fd())).unwrap();
        vmm.send(dialled(1), Some(far.as_fd())).unwrap();
        drop(far);
        let (mut stream, guest_port) = listener.accept().await.unwrap();
        assert_eq!(guest_port, 1000);
        near.write_all(b"hello").unwrap();
        drop(near);
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "hello");
        drop(listener);
        assert_eq!(next(&vmm).await.0, Msg::Unlisten { port: 1 });
        let mut again = vsock.listen(1).unwrap();
        drop(vmm);
        assert!(again.accept().await.is_none());
    }

    /// The log hears of a device's troubles twice; numbers that no slot has are no reason to fall over.
    #[tokio::test]
    async fn troubles_are_told_and_bounded() {
        let (vsock, vmm) = pair();
        for slot in [3, 3, 3, 40, u16::MAX, 0] {
            let counters = Msg::Counters {
                slot,
                device: 5,
                violations: 7,
                failures: 0,
            };
            vmm.send(counters, None).unwrap();
        }
        let how = HowEnded::Reset;
        vmm.send(Msg::Ended { how }, None).unwrap();
        vsock.ending().await;
        assert_eq!(vsock.ended(), Some(how));
        let troubled = lock(&vsock.shared).troubled;
        assert_eq!(troubled, 1 << 3 | 1 << 35 | 1);
    }

    #[tokio::test]
    async fn dials() {
        let (vsock, vmm) = pair();
        let dial = tokio::spawn({
            let vsock = vsock.clone();
            async move { vsock.connect(22).await }
        });
        let (msg, fd) = next(&vmm).await;
        let Msg::Connect { id, port: 22 } = msg else {
            panic!("{msg:?}");
        };
        // An answer that nobody waits for changes nothing.
        vmm.send(
            Msg::Connected {
                id: id + 7,
                errno: 0,
            },
            None,
        )
        .unwrap();
        vmm.send(Msg::Connected { id, errno: 0 }, None).unwrap();
        let mut stream = dial.await.unwrap().unwrap().unwrap();
        std::os::unix::net::UnixStream::from(fd.unwrap())
            .write_all(b"ssh")
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "ssh");

        let dial = tokio::spawn({
            let vsock = vsock.clone();
            async move { vsock.connect(23).await }
        });
        let (msg, _fd) = next(&vmm).await;
        let Msg::Connect { id, .. } = msg else {
            panic!("{msg:?}");
        };
        let refused = Errno::CONNREFUSED.raw_os_error() as u32;
        vmm.send(Msg::Connected { id, errno: refused }, None)
            .unwrap();
        assert!(matches!(
            dial.await.unwrap(),
            Err(Error::Refused { port: 23 })
        ));
        drop(vmm);
        assert!(vsock.connect(24).await.unwrap().is_none());
    }
}
