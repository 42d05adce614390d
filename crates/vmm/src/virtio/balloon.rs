//! The balloon (virtio 1.2, section 5.5): guest memory that goes back to the host.
//!
//! Two ways: the host asks, the guest fills the balloon with pages (inflate) and takes them back (deflate); or the guest
//! reports pages that it freed, unasked (free page reporting). Either way the pages' bytes are gone and the host's
//! memory is free; the guest's next touch gets a page of zeros.

use rustix::mm::Advice;
use virtio_queue::Queue;

use super::buffers::{Buffers, Piece, copy_out, length};
use super::{Counters, Device, Done, Work, drain};
use crate::vsock::Memory;

use vm_memory::{GuestAddress, GuestMemory, Permissions};

/// Feature bit: queue for reports of free pages.
const F_PAGE_REPORTING: u64 = 1 << 5;
/// Feature bit: the guest may use the balloon's pages rather than run out of memory.
const F_DEFLATE_ON_OOM: u64 = 1 << 2;

/// Page numbers in one chain: each may cost a system call, and the thread that makes them has other things to do. Linux sends 256.
const MAX_NUMBERS: usize = 4096;

/// Pieces in one report, for the same reason. Linux sends 32; a chain may not be longer than its queue (section 2.7.5.2).
const MAX_REPORTED: usize = 128;

/// A balloon counts in pages of 4 KiB, whatever the guest's are.
const PAGE: u64 = 4096;

/// The device.
#[derive(Debug, Default)]
pub struct Balloon {
    reporting: bool,
    /// Pages that the host wants.
    target: u32,
    /// Pages that the guest says it gave.
    actual: u32,
    /// Bytes that went back to the host, inflated or reported.
    pub returned: u64,
    /// See [`Counters`].
    pub counters: Counters,
}

impl Balloon {
    /// A balloon that wants nothing yet.
    pub fn new(reporting: bool) -> Balloon {
        Balloon {
            reporting,
            ..Balloon::default()
        }
    }

    /// Wants that many bytes of the guest's memory.
    pub fn set_target(&mut self, bytes: u64) {
        self.target = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
    }

    /// Bytes that the guest says it gave.
    pub fn actual(&self) -> u64 {
        u64::from(self.actual) * PAGE
    }
}

impl Device for Balloon {
    fn id(&self) -> u32 {
        5
    }

    fn features(&self) -> u64 {
        match self.reporting {
            true => F_DEFLATE_ON_OOM | F_PAGE_REPORTING,
            false => F_DEFLATE_ON_OOM,
        }
    }

    fn queue_sizes(&self) -> &'static [u16] {
        match self.reporting {
            true => &[128, 128, 128],
            false => &[128, 128],
        }
    }

    fn config(&self) -> Vec<u8> {
        [self.target.to_le_bytes(), self.actual.to_le_bytes()].concat()
    }

    fn set_config(&mut self, offset: usize, bytes: &[u8]) {
        if let (4, Ok(word)) = (offset, bytes.try_into()) {
            self.actual = u32::from_le_bytes(word);
        }
    }

    fn reset(&mut self) {
        self.actual = 0;
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn restore(&mut self, config: &[u8]) {
        let (words, _) = config.as_chunks();
        if let &[target, actual] = words {
            self.target = u32::from_le_bytes(target);
            self.actual = u32::from_le_bytes(actual);
        }
    }

    fn run(&mut self, mem: &Memory, queues: &mut [Queue]) -> Work {
        let mut work = Work::default();
        let returned = &mut self.returned;
        for (index, queue) in queues.iter_mut().enumerate() {
            let done = drain(mem, queue, &mut self.counters, |chain, counters| {
                match (index, Buffers::of(mem, chain)) {
                    (0 | 1, Ok(buffers)) if length(&buffers.readable) > MAX_NUMBERS * 4 => {
                        counters.violations += 1;
                    }
                    (0, Ok(buffers)) => *returned += inflate(mem, &buffers.readable, counters),
                    // Deflated pages come by themselves when they are touched.
                    (1, Ok(_)) => {}
                    (_, Ok(buffers)) if buffers.writable.len() > MAX_REPORTED => {
                        counters.violations += 1;
                    }
                    (_, Ok(buffers)) => {
                        for piece in &buffers.writable {
                            *returned += release(piece, counters);
                        }
                    }
                    (_, Err(_)) => counters.violations += 1,
                }
                // A driver waits for each; and others get their turn after so many system calls.
                Done {
                    written: 0,
                    at_once: true,
                }
            });
            work.signal |= done.signal;
            work.again |= done.again;
        }
        work
    }
}

/// Gives back the pages whose numbers the chain holds; neighbours in one go.
fn inflate(mem: &Memory, numbers: &[Piece<'_>], counters: &mut Counters) -> u64 {
    let mut returned = 0;
    let mut run: Option<(u64, u64)> = None;
    let bytes = copy_out(numbers);
    let (words, _) = bytes.as_chunks();
    let mut pages = words
        .iter()
        .map(|&word| u64::from(u32::from_le_bytes(word)));
    loop {
        let page = pages.next();
        run = match (run, page) {
            (Some((start, end)), Some(page)) if page == end => Some((start, end + 1)),
            (Some((start, end)), Some(page)) if page + 1 == start => Some((page, end)),
            (done, page) => {
                if let Some((start, end)) = done {
                    returned += release_range(mem, start * PAGE, (end - start) * PAGE, counters);
                }
                let Some(page) = page else {
                    return returned;
                };
                Some((page, page + 1))
            }
        }
    }
}

fn release_range(mem: &Memory, start: u64, len: u64, counters: &mut Counters) -> u64 {
    let slices = mem.get_slices(GuestAddress(start), len as usize, Permissions::Write);
    let Ok(slices) = slices else {
        counters.violations += 1;
        return 0;
    };
    let mut returned = 0;
    for slice in slices {
        match slice {
            Ok(piece) => returned += release(&piece, counters),
            Err(_) => counters.violations += 1,
        }
    }
    returned
}

/// Gives whole pages of guest memory back to the host.
fn release(piece: &Piece<'_>, counters: &mut Counters) -> u64 {
    let guard = piece.ptr_guard_mut();
    let (start, len) = (guard.as_ptr(), piece.len());
    if !(start.addr() as u64).is_multiple_of(PAGE) || !(len as u64).is_multiple_of(PAGE) {
        counters.violations += 1;
        return 0;
    }
    // Guest memory is a private mapping without a file: its pages are free then, and read as zeros.
    // SAFETY: the range lies in the mapping of guest memory that `piece` borrows. Its bytes become zeros, which is a
    // change such as the guest itself makes at any time; nothing here holds references into guest memory.
    match unsafe { rustix::mm::madvise(start.cast(), len, Advice::LinuxDontNeed) } {
        Ok(()) => len as u64,
        Err(_) => {
            counters.failures += 1;
            0
        }
    }
}
