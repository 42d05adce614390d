//! One end of a TCP connection with a guest (RFC 9293), as a state machine without I/O.
//!
//! ```text
//!   the guest dials:   Held ──host connected──► SynReceived ──ACK──► Open ──both FINs──► Done
//!   the host dials:    SynSent ──────SYN ACK───────────────────────► Open
//!   any of them:       ──RST, or too many losses──► Dead
//! ```
//!
//! The link is a unix socket, so segments are not reordered on their way here and seldom lost on their way there (a guest without
//! buffers drops); what a guest does to them on its own way is another matter. So there is no congestion window: what holds us back is the
//! guest's window and the link's own back-pressure ([`Tcp::emit`] is called when the link has room). Segments out of order are kept within the
//! window that was promised, and the guest is told which (RFC 2018). Losses are found by what the guest says of the same kind, by three
//! duplicate acknowledgements, or by the retransmission timer, and answered by going back to the first byte that is not acknowledged
//! and sending what the guest does not have.
//!
//! The two halves end apart from each other: a FIN of one side leaves the other side's way open for as long as it likes.

mod ranges;
mod receive;
mod ring;
mod segment;

use std::time::Duration;

use ranges::Ranges;
use ring::Ring;
pub use segment::{Blocks, HEADER_LEN, Header, MOST_BLOCKS, flag, parse, put};

/// Bytes that a connection's first window has.
const FIRST_WINDOW: usize = 64 << 10;

/// The same where there are many connections already: so many may have so much waiting each way, whatever others have.
const SMALL_WINDOW: usize = 8 << 10;

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

/// The first one while the guest says what it has: what was sent again may be lost again, and no more than that is sent for it.
const RECOVERY_TIMEOUT: Duration = Duration::from_millis(30);

/// The longest one.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an acknowledgement may wait for data that takes it along, or for a second segment (RFC 9293, 3.8.6.3, allows 500 ms):
/// as long as a program of the host's takes to answer, and too short to be felt by a guest that waits for it (Nagle).
const ACKNOWLEDGEMENT_DELAY: Duration = Duration::from_millis(2);

/// Retransmissions in a row after which the peer is taken for dead: 15 minutes, as Linux has them (`tcp_retries2`). A guest that was paused
/// for less has its connections still.
const MOST_RETRIES: u32 = 21;

/// The same for a SYN: more than the three minutes that it has to be (RFC 9293, 3.8.3, MUST-23).
const MOST_GREETINGS: u32 = 9;

/// The same where there is another address that the guest may answer at: 19 s.
const MOST_GREETINGS_OF_TWO: u32 = 5;

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

