//! One end of a TCP connection with a guest (RFC 9293), as a state machine without I/O.
//!
//! ```text
//!   the guest dials:   Held ──host connected──► SynReceived ──ACK──► Open ──both FINs──► Done
//!   the host dials:    SynSent ──────SYN ACK───────────────────────► Open
//!   any of them:       ──RST, or too many losses──► Dead
//! ```
//!
//! The link is a unix socket, so segments are not reordered on their way here and seldom lost on their way there (a guest without
//! buffers drops). So there is no congestion window: what holds us back is the guest's window and the link's own back-pressure
//! ([`Tcp::emit`] is called when the link has room). Segments out of order are not kept: the guest sends again. Losses are found by
//! three duplicate acknowledgements or by the retransmission timer, and answered by going back to the first byte that is
//! not acknowledged.
//!
//! The two halves end apart from each other: a FIN of one side leaves the other side's way open for as long as it likes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::wire::{be16, be32};

/// A segment's flags.
pub mod flag {
    /// The sender has no more to say.
    pub const FIN: u8 = 1;
    /// A connection begins.
    pub const SYN: u8 = 2;
    /// The connection is no more.
    pub const RST: u8 = 4;
    /// Hand it to the program.
    pub const PSH: u8 = 8;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 16;
}

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;

/// Bytes that a connection's first window has: every connection may have so much waiting, whatever others have.
const FIRST_WINDOW: usize = 64 << 10;

/// Bytes that a connection may have waiting in each direction, when there is room for it.
pub const LARGEST_WINDOW: usize = 1 << 20;

/// Our window's scale: 2^7 × 65,535 covers [`LARGEST_WINDOW`].
const WINDOW_SCALE: u8 = 7;

/// The maximum segment size of a peer that doesn't say (RFC 9293, 3.7.1).
const DEFAULT_MSS: usize = 536;

/// The least that is believed: smaller ones are an attack on our processor.
const LEAST_MSS: usize = 256;

/// The first retransmission time-out: the link is local, but a translated guest may be held up.
const FIRST_TIMEOUT: Duration = Duration::from_millis(300);

/// The longest one.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Retransmissions in a row after which the peer is taken for dead.
const MOST_RETRIES: u32 = 12;

/// The same for a SYN: 19 s.
const MOST_GREETINGS: u32 = 5;

/// A segment's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// From which port.
    pub source: u16,
    /// To which port.
    pub destination: u16,
    /// Of the first byte.
    pub sequence: u32,
    /// The next byte that is expected.
    pub acknowledgement: u32,
    /// See [`flag`].
    pub flags: u8,
    /// As it stands there, not scaled.
    pub window: u16,
    /// Option 2.
    pub mss: Option<u16>,
    /// Option 3.
    pub window_scale: Option<u8>,
}

/// Reads a segment: header and payload.
pub fn parse(segment: &[u8]) -> Option<(Header, &[u8])> {
    let offset = usize::from(*segment.get(12)? >> 4) * 4;
    let options = segment.get(HEADER_LEN..offset)?;
    let payload = segment.get(offset..)?;
    let mut header = Header {
        source: be16(segment, 0)?,
        destination: be16(segment, 2)?,
        sequence: be32(segment, 4)?,
        acknowledgement: be32(segment, 8)?,
        flags: segment[13],
        window: be16(segment, 14)?,
        ..Header::default()
    };
    parse_options(options, &mut header);
    Some((header, payload))
}

/// Options that make no sense end the list: what came before counts (RFC 9293, 3.1 leaves it open).
fn parse_options(mut options: &[u8], header: &mut Header) {
    while let [kind, rest @ ..] = options {
        match kind {
            0 => return,
            1 => {
                options = rest;
                continue;
            }
            _ => {}
        }
        let Some(len) = rest.first().map(|len| usize::from(*len)) else {
            return;
        };
        let Some(value) = options.get(2..len) else {
            return;
        };
        match (kind, value) {
            (2, [high, low]) => header.mss = Some(u16::from_be_bytes([*high, *low])),
            // More than 14 counts as 14 (RFC 7323, 2.3).
            (3, [scale]) => header.window_scale = Some((*scale).min(14)),
            _ => {}
        }
        options = &options[len..];
    }
}

