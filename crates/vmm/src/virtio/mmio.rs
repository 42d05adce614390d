//! The register transport (virtio 1.2, section 4.2.2): what a driver sees of a device in memory-mapped I/O.
//!
//! ```text
//!   processors ── registers ──▶ ┌──────┐ ── queues ──▶ device ── used ──▶ interrupt (eventfd → KVM)
//!   queue notify (eventfd) ───▶ │ slot │
//!                               └──────┘ ◀── one thread serves it
//! ```
//!
//! A queue's notify register never gets here when KVM turns it into an eventfd; it does in tests.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use virtio_queue::{Queue, QueueT};
use vm_memory::GuestAddress;
use vmm_sys_util::eventfd::EventFd;

use super::{Counters, Device, Work, feature};
use crate::vsock::Memory;

/// Bytes of a slot's registers.
pub const SIZE: u64 = 0x1000;
/// The register whose write tells that a queue has buffers.
pub const QUEUE_NOTIFY: u64 = 0x50;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"gour");
const CONFIG: u64 = 0x100;

/// The driver's progress (section 2.1).
mod status {
    pub const DRIVER_OK: u32 = 4;
    pub const FEATURES_OK: u32 = 8;
    pub const NEEDS_RESET: u32 = 64;
}

/// The interrupt status register's bits.
const USED_BUFFER: u32 = 1;
const CONFIG_CHANGE: u32 = 2;

/// What the driver wrote, as a checkpoint will keep it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The status register.
    pub status: u32,
    /// The features that the driver took.
    pub driver_features: u64,
    device_features_select: u32,
    driver_features_select: u32,
    queue_select: u32,
    config_generation: u32,
    /// A bit for each queue of which a value was refused.
    refused_queues: u32,
    /// The interrupt status register.
    pub interrupt_status: u32,
    /// The configuration space. Filled in by [`Slot::state`](Registers::state).
    pub config: Vec<u8>,
    /// Where the queues are. Filled in by [`Slot::state`](Registers::state).
    pub queues: Vec<QueueState>,
}

/// Where a queue is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// Descriptors.
    pub size: u16,
    /// The driver set it up.
    pub ready: bool,
    /// Guest address of the descriptor table.
    pub descriptors: u64,
    /// Guest address of the available ring.
    pub available: u64,
    /// Guest address of the used ring.
    pub used: u64,
    /// The next entry of the available ring.
    pub next_available: u16,
    /// The next entry of the used ring.
    pub next_used: u16,
}

/// A state is of another device, or of other memory.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the state does not fit the device or guest memory")]
pub struct Unfit;

/// The interrupt of a slot.
pub struct Interrupt {
    status: AtomicU32,
    line: EventFd,
}

impl Interrupt {
    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::SeqCst);
        // It can only fail when the counter is full, and then an interrupt is pending.
        let _ = self.line.write(1);
    }
}

/// What is behind the lock.
pub struct Inner<D: ?Sized> {
    state: State,
    queues: Vec<Queue>,
    /// Violations of the transport's own rules.
    violations: u64,
    /// The device.
    pub device: D,
}

/// A device in its slot.
pub struct Slot<D: Device> {
    interrupt: Interrupt,
    kicks: Vec<EventFd>,
    /// Beside the other lock: nobody who wants to know waits for a disk.
    counters: Mutex<Counters>,
    trouble: EventFd,
    id: u32,
    inner: Mutex<Inner<D>>,
}

/// What processors do with a slot, whatever its device.
pub trait Registers: Send + Sync {
    /// A read of up to eight bytes.
    fn read(&self, offset: u64, bytes: &mut [u8]);
    /// A write of up to eight bytes.
    fn write(&self, offset: u64, bytes: &[u8], mem: &Memory);
    /// The eventfds of the queues' notify registers.
    fn kicks(&self) -> &[EventFd];
    /// The eventfd of the interrupt line.
    fn line(&self) -> &EventFd;
    /// The device's number (virtio 1.2, section 5).
    fn device_id(&self) -> u32;
    /// What has happened to the device, its transport included, until its last turn.
    fn counters(&self) -> Counters;
    /// Readable when violations or failures were counted for the first time.
    fn trouble(&self) -> &EventFd;
    /// What a checkpoint keeps of the transport.
    fn state(&self) -> State;
}

