//! The device proper: moves packets between two virtqueues and the muxer.
//!
//! Queue 0 (rx) holds the driver's empty buffers for packets to the guest, queue 1 (tx) its packets. The event queue
//! (2) only tells of migration, which does not happen here. A packet to the guest takes one buffer; a read from the
//! host fills several at once.

use virtio_queue::{Queue, QueueOwnedT, QueueT};

use super::Memory;
use super::chain::{Chain, Pieces, first_bytes};
use super::muxer::{Muxer, Next};
use super::packet::{HEADER_LEN, Header};
use super::stream::iovec_of;

/// Bytes of the device's configuration space: the guest's CID, little endian (virtio 1.2, section 5.10.4).
pub const CONFIG_LEN: usize = 8;

/// Largest queue that is offered.
pub const QUEUE_SIZE: u16 = 1024;

/// Chains that one [`Device::run`] takes from each queue before others get a turn.
const BUDGET: usize = 512;

/// The queues that are running. One that is not is left alone.
pub struct Queues<'a> {
    /// Packets to the guest.
    pub rx: Option<&'a mut Queue>,
    /// Packets from the guest.
    pub tx: Option<&'a mut Queue>,
}

/// What [`Device::run`] asks of its caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Interrupt the guest for the rx queue.
    pub signal_rx: bool,
    /// Interrupt the guest for the tx queue.
    pub signal_tx: bool,
    /// There is more to do: call again soon, after a look at other descriptors.
    pub again: bool,
}

/// Why a queue was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Nothing to do until a kick or an edge.
    Idle,
    /// Had its turn.
    Budget,
    /// The guest has to read refusals first.
    Full,
}

/// A vsock device.
pub struct Device {
    /// The connections.
    pub muxer: Muxer,
}

impl Device {
    /// A device without connections.
    pub fn new(guest_cid: u64) -> std::io::Result<Device> {
        Ok(Device {
            muxer: Muxer::new(guest_cid)?,
        })
    }

    /// The configuration space.
    pub fn config(&self) -> [u8; CONFIG_LEN] {
        self.muxer.guest_cid().to_le_bytes()
    }

    /// Moves what can be moved, in both directions. To be called when a queue was kicked, when the muxer's descriptor
    /// is readable, and when the owner asked the muxer for something.
    pub fn run(&mut self, mem: &Memory, queues: Queues<'_>) -> Progress {
        let mut progress = Progress::default();
        self.muxer.poll_host();
        let mut tx_waits = false;
        if let Some(tx) = queues.tx {
            let (used, rest) = self.run_tx(mem, tx);
            // A queue that cannot be read cannot be signalled either.
            progress.signal_tx = used && tx.needs_notification(mem).unwrap_or(false);
            progress.again |= rest == Rest::Budget;
            tx_waits = rest == Rest::Full;
        }
        if let Some(rx) = queues.rx {
            let (used, rest) = self.run_rx(mem, rx);
            progress.signal_rx = used && rx.needs_notification(mem).unwrap_or(false);
            progress.again |= rest == Rest::Budget;
        }
        // Without buffers for our refusals, the kick that tells of buffers lets both queues go on.
        progress.again |= tx_waits && !self.muxer.is_full();
        progress
    }

    fn run_tx(&mut self, mem: &Memory, queue: &mut Queue) -> (bool, Rest) {
        let mut pieces = Pieces::default();
        let mut taken = 0;
        loop {
            let _ = queue.disable_notification(mem);
            let before = taken;
            while taken < BUDGET && !self.muxer.is_full() {
                let Some(chain) = queue.pop_descriptor_chain(mem) else {
                    break;
                };
                taken += 1;
                let head = chain.head_index();
                pieces.clear();
                match pieces.add(mem, chain, false) {
                    Ok(chain) => {
                        let header = Header::parse(&pieces.header(&chain));
                        self.muxer
                            .on_packet(&header, pieces.data(&chain), chain.data_len);
                    }
                    Err(_) => self.muxer.on_malformed(),
                }
                self.give(mem, queue, head, 0);
            }
            if self.muxer.is_full() {
                return (taken > 0, Rest::Full);
            }
            if taken >= BUDGET {
                return (true, Rest::Budget);
            }
            // A ring whose index is nonsense always has "more" and never a chain.
            let more = queue.enable_notification(mem).unwrap_or(false);
            if !more || taken == before {
                return (taken > 0, Rest::Idle);
            }
        }
    }

