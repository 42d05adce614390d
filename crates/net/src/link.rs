//! A guest's link: a socket of datagrams, each of which is a frame, or what its framing says.
//!
//! ```text
//!   packed:   │ length (32 bits, network order) │ frame │ length │ frame │ …
//!   offload:  │ struct virtio_net_hdr_v1 (12 bytes) │ frame │
//! ```
//!
//! The header ([`netstack::wire::partial`]) says that a frame's checksum is left out: our own monitor's device passes on what its guest says, and nobody
//! sums bytes that never leave the machine. Packed is what QEMU expects of a stream (`-netdev stream`): it reads what has come at once, 68 KiB at most, and works on all the frames of it in
//! one turn of its loop, where a frame for each datagram takes a turn each. A datagram is whole or not there, so that nothing breaks
//! off in the middle of a frame, whichever end dies.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};

use netstack::Partial;
use netstack::wire::partial;
use proto::network::Framing;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};

/// Bytes of a datagram of several frames: no more than QEMU reads at once.
const DATAGRAM: usize = 64 << 10;

/// Bytes of a frame from which on it goes by itself, without being copied.
const LARGE: usize = 8 << 10;

/// Bytes before a frame.
const LENGTH: usize = 4;

/// A frame, and what is left out of its checksum.
pub type Received<'a> = (Option<Partial>, &'a [u8]);

/// One guest's.
#[derive(Debug)]
pub struct Link {
    /// The socket.
    pub fd: OwnedFd,
    framing: Framing,
    /// Frames that were taken and did not go yet.
    batch: Vec<u8>,
}

impl Link {
    /// A socket that does not block.
    pub fn new(fd: OwnedFd, framing: Framing) -> Link {
        let batch = Vec::new();
        Link { fd, framing, batch }
    }

