//! The entropy device (virtio 1.2, section 5.4): random numbers from the host's kernel.

use virtio_queue::Queue;

use super::buffers::{Buffers, copy_in};
use super::{Counters, Device, Work, drain};
use crate::vsock::Memory;

/// Bytes that one request gets at most: a guest that asks for more asks again.
const MOST: usize = 4096;

/// The device.
#[derive(Debug, Default)]
pub struct Entropy {
    /// See [`Counters`].
    pub counters: Counters,
}

impl Device for Entropy {
    fn id(&self) -> u32 {
        4
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        &[64]
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn run(&mut self, mem: &Memory, queues: &mut [Queue]) -> Work {
        let [queue, ..] = queues else {
            return Work::default();
        };
        drain(mem, queue, &mut self.counters, |chain, counters| {
            let Ok(buffers) = Buffers::of(mem, chain) else {
                counters.violations += 1;
                return 0;
            };
            let mut bytes = [0; MOST];
            match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()) {
                Ok(count) => copy_in(&buffers.writable, &bytes[..count]) as u32,
                Err(_) => {
                    counters.failures += 1;
                    0
                }
            }
        })
    }
}
