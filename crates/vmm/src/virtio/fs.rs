//! The file system device (virtio 1.2, section 5.11) over [`crate::fs::Server`].

use virtio_queue::Queue;

use super::buffers::{Buffers, length};
use super::{Counters, Device, Done, Work, drain};
use crate::fs::Server;
use crate::vsock::Memory;

/// Descriptors of a queue: a request of a megabyte takes 256 pages, less a header's four.
pub const QUEUE_SIZE: u16 = 256;

/// Bytes of a request and the room for its answer that take as long to move as an interrupt takes.
const MUCH: usize = 16 * 1024;

/// Bytes of a tag.
const TAG_LEN: usize = 36;

/// The device.
#[derive(Debug)]
pub struct Fs {
    server: Server,
    tag: [u8; TAG_LEN],
    /// See [`Counters`].
    pub counters: Counters,
}

impl Fs {
    /// A device that a guest mounts by `tag`, which is cut at 36 bytes.
    pub fn new(server: Server, tag: &str) -> Fs {
        let mut padded = [0; TAG_LEN];
        for (to, from) in padded.iter_mut().zip(tag.bytes()) {
            *to = from;
        }
        Fs {
            server,
            tag: padded,
            counters: Counters::default(),
        }
    }

    /// The server.
    pub fn server(&mut self) -> &mut Server {
        &mut self.server
    }

    /// Serves one queue. The guest is told at once of what moved much: together with the next one it would wait for it, and a guest that
    /// reads ahead would stand still where it could copy. Of small things it hears together, as many of its threads wait for them.
    pub fn serve(&mut self, mem: &Memory, queue: &mut Queue) -> Work {
        let Fs {
            server, counters, ..
        } = self;
        drain(mem, queue, counters, |chain, counters| {
            let Ok(buffers) = Buffers::of(mem, chain) else {
                counters.violations += 1;
                return Done::from(0);
            };
            let much = length(&buffers.readable) + length(&buffers.writable) >= MUCH;
            Done {
                written: server.serve(buffers, counters),
                at_once: much,
            }
        })
    }
}

impl Device for Fs {
    fn id(&self) -> u32 {
        26
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        // What is urgent (forgetting), then requests.
        &[QUEUE_SIZE, QUEUE_SIZE]
    }

    /// `struct virtio_fs_config`, section 5.11.4: the tag, and how many request queues there are.
    fn config(&self) -> Vec<u8> {
        let mut config = self.tag.to_vec();
        config.extend(1u32.to_le_bytes());
        config
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn reset(&mut self) {
        self.server.reset();
    }

    fn run(&mut self, mem: &Memory, queues: &mut [Queue]) -> Work {
        let mut work = Work::default();
        for queue in queues {
            let done = self.serve(mem, queue);
            work.signal |= done.signal;
            work.again |= done.again;
        }
        work
    }
}
