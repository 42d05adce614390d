//! The vsock device as a vhost-user back-end: what `gourd-vmm` runs beside QEMU.
//!
//! ```text
//!   QEMU ── vhost-user socket ──▶ ┌───────────┐ ◀── control socket ── supervisor
//!   guest ── kick eventfds ─────▶ │ one epoll │ ◀── muxer's epoll ── the host's ends of connections
//!                                 └───────────┘
//! ```
//!
//! One thread, which owns everything, and waits in one place. QEMU is trusted to describe guest memory (a QEMU that
//! the guest has taken over can make this process fail, no more: it has nothing else, see [`crate::confine`]).
//!
//! Life: the control socket's end of file means that the supervisor is dead, and ends the service at once. The
//! vhost-user socket's means that QEMU is: the service ends when the readers on the host have taken what the guest had
//! sent, so that a guest that writes and powers off loses nothing to a slow reader. A reader that never reads is the
//! supervisor's to close. A guest that restarts stops the rings and starts them again from index 0: the device then
//! forgets the old guest's connections. A guest that was paused continues where it was.

mod backend;
#[cfg(any(test, fuzzing))]
pub mod hostile;
mod regions;
mod ring;
mod share;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{Timespec, epoll};
use thiserror::Error;
use vhost::vhost_user::{BackendReqHandler, Error as ProtocolError};

use crate::confine::Level;
use crate::control::{self, Control, ControlError, Msg};
use crate::vsock::{self, Counters, Device, Memory, Progress, QUEUE_SIZE, Queues};
use backend::{Backend, Served};
use ring::Ring;

pub use share::Share;

/// The guest's usual CID. It needs not be unique: each guest has a device process of its own.
pub const GUEST_CID: u64 = 3;

const TOKEN_CONTROL: u64 = 1;
const TOKEN_FRONTEND: u64 = 2;
const TOKEN_HOST: u64 = 3;
const TOKEN_KICK: u64 = 4;

