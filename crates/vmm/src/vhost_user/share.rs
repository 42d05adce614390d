//! Shared folders as a vhost-user back-end: a thread of its own beside the vsock device's.
//!
//! QEMU keeps the device's configuration space; both rings are ours. The thread ends when QEMU is gone, and with the
//! process when the supervisor is.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use rustix::event::{Timespec, epoll};
use vhost::vhost_user::BackendReqHandler;

use super::backend::{Backend, Served};
use super::ring::Ring;
use super::{ServeError, TOKEN_FRONTEND, handle, lock};
use crate::virtio::Device;
use crate::virtio::fs::{Fs, QUEUE_SIZE};
use crate::vsock::Memory;

impl Served for Fs {
    const QUEUE_SIZE: u16 = QUEUE_SIZE;

    fn run(&mut self, mem: Option<&Memory>, rings: &mut [Ring; 2]) -> bool {
        let Some(mem) = mem else {
            return false;
        };
        let mut again = false;
        for ring in rings {
            let Some(queue) = ring.running() else {
                continue;
            };
            let work = self.serve(mem, queue);
            again |= work.again;
            if work.signal {
                ring.signal();
            }
        }
        again
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn reset(&mut self) {
        Device::reset(self);
    }

    fn abandon(&mut self) {
        Device::reset(self);
    }
}

/// Shared folders between a front-end and a guest.
pub struct Share {
    epoll: Arc<OwnedFd>,
    backend: Arc<Mutex<Backend<Fs>>>,
    frontend: BackendReqHandler<Mutex<Backend<Fs>>>,
}

impl Share {
    /// Prepares the service. Guest memory is not looked at before [`Share::run`].
    ///
    /// # Errors
    /// The system's, when the event loop is set up.
    pub fn new(frontend: UnixStream, device: Fs) -> Result<Share, ServeError> {
        let failed = |error: std::io::Error| ServeError::System("shared folders", error);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map(Arc::new)
            .map_err(|error| failed(error.into()))?;
        let token = epoll::EventData::new_u64(TOKEN_FRONTEND);
        epoll::add(&epoll, frontend.as_fd(), token, epoll::EventFlags::IN)
            .map_err(|error| failed(error.into()))?;
        let backend = Backend::new(device, epoll.clone()).map_err(failed)?;
        let backend = Arc::new(Mutex::new(backend));
        Ok(Share {
            epoll,
            frontend: BackendReqHandler::from_stream(frontend, backend.clone()),
            backend,
        })
    }

    /// Serves until the front-end is gone.
    ///
    /// # Errors
    /// A front-end that makes no sense; the system's.
    pub fn run(mut self) -> Result<(), ServeError> {
        let zero = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let mut again = false;
        loop {
            let mut buffer = [const { MaybeUninit::uninit() }; 4];
            let mut asked = false;
            match epoll::wait(&self.epoll, &mut buffer[..], again.then_some(&zero)) {
                Ok((events, _)) => {
                    asked = events
                        .iter()
                        .any(|event| event.data.u64() == TOKEN_FRONTEND);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(ServeError::System("waiting for events", error.into())),
            }
            if asked && !handle(&mut self.frontend)? {
                return Ok(());
            }
            again = lock(&self.backend).run();
        }
    }
}
