//! The network device (virtio 1.2, section 5.1) on a socket of datagrams: one is an Ethernet frame.
//!
//! A frame goes from guest memory to the socket in one call, without a copy of ours. On its way in it is read once and spread
//! over as many of the guest's buffers as it takes (`MRG_RXBUF`): with packets of 64 KiB, buffers for the largest would be
//! most of the guest's memory. There are no offloads: nobody behind the socket would know what to do with them yet.
//!
//! Frames are held back, never lost: those for the guest wait in the socket while it has no buffers, those of the guest wait in its
//! ring while the socket has no room.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::RecvFlags;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};

use super::buffers::{Buffers, copy_in, iovecs, length, take_front};
use super::{Counters, Device, Work};
use crate::vsock::Memory;

const QUEUE_SIZE: u16 = 256;
const RX: usize = 0;
const TX: usize = 1;

/// `struct virtio_net_hdr_v1` (section 5.1.6).
const HEADER_LEN: usize = 12;
/// Where `num_buffers` is in it.
const NUM_BUFFERS: usize = 10;

/// Bytes of the largest frame: what an IP packet can be, and an Ethernet header with a VLAN tag.
const LARGEST: usize = 65535 + 18;

/// Frames in one turn, each way.
const BUDGET: usize = 128;

mod feature {
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
    /// Room for a header, whose bytes but [`NUM_BUFFERS`] stay zero, and the largest frame. Never cleared: what counts of it
    /// is `len` bytes.
    frame: Box<[u8]>,
    /// Bytes of the header and the frame that was received last.
    len: usize,
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
            frame: vec![0; HEADER_LEN + LARGEST].into(),
            len: 0,
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
            let room = &mut self.frame[HEADER_LEN..];
            match rustix::net::recv(&self.link, room, RecvFlags::DONTWAIT) {
                // An empty datagram is no frame.
                Ok((0, _)) | Err(rustix::io::Errno::INTR) => {}
                Ok((count, _)) => {
                    self.len = HEADER_LEN + count;
                    return true;
                }
                Err(_) => return false,
            }
        }
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

    /// Puts the frame into the guest's buffers; false when there are not enough of them.
    fn deliver(&mut self, mem: &Memory, queue: &mut Queue) -> bool {
        let mut chains: Vec<(u16, Buffers<'_>)> = Vec::new();
        let (mut room, mut refused) = (0, 0);
        // A guest that offers nothing but nonsense gets no more of our time than a ring of it.
        while room < self.len && refused <= QUEUE_SIZE {
            let Some(chain) = queue.pop_descriptor_chain(mem) else {
                for _ in &chains {
                    queue.go_to_previous_position();
                }
                return false;
            };
            let head = chain.head_index();
            let buffers = Buffers::of(mem, chain).unwrap_or_default();
            let len = length(&buffers.writable);
            // A buffer that can't be written to, or not even hold a header, is given back unused.
            let first = chains.is_empty();
            if len == 0 || (first && len < HEADER_LEN) || (!first && !self.mergeable) {
                self.counters.violations += 1;
                refused += 1;
                self.used(mem, queue, head, 0);
                if first || self.mergeable {
                    continue;
                }
                // Too small a buffer of a driver that takes a frame in one: the frame is lost.
                for (head, _) in chains {
                    self.used(mem, queue, head, 0);
                }
                return true;
            }
            room += len;
            chains.push((head, buffers));
        }
        if room < self.len {
            for _ in &chains {
                queue.go_to_previous_position();
            }
            return false;
        }
        let count = chains.len() as u16;
        self.frame[NUM_BUFFERS..HEADER_LEN].copy_from_slice(&count.to_le_bytes());
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

    fn used(&mut self, mem: &Memory, queue: &mut Queue, head: u16, len: u32) {
        // It fails for a head that no queue of that size has.
        if queue.add_used(mem, head, len).is_err() {
            self.counters.violations += 1;
        }
    }

    /// Frames of the guest.
    fn run_tx(&mut self, mem: &Memory, queue: &mut Queue) -> Work {
        let mut taken = 0;
        let mut full = false;
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
            // A ring whose index is nonsense always has "more" and never a chain.
            if !queue.enable_notification(mem).unwrap_or(false) || taken == before {
                break;
            }
        }
        Work {
            signal: taken > 0 && queue.needs_notification(mem).unwrap_or(false),
            again: !full && taken >= BUDGET,
        }
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
        if header.is_none() || len == 0 || len > LARGEST {
            self.counters.violations += 1;
            return true;
        }
        let mut vectors = iovecs(&buffers.readable);
        // SAFETY: msghdr is integers and pointers, for which all zeros is a value.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = vectors.as_mut_ptr();
        message.msg_iovlen = vectors.len() as _;
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the vectors name pieces of guest memory, which is mapped for as long as `mem` is borrowed, and the kernel
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
        feature::MTU | feature::MAC | feature::MRG_RXBUF
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

    fn start(&mut self, features: u64) {
        self.mergeable = features & feature::MRG_RXBUF != 0;
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
mod tests {
    use super::*;
    use crate::virtio::driver::{DATA, Driver, readable, writable};
    use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, socketpair};

    fn driver() -> (Driver<Net>, OwnedFd) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
        (
            Driver::new(Net::new(theirs, [2, 0, 0, 0, 0, 7], 9000)),
            ours,
        )
    }

    #[test]
    fn says_who_it_is() {
        let (driver, _link) = driver();
        let bytes = [0x100, 0x104, 0x108].map(|at| driver.register(at).to_le_bytes());
        assert_eq!(bytes.concat(), [2, 0, 0, 0, 0, 7, 0, 0, 1, 0, 0x28, 0x23]);
    }

    #[test]
    fn a_frame_goes_out_without_its_header() {
        let (mut driver, link) = driver();
        driver.put(DATA, &[0; HEADER_LEN]);
        driver.put(DATA + 100, b"a frame");
        // The header may share a buffer with the frame, or not.
        driver.request(1, &[readable(DATA, 12), readable(DATA + 100, 7)]);
        driver.put(DATA + 12, b"other");
        driver.request(1, &[readable(DATA, 17)]);
        let mut bytes = [0; 99];
        for expect in [&b"a frame"[..], b"other"] {
            let (count, _) = rustix::net::recv(&link, &mut bytes[..], RecvFlags::empty()).unwrap();
            assert_eq!(&bytes[..count], expect);
        }
        driver.request(1, &[readable(DATA, 12)]);
        assert_eq!(driver.slot.lock().device.counters.violations, 1);
    }

    #[test]
    fn a_frame_comes_in_when_there_is_a_buffer() {
        let (mut driver, link) = driver();
        rustix::net::send(&link, b"hello", SendFlags::empty()).unwrap();
        while driver.slot.serve(&driver.mem) {}
        let used = driver.request(0, &[writable(DATA, 12), writable(DATA + 50, 90)]);
        assert_eq!(used, 17);
        assert_eq!(driver.get(DATA + 10, 2), 1_u16.to_le_bytes());
        assert_eq!(driver.get(DATA + 50, 5), b"hello");
    }

    /// Nothing of a longer frame before it.
    #[test]
    fn a_short_frame_after_a_long_one_is_short() {
        let (mut driver, link) = driver();
        rustix::net::send(&link, &[7; 9000], SendFlags::empty()).unwrap();
        while driver.slot.serve(&driver.mem) {}
        assert_eq!(driver.request(0, &[writable(DATA, 0x4000)]), 9012);
        driver.put(DATA, &[0xee; 0x4000]);
        rustix::net::send(&link, b"short", SendFlags::empty()).unwrap();
        while driver.slot.serve(&driver.mem) {}
        assert_eq!(driver.request(0, &[writable(DATA, 0x4000)]), 17);
        assert_eq!(
            driver.get(DATA, HEADER_LEN),
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
        );
        assert_eq!(driver.get(DATA + 12, 7), b"short\xee\xee");
    }
}