/// Writes a header; the checksum is left zero.
pub fn put(buffer: &mut Vec<u8>, header: &Header) {
    let mut options = [0; 8];
    let mut len = 0;
    if let Some(mss) = header.mss {
        options[..2].copy_from_slice(&[2, 4]);
        options[2..4].copy_from_slice(&mss.to_be_bytes());
        len = 4;
    }
    if let Some(scale) = header.window_scale {
        options[len..len + 4].copy_from_slice(&[1, 3, 3, scale]);
        len += 4;
    }
    buffer.extend_from_slice(&header.source.to_be_bytes());
    buffer.extend_from_slice(&header.destination.to_be_bytes());
    buffer.extend_from_slice(&header.sequence.to_be_bytes());
    buffer.extend_from_slice(&header.acknowledgement.to_be_bytes());
    buffer.extend_from_slice(&[((HEADER_LEN + len) as u8) << 2, header.flags]);
    buffer.extend_from_slice(&header.window.to_be_bytes());
    buffer.extend_from_slice(&[0; 4]);
    buffer.extend_from_slice(&options[..len]);
}

/// `a` comes before `b` on the circle of sequence numbers.
fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The guest's SYN is kept until the host knows whether anybody answers there.
    Held,
    /// Our SYN ACK is on its way, or to be.
    SynReceived,
    /// Our SYN is on its way, or to be.
    SynSent,
    /// Both have said hello.
    Open,
    /// Both have said goodbye, and heard it.
    Done,
    /// It was reset, or the guest doesn't answer.
    Dead,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Tcp {
    state: State,
    /// The largest payload of a segment that we send.
    mss: usize,
    /// What we tell the guest in our SYN.
    own_mss: u16,

    /// The first byte that the guest has not acknowledged.
    unacknowledged: u32,
    /// The next to send.
    next: u32,
    /// The highest that was ever sent, plus one.
    highest: u32,
    /// The guest's window in bytes.
    window: usize,
    window_scale: u8,
    /// Bytes from `unacknowledged` on (our SYN is not among them).
    output: VecDeque<u8>,
    /// Nothing more comes to `output`.
    ending: bool,
    /// Our FIN was acknowledged.
    fin_done: bool,
    duplicates: u32,
    /// When to send again, or to probe a closed window.
    deadline: Option<Duration>,
    timeout: Duration,
    retries: u32,
    /// Send one byte into a closed window.
    probing: bool,

    /// The next byte that we expect.
    expected: u32,
    /// Bytes that came in order and are not taken yet.
    input: VecDeque<u8>,
    /// What `input` may hold.
    capacity: usize,
    /// The right edge that was promised: it never moves back.
    promised: u32,
    /// Whether the guest scales windows; then we do, too.
    scaling: bool,
    /// The guest's FIN has come.
    ended: bool,
    /// An acknowledgement is due.
    owes: bool,
    /// When the guest last said anything.
    heard: Duration,
}

impl Tcp {
    /// The guest dials, with this SYN. Nothing is sent before [`Tcp::accept`].
    pub fn held(syn: &Header, own_mss: u16, initial: u32, now: Duration) -> Tcp {
        let mut tcp = Tcp::new(State::Held, own_mss, initial, now);
        tcp.meet(syn);
        tcp
    }

    /// We dial the guest.
    pub fn dial(own_mss: u16, initial: u32, now: Duration) -> Tcp {
        Tcp::new(State::SynSent, own_mss, initial, now)
    }

    fn new(state: State, own_mss: u16, initial: u32, now: Duration) -> Tcp {
        Tcp {
            state,
            mss: DEFAULT_MSS,
            own_mss,
            unacknowledged: initial,
            next: initial,
            highest: initial,
            window: 0,
            window_scale: 0,
            output: VecDeque::new(),
            ending: false,
            fin_done: false,
            duplicates: 0,
            deadline: None,
            timeout: FIRST_TIMEOUT,
            retries: 0,
            probing: false,
            expected: 0,
            input: VecDeque::new(),
            capacity: FIRST_WINDOW,
            promised: 0,
            scaling: true,
            ended: false,
            owes: false,
            heard: now,
        }
    }

    /// Takes in what a SYN says.
    fn meet(&mut self, syn: &Header) {
        let theirs = syn.mss.map_or(DEFAULT_MSS, usize::from);
        self.mss = theirs.max(LEAST_MSS).min(usize::from(self.own_mss));
        self.scaling = syn.window_scale.is_some();
        self.window_scale = syn.window_scale.unwrap_or(0);
        // A SYN's own window is never scaled (RFC 7323, 2.2).
        self.window = usize::from(syn.window);
        self.expected = syn.sequence.wrapping_add(1);
        self.promised = self.expected;
    }