/// What ends the service other than its natural ends.
#[derive(Debug, Error)]
pub enum ServeError {
    /// The event loop could not be set up, or broke.
    #[error("{0}")]
    System(&'static str, #[source] io::Error),
    /// QEMU sent something that makes no sense.
    #[error("vhost-user message from QEMU")]
    Protocol(#[source] ProtocolError),
    /// The control socket broke.
    #[error("control socket of the supervisor")]
    Control(#[source] ControlError),
}

/// Whose end ended the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// QEMU disconnected.
    Frontend,
    /// The supervisor is gone.
    Supervisor,
}

/// A vsock device between a front-end, a supervisor and a guest.
pub struct Service {
    epoll: Arc<OwnedFd>,
    control: Control,
    backend: Arc<Mutex<Backend<Device>>>,
    frontend: Option<BackendReqHandler<Mutex<Backend<Device>>>>,
}

/// What there is to do; kicks and host sockets are always looked at.
#[derive(Default)]
struct Woken {
    by_control: bool,
    by_frontend: bool,
}

/// What came of a turn.
enum Turn {
    /// Whether there is more to do at once.
    Again(bool),
    /// That was all.
    Ended(Ended),
}

impl Service {
    /// Prepares the service. Guest memory is not looked at before [`Service::run`].
    pub fn new(
        frontend: UnixStream,
        control: Control,
        guest_cid: u64,
    ) -> Result<Service, ServeError> {
        let failed = |what| move |error: io::Error| ServeError::System(what, error);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map(Arc::new)
            .map_err(|error| ServeError::System("epoll instance", error.into()))?;
        control
            .set_nonblocking(true)
            .map_err(failed("control socket"))?;
        let device = Device::new(guest_cid).map_err(failed("vsock device"))?;
        let backend = Backend::new(device, epoll.clone()).map_err(failed("vsock device"))?;
        let level = epoll::EventFlags::IN;
        let edge =
            level | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let add = |fd, token, flags| {
            epoll::add(&epoll, fd, epoll::EventData::new_u64(token), flags)
                .map_err(|error| ServeError::System("epoll instance", error.into()))
        };
        add(control.as_fd(), TOKEN_CONTROL, edge)?;
        add(frontend.as_fd(), TOKEN_FRONTEND, level)?;
        add(backend.device.muxer.as_fd(), TOKEN_HOST, level)?;
        let backend = Arc::new(Mutex::new(backend));
        Ok(Service {
            epoll,
            control,
            frontend: Some(BackendReqHandler::from_stream(frontend, backend.clone())),
            backend,
        })
    }

    /// Says [`Msg::Ready`], then serves until the front-end or the supervisor is gone. `report` is called after each
    /// turn with what has been counted so far.
    pub fn run(
        mut self,
        level: Level,
        mut report: impl FnMut(&Counters),
    ) -> Result<Ended, ServeError> {
        let ready = Msg::Ready {
            version: control::VERSION,
            landlock_abi: level.landlock_abi,
            seccomp: level.seccomp,
        };
        match self.control.send(ready, None) {
            Ok(()) => {}
            Err(ControlError::Closed) => return Ok(Ended::Supervisor),
            Err(error) => return Err(ServeError::Control(error)),
        }
        let mut again = false;
        loop {
            let woken = self.wait(again)?;
            let turn = self.turn(&woken)?;
            report(&lock(&self.backend).device.muxer.counters);
            again = match turn {
                Turn::Again(again) => again,
                Turn::Ended(ended) => return Ok(ended),
            };
        }
    }

    /// Does what there is to do.
    fn turn(&mut self, woken: &Woken) -> Result<Turn, ServeError> {
        if woken.by_control && !self.on_control()? {
            return Ok(Turn::Ended(Ended::Supervisor));
        }
        if woken.by_frontend && !self.on_frontend()? {
            self.outlive_frontend();
        }
        let again = lock(&self.backend).run();
        if !self.tell()? {
            return Ok(Turn::Ended(Ended::Supervisor));
        }
        if self.frontend.is_none() && lock(&self.backend).device.muxer.connections() == 0 {
            return Ok(Turn::Ended(Ended::Frontend));
        }
        Ok(Turn::Again(again))
    }

    /// Waits for something to do; with `again`, only looks.
    fn wait(&self, again: bool) -> Result<Woken, ServeError> {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut buffer = [const { MaybeUninit::uninit() }; 16];
        let mut woken = Woken::default();
        match epoll::wait(&self.epoll, &mut buffer[..], again.then_some(&zero)) {
            Ok((events, _)) => {
                for event in events.iter() {
                    woken.by_control |= event.data.u64() == TOKEN_CONTROL;
                    woken.by_frontend |= event.data.u64() == TOKEN_FRONTEND;
                }
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(ServeError::System("waiting for events", error.into())),
        }
        Ok(woken)
    }

    /// QEMU is gone. Its guest's memory is still mapped here: what the guest had sent goes on to the host.
    fn outlive_frontend(&mut self) {
        // Closing the socket takes it out of the epoll instance.
        self.frontend = None;
        let mut backend = lock(&self.backend);
        backend.finish();
        backend.abandon();
    }

    /// Does what the supervisor asks. False: it is gone.
    fn on_control(&mut self) -> Result<bool, ServeError> {
        let mut backend = lock(&self.backend);
        let muxer = &mut backend.device.muxer;
        loop {
            match self.control.recv() {
                Ok((Msg::Listen { port }, _)) => muxer.listen(port),
                Ok((Msg::Unlisten { port }, _)) => muxer.unlisten(port),
                Ok((Msg::Connect { id, port }, Some(fd))) => muxer.connect(id, port, fd),
                // A message of a later version, or one that is ours to send: not for us.
                Ok(_) | Err(ControlError::Parse(_)) => {}
                // The descriptor did not arrive: this process has too many.
                Err(ControlError::Descriptor {
                    msg: Msg::Connect { id, .. },
                    ..
                }) => muxer.refuse_connect(id),
                Err(ControlError::Descriptor { .. }) => {}
                Err(ControlError::WouldBlock) => return Ok(true),
                Err(ControlError::Closed) => return Ok(false),
                Err(error) => return Err(ServeError::Control(error)),
            }
        }
    }

    /// Does what one message of the front-end asks. False: it is gone.
    fn on_frontend(&mut self) -> Result<bool, ServeError> {
        match &mut self.frontend {
            Some(frontend) => handle(frontend),
            None => Ok(true),
        }
    }

    /// Tells the supervisor what happened. False: it is gone.
    fn tell(&mut self) -> Result<bool, ServeError> {
        let muxer = &mut lock(&self.backend).device.muxer;
        vsock::tell(muxer, &self.control).map_err(ServeError::Control)
    }
}

/// Does what one message of a front-end asks. False: it is gone.
fn handle<D: Served>(
    frontend: &mut BackendReqHandler<Mutex<Backend<D>>>,
) -> Result<bool, ServeError> {
    match frontend.handle_request() {
        // The answer to a message that this back-end refuses was sent; QEMU decides what follows.
        Ok(()) | Err(ProtocolError::InvalidOperation(_) | ProtocolError::ReqHandlerError(_)) => {
            Ok(true)
        }
        Err(
            ProtocolError::Disconnected
            | ProtocolError::PartialMessage
            | ProtocolError::SocketBroken(_),
        ) => Ok(false),
        Err(error) => Err(ServeError::Protocol(error)),
    }
}

impl Served for Device {
    const QUEUE_SIZE: u16 = QUEUE_SIZE;

    fn run(&mut self, mem: Option<&Memory>, rings: &mut [Ring; 2]) -> bool {
        let [rx, tx] = rings;
        let progress = match mem {
            Some(mem) => {
                let queues = Queues {
                    rx: rx.running(),
                    tx: tx.running(),
                };
                Device::run(self, mem, queues)
            }
            None => {
                self.muxer.poll_host();
                Progress::default()
            }
        };
        if progress.signal_rx {
            rx.signal();
        }
        if progress.signal_tx {
            tx.signal();
        }
        progress.again
    }

    fn config(&self) -> Vec<u8> {
        Device::config(self).to_vec()
    }

    fn reset(&mut self) {
        self.muxer.reset();
    }

    fn abandon(&mut self) {
        self.muxer.reset();
        self.muxer.give_up_dials();
    }
}

/// Each device has one thread; a lock that is poisoned means that it panicked, and then nobody gets here.
fn lock<D>(backend: &Mutex<Backend<D>>) -> MutexGuard<'_, Backend<D>> {
    backend.lock().unwrap_or_else(PoisonError::into_inner)
}
