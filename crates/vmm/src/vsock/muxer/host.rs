//! What the host's sockets cause.

use rustix::event::epoll;

use super::{Entry, Muxer};
use crate::vsock::connection::Phase;
use crate::vsock::packet::Op;
use crate::vsock::stream::Deaf;

impl Muxer {
    /// Takes in what the host's sockets have to say. Never waits.
    pub fn poll_host(&mut self) {
        let zero = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        loop {
            let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 128];
            let full = buffer.len();
            let (events, _) = match epoll::wait(&self.epoll, &mut buffer[..], Some(&zero)) {
                Ok(events) => events,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            };
            for event in events.iter() {
                self.on_host_event(event.data.u64(), event.flags);
            }
            if events.len() < full {
                return;
            }
        }
    }

    fn on_host_event(&mut self, id: u64, flags: epoll::EventFlags) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if flags
            .intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::HUP)
        {
            entry.stream.readable = true;
        }
        let gone = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        if gone && entry.connection.phase() == Phase::Dialled {
            let told = entry.connection.due().is_none();
            let reset = entry.connection.header(Op::Reset, 0, 0);
            if told {
                self.resets.push_back(reset);
            }
            self.forget(id, libc::ECONNABORTED);
            return;
        }
        if flags
            .intersects(epoll::EventFlags::OUT | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
        {
            entry.stream.set_writable();
            match entry.stream.flush() {
                Ok(sent) => entry.connection.on_forwarded(sent as u32),
                Err(Deaf) => entry.deafen(),
            }
        }
        if gone {
            // The host reads no more, or there is nothing more for it. What it sent is still read.
            entry.deafen();
        }
        self.settle(id);
    }
}

impl Entry {
    /// The host reads no more: what it has not read is lost, and the guest is to know.
    pub(super) fn deafen(&mut self) {
        let held = self.stream.discard();
        self.connection.on_forwarded(held as u32);
        self.connection.on_host_deaf();
    }
}
