//! A descriptor chain's buffers as pieces of guest memory, readable ones first.
//!
//! `virtio-queue` bounds the walk (a chain that loops ends after as many descriptors as the table holds) and checks
//! indirect tables; here each buffer is looked up in guest memory, and a chain with a buffer outside of it is refused
//! as a whole.

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory, Permissions, VolatileSlice};

use crate::vsock::Memory;

/// A piece of guest memory.
pub type Piece<'m> = VolatileSlice<'m, ()>;

/// What the kernel takes in one `preadv` (`UIO_MAXIOV`). Chains with more pieces, or more descriptors, are refused.
pub const MAX_PIECES: usize = 1024;

/// The chain is of no use: a buffer outside of guest memory, too many, or more bytes than a used length can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Pieces that the driver wrote for the device.
#[derive(Default)]
pub struct Buffers<'m> {
    /// Device-readable.
    pub readable: Vec<Piece<'m>>,
    /// Device-writable.
    pub writable: Vec<Piece<'m>>,
}

impl<'m> Buffers<'m> {
    /// Looks a chain's buffers up.
    pub fn of(mem: &'m Memory, chain: DescriptorChain<&'m Memory>) -> Result<Self, Malformed> {
        let mut buffers = Buffers::default();
        let mut total = 0u64;
        for (index, descriptor) in chain.enumerate() {
            // Those of no bytes cost a look, too.
            if index >= MAX_PIECES {
                return Err(Malformed);
            }
            let (list, access) = match descriptor.is_write_only() {
                true => (&mut buffers.writable, Permissions::Write),
                false => (&mut buffers.readable, Permissions::Read),
            };
            total += u64::from(descriptor.len());
            let slices = mem
                .get_slices(descriptor.addr(), descriptor.len() as usize, access)
                .map_err(|_| Malformed)?;
            for slice in slices {
                list.push(slice.map_err(|_| Malformed)?);
            }
            if buffers.readable.len() + buffers.writable.len() > MAX_PIECES {
                return Err(Malformed);
            }
        }
        match total <= u64::from(u32::MAX) {
            true => Ok(buffers),
            false => Err(Malformed),
        }
    }
}

/// Bytes of a list.
pub fn length(pieces: &[Piece<'_>]) -> usize {
    pieces.iter().map(Piece::len).sum()
}

/// Copies a list's bytes. The caller has looked at their number.
pub fn copy_out(pieces: &[Piece<'_>]) -> Vec<u8> {
    let mut bytes = vec![0; length(pieces)];
    let mut at = 0;
    for piece in pieces {
        at += piece.copy_to(&mut bytes[at..]);
    }
    bytes
}

/// Takes `N` bytes from the front of a list; `None`, and nothing taken, if it has fewer.
pub fn take_front<const N: usize>(pieces: &mut Vec<Piece<'_>>) -> Option<[u8; N]> {
    if length(pieces) < N {
        return None;
    }
    let mut bytes = [0; N];
    let mut at = 0;
    let mut whole = 0;
    for piece in pieces.iter_mut() {
        let took = piece.copy_to(&mut bytes[at..]);
        at += took;
        if took < piece.len() {
            *piece = piece.offset(took).ok()?;
            break;
        }
        whole += 1;
    }
    pieces.drain(..whole);
    Some(bytes)
}

/// Takes the last byte's place off the end of a list.
pub fn take_last<'m>(pieces: &mut Vec<Piece<'m>>) -> Option<Piece<'m>> {
    while pieces.last()?.is_empty() {
        pieces.pop();
    }
    let last = pieces.pop()?;
    let (front, back) = last.split_at(last.len() - 1).ok()?;
    if !front.is_empty() {
        pieces.push(front);
    }
    Some(back)
}

/// The kernel's names for pieces of guest memory. Good while the pieces are.
pub fn iovecs(pieces: &[Piece<'_>]) -> Vec<libc::iovec> {
    let name = |piece: &Piece<'_>| libc::iovec {
        iov_base: piece.ptr_guard_mut().as_ptr().cast(),
        iov_len: piece.len(),
    };
    pieces.iter().map(name).collect()
}

/// Copies into a list; returns how many bytes found room.
pub fn copy_in(pieces: &[Piece<'_>], bytes: &[u8]) -> usize {
    let mut at = 0;
    for piece in pieces {
        let take = piece.len().min(bytes.len() - at);
        piece.copy_from(&bytes[at..at + take]);
        at += take;
    }
    at
}

/// Parts a list after so many bytes; the second part is empty if there are no more.
pub fn split(pieces: Vec<Piece<'_>>, at: usize) -> (Vec<Piece<'_>>, Vec<Piece<'_>>) {
    let (mut front, mut back) = (Vec::new(), Vec::new());
    let mut left = at;
    for piece in pieces {
        match piece.split_at(left.min(piece.len())) {
            Ok((first, rest)) => {
                left -= first.len();
                if !first.is_empty() {
                    front.push(first);
                }
                if !rest.is_empty() {
                    back.push(rest);
                }
            }
            Err(_) => back.push(piece),
        }
    }
    (front, back)
}
