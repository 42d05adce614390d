//! What a segment of the guest's does to a connection.

use std::time::Duration;

use super::{ACKNOWLEDGEMENT_DELAY, Blocks, FIRST_TIMEOUT, Header, State, Tcp, before, flag};

/// So many later segments that came say that an earlier one did not (RFC 5681, 3.2).
const LATER: usize = 3;

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
            if self.is_keep_alive(header) {
                self.heard = now;
            }
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

    /// Whether a segment is of another connection between the same ends, which the guest has not forgotten: a reset is what it needs, and our
    /// SYN comes again (RFC 9293, 3.10.7.3).
    pub fn is_stale(&self, header: &Header) -> bool {
        let greets = header.acknowledgement == self.unacknowledged.wrapping_add(1);
        let bits = header.flags & (flag::ACK | flag::RST);
        self.state == State::SynSent && bits == flag::ACK && !greets
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

    /// RFC 9293, 3.8.4: a segment from before what we expect, so that it is answered.
    fn is_keep_alive(&self, header: &Header) -> bool {
        let known = !before(header.acknowledgement, self.unacknowledged)
            && !before(self.highest, header.acknowledgement);
        let last = header.sequence.wrapping_add(1) == self.expected;
        header.flags & flag::ACK != 0 && last && known
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
        let later = self.note_theirs(acknowledgement, &header.blocks);
        if count == 0 {
            let waits = self.highest != self.unacknowledged;
            let same = bare && window == self.window && header.flags & flag::FIN == 0;
            // What was sent twice is answered in the same way; only who does not say what it has leaves us guessing.
            if waits && (later || same && !self.selective) {
                self.duplicates += 1;
                self.find_losses();
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
            self.skip();
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
        self.theirs.cut(acknowledgement);
        if self
            .recovering
            .is_some_and(|edge| !before(acknowledgement, edge))
        {
            self.recovering = None;
        }
        if later {
            self.find_losses();
        }
        self.skip();
        self.calm();
        if self.next != self.unacknowledged {
            self.deadline = Some(now + self.wait());
        }
        true
    }

    /// Takes in what the guest has beyond what it acknowledges. Whether there is any.
    fn note_theirs(&mut self, acknowledgement: u32, blocks: &Blocks) -> bool {
        let mut any = false;
        for (begin, end) in blocks.as_slice() {
            // What came twice is told of, too (RFC 2883), and a guest may say anything.
            let sent = before(acknowledgement, *begin) && !before(self.highest, *end);
            if self.selective && sent && before(*begin, *end) {
                any |= self.theirs.insert(*begin, *end);
            }
        }
        any
    }

    /// Goes back when enough has come that was sent after something that has not.
    fn find_losses(&mut self) {
        let enough = LATER * self.mss;
        let lost = match self.recovering {
            None => {
                self.duplicates as usize >= LATER
                    || self.theirs.count_from(self.unacknowledged) >= enough
            }
            // What was sent behind what was sent again has come: that was lost again.
            Some(edge) => self.theirs.count_from(edge) >= enough,
        };
        if lost {
            self.next = self.unacknowledged;
            self.recovering = Some(self.highest);
            self.duplicates = 0;
            // It runs from when the first of it is sent.
            self.deadline = None;
        }
    }

    /// The next to send is nothing that the guest has; and what it has said nothing of, because it was sent after all that it has, is on
    /// its way.
    pub(super) fn skip(&mut self) {
        if let Some(end) = self.theirs.end_of(self.next) {
            self.next = end;
        }
        let again = self.selective && self.recovering.is_some();
        let last = self.theirs.next_after(self.next).is_none();
        if again && last && before(self.next, self.highest) {
            self.next = self.highest;
        }
    }

    /// The peer lives: no time-out is running any more.
    fn calm(&mut self) {
        self.deadline = None;
        self.timeout = FIRST_TIMEOUT;
        self.retries = 0;
        self.probing = false;
        self.impatient = false;
    }

    fn on_payload(&mut self, header: &Header, payload: &[u8], now: Duration) -> bool {
        let fin = header.flags & flag::FIN != 0;
        if payload.is_empty() && !fin {
            return false;
        }
        let known = self.expected.wrapping_sub(header.sequence) as usize;
        let (Some(fresh), false) = (payload.get(known..), self.ended) else {
            // Something is missing before it, or it came before: the guest hears so at once.
            self.owes = true;
            if !self.ended && before(self.expected, header.sequence) {
                self.keep(header, payload);
            }
            return false;
        };
        let window = self.promised.wrapping_sub(self.expected) as usize;
        let taken = &fresh[..fresh.len().min(window)];
        self.input.extend(taken);
        self.expected = self.expected.wrapping_add(taken.len() as u32);
        self.pending += taken.len();
        self.largest = self.largest.max(payload.len());
        let holes = !self.ahead.is_empty();
        if fin && taken.len() == fresh.len() {
            self.note_fin(header.sequence.wrapping_add(payload.len() as u32));
        }
        self.join_ahead();
        let odd = fin || holes || taken.is_empty() || taken.len() < fresh.len();
        if odd || self.pending >= 2 * self.largest {
            self.owes = true;
        } else {
            self.delayed.get_or_insert(now + ACKNOWLEDGEMENT_DELAY);
        }
        true
    }

    /// Keeps a segment before which something is missing, as far as the window goes.
    fn keep(&mut self, header: &Header, payload: &[u8]) {
        let gap = header.sequence.wrapping_sub(self.expected) as usize;
        let window = self.promised.wrapping_sub(self.expected) as usize;
        let taken = &payload[..payload.len().min(window.saturating_sub(gap))];
        let end = header.sequence.wrapping_add(taken.len() as u32);
        if header.flags & flag::FIN != 0 && taken.len() == payload.len() {
            self.note_fin(end);
        }
        if self.fin.is_some_and(|fin| before(fin, end)) || taken.is_empty() {
            return;
        }
        if self.ahead.insert(header.sequence, end) {
            self.input.put_ahead(gap, taken);
            self.recent = header.sequence;
        }
    }

    /// Notes where the guest's stream ends: once, and not before what is here already.
    fn note_fin(&mut self, number: u32) {
        let beyond = self.ahead.iter().any(|(_, end)| before(number, end));
        if !beyond {
            self.fin.get_or_insert(number);
        }
    }

    /// What came before its turn has its turn now, as far as nothing is missing before it.
    fn join_ahead(&mut self) {
        self.ahead.cut(self.expected);
        if let Some(end) = self.ahead.end_of(self.expected) {
            let count = end.wrapping_sub(self.expected) as usize;
            self.input.fill(count);
            self.pending += count;
            self.expected = end;
            self.ahead.cut(end);
        }
        if self.fin == Some(self.expected) {
            self.expected = self.expected.wrapping_add(1);
            if before(self.promised, self.expected) {
                self.promised = self.expected;
            }
            self.ended = true;
        }
    }

    /// What came before its turn, the last of it first (RFC 2018, 4).
    pub(super) fn blocks(&self) -> Blocks {
        let mut blocks = Blocks::default();
        let is_recent =
            |(begin, end): &(u32, u32)| !before(self.recent, *begin) && before(self.recent, *end);
        self.ahead
            .iter()
            .filter(is_recent)
            .for_each(|block| blocks.push(block));
        let others = self.ahead.iter().filter(|block| !is_recent(block));
        others.for_each(|block| blocks.push(block));
        blocks
    }

    fn settle(&mut self) {
        if self.state == State::Open && self.ended && self.fin_done {
            self.state = State::Done;
        }
    }
}