    /// The next datagram.
    pub fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let received = rustix::net::recv(&self.fd, buffer, RecvFlags::empty());
        received.map(|(count, _)| count)
    }

    /// The frames of a datagram, and what is left out of their checksums. `None` is what makes no sense; nothing comes behind it.
    pub fn frames<'a>(
        &self,
        mut datagram: &'a [u8],
    ) -> impl Iterator<Item = Option<Received<'a>>> + use<'a> {
        let framing = self.framing;
        std::iter::from_fn(move || {
            let rest = std::mem::take(&mut datagram);
            if rest.is_empty() {
                return None;
            }
            Some(match framing {
                Framing::Plain => Some((None, rest)),
                Framing::Offload => partial::parse_header(rest),
                Framing::Packed => unpack(rest).map(|(frame, behind)| {
                    datagram = behind;
                    (None, frame)
                }),
            })
        })
    }

    /// Takes a frame, in pieces, with what is left out of its checksum, which is something with [`Framing::Offload`] alone; false when there is no room.
    /// It is on its way after the next [`Link::flush`].
    pub fn send(&mut self, pieces: &[IoSlice<'_>], partial: Option<Partial>) -> bool {
        match self.framing {
            Framing::Plain => return self.put(pieces),
            Framing::Offload => return self.put_behind(&partial::header(partial), pieces),
            Framing::Packed => {}
        }
        let length: usize = pieces.iter().map(|piece| piece.len()).sum();
        let alone = length >= LARGE;
        if (alone || self.batch.len() + LENGTH + length > DATAGRAM) && !self.flush() {
            return false;
        }
        let prefix = (length as u32).to_be_bytes();
        if !alone {
            self.batch.extend(prefix);
            pieces
                .iter()
                .for_each(|piece| self.batch.extend_from_slice(piece));
            return true;
        }
        self.put_behind(&prefix, pieces)
    }

    fn put_behind(&self, prefix: &[u8], pieces: &[IoSlice<'_>]) -> bool {
        // A header and two pieces of a ring's.
        let mut all = [IoSlice::new(&[]); 4];
        all[0] = IoSlice::new(prefix);
        for (place, piece) in all[1..].iter_mut().zip(pieces) {
            *place = IoSlice::new(piece);
        }
        self.put(&all[..=pieces.len()])
    }

    /// Sends what was taken; false when there is no room.
    pub fn flush(&mut self) -> bool {
        let sent = self.batch.is_empty() || self.put(&[IoSlice::new(&self.batch)]);
        if sent {
            self.batch.clear();
        }
        sent
    }

    fn put(&self, pieces: &[IoSlice<'_>]) -> bool {
        loop {
            let mut none = SendAncillaryBuffer::default();
            let flags = SendFlags::NOSIGNAL;
            match rustix::net::sendmsg(self.fd.as_fd(), pieces, &mut none, flags) {
                Err(Errno::AGAIN | Errno::NOBUFS) => return false,
                Err(Errno::INTR) => {}
                // A VM that is gone has no use for it.
                _ => return true,
            }
        }
    }
}

/// The first of frames in a row, and what is behind it.
fn unpack(datagram: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = datagram.split_first_chunk()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

    use super::*;

    fn framing() -> impl Strategy<Value = Framing> {
        prop_oneof![
            Just(Framing::Plain),
            Just(Framing::Packed),
            Just(Framing::Offload)
        ]
    }

    fn pair(framing: Framing) -> (Link, Link) {
        let (family, kind) = (AddressFamily::UNIX, SocketType::DGRAM);
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (a, b) = rustix::net::socketpair(family, kind, flags, None).unwrap();
        (Link::new(a, framing), Link::new(b, framing))
    }

    proptest! {
        /// Whatever fits into the socket or not: what was taken comes, whole, once and in order.
        #[test]
        fn frames_come_as_they_went(
            lengths in proptest::collection::vec(prop_oneof![14..2000_usize, 14..65_550_usize], 1..200),
            framing in framing(), small: bool,
        ) {
            let (mut link, other) = pair(framing);
            if small {
                sockopt::set_socket_send_buffer_size(link.fd.as_fd(), 70_000).unwrap();
            }
            let frames: Vec<Vec<u8>> = lengths.iter().map(|len| vec![*len as u8; *len]).collect();
            let left = |frame: &[u8]| {
                let partial = Partial { start: 4, offset: u16::from(frame[0]) % 8 };
                (framing == Framing::Offload && frame.len().is_multiple_of(3)).then_some(partial)
            };
            let (mut sent, mut come) = (0, Vec::new());
            let mut buffer = vec![0; 70_000];
            while come.len() < frames.len() {
                while let Some(frame) = frames.get(sent) {
                    let (head, tail) = frame.split_at(frame.len() / 3);
                    let (middle, tail) = tail.split_at(tail.len() / 2);
                    if !link.send(&[head, middle, tail].map(IoSlice::new), left(frame)) {
                        break;
                    }
                    sent += 1;
                }
                link.flush();
                let before = come.len();
                while let Ok(count) = other.receive(&mut buffer) {
                    prop_assert!(count <= partial::HEADER_LEN + 65_550);
                    for received in other.frames(&buffer[..count]) {
                        let (partial, frame) = received.expect("a frame");
                        prop_assert_eq!(partial, left(frame));
                        come.push(frame.to_vec());
                    }
                }
                // One that the kernel never takes is another matter.
                prop_assume!(come.len() > before);
            }
            prop_assert!(come == frames);
        }

        #[test]
        fn any_datagram_has_an_end(datagram in proptest::collection::vec(any::<u8>(), 0..300)) {
            for framing in [Framing::Plain, Framing::Packed, Framing::Offload] {
                let (link, _) = pair(framing);
                let mut bytes = 0;
                for received in link.frames(&datagram) {
                    let (partial, frame) = received.unwrap_or_default();
                    bytes += frame.len();
                    if let Some(partial) = partial {
                        prop_assert_eq!(partial.completed(frame).len(), frame.len());
                    }
                }
                prop_assert!(bytes <= datagram.len());
            }
        }
    }
}