    /// The host's side stands: answer the guest's SYN.
    pub fn accept(&mut self) {
        if self.state == State::Held {
            self.state = State::SynReceived;
        }
    }

    /// Whether the guest waits for [`Tcp::accept`].
    pub fn is_held(&self) -> bool {
        self.state == State::Held
    }

    /// Both ends have said hello, and none was reset.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open | State::Done)
    }

    /// Everything was said and heard; what is left to do is to take the input.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// It was reset by the guest, or the guest has not answered for long.
    pub fn is_dead(&self) -> bool {
        self.state == State::Dead
    }

    /// One of both halves has ended.
    pub fn is_half_closed(&self) -> bool {
        self.ended || self.fin_done
    }

    /// When the guest last said anything.
    pub fn heard(&self) -> Duration {
        self.heard
    }

    /// Bytes that wait here, both ways.
    pub fn held_bytes(&self) -> usize {
        self.input.len() + self.output.len()
    }

    /// Bytes that [`Tcp::write`] takes now. With `tight`, only as many as keep the connection going.
    pub fn room(&self, tight: bool) -> usize {
        if self.ending || !matches!(self.state, State::Open) {
            return 0;
        }
        let most = if tight { FIRST_WINDOW } else { LARGEST_WINDOW };
        most.saturating_sub(self.output.len())
    }

    /// Bytes for the guest. As many as [`Tcp::room`] says.
    pub fn write(&mut self, bytes: &[u8], now: Duration) {
        self.output.extend(bytes);
        self.watch_closed_window(now);
    }

    /// A window that stays closed is asked about: the segment that opened it may be lost.
    fn watch_closed_window(&mut self, now: Duration) {
        let flight = self.next != self.unacknowledged;
        if self.is_open() && self.window == 0 && !flight && !self.output.is_empty() {
            self.deadline.get_or_insert(now + self.timeout);
        }
    }

    /// The host's side has no more to say.
    pub fn finish(&mut self) {
        self.ending = true;
    }

    /// What the guest sent and nobody took.
    pub fn input(&self) -> (&[u8], &[u8]) {
        self.input.as_slices()
    }

    /// The guest has no more to say than what is in [`Tcp::input`].
    pub fn input_ended(&self) -> bool {
        self.ended
    }

    /// `count` bytes of the input were taken. With `tight`, the window does not grow.
    pub fn consume(&mut self, count: usize, tight: bool) {
        self.input.drain(..count.min(self.input.len()));
        if self.input.is_empty() {
            // A guest that fills what it is given, and a host that takes it: more may be on its way.
            if !tight && count >= self.capacity / 4 {
                self.capacity = (self.capacity * 2).min(LARGEST_WINDOW);
            }
            if self.input.capacity() > FIRST_WINDOW * 2 && tight {
                self.input.shrink_to(FIRST_WINDOW);
            }
        }
        let offered = self.promised.wrapping_sub(self.expected) as usize;
        let could = self.capacity - self.input.len().min(self.capacity);
        // Silly windows are kept back (RFC 9293, 3.8.6.2.2).
        if !self.ended
            && could > offered
            && could - offered >= (self.capacity / 4).min(self.mss.max(1))
        {
            self.owes = true;
        }
    }

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
        let received = self.on_payload(header, payload);
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
        self.output.drain(..bytes);
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

    fn on_payload(&mut self, header: &Header, payload: &[u8]) -> bool {
        let fin = header.flags & flag::FIN != 0;
        if payload.is_empty() && !fin {
            return false;
        }
        self.owes = true;
        if self.ended {
            return false;
        }
        if before(self.expected, header.sequence) {
            // Something is missing before it. It is asked for by the acknowledgement.
            return false;
        }
        let known = self.expected.wrapping_sub(header.sequence) as usize;
        let Some(fresh) = payload.get(known..) else {
            return false;
        };
        let window = self.promised.wrapping_sub(self.expected) as usize;
        let taken = &fresh[..fresh.len().min(window)];
        self.input.extend(taken);
        self.expected = self.expected.wrapping_add(taken.len() as u32);
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

    /// When [`Tcp::on_time`] wants to be called.
    pub fn deadline(&self) -> Option<Duration> {
        self.deadline
    }

    /// The deadline has come. Returns whether the connection died of it.
    pub fn on_time(&mut self, now: Duration) -> bool {
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return false;
        }
        self.deadline = None;
        self.retries += 1;
        let most = if self.is_open() {
            MOST_RETRIES
        } else {
            MOST_GREETINGS
        };
        if self.retries > most {
            self.state = State::Dead;
            return true;
        }
        self.timeout = (self.timeout * 2).min(LONGEST_TIMEOUT);
        self.next = self.unacknowledged;
        self.duplicates = 0;
        self.probing = true;
        false
    }

    /// Whether [`Tcp::emit`] would say something.
    pub fn wants_to_speak(&self) -> bool {
        match self.state {
            State::Held | State::Dead => false,
            State::SynSent | State::SynReceived => self.next == self.unacknowledged,
            State::Open | State::Done => self.owes || self.sendable().is_some(),
        }
    }

    /// The payload that may go now: where it begins in `output`, and how long it is; with an empty one, the FIN may go.
    fn sendable(&self) -> Option<(usize, usize)> {
        if self.fin_done || !self.is_open() {
            return None;
        }
        let flight = self.next.wrapping_sub(self.unacknowledged) as usize;
        let Some(waiting) = self.output.len().checked_sub(flight) else {
            // The FIN is on its way.
            return None;
        };
        if waiting == 0 {
            return self.ending.then_some((flight, 0));
        }
        let room = match self.window.saturating_sub(flight) {
            0 if self.probing && flight == 0 => 1,
            room => room,
        };
        let len = waiting.min(room).min(self.mss);
        // A small piece because the window is small can wait for the window, as long as an acknowledgement is to come
        // (RFC 9293, 3.8.6.2.1).
        let silly = len < self.mss && len < waiting && flight > 0;
        (len > 0 && !silly).then_some((flight, len))
    }

    /// Writes the next segment of a connection that [wants to speak](Tcp::wants_to_speak); `header` has the ports, and
    /// the checksum is the caller's. Call it when the link has room.
    pub fn emit(&mut self, buffer: &mut Vec<u8>, ports: (u16, u16), now: Duration) {
        let mut header = Header {
            source: ports.0,
            destination: ports.1,
            sequence: self.next,
            ..Header::default()
        };
        if matches!(self.state, State::SynSent | State::SynReceived) {
            header.flags = flag::SYN;
            header.mss = Some(self.own_mss);
            if self.scaling {
                header.window_scale = Some(WINDOW_SCALE);
            }
            if self.state == State::SynReceived {
                header.flags |= flag::ACK;
                header.acknowledgement = self.expected;
            }
            header.window = self.offer(0);
            put(buffer, &header);
            self.sent(1, now);
            return;
        }
        header.flags = flag::ACK;
        header.acknowledgement = self.expected;
        header.window = self.offer(if self.scaling { WINDOW_SCALE } else { 0 });
        let Some((start, len)) = self.sendable() else {
            put(buffer, &header);
            return;
        };
        let mut count = len as u32;
        if start + len == self.output.len() {
            if len > 0 {
                header.flags |= flag::PSH;
            }
            if self.ending {
                header.flags |= flag::FIN;
                count += 1;
            }
        }
        put(buffer, &header);
        let (front, back) = self.output.as_slices();
        if let Some(rest) = start.checked_sub(front.len()) {
            buffer.extend_from_slice(&back[rest..rest + len]);
        } else {
            let first = &front[start..(start + len).min(front.len())];
            buffer.extend_from_slice(first);
            buffer.extend_from_slice(&back[..len - first.len()]);
        }
        self.probing = false;
        self.sent(count, now);
    }

    /// The segment that tells the guest that the connection is no more.
    pub fn reset(&mut self, ports: (u16, u16)) -> Header {
        let expected = self.expected;
        self.state = State::Dead;
        Header {
            source: ports.0,
            destination: ports.1,
            sequence: self.next,
            acknowledgement: expected,
            flags: flag::RST | flag::ACK,
            ..Header::default()
        }
    }

    fn sent(&mut self, count: u32, now: Duration) {
        self.next = self.next.wrapping_add(count);
        if before(self.highest, self.next) {
            self.highest = self.next;
        }
        self.deadline.get_or_insert(now + self.timeout);
    }

    /// The window that is told, and promised.
    fn offer(&mut self, scale: u8) -> u16 {
        let free = self.capacity.saturating_sub(self.input.len());
        let promised = self.promised.wrapping_sub(self.expected) as usize;
        let told = (free.max(promised) >> scale).min(usize::from(u16::MAX));
        let edge = self.expected.wrapping_add((told << scale) as u32);
        if before(self.promised, edge) {
            self.promised = edge;
        }
        self.owes = false;
        told as u16
    }
}
