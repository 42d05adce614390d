//! What goes through: frames of the guests, and clients of published ports.

use std::os::fd::AsFd;
use std::time::Duration;

use netstack::Transmitted;
use proto::network::Protocol;
use rustix::io::Errno;

use super::Server;
use super::shortage::is_shortage;
use crate::poll::{Ready, Token};
use crate::proxy;
use crate::published::Ports;
use crate::sys;

/// Frames of one guest before others have their turn.
const FRAMES: usize = 64;

/// Datagrams of one published port, and connections to one, before others have their turn.
const TURN: usize = 64;

impl Server {
    /// Frames of a guest, or room for some.
    pub(super) fn on_link(&mut self, id: u32, ready: Ready, now: Duration) {
        if ready.output
            && let Some(guest) = self.clients.guest(id)
            && guest.full
        {
            guest.full = false;
            let _ = self
                .poll
                .rewatch(guest.link.fd.as_fd(), Token::Link(id), false);
            self.transmit(id, now);
            self.resume(id);
        }
        for _ in 0..FRAMES {
            let Some(guest) = self.clients.guest(id) else {
                return;
            };
            match guest.link.receive(&mut self.buffer) {
                Ok(count) => {
                    for received in guest.link.frames(&self.buffer[..count]) {
                        let Some((partial, frame)) = received else {
                            self.stack.counters.malformed += 1;
                            break;
                        };
                        if self.clients.is_captured() {
                            let gateway = self.stack.config().mac;
                            let whole = partial.map(|partial| partial.completed(frame));
                            let whole = whole.as_deref().unwrap_or(frame);
                            self.clients.capture(id, false, whole, gateway);
                        }
                        self.stack.receive_partial(id, frame, partial, now);
                    }
                }
                Err(Errno::INTR) => {}
                // Nothing more; or the VM is gone, and its supervisor will say so.
                Err(_) => return,
            }
        }
    }

    /// Sends what there is for a guest, as far as there is room.
    pub(super) fn transmit(&mut self, id: u32, now: Duration) {
        loop {
            let mut recorded = self.clients.is_captured().then(Vec::new);
            let Some(guest) = self.clients.guest(id).filter(|guest| !guest.full) else {
                return;
            };
            let link = &mut guest.link;
            let offered = self.stack.transmit_with(id, now, |pieces, partial| {
                let taken = link.send(pieces, partial);
                if let Some(frame) = recorded.as_mut().filter(|_| taken) {
                    pieces
                        .iter()
                        .for_each(|piece| frame.extend_from_slice(piece));
                    if let Some(partial) = partial {
                        partial.complete(frame);
                    }
                }
                taken
            });
            match offered {
                Transmitted::Sent => {}
                Transmitted::Nothing if link.flush() => return,
                Transmitted::Nothing | Transmitted::Full => {
                    guest.full = true;
                    let fd = link.fd.as_fd();
                    let _ = self.poll.rewatch(fd, Token::Link(id), true);
                    return;
                }
            }
            if let Some(frame) = recorded {
                let gateway = self.stack.config().mac;
                self.clients.capture(id, true, &frame, gateway);
            }
        }
    }

    pub(super) fn on_published(&mut self, id: u64, now: Duration) {
        for _ in 0..TURN {
            let Some(published) = self.ports.get(id) else {
                return;
            };
            let (member, guest_port) = (published.member, published.port.guest_port);
            let version = published.port.proxy;
            if published.port.protocol == Protocol::Udp {
                if !self.stack.has_room(member) {
                    return self.pause(member, id);
                }
                let received = sys::receive(&published.fd, &mut self.buffer);
                let Ok((count, peer, local)) = received else {
                    return;
                };
                let id = self.ports.at(id, local);
                let payload = &self.buffer[..count];
                self.stack
                    .udp_inbound(member, id, peer, guest_port, payload, now);
                continue;
            }
            let (fd, client) = match Ports::accept(published) {
                Ok(accepted) => accepted,
                Err(errno) if is_shortage(errno) => {
                    return self.starve(Token::Published(id), now);
                }
                Err(_) => return,
            };
            // Too many: the connection is closed.
            let Some(share) = self.share(member) else {
                continue;
            };
            let Some(flow) = self.stack.tcp_dial(member, client, guest_port, now) else {
                continue;
            };
            if let Some(version) = version {
                self.stack
                    .tcp_preface(flow, &proxy::header(version, client, &fd));
            }
            let taken = self.streams.take(&self.poll, flow, fd, share);
            if taken.is_err() {
                self.stack.tcp_abort(flow);
            }
        }
    }

    /// A guest takes no more datagrams: the kernel keeps some, and drops the rest for less than it would cost us.
    fn pause(&mut self, member: u32, id: u64) {
        if let Some(published) = self.ports.get(id)
            && let Some(guest) = self.clients.guest(member)
            && guest.full
            && self
                .poll
                .pause(published.fd.as_fd(), Token::Published(id))
                .is_ok()
        {
            guest.paused.push(id);
        }
    }

    /// It does again.
    fn resume(&mut self, member: u32) {
        let Some(guest) = self.clients.guest(member) else {
            return;
        };
        if guest.paused.is_empty() || !self.stack.has_room(member) {
            return;
        }
        for id in std::mem::take(&mut guest.paused) {
            // One that was withdrawn meanwhile is no more.
            if let Some(published) = self.ports.get(id) {
                let fd = published.fd.as_fd();
                let _ = self.poll.rewatch(fd, Token::Published(id), false);
            }
        }
    }
}