impl<D: Device> Slot<D> {
    /// A slot whose device no driver has seen.
    pub fn new(device: D) -> std::io::Result<Slot<D>> {
        let eventfd = || EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK);
        let sizes = device.queue_sizes();
        let queues: Result<Vec<Queue>, _> = sizes.iter().map(|&size| Queue::new(size)).collect();
        let kicks: Result<Vec<EventFd>, _> = sizes.iter().map(|_| eventfd()).collect();
        Ok(Slot {
            interrupt: Interrupt {
                status: AtomicU32::new(0),
                line: eventfd()?,
            },
            kicks: kicks?,
            counters: Mutex::default(),
            trouble: eventfd()?,
            id: device.id(),
            inner: Mutex::new(Inner {
                state: State::default(),
                queues: queues.map_err(std::io::Error::other)?,
                violations: 0,
                device,
            }),
        })
    }

    /// The device. Nobody serves it meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, Inner<D>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves the queues; whether there is more to do at once.
    pub fn serve(&self, mem: &Memory) -> bool {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let driven = inner.state.status & (status::DRIVER_OK | status::NEEDS_RESET);
        if driven != status::DRIVER_OK {
            inner.device.idle();
            return false;
        }
        let Work { signal, again } = inner.device.run(mem, &mut inner.queues);
        if signal {
            self.interrupt.raise(USED_BUFFER);
        }
        self.count(inner);
        again
    }

    /// Publishes what was counted, and tells when the first thing went wrong.
    fn count(&self, inner: &Inner<D>) {
        let mut now = inner.device.counters();
        now.violations += inner.violations;
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let wrong = |counters: &Counters| counters.violations + counters.failures > 0;
        if wrong(&now) && !wrong(&counters) {
            let _ = self.trouble.write(1);
        }
        *counters = now;
    }

    /// Takes over from a slot with such a device, whose driver then goes on as if nothing had been. Guest memory is what it was.
    pub fn restore(&self, state: &State, mem: &Memory) -> Result<(), Unfit> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.reset();
        if state.queues.len() != inner.queues.len() {
            return Err(Unfit);
        }
        for (queue, kept) in inner.queues.iter_mut().zip(&state.queues) {
            queue
                .try_set_size(kept.size)
                .and_then(|()| queue.try_set_desc_table_address(GuestAddress(kept.descriptors)))
                .and_then(|()| queue.try_set_avail_ring_address(GuestAddress(kept.available)))
                .and_then(|()| queue.try_set_used_ring_address(GuestAddress(kept.used)))
                .map_err(|_| Unfit)?;
            queue.set_next_avail(kept.next_available);
            queue.set_next_used(kept.next_used);
            queue.set_event_idx(state.driver_features & feature::RING_EVENT_IDX != 0);
            queue.set_ready(kept.ready);
            if kept.ready && !queue.is_valid(mem) {
                inner.reset();
                return Err(Unfit);
            }
        }
        inner.device.restore(&state.config);
        if state.status & status::DRIVER_OK != 0 {
            inner.device.start(state.driver_features);
        }
        self.interrupt
            .status
            .store(state.interrupt_status, Ordering::SeqCst);
        inner.state = State {
            queues: Vec::new(),
            config: Vec::new(),
            ..state.clone()
        };
        Ok(())
    }

    /// Tells the driver that the configuration space has changed.
    pub fn config_changed(&self, change: impl FnOnce(&mut D)) {
        let mut inner = self.lock();
        change(&mut inner.device);
        inner.state.config_generation = inner.state.config_generation.wrapping_add(1);
        if inner.state.status & status::DRIVER_OK != 0 {
            self.interrupt.raise(CONFIG_CHANGE);
        }
    }
}

impl<D: Device> Registers for Slot<D> {
    fn read(&self, offset: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        if offset == 0x60 && bytes.len() == 4 {
            let status = self.interrupt.status.load(Ordering::SeqCst);
            bytes.copy_from_slice(&status.to_le_bytes());
            return;
        }
        let inner = self.lock();
        if offset >= CONFIG {
            let config = inner.device.config();
            let at = (offset - CONFIG) as usize;
            for (to, from) in bytes.iter_mut().zip(config.iter().skip(at)) {
                *to = *from;
            }
        } else if bytes.len() == 4 && offset.is_multiple_of(4) {
            bytes.copy_from_slice(&inner.register(offset).to_le_bytes());
        }
    }

    fn write(&self, offset: u64, bytes: &[u8], mem: &Memory) {
        if offset >= CONFIG {
            let at = (offset - CONFIG) as usize;
            self.lock().device.set_config(at, bytes);
            return;
        }
        let Ok(word) = bytes.try_into().map(u32::from_le_bytes) else {
            return;
        };
        match offset {
            QUEUE_NOTIFY => {
                if let Some(kick) = self.kicks.get(word as usize) {
                    let _ = kick.write(1);
                }
            }
            0x64 => {
                self.interrupt.status.fetch_and(!word, Ordering::SeqCst);
            }
            0x70 => self.set_status(word, mem),
            _ => self.lock().set_register(offset, word),
        }
    }

    fn kicks(&self) -> &[EventFd] {
        &self.kicks
    }

    fn line(&self) -> &EventFd {
        &self.interrupt.line
    }

    fn device_id(&self) -> u32 {
        self.id
    }

