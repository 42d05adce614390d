//! The socket device of [`crate::vsock`] behind this crate's transport.

use std::io;

use virtio_queue::{Queue, QueueT};

use super::{Counters, Device, Work};
use crate::vsock::{self, Memory, QUEUE_SIZE, Queues};

/// The device.
pub struct Vsock {
    /// The device proper.
    pub device: vsock::Device,
}

impl Vsock {
    /// A device without connections.
    pub fn new(guest_cid: u64) -> io::Result<Vsock> {
        let device = vsock::Device::new(guest_cid)?;
        Ok(Vsock { device })
    }
}

impl Device for Vsock {
    fn id(&self) -> u32 {
        19
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        // The third tells of migration, which does not happen.
        &[QUEUE_SIZE, QUEUE_SIZE, 64]
    }

    fn config(&self) -> Vec<u8> {
        self.device.config().to_vec()
    }

    fn counters(&self) -> Counters {
        Counters {
            served: self.device.muxer.counters.opened,
            violations: self.device.muxer.counters.violations,
            failures: 0,
        }
    }

    fn reset(&mut self) {
        self.device.muxer.reset();
    }

    fn idle(&mut self) {
        self.device.muxer.poll_host();
    }

    fn run(&mut self, mem: &Memory, queues: &mut [Queue]) -> Work {
        let [rx, tx, ..] = queues else {
            return Work::default();
        };
        let queues = Queues {
            rx: rx.ready().then_some(rx),
            tx: tx.ready().then_some(tx),
        };
        let progress = self.device.run(mem, queues);
        Work {
            signal: progress.signal_rx || progress.signal_tx,
            again: progress.again,
        }
    }
}
