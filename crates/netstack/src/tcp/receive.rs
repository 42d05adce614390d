//! What a segment of the guest's does to a connection.

use std::time::Duration;

use super::{ACKNOWLEDGEMENT_DELAY, FIRST_TIMEOUT, Header, State, Tcp, before, flag};

impl Tcp {
    /// A segment from the guest. Returns whether there may be something new for the host's side: input, its end, room for output,
    /// or the connection's end.
    pub fn on_segment(&mut self, header: &Header, payload: &[u8], now: Duration) -> bool {
        match self.state {
            // What is left is between the host's side and us.
            State::Dead | State::Done => {
                self.owes |= self.state == State::Done && header.flags & flag::FIN != 0;
                return false;
            }
            // The same SYN again, most likely; the answer is on its way.
            State::Held => {
                if header.flags & flag::RST != 0 {
                    self.state = State::Dead;
                    return true;
                }
                return false;
            }
            State::SynSent => return self.on_answer(header, now),
            State::SynReceived | State::Open => {}
        }
        if header.flags & flag::SYN != 0 {
            // RFC 5961, section 4: answered with what we expect; a peer that lost its memory resets then.
            if self.state == State::SynReceived {
                self.next = self.unacknowledged;
            }
            self.owes = true;
            return false;
        }
        let acceptable = self.is_acceptable(header, payload.len());
        if header.flags & flag::RST != 0 {
            if header.sequence == self.expected {
                self.state = State::Dead;
                return true;
            }
            // RFC 5961, section 3: one that is in the window is asked about.
            self.owes |= acceptable;
            return false;
        }
        if !acceptable {
            self.owes = true;
            return false;
        }
        if header.flags & flag::ACK == 0 {
            return false;
        }
        self.heard = now;
        let acknowledged = self.on_acknowledgement(header, payload.is_empty(), now);
        if self.state == State::SynReceived {
            return false;
        }
        self.watch_closed_window(now);
        let received = self.on_payload(header, payload, now);
        self.settle();
        acknowledged || received
    }

    /// The answer to our SYN.
    fn on_answer(&mut self, header: &Header, now: Duration) -> bool {
        let acknowledges = header.flags & flag::ACK != 0
            && header.acknowledgement == self.unacknowledged.wrapping_add(1);
        if header.flags & flag::RST != 0 {
            if acknowledges {
                self.state = State::Dead;
            }
            return acknowledges;
        }
        if header.flags & flag::SYN == 0 || !acknowledges {
            return false;
        }
        self.meet(header);
        self.unacknowledged = header.acknowledgement;
        self.next = self.unacknowledged;
        self.highest = self.unacknowledged;
        self.state = State::Open;
        self.heard = now;
        self.owes = true;
        self.calm();
        true
    }

    /// RFC 9293, 3.10.7.4, with payload that reaches beyond the window cut off later.
    fn is_acceptable(&self, header: &Header, len: usize) -> bool {
        let offset = header.sequence.wrapping_sub(self.expected);
        let window = self.promised.wrapping_sub(self.expected);
        // At the left edge, also with a window of zero: acknowledgements count there.
        if offset == 0 || offset < window {
            return true;
        }
        // Begins before what we expect, and reaches into it.
        let end = header.sequence.wrapping_add(len as u32);
        before(header.sequence, self.expected) && before(self.expected, end)
    }

    fn on_acknowledgement(&mut self, header: &Header, bare: bool, now: Duration) -> bool {
        let acknowledgement = header.acknowledgement;
        if before(self.highest, acknowledgement) {
            // Of something that was never sent.
            self.owes = true;
            return false;
        }
        if before(acknowledgement, self.unacknowledged) {
            return false;
        }
        let mut count = acknowledgement.wrapping_sub(self.unacknowledged) as usize;
        let window = usize::from(header.window) << self.window_scale;
        if count == 0 {
            let waits = self.highest != self.unacknowledged;
            if bare && waits && window == self.window && header.flags & flag::FIN == 0 {
                self.duplicates += 1;
                if self.duplicates == 3 {
                    self.next = self.unacknowledged;
                }
            }
            if self.window == 0 && window > 0 {
                // A probe's byte had no place.
                self.next = self.unacknowledged;
                self.calm();
            }
            if window == 0 {
                // Closed, but alive.
                self.retries = 0;
            }
            self.window = window;
            return false;
        }
        self.duplicates = 0;
        self.window = window;
        if self.state == State::SynReceived {
            self.state = State::Open;
            count -= 1;
        }
        let bytes = count.min(self.output.len());
        self.output.drop_front(bytes);
        self.unacknowledged = acknowledgement;
        if before(self.next, self.unacknowledged) {
            self.next = self.unacknowledged;
        }
        // Our FIN is one more than there are bytes.
        self.fin_done |= bytes < count;
        self.calm();
        if self.next != self.unacknowledged {
            self.deadline = Some(now + self.timeout);
        }
        true
    }

    /// The peer lives: no time-out is running any more.
    fn calm(&mut self) {
        self.deadline = None;
        self.timeout = FIRST_TIMEOUT;
        self.retries = 0;
        self.probing = false;
    }

    fn on_payload(&mut self, header: &Header, payload: &[u8], now: Duration) -> bool {
        let fin = header.flags & flag::FIN != 0;
        if payload.is_empty() && !fin {
            return false;
        }
        // Something is missing before it, or it came before: the guest hears so at once.
        let known = self.expected.wrapping_sub(header.sequence) as usize;
        let fresh = payload.get(known..);
        let (Some(fresh), false) = (fresh, self.ended) else {
            self.owes = true;
            return false;
        };
        let window = self.promised.wrapping_sub(self.expected) as usize;
        let taken = &fresh[..fresh.len().min(window)];
        self.input.extend(taken);
        self.expected = self.expected.wrapping_add(taken.len() as u32);
        self.pending += taken.len();
        self.largest = self.largest.max(payload.len());
        let odd = fin || taken.is_empty() || taken.len() < fresh.len();
        if odd || self.pending >= 2 * self.largest {
            self.owes = true;
        } else {
            self.delayed.get_or_insert(now + ACKNOWLEDGEMENT_DELAY);
        }
        if fin && taken.len() == fresh.len() {
            self.expected = self.expected.wrapping_add(1);
            if before(self.promised, self.expected) {
                self.promised = self.expected;
            }
            self.ended = true;
        }
        true
    }

    fn settle(&mut self) {
        if self.state == State::Open && self.ended && self.fin_done {
            self.state = State::Done;
        }
    }
}