    fn counters(&self) -> Counters {
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> &EventFd {
        &self.trouble
    }

    fn state(&self) -> State {
        let inner = self.lock();
        let queue = |queue: &Queue| QueueState {
            size: queue.size(),
            ready: queue.ready(),
            descriptors: queue.desc_table(),
            available: queue.avail_ring(),
            used: queue.used_ring(),
            next_available: queue.next_avail(),
            next_used: queue.next_used(),
        };
        State {
            interrupt_status: self.interrupt.status.load(Ordering::SeqCst),
            queues: inner.queues.iter().map(queue).collect(),
            config: inner.device.config(),
            ..inner.state.clone()
        }
    }
}

impl<D: Device> Slot<D> {
    fn set_status(&self, word: u32, mem: &Memory) {
        let mut inner = self.lock();
        if word == 0 {
            inner.reset();
            self.interrupt.status.store(0, Ordering::SeqCst);
            return;
        }
        let before = inner.state.status;
        let mut after = word | (before & status::NEEDS_RESET);
        let offered = feature::COMMON | inner.device.features();
        let taken = inner.state.driver_features;
        let sound = taken & !offered == 0 && taken & feature::VERSION_1 != 0;
        if !sound {
            // The driver sees that its choice was not taken.
            after &= !status::FEATURES_OK;
        }
        inner.state.status = after;
        if after & status::DRIVER_OK == 0 || before & status::DRIVER_OK != 0 {
            return;
        }
        let broken = |queue: &Queue| queue.ready() && !queue.is_valid(mem);
        if after & status::FEATURES_OK == 0 || inner.queues.iter().any(broken) {
            inner.state.status |= status::NEEDS_RESET;
            inner.violations += 1;
            self.count(&inner);
            self.interrupt.raise(CONFIG_CHANGE);
            return;
        }
        for queue in &mut inner.queues {
            queue.set_event_idx(taken & feature::RING_EVENT_IDX != 0);
        }
        inner.device.start(taken);
        // What was kicked before, or waits on the host's side, is looked at now.
        if let Some(kick) = self.kicks.first() {
            let _ = kick.write(1);
        }
    }
}

impl<D: Device> Inner<D> {
    fn reset(&mut self) {
        let generation = self.state.config_generation;
        self.state = State {
            config_generation: generation,
            ..State::default()
        };
        for queue in &mut self.queues {
            queue.reset();
        }
        self.device.reset();
    }

    fn queue(&self) -> Option<&Queue> {
        self.queues.get(self.state.queue_select as usize)
    }

    fn register(&self, offset: u64) -> u32 {
        let half = |bits: u64, select: u32| match select {
            0 => bits as u32,
            1 => (bits >> 32) as u32,
            _ => 0,
        };
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.device.id(),
            0x0c => VENDOR,
            0x10 => half(
                feature::COMMON | self.device.features(),
                self.state.device_features_select,
            ),
            0x34 => self.queue().map_or(0, |queue| queue.max_size().into()),
            0x44 => self.queue().is_some_and(QueueT::ready).into(),
            0x70 => self.state.status,
            // No shared memory: a length of all ones (section 4.2.2).
            0xb0..=0xbc => u32::MAX,
            0xfc => self.state.config_generation,
            _ => 0,
        }
    }

    fn set_register(&mut self, offset: u64, word: u32) {
        let state = &mut self.state;
        match offset {
            0x14 => state.device_features_select = word,
            0x24 => state.driver_features_select = word,
            0x20 if state.status & status::FEATURES_OK == 0 => {
                let shift = match state.driver_features_select {
                    0 => 0,
                    1 => 32,
                    _ => return,
                };
                state.driver_features &= !(u64::from(u32::MAX) << shift);
                state.driver_features |= u64::from(word) << shift;
            }
            0x30 => state.queue_select = word,
            // A queue may be stopped at any time, and stays so until the reset.
            0x44 if word & 1 == 0 => self.set_up_queue(offset, word),
            // Queues stand still while the device runs: the specification wants them set up before.
            _ if state.status & status::DRIVER_OK == 0 => self.set_up_queue(offset, word),
            _ => {}
        }
    }

    fn set_up_queue(&mut self, offset: u64, word: u32) {
        let index = self.state.queue_select;
        let Some(queue) = self.queues.get_mut(index as usize) else {
            return;
        };
        let sound = self.state.refused_queues & 1 << index == 0;
        let low = |before: u64| GuestAddress(before & !u64::from(u32::MAX) | u64::from(word));
        let high = |before: u64| GuestAddress(before & u64::from(u32::MAX) | u64::from(word) << 32);
        let taken = match offset {
            0x38 => queue.try_set_size(u16::try_from(word).unwrap_or(0)),
            0x44 => {
                queue.set_ready(word & 1 != 0 && sound);
                Ok(())
            }
            0x80 => queue.try_set_desc_table_address(low(queue.desc_table())),
            0x84 => queue.try_set_desc_table_address(high(queue.desc_table())),
            0x90 => queue.try_set_avail_ring_address(low(queue.avail_ring())),
            0x94 => queue.try_set_avail_ring_address(high(queue.avail_ring())),
            0xa0 => queue.try_set_used_ring_address(low(queue.used_ring())),
            0xa4 => queue.try_set_used_ring_address(high(queue.used_ring())),
            _ => Ok(()),
        };
        if taken.is_err() {
            // What the queue then is, is not what the driver takes it for: it is never ready, until the reset.
            self.state.refused_queues |= 1 << index;
            self.violations += 1;
            queue.set_ready(false);
        }
    }
}