    fn run_rx(&mut self, mem: &Memory, queue: &mut Queue) -> (bool, Rest) {
        let mut batch = Batch::default();
        let mut used = 0;
        let mut asked = false;
        while used < BUDGET {
            let Some(next) = self.muxer.peek() else {
                let _ = queue.disable_notification(mem);
                return (used > 0, Rest::Idle);
            };
            let (room, burst) = match next {
                Next::Control => (0, 1),
                Next::Data { limit, burst, .. } => (limit, burst),
            };
            if let Some(head) = batch.collect(mem, queue, room, burst) {
                self.muxer.on_malformed();
                self.give(mem, queue, head, 0);
                used += 1;
                continue;
            }
            if batch.chains.is_empty() {
                // Ask for a kick, then look once more: buffers may have come in between.
                if asked || !queue.enable_notification(mem).unwrap_or(false) {
                    return (used > 0, Rest::Idle);
                }
                asked = true;
                continue;
            }
            asked = false;
            used += match next {
                Next::Control => self.put_control(mem, queue, &batch),
                Next::Data { id, limit, .. } => self.put_data(mem, queue, &batch, id, limit),
            };
        }
        (true, Rest::Budget)
    }

    fn put_control(&mut self, mem: &Memory, queue: &mut Queue, batch: &Batch<'_>) -> usize {
        let Some(header) = self.muxer.take_control() else {
            batch.give_back(queue, 0);
            return 0;
        };
        let chain = &batch.chains[0];
        batch.pieces.set_header(chain, &header.to_bytes());
        self.give(mem, queue, chain.head, HEADER_LEN);
        1
    }

    fn put_data(
        &mut self,
        mem: &Memory,
        queue: &mut Queue,
        batch: &Batch<'_>,
        id: u64,
        limit: usize,
    ) -> usize {
        let mut iovecs = Vec::new();
        let mut room = 0;
        for chain in &batch.chains {
            let take = chain.data_len.min(limit - room);
            iovecs
                .extend(first_bytes(batch.pieces.data(chain), take).map(|piece| iovec_of(&piece)));
            room += take;
        }
        let mut left = self.muxer.read_host(id, &iovecs, room).unwrap_or(0);
        let mut used = 0;
        for chain in &batch.chains {
            let len = chain.data_len.min(left);
            if len == 0 {
                break;
            }
            let Some(header) = self.muxer.data_header(id, len as u32) else {
                break;
            };
            batch.pieces.set_header(chain, &header.to_bytes());
            self.give(mem, queue, chain.head, HEADER_LEN + len);
            left -= len;
            used += 1;
        }
        batch.give_back(queue, used);
        used
    }

    /// Gives a chain back to the driver. It fails for a head that no queue of that size has.
    fn give(&mut self, mem: &Memory, queue: &mut Queue, head: u16, len: usize) {
        if queue.add_used(mem, head, len as u32).is_err() {
            self.muxer.on_malformed();
        }
    }
}

/// Buffers taken from the rx queue for one packet or one read.
#[derive(Default)]
struct Batch<'m> {
    pieces: Pieces<'m>,
    chains: Vec<Chain>,
}

impl<'m> Batch<'m> {
    /// Takes up to `burst` buffers, or fewer if they have room for `room` bytes. `Some(head)` is a useless buffer
    /// that is to be given back used; there are no others then.
    fn collect(
        &mut self,
        mem: &'m Memory,
        queue: &mut Queue,
        room: usize,
        burst: usize,
    ) -> Option<u16> {
        self.pieces.clear();
        self.chains.clear();
        let mut got = 0;
        while self.chains.len() < burst && (got < room || self.chains.is_empty()) {
            let chain = queue.pop_descriptor_chain(mem)?;
            let head = chain.head_index();
            match self.pieces.add(mem, chain, true) {
                Ok(chain) if chain.data_len > 0 || room == 0 => {
                    got += chain.data_len;
                    self.chains.push(chain);
                }
                _ if self.chains.is_empty() => return Some(head),
                _ => {
                    // It comes first next time.
                    queue.go_to_previous_position();
                    return None;
                }
            }
        }
        None
    }

    /// Leaves all but the first `used` buffers to the next turn.
    fn give_back(&self, queue: &mut Queue, used: usize) {
        for _ in used..self.chains.len() {
            queue.go_to_previous_position();
        }
    }
}
