//! The network device (virtio 1.2, section 5.1) on a socket of datagrams: one is an Ethernet frame behind its [`header`].
//!
//! A frame goes from guest memory to the socket in one call, without a copy of ours. On its way in it is read once and spread
//! over as many of the guest's buffers as it takes (`MRG_RXBUF`): with packets of 64 KiB, buffers for the largest would be
//! most of the guest's memory.
//!
//! Checksums are left out both ways, as far as the driver takes part (`CSUM`, `GUEST_CSUM`): who is behind the socket looks at none and computes one only
//! for somebody who needs it. For a driver that does not, it is computed here. Segmentation is not offered: packets have 64 KiB without it.
//!
//! Frames are held back, never lost: those for the guest wait in the socket while it has no buffers, those of the guest wait in its
//! ring while the socket has no room.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::RecvFlags;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};

use self::header::{HEADER_LEN, Partial};
use super::buffers::{Buffers, MAX_PIECES, copy_in, iovecs, length, take_front};
use super::{Counters, Device, Work, is_nonsense};
use crate::vsock::Memory;

mod header;

const QUEUE_SIZE: u16 = 256;
const RX: usize = 0;
const TX: usize = 1;

/// Bytes of the largest frame: what an IP packet can be, and an Ethernet header with a VLAN tag.
const LARGEST: usize = 65535 + 18;

/// Frames in one turn, each way.
const BUDGET: usize = 128;

mod feature {
    pub const CSUM: u64 = 1;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const MRG_RXBUF: u64 = 1 << 15;
}

/// The device.
pub struct Net {
    link: OwnedFd,
    mac: [u8; 6],
    mtu: u16,
    /// The driver takes a frame in several buffers.
    mergeable: bool,
    /// The driver leaves checksums out.
    leaves: bool,
    /// The driver takes frames whose checksum is left out.
    takes: bool,
    /// Room for a header and the largest frame. Never cleared: what counts of it is `len` bytes.
    frame: Box<[u8]>,
    /// Bytes of the header and the frame that was received last.
    len: usize,
    /// What is left out of its checksum.
    partial: Option<Partial>,
    /// The guest had no buffers for it yet.
    waiting: bool,
    /// See [`Counters`].
    pub counters: Counters,
}

impl Net {
    /// A device on a link, which must not block.
    pub fn new(link: OwnedFd, mac: [u8; 6], mtu: u16) -> Net {
        Net {
            link,
            mac,
            mtu,
            mergeable: false,
            leaves: false,
            takes: false,
            frame: vec![0; HEADER_LEN + LARGEST].into(),
            len: 0,
            partial: None,
            waiting: false,
            counters: Counters::default(),
        }
    }

