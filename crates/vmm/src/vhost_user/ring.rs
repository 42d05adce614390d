//! One vring: the queue with its kick and call descriptors.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::epoll;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;

use crate::vsock::Memory;

/// A vring. It runs when it is started (its kick descriptor was set) and enabled.
pub struct Ring {
    /// The queue.
    pub queue: Queue,
    /// `SET_VRING_ENABLE`.
    pub enabled: bool,
    /// The guest gave it a size or a place that no ring can have: it stands still until it is stopped.
    pub broken: bool,
    kick: Option<File>,
    call: Option<File>,
    epoll: Arc<OwnedFd>,
    token: u64,
}

impl Ring {
    /// A ring of `size` descriptors at most that is not started. Its kicks will wake `epoll` with `token`.
    pub fn new(size: u16, epoll: Arc<OwnedFd>, token: u64) -> Result<Ring, virtio_queue::Error> {
        Ok(Ring {
            queue: Queue::new(size)?,
            enabled: false,
            broken: false,
            kick: None,
            call: None,
            epoll,
            token,
        })
    }

    /// The queue, if it runs.
    pub fn running(&mut self) -> Option<&mut Queue> {
        (self.enabled && !self.broken && self.queue.ready()).then_some(&mut self.queue)
    }

    /// Puts the ring where it is: descriptor table, available ring, used ring.
    ///
    /// # Errors
    /// No ring can be there.
    pub fn place(
        &mut self,
        mem: &Memory,
        [descriptors, available, used]: [GuestAddress; 3],
    ) -> Result<(), virtio_queue::Error> {
        let queue = &mut self.queue;
        queue.try_set_desc_table_address(descriptors)?;
        queue.try_set_avail_ring_address(available)?;
        queue.try_set_used_ring_address(used)?;
        // A paused guest goes on with the used ring where it was; a new one has written 0.
        let next_used = queue.used_idx(mem, std::sync::atomic::Ordering::Relaxed)?;
        queue.set_next_used(next_used.0);
        Ok(())
    }

    /// Starts the ring. Without a descriptor the front-end wants us to poll, which we don't offer.
    pub fn start(&mut self, kick: Option<File>) -> std::io::Result<()> {
        self.unwatch();
        if let Some(kick) = kick {
            // Edge-triggered and never read: each write to an eventfd is an edge of its own.
            let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
            epoll::add(
                &self.epoll,
                &kick,
                epoll::EventData::new_u64(self.token),
                flags,
            )?;
            self.kick = Some(kick);
        }
        self.queue.set_ready(true);
        Ok(())
    }

    /// Stops the ring and says where it was: the index of the next available entry.
    pub fn stop(&mut self) -> u16 {
        self.unwatch();
        self.call = None;
        self.broken = false;
        self.queue.set_ready(false);
        self.queue.next_avail()
    }

    /// Where to signal the guest.
    pub fn set_call(&mut self, call: Option<File>) {
        self.call = call;
    }

    /// Interrupts the guest.
    pub fn signal(&mut self) {
        if let Some(call) = &mut self.call {
            // It can only fail when the counter is full, and then the guest has a signal pending.
            let _ = call.write(&1u64.to_ne_bytes());
        }
    }

    fn unwatch(&mut self) {
        if let Some(kick) = self.kick.take() {
            // The eventfd is QEMU's as well, so closing our descriptor would not take it out.
            let _ = epoll::delete(&self.epoll, &kick);
        }
    }
}