/// What [`Tcp::emit`] says beside the header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Where its payload begins in the output.
    start: usize,
    /// Bytes of its payload.
    len: usize,
    /// What it takes of the sequence numbers.
    count: u32,
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
    output: Ring,
    /// Nothing more comes to `output`.
    ending: bool,
    /// Our FIN was acknowledged.
    fin_done: bool,
    duplicates: u32,
    /// What the guest has beyond `unacknowledged`.
    theirs: Ranges,
    /// We went back, and what was the highest then: until that is acknowledged, duplicates say nothing new.
    recovering: Option<u32>,
    /// The time-out of that has passed once.
    impatient: bool,
    /// When to send again, or to probe a closed window.
    deadline: Option<Duration>,
    timeout: Duration,
    retries: u32,
    /// Send one byte into a closed window.
    probing: bool,

    /// The next byte that we expect.
    expected: u32,
    /// Bytes that came in order and are not taken yet.
    input: Ring,
    /// What came before its turn: it lies in `input` already, behind gaps.
    ahead: Ranges,
    /// Where the last of that began.
    recent: u32,
    /// The number of the guest's FIN, when that has come.
    fin: Option<u32>,
    /// What `input` may hold.
    capacity: usize,
    /// The right edge that was promised: it never moves back.
    promised: u32,
    /// Whether the guest scales windows; then we do, too.
    scaling: bool,
    /// Whether the guest says and wants to hear what came before its turn.
    selective: bool,
    /// The guest's FIN has come, and all before it.
    ended: bool,
    /// An acknowledgement is due.
    owes: bool,
    /// Bytes that came and were not acknowledged.
    pending: usize,
    /// The largest payload of a segment that came.
    largest: usize,
    /// When they have to be acknowledged.
    delayed: Option<Duration>,
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
            output: Ring::default(),
            ending: false,
            fin_done: false,
            duplicates: 0,
            theirs: Ranges::default(),
            recovering: None,
            impatient: false,
            deadline: None,
            timeout: FIRST_TIMEOUT,
            retries: 0,
            probing: false,
            expected: 0,
            input: Ring::default(),
            ahead: Ranges::default(),
            recent: 0,
            fin: None,
            capacity: FIRST_WINDOW,
            promised: 0,
            scaling: true,
            selective: true,
            ended: false,
            owes: false,
            pending: 0,
            largest: 0,
            delayed: None,
            heard: now,
        }
    }

    /// Takes in what a SYN says.
    fn meet(&mut self, syn: &Header) {
        let theirs = syn.mss.map_or(DEFAULT_MSS, usize::from);
        self.mss = theirs.max(LEAST_MSS).min(usize::from(self.own_mss));
        self.scaling = syn.window_scale.is_some();
        self.selective = syn.selective;
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

    /// It has not been answered for so long that another address should be tried.
    pub fn is_ignored(&self) -> bool {
        self.state == State::SynSent && self.retries > MOST_GREETINGS_OF_TWO
    }

    /// One of both halves has ended.
    pub fn is_half_closed(&self) -> bool {
        self.ended || self.fin_done
    }

    /// When the guest last said anything.
    pub fn heard(&self) -> Duration {
        self.heard
    }

    /// Bytes of memory that are taken, or promised to the guest.
    pub fn held_bytes(&self) -> usize {
        self.capacity.max(self.input.allocated()) + self.output.allocated()
    }

    /// Nothing was said for a while: gives memory back, and tells a guest that had a large window that it is a small one now.
    pub fn rest(&mut self) {
        self.input.release();
        self.output.release();
        let first = self.expected.wrapping_add(FIRST_WINDOW as u32);
        let idle = !self.ended && self.input.is_empty() && self.ahead.is_empty();
        if self.is_open() && idle && before(first, self.promised) {
            self.capacity = FIRST_WINDOW;
            self.promised = first;
            self.owes = true;
        }
    }

    /// One of many: its windows stay small. Call it before the first segment.
    pub fn keep_small(&mut self) {
        self.capacity = SMALL_WINDOW;
    }

    /// Bytes that [`Tcp::write`] takes now. With `tight`, only as many as keep the connection going.
    pub fn room(&self, tight: bool) -> usize {
        if self.ending || !matches!(self.state, State::Open) {
            return 0;
        }
        let most = if tight { SMALL_WINDOW } else { LARGEST_WINDOW };
        most.saturating_sub(self.output.len())
    }

    /// Places for bytes for the guest, in two pieces: `most` at most, of which [`Tcp::room`] has some.
    pub fn space(&mut self, most: usize) -> (&mut [u8], &mut [u8]) {
        self.output.space(most)
    }

    /// So many bytes stand in the [space](Tcp::space).
    pub fn filled(&mut self, count: usize, now: Duration) {
        self.output.fill(count);
        self.watch_closed_window(now);
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
        self.input.slices()
    }

    /// The guest has no more to say than what is in [`Tcp::input`].
    pub fn input_ended(&self) -> bool {
        self.ended
    }

    /// `count` bytes of the input were taken. With `tight`, the window does not grow.
    pub fn consume(&mut self, count: usize, tight: bool) {
        self.input.drop_front(count);
        if self.input.is_empty() {
            // A guest that fills what it is given, and a host that takes it: more may be on its way.
            if !tight && count >= self.capacity / 4 {
                self.capacity = (self.capacity * 2).min(LARGEST_WINDOW);
            }
            if tight {
                self.input.release();
            }
        }
        let offered = self.promised.wrapping_sub(self.expected) as usize;
        let could = self.capacity - self.input.len().min(self.capacity);
        // Silly windows are kept back (RFC 9293, 3.8.6.2.2), and large ones for two segments: the guest works for each
        // acknowledgement.
        let worth = (self.capacity / 4).min(2 * self.largest.max(LEAST_MSS));
        if !self.ended && could > offered && could - offered >= worth {
            self.owes = true;
        }
    }

    /// When [`Tcp::on_time`] wants to be called.
    pub fn deadline(&self) -> Option<Duration> {
        [self.deadline, self.delayed].into_iter().flatten().min()
    }

    /// The deadline has come. Returns whether the connection died of it.
    pub fn on_time(&mut self, now: Duration) -> bool {
        if self.delayed.is_some_and(|delayed| delayed <= now) {
            self.delayed = None;
            self.owes = true;
        }
        if self.deadline.is_none_or(|deadline| now < deadline) {
            return false;
        }
        self.deadline = None;
        if self.awaits_little() {
            self.impatient = true;
            self.next = self.unacknowledged;
            return false;
        }
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
        // What the guest said that it has, it may have thrown away since (RFC 2018, 8).
        self.theirs.clear();
        self.recovering = None;
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
        // Up to what the guest has already.
        let hole = match self.theirs.next_after(self.next) {
            Some(begin) => begin.wrapping_sub(self.next) as usize,
            None => usize::MAX,
        };
        let waiting = waiting.min(hole);
        let len = waiting.min(room).min(self.mss);
        // A small piece because the window is small can wait for the window, as long as an acknowledgement is to come
        // (RFC 9293, 3.8.6.2.1).
        let silly = len < self.mss && len < waiting && flight > 0;
        (len > 0 && !silly).then_some((flight, len))
    }

    /// Writes the header of the next segment of a connection that [wants to speak](Tcp::wants_to_speak); its payload is in
    /// [`Tcp::payload`]. `ports` are those of the header; the checksum is the caller's. Call it when the link has room; once the segment is
    /// on its way, call [`Tcp::sent`].
    pub fn emit(&mut self, buffer: &mut Vec<u8>, ports: (u16, u16)) -> Segment {
        let mut header = Header {
            source: ports.0,
            destination: ports.1,
            sequence: self.next,
            ..Header::default()
        };
        let mut segment = Segment::default();
        if matches!(self.state, State::SynSent | State::SynReceived) {
            header.flags = flag::SYN;
            header.mss = Some(self.own_mss);
            header.selective = self.selective;
            if self.scaling {
                header.window_scale = Some(WINDOW_SCALE);
            }
            if self.state == State::SynReceived {
                header.flags |= flag::ACK;
                header.acknowledgement = self.expected;
            }
            header.window = self.offer(0);
            segment.count = 1;
            put(buffer, &header);
            return segment;
        }
        header.flags = flag::ACK;
        header.acknowledgement = self.expected;
        header.window = self.offer(if self.scaling { WINDOW_SCALE } else { 0 });
        if self.owes && self.selective && !self.ahead.is_empty() {
            // By itself: beside a full payload there is no room for it.
            header.blocks = self.blocks();
        } else if let Some((start, len)) = self.sendable() {
            (segment.start, segment.len) = (start, len);
            segment.count = len as u32;
            if start + len == self.output.len() {
                if len > 0 {
                    header.flags |= flag::PSH;
                }
                if self.ending {
                    header.flags |= flag::FIN;
                    segment.count += 1;
                }
            }
        }
        put(buffer, &header);
        segment
    }

    /// What a segment carries, in two pieces.
    pub fn payload(&self, segment: Segment) -> (&[u8], &[u8]) {
        self.output.range(segment.start, segment.len)
    }

    /// A segment that was [emitted](Tcp::emit) is on its way. (One that is not is emitted again: an acknowledgement stays due.)
    pub fn sent(&mut self, segment: Segment, now: Duration) {
        self.owes = false;
        self.pending = 0;
        self.delayed = None;
        if segment.count == 0 {
            return;
        }
        if self.is_open() {
            self.probing = false;
        }
        self.next = self.next.wrapping_add(segment.count);
        if before(self.highest, self.next) {
            self.highest = self.next;
        }
        self.skip();
        let wait = self.wait();
        self.deadline.get_or_insert(now + wait);
    }

    /// What is missing are holes in what the guest has, which were sent again.
    fn awaits_little(&self) -> bool {
        self.recovering.is_some() && !self.theirs.is_empty() && !self.impatient
    }

    /// How long an acknowledgement may take.
    fn wait(&self) -> Duration {
        match self.awaits_little() {
            true => RECOVERY_TIMEOUT,
            false => self.timeout,
        }
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

    /// The window that is told, and promised.
    fn offer(&mut self, scale: u8) -> u16 {
        let free = self.capacity.saturating_sub(self.input.len());
        let promised = self.promised.wrapping_sub(self.expected) as usize;
        let told = (free.max(promised) >> scale).min(usize::from(u16::MAX));
        let edge = self.expected.wrapping_add((told << scale) as u32);
        if before(self.promised, edge) {
            self.promised = edge;
        }
        told as u16
    }
}

#[cfg(test)]
mod tests;