    /// The link, to be watched.
    pub fn link(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// The next frame from the link into `self.frame`.
    fn receive(&mut self) -> bool {
        loop {
            match rustix::net::recv(&self.link, &mut self.frame[..], RecvFlags::DONTWAIT) {
                Ok((count, _)) if self.arrange(count) => return true,
                // What is no frame is left out.
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    /// Looks at the header of what has come, `len` bytes; false for what is no frame. A driver that looks at checksums gets them.
    fn arrange(&mut self, len: usize) -> bool {
        let Some((header, frame)) = self.frame[..len].split_first_chunk_mut::<HEADER_LEN>() else {
            return false;
        };
        let Ok(mut partial) = header::parse(header, frame.len()) else {
            return false;
        };
        if !self.takes
            && let Some(left) = partial.take()
        {
            left.complete(frame);
        }
        let sound = !frame.is_empty();
        (self.len, self.partial) = (len, partial);
        sound
    }

    /// Frames for the guest.
    fn run_rx(&mut self, mem: &Memory, queue: &mut Queue) -> Work {
        let mut taken = 0;
        let _ = queue.disable_notification(mem);
        while taken < BUDGET {
            if !self.waiting && !self.receive() {
                break;
            }
            self.waiting = true;
            if !self.deliver(mem, queue) {
                // The guest has no buffers: it is to say when it has.
                if !queue.enable_notification(mem).unwrap_or(false) || !self.deliver(mem, queue) {
                    if is_nonsense(mem, queue) {
                        self.counters.violations += 1;
                    }
                    break;
                }
                let _ = queue.disable_notification(mem);
            }
            self.waiting = false;
            taken += 1;
        }
        Work {
            signal: taken > 0 && queue.needs_notification(mem).unwrap_or(false),
            again: taken >= BUDGET,
        }
    }

    /// Puts the frame into the guest's buffers; false when there are not enough of them, and then all but useless ones before the first that
    /// is of use stay where they are.
    fn deliver(&mut self, mem: &Memory, queue: &mut Queue) -> bool {
        let mut chains: Vec<(u16, Buffers<'_>)> = Vec::new();
        // Of no use, among those that are: the ring goes back over all or none.
        let mut useless: Vec<u16> = Vec::new();
        let (mut room, mut refused) = (0, 0);
        // A guest that offers nothing but nonsense gets no more of our time than a ring of it.
        while room < self.len && refused <= QUEUE_SIZE {
            let Some(chain) = queue.pop_descriptor_chain(mem) else {
                break;
            };
            let head = chain.head_index();
            let buffers = Buffers::of(mem, chain).unwrap_or_default();
            let len = length(&buffers.writable);
            let first = chains.is_empty();
            // A buffer that can't be written to, or not even hold a header, is given back unused.
            if len == 0 || (first && len < HEADER_LEN) {
                refused += 1;
                match first {
                    true => self.refuse(mem, queue, head),
                    false => useless.push(head),
                }
                continue;
            }
            if len < self.len && !self.mergeable {
                // Too small a buffer of a driver that takes a frame in one: the frame is lost.
                self.refuse(mem, queue, head);
                return true;
            }
            room += len;
            chains.push((head, buffers));
        }
        if room < self.len {
            for _ in 0..chains.len() + useless.len() {
                queue.go_to_previous_position();
            }
            return false;
        }
        // The frame's own stand in a row.
        for head in useless {
            self.refuse(mem, queue, head);
        }
        let count = chains.len() as u16;
        self.frame[..HEADER_LEN].copy_from_slice(&header::write(self.partial, count));
        let mut rest = &self.frame[..self.len];
        let mut written = Vec::with_capacity(chains.len());
        for (head, buffers) in &chains {
            let len = copy_in(&buffers.writable, rest);
            rest = &rest[len..];
            written.push((*head, len as u32));
        }
        self.counters.served += 1;
        for (head, len) in written {
            self.used(mem, queue, head, len);
        }
        true
    }

    /// Gives a buffer back that is of no use.
    fn refuse(&mut self, mem: &Memory, queue: &mut Queue, head: u16) {
        self.counters.violations += 1;
        self.used(mem, queue, head, 0);
    }

    fn used(&mut self, mem: &Memory, queue: &mut Queue, head: u16, len: u32) {
        // It fails for a head that no queue of that size has.
        if queue.add_used(mem, head, len).is_err() {
            self.counters.violations += 1;
        }
    }

    /// Frames of the guest.
    fn run_tx(&mut self, mem: &Memory, queue: &mut Queue) -> Work {
        let mut taken = 0;
        let (mut full, mut in_vain) = (false, false);
        while !full {
            let _ = queue.disable_notification(mem);
            let before = taken;
            while taken < BUDGET {
                let Some(chain) = queue.pop_descriptor_chain(mem) else {
                    break;
                };
                let head = chain.head_index();
                if !self.send(mem, chain) {
                    // The link says when it has room, the guest need not.
                    queue.go_to_previous_position();
                    full = true;
                    break;
                }
                taken += 1;
                self.used(mem, queue, head, 0);
            }
            if full || taken >= BUDGET {
                break;
            }
            if !queue.enable_notification(mem).unwrap_or(false) {
                break;
            }
            // As in `drain`.
            if taken == before && std::mem::replace(&mut in_vain, true) {
                self.counters.violations += 1;
                break;
            }
        }
        Work {
            signal: taken > 0 && queue.needs_notification(mem).unwrap_or(false),
            again: !full && taken >= BUDGET,
        }
    }

    /// What the link is told of a guest's header, if that makes sense.
    fn passed_on(&self, header: &[u8; HEADER_LEN], len: usize) -> Option<[u8; HEADER_LEN]> {
        let partial = header::parse(header, len).ok()?;
        (self.leaves || partial.is_none()).then(|| header::write(partial, 0))
    }

    /// Sends what a chain holds; false when the link has no room.
    fn send(&mut self, mem: &Memory, chain: DescriptorChain<&Memory>) -> bool {
        self.counters.served += 1;
        let Ok(mut buffers) = Buffers::of(mem, chain) else {
            self.counters.violations += 1;
            return true;
        };
        let header = take_front::<HEADER_LEN>(&mut buffers.readable);
        let len = length(&buffers.readable);
        let Some(mut header) = header.and_then(|header| self.passed_on(&header, len)) else {
            self.counters.violations += 1;
            return true;
        };
        if len == 0 || len > LARGEST || buffers.readable.len() >= MAX_PIECES {
            self.counters.violations += 1;
            return true;
        }
        let mut vectors = vec![libc::iovec {
            iov_base: header.as_mut_ptr().cast(),
            iov_len: HEADER_LEN,
        }];
        vectors.extend(iovecs(&buffers.readable));
        // SAFETY: msghdr is integers and pointers, for which all zeros is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = vectors.len() as _;
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the vectors name the header above and pieces of guest memory, which is mapped for as long as `mem` is borrowed, and the kernel
        // only reads through them. The guest may write meanwhile, as with any device.
        let sent = unsafe { libc::sendmsg(self.link.as_raw_fd(), &raw const message, flags) };
        if sent >= 0 {
            return true;
        }
        match io::Error::last_os_error().raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS) => {
                self.counters.served -= 1;
                false
            }
            // Nobody is there: lost, as on a wire that is cut.
            _ => {
                self.counters.failures += 1;
                true
            }
        }
    }
}

impl Device for Net {
    fn id(&self) -> u32 {
        1
    }

    fn features(&self) -> u64 {
        feature::CSUM | feature::GUEST_CSUM | feature::MTU | feature::MAC | feature::MRG_RXBUF
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    /// `struct virtio_net_config`, section 5.1.4: status and number of queue pairs are not offered.
    fn config(&self) -> Vec<u8> {
        let mut config = self.mac.to_vec();
        config.extend([0, 0, 1, 0]);
        config.extend(self.mtu.to_le_bytes());
        config
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn start(&mut self, features: u64) {
        self.mergeable = features & feature::MRG_RXBUF != 0;
        self.leaves = features & feature::CSUM != 0;
        self.takes = features & feature::GUEST_CSUM != 0;
    }

    fn reset(&mut self) {
        self.waiting = false;
    }

    /// A card that nobody drives hears nothing.
    fn idle(&mut self) {
        for _ in 0..BUDGET {
            if !self.receive() {
                return;
            }
        }
    }

    fn run(&mut self, mem: &Memory, queues: &mut [Queue]) -> Work {
        let mut work = Work::default();
        for (index, queue) in queues.iter_mut().enumerate() {
            if !queue.ready() {
                continue;
            }
            let done = match index {
                RX => self.run_rx(mem, queue),
                TX => self.run_tx(mem, queue),
                _ => Work::default(),
            };
            work.signal |= done.signal;
            work.again |= done.again;
        }
        work
    }
}

#[cfg(test)]
mod tests;
