//! Descriptor chains as lists of pieces of guest memory.
//!
//! A chain's first 44 bytes are the packet header, wherever the driver put the borders between descriptors; the rest
//! is data. `virtio-queue` bounds the walk (a chain that loops ends after as many descriptors as the table holds) and
//! checks indirect tables; here each buffer is looked up in guest memory, and a chain with a buffer outside of it is
//! refused as a whole.

use std::ops::Range;

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestMemory, Permissions, VolatileSlice};

use super::Memory;
use super::packet::HEADER_LEN;

/// A piece of guest memory.
pub type Piece<'m> = VolatileSlice<'m, ()>;

/// What the kernel takes in one `sendmsg` or `recvmsg` (`UIO_MAXIOV`). Longer lists are cut there.
pub const MAX_PIECES: usize = 1024;

/// Why a chain is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Shorter than a header.
    Short,
    /// A buffer lies outside of guest memory.
    Outside,
    /// More pieces than [`MAX_PIECES`].
    Fragmented,
}

/// Where one chain's parts lie in a list of pieces.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Index of its first descriptor, for the used ring.
    pub head: u16,
    header: Range<usize>,
    data: Range<usize>,
    /// Bytes of room or data after the header.
    pub data_len: usize,
}

/// Pieces of one or more chains, in order.
#[derive(Default)]
pub struct Pieces<'m> {
    list: Vec<Piece<'m>>,
}

impl<'m> Pieces<'m> {
    /// Forgets all chains.
    pub fn clear(&mut self) {
        self.list.clear();
    }

    /// Takes in the device-readable (`writable` false) or device-writable buffers of a chain. On an error nothing
    /// of it stays.
    pub fn add(
        &mut self,
        mem: &'m Memory,
        chain: DescriptorChain<&'m Memory>,
        writable: bool,
    ) -> Result<Chain, Malformed> {
        let start = self.list.len();
        let added = self.try_add(mem, chain, writable);
        if added.is_err() {
            self.list.truncate(start);
        }
        added
    }

    fn try_add(
        &mut self,
        mem: &'m Memory,
        chain: DescriptorChain<&'m Memory>,
        writable: bool,
    ) -> Result<Chain, Malformed> {
        let head = chain.head_index();
        let start = self.list.len();
        let access = if writable {
            Permissions::Write
        } else {
            Permissions::Read
        };
        let mut total = 0;
        let mut border = start;
        for descriptor in chain.filter(|descriptor| descriptor.is_write_only() == writable) {
            let slices = mem
                .get_slices(descriptor.addr(), descriptor.len() as usize, access)
                .map_err(|_| Malformed::Outside)?;
            for slice in slices {
                let slice = slice.map_err(|_| Malformed::Outside)?;
                let before = total;
                total += slice.len();
                if before < HEADER_LEN && total > HEADER_LEN {
                    let (left, right) = slice
                        .split_at(HEADER_LEN - before)
                        .map_err(|_| Malformed::Outside)?;
                    self.list.push(left);
                    border = self.list.len();
                    self.list.push(right);
                } else if !slice.is_empty() {
                    self.list.push(slice);
                    if total <= HEADER_LEN {
                        border = self.list.len();
                    }
                }
                if self.list.len() - start > MAX_PIECES {
                    return Err(Malformed::Fragmented);
                }
            }
        }
        if total < HEADER_LEN {
            return Err(Malformed::Short);
        }
        Ok(Chain {
            head,
            header: start..border,
            data: border..self.list.len(),
            data_len: total - HEADER_LEN,
        })
    }

    /// Copies a chain's header out of guest memory.
    pub fn header(&self, chain: &Chain) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut at = 0;
        for piece in &self.list[chain.header.clone()] {
            at += piece.copy_to(&mut bytes[at..]);
        }
        bytes
    }

    /// Copies a header into guest memory.
    pub fn set_header(&self, chain: &Chain, bytes: &[u8; HEADER_LEN]) {
        let mut at = 0;
        for piece in &self.list[chain.header.clone()] {
            piece.copy_from(&bytes[at..]);
            at += piece.len();
        }
    }

    /// A chain's data pieces.
    pub fn data(&self, chain: &Chain) -> &[Piece<'m>] {
        &self.list[chain.data.clone()]
    }
}

/// The first `len` bytes of some pieces.
pub fn first_bytes<'a, 'm>(
    pieces: &'a [Piece<'m>],
    len: usize,
) -> impl Iterator<Item = Piece<'m>> + use<'a, 'm> {
    let mut left = len;
    pieces.iter().map_while(move |piece| {
        let take = piece.len().min(left);
        left -= take;
        match take {
            0 => None,
            _ => piece.subslice(0, take).ok(),
        }
    })
}

/// Copies pieces out of guest memory, skipping the first `skip` bytes.
pub fn copy_out<'m>(
    pieces: impl Iterator<Item = Piece<'m>>,
    skip: usize,
    mut to: impl FnMut(&[u8]),
) {
    let mut skip = skip;
    let mut buffer = [0; 4096];
    for piece in pieces {
        let from = skip.min(piece.len());
        skip -= from;
        let mut at = from;
        while at < piece.len() {
            let len = buffer.len().min(piece.len() - at);
            if piece.read_slice(&mut buffer[..len], at).is_err() {
                return;
            }
            to(&buffer[..len]);
            at += len;
        }
    }
}
