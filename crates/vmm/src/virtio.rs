//! Virtio devices (virtio 1.2) behind a transport, for the monitor.
//!
//! A [`Device`] knows what to do with its queues and nothing of how they got here. [`mmio::Slot`] is the transport: the
//! registers that a driver sees, the queues that it set up, and the interrupt. Processors touch a slot's registers; one
//! thread serves its queues: the slot's lock keeps them apart, and the interrupt's status needs no lock.
//!
//! The guest is not trusted in anything. A device copies what it reads from guest memory, then checks it; what makes no
//! sense is answered with the device's own error, or counted in [`Counters`] and left.

pub mod balloon;
pub mod block;
pub(crate) mod buffers;
pub mod entropy;
pub mod fs;
#[cfg(target_arch = "x86_64")]
pub mod mmio;
pub mod net;
pub mod vsock;

#[cfg(all(test, target_arch = "x86_64"))]
pub(crate) mod driver;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};

use crate::vsock::Memory;

/// Feature bits of every device.
pub mod feature {
    /// Descriptors may stand in tables of their own (virtio 1.2, section 2.7.5.3).
    pub const RING_INDIRECT_DESC: u64 = 1 << 28;
    /// Kicks and interrupts are asked for by index (section 2.7.10).
    pub const RING_EVENT_IDX: u64 = 1 << 29;
    /// No legacy interface.
    pub const VERSION_1: u64 = 1 << 32;
    /// What the transport offers for every device.
    pub const COMMON: u64 = RING_INDIRECT_DESC | RING_EVENT_IDX | VERSION_1;
}

/// What a device did in one turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Interrupt the guest: it has used buffers to look at.
    pub signal: bool,
    /// There is more to do: call again soon, after a look at others.
    pub again: bool,
}

/// What has happened to a device, for logs and tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Chains that were served.
    pub served: u64,
    /// Chains that no sane driver makes.
    pub violations: u64,
    /// Requests that the host's system refused.
    pub failures: u64,
}

/// A virtio device.
pub trait Device: Send {
    /// The device's number (virtio 1.2, section 5).
    fn id(&self) -> u32;

    /// Feature bits beyond [`feature::COMMON`].
    fn features(&self) -> u64;

    /// The largest size of each queue.
    fn queue_sizes(&self) -> &'static [u16];

    /// The configuration space.
    fn config(&self) -> Vec<u8>;

    /// The driver writes to the configuration space.
    fn set_config(&mut self, _offset: usize, _bytes: &[u8]) {}

    /// The driver starts the device, with these features.
    fn start(&mut self, _features: u64) {}

    /// The driver is gone, or starts anew.
    fn reset(&mut self) {}

    /// Takes in what comes from the host's side while no driver runs the device.
    fn idle(&mut self) {}

    /// What has happened to it so far.
    fn counters(&self) -> Counters;

    /// Takes over what the driver and the host had written to the configuration space of one before it.
    fn restore(&mut self, _config: &[u8]) {}

    /// Serves what is in the queues. One that is not ready is left alone.
    fn run(&mut self, mem: &Memory, queues: &mut [Queue]) -> Work;
}

/// What serving a chain came to.
struct Done {
    /// Bytes that were written into it.
    written: u32,
    /// The guest shall hear of it before the next is looked at.
    at_once: bool,
}

impl From<u32> for Done {
    fn from(written: u32) -> Done {
        Done {
            written,
            at_once: false,
        }
    }
}

/// Whether a ring says that it has more chains than it can have.
fn is_nonsense(mem: &Memory, queue: &Queue) -> bool {
    let index = queue.avail_idx(mem, std::sync::atomic::Ordering::Relaxed);
    index.is_ok_and(|index| index.0.wrapping_sub(queue.next_avail()) > queue.size())
}

/// Takes chains from a queue until it is empty or had its turn, asking for kicks again at the end.
fn drain<'m, D: Into<Done>>(
    mem: &'m Memory,
    queue: &mut Queue,
    counters: &mut Counters,
    mut serve: impl FnMut(virtio_queue::DescriptorChain<&'m Memory>, &mut Counters) -> D,
) -> Work {
    /// Chains before others get a turn.
    const BUDGET: usize = 256;
    let mut taken = 0;
    let mut again = false;
    let mut in_vain = false;
    if !queue.ready() {
        return Work::default();
    }
    loop {
        let _ = queue.disable_notification(mem);
        let before = taken;
        while taken < BUDGET && !again {
            let Some(chain) = queue.pop_descriptor_chain(mem) else {
                break;
            };
            taken += 1;
            counters.served += 1;
            let head = chain.head_index();
            let Done { written, at_once } = serve(chain, counters).into();
            again = at_once;
            // It fails for a head that no queue of that size has.
            if queue.add_used(mem, head, written).is_err() {
                counters.violations += 1;
            }
        }
        again |= taken >= BUDGET;
        if again {
            break;
        }
        let more = queue.enable_notification(mem).unwrap_or(false);
        if !more {
            break;
        }
        // The guest may have offered one while it was asked not to kick; a ring whose index is nonsense always has "more" and never
        // a chain.
        if taken == before && std::mem::replace(&mut in_vain, true) {
            counters.violations += 1;
            break;
        }
    }
    Work {
        signal: taken > 0 && queue.needs_notification(mem).unwrap_or(false),
        again,
    }
}
