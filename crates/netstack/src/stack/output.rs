//! What goes to guests: frames that wait for their link, and segments of connections that are made when it has room.

use std::io::IoSlice;
use std::time::Duration;

use super::{PortId, Stack};
use crate::limit;
use crate::wire::Partial;

/// What became of [`Stack::transmit_with`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transmitted {
    /// There is no frame.
    Nothing,
    /// The link took one.
    Sent,
    /// The link had no room.
    Full,
}

impl Stack {
    /// An empty buffer.
    pub(crate) fn buffer(&mut self) -> Vec<u8> {
        self.pool.pop().unwrap_or_default()
    }

    pub(crate) fn recycle(&mut self, mut buffer: Vec<u8>) {
        const POOLED: usize = 64;
        if self.pool.len() < POOLED && buffer.capacity() > 0 {
            buffer.clear();
            self.pool.push(buffer);
        }
    }

    /// A frame for a guest.
    pub(crate) fn enqueue(&mut self, id: PortId, frame: Vec<u8>) {
        self.enqueue_partial(id, frame, None);
    }

    /// A frame for a guest whose checksum may be left out; it is not when the guest's link has no way to say so.
    pub(crate) fn enqueue_partial(
        &mut self,
        id: PortId,
        mut frame: Vec<u8>,
        partial: Option<Partial>,
    ) {
        let Some(port) = self.ports.get_mut(&id) else {
            return;
        };
        if port.queue.len() >= limit::FRAMES || port.queued_bytes + frame.len() > limit::FRAME_BYTES
        {
            self.counters.dropped += 1;
            self.recycle(frame);
            return;
        }
        let left = partial.filter(|partial| {
            if !port.partial {
                partial.complete(&mut frame);
            }
            port.partial
        });
        port.queued_bytes += frame.len();
        port.queue.push_back((frame, left));
        self.mark_ready(id);
    }

    pub(crate) fn mark_ready(&mut self, id: PortId) {
        if let Some(port) = self.ports.get_mut(&id)
            && !port.ready
        {
            port.ready = true;
            self.ready.push_back(id);
        }
    }

    /// A port that has something to transmit. Each is named once; what it has left then is found by [`Stack::transmit`].
    pub fn ready_port(&mut self) -> Option<PortId> {
        let id = self.ready.pop_front()?;
        if let Some(port) = self.ports.get_mut(&id) {
            port.ready = false;
        }
        Some(id)
    }

    /// Offers the next frame for a guest to its link, in pieces, and what of its checksum is left out ([`Stack::set_partial`]); `send` says whether
    /// the link took it, and one that it did not take is offered again. Call it when the link has room: segments of TCP are made here, of what lies in
    /// their connection's buffer, so that a slow guest holds its connections back and not us.
    pub fn transmit_with(
        &mut self,
        id: PortId,
        now: Duration,
        mut send: impl FnMut(&[IoSlice<'_>], Option<Partial>) -> bool,
    ) -> Transmitted {
        let Some(port) = self.ports.get_mut(&id) else {
            return Transmitted::Nothing;
        };
        if let Some((frame, partial)) = port.queue.front() {
            if !send(&[IoSlice::new(frame)], *partial) {
                return Transmitted::Full;
            }
            if let Some((frame, _)) = port.queue.pop_front() {
                port.queued_bytes -= frame.len();
                self.recycle(frame);
            }
            self.counters.sent += 1;
            return Transmitted::Sent;
        }
        while let Some(port) = self.ports.get_mut(&id)
            && let Some(flow) = port.speaking.pop_front()
        {
            match self.emit(flow, now, &mut send) {
                None => {}
                Some(true) => {
                    self.counters.sent += 1;
                    return Transmitted::Sent;
                }
                Some(false) => {
                    if let Some(port) = self.ports.get_mut(&id) {
                        port.speaking.push_front(flow);
                    }
                    return Transmitted::Full;
                }
            }
        }
        Transmitted::Nothing
    }

    /// [Transmits](Stack::transmit_with) the next frame for a guest, and puts it into `buffer`, in the place of what is there, with its checksum. False:
    /// there is none.
    pub fn transmit(&mut self, id: PortId, buffer: &mut Vec<u8>, now: Duration) -> bool {
        let offered = self.transmit_with(id, now, |pieces, partial| {
            buffer.clear();
            pieces
                .iter()
                .for_each(|piece| buffer.extend_from_slice(piece));
            if let Some(partial) = partial {
                partial.complete(buffer);
            }
            true
        });
        offered == Transmitted::Sent
    }
}
