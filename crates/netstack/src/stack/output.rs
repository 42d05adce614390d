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
    pub(crate) fn enqueue_partial(&mut self, id: PortId, frame: Vec<u8>, partial: Option<Partial>) {
        self.enqueue_from(true, id, frame, partial);
    }

    /// The same of the gateway's own, or of another guest's.
    pub(super) fn enqueue_from(
        &mut self,
        own: bool,
        id: PortId,
        mut frame: Vec<u8>,
        partial: Option<Partial>,
    ) {
        let Some(port) = self.ports.get_mut(&id) else {
            return;
        };
        let share = if own { 1 } else { 2 };
        let full = port.queue.len() >= limit::FRAMES / share;
        if full || port.queued_bytes + frame.len() > limit::FRAME_BYTES / share {
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
        // In turns, so that who floods a guest with frames takes half of its link and not all.
        let Some(port) = self.ports.get_mut(&id) else {
            return Transmitted::Nothing;
        };
        if port.segment_next {
            port.segment_next = false;
            match self.transmit_segment(id, now, &mut send) {
                Transmitted::Nothing => self.transmit_queued(id, &mut send),
                done => done,
            }
        } else {
            match self.transmit_queued(id, &mut send) {
                Transmitted::Nothing => self.transmit_segment(id, now, &mut send),
                done => done,
            }
        }
    }

    /// The frame that has waited the longest.
    fn transmit_queued(
        &mut self,
        id: PortId,
        send: &mut impl FnMut(&[IoSlice<'_>], Option<Partial>) -> bool,
    ) -> Transmitted {
        let Some(port) = self.ports.get_mut(&id) else {
            return Transmitted::Nothing;
        };
        let Some((frame, partial)) = port.queue.front() else {
            return Transmitted::Nothing;
        };
        if !send(&[IoSlice::new(frame)], *partial) {
            return Transmitted::Full;
        }
        port.segment_next = true;
        if let Some((frame, _)) = port.queue.pop_front() {
            port.queued_bytes -= frame.len();
            self.recycle(frame);
        }
        self.counters.sent += 1;
        Transmitted::Sent
    }

    /// A segment of the connection that has waited the longest.
    fn transmit_segment(
        &mut self,
        id: PortId,
        now: Duration,
        send: &mut impl FnMut(&[IoSlice<'_>], Option<Partial>) -> bool,
    ) -> Transmitted {
        while let Some(port) = self.ports.get_mut(&id)
            && let Some(flow) = port.speaking.pop_front()
        {
            match self.emit(flow, now, send) {
                None => {}
                Some(true) => {
                    self.counters.sent += 1;
                    return Transmitted::Sent;
                }
                Some(false) => {
                    if let Some(port) = self.ports.get_mut(&id) {
                        port.speaking.push_front(flow);
                        // It is its turn still.
                        port.segment_next = true;
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
