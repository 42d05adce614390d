//! One connection's state and credit. No I/O: the muxer tells it what happened and asks what to say.
//!
//! ```text
//!  guest dials                                     host dials
//!      │ REQUEST                                       │
//!      ▼                                               ▼
//!  ┌────────┐ we owe RESPONSE              ┌─────────┐ we owe REQUEST
//!  │  Open  │◀─────────────────────────────│ Dialled │────────▶ RST: refused, gone
//!  └───┬────┘           RESPONSE           └─────────┘
//!      │
//!      │   two directions, each closed once and for good:
//!      │
//!      │     guest ──▶ host   SHUTDOWN(SEND) from the guest: half-close the host's socket once all is written
//!      │                      host reads no more: SHUTDOWN(RCV) to the guest, drop what still comes
//!      │     host ──▶ guest   end of file from the host: SHUTDOWN(SEND) to the guest
//!      │                      SHUTDOWN(RCV) from the guest: stop reading the host's socket
//!      │
//!      │ both closed: if by the host, SHUTDOWN(both), and the guest answers RST
//!      │              if by the guest, SHUTDOWN(both) from it, and we answer RST
//!      ▼
//!   ┌──────┐  RST from the guest, or ours queued: the guest has forgotten the connection.
//!   │ Gone │  Bytes that we still hold are written to the host, then its socket is closed.
//!   └──────┘
//! ```
//!
//! Credit towards the guest is `buf_alloc - (sent - fwd_cnt)` of the *guest's* last header. Towards us the guest must
//! not have more than our `buf_alloc` bytes under way. We tell it about freed room when a quarter of it is news, which
//! is early enough that a guest never waits for room that is there, and late enough not to answer each packet.

use super::packet::{
    HOST_CID, Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RCV, SHUTDOWN_SEND, TYPE_STREAM,
};

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The host asked; the guest has not answered.
    Dialled,
    /// Both agreed.
    Open,
    /// The guest has forgotten it, or will as soon as it reads our RST.
    Gone,
}

/// Something that a sane guest never does. It costs the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation;

/// One connection, seen from the host.
#[derive(Debug)]
pub struct Connection {
    /// Port on the host.
    pub host_port: u32,
    /// Port in the guest.
    pub guest_port: u32,
    guest_cid: u64,
    phase: Phase,

    /// Bytes that came from the guest.
    received: u32,
    /// Of those, bytes that have left us: our `fwd_cnt`.
    forwarded: u32,
    /// `forwarded` as the guest knows it.
    announced: u32,
    buf_alloc: u32,

    /// Bytes that went to the guest.
    sent: u32,
    guest_buf_alloc: u32,
    guest_fwd_cnt: u32,

    guest_sends: bool,
    guest_receives: bool,
    host_sends: bool,
    host_receives: bool,
    /// Shutdown flags that the guest knows of.
    told: u32,

    owes_request: bool,
    owes_response: bool,
    owes_credit: bool,
    /// A credit request is wanted (`Some(false)`) or has been sent (`Some(true)`) since credit last ran out.
    credit_asked: Option<bool>,
}

impl Connection {
    fn new(
        guest_cid: u64,
        host_port: u32,
        guest_port: u32,
        buf_alloc: u32,
        phase: Phase,
    ) -> Connection {
        Connection {
            host_port,
            guest_port,
            guest_cid,
            phase,
            received: 0,
            forwarded: 0,
            announced: 0,
            buf_alloc,
            sent: 0,
            guest_buf_alloc: 0,
            guest_fwd_cnt: 0,
            guest_sends: true,
            guest_receives: true,
            host_sends: true,
            host_receives: true,
            told: 0,
            owes_request: phase == Phase::Dialled,
            owes_response: phase == Phase::Open,
            owes_credit: false,
            credit_asked: None,
        }
    }

    /// The host dials; the next thing to say is REQUEST.
    pub fn dialled_by_host(
        guest_cid: u64,
        host_port: u32,
        guest_port: u32,
        buf_alloc: u32,
    ) -> Connection {
        Connection::new(guest_cid, host_port, guest_port, buf_alloc, Phase::Dialled)
    }

    /// The guest dialled with this REQUEST and is accepted; the next thing to say is RESPONSE.
    pub fn dialled_by_guest(request: &Header, buf_alloc: u32) -> Connection {
        let mut connection = Connection::new(
            request.src_cid,
            request.dst_port,
            request.src_port,
            buf_alloc,
            Phase::Open,
        );
        connection.on_credit(request);
        connection
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    // ---- what came from the guest ----

    /// Every packet of the connection carries the guest's side of the credit.
    pub fn on_credit(&mut self, header: &Header) {
        self.guest_buf_alloc = header.buf_alloc;
        self.guest_fwd_cnt = header.fwd_cnt;
        if self.guest_credit() > 0 {
            self.credit_asked = None;
        }
    }

    /// The guest accepts.
    pub fn on_response(&mut self) -> Result<(), Violation> {
        match self.phase {
            // Accepting before being asked is as wrong as accepting twice.
            Phase::Dialled if !self.owes_request => {
                self.phase = Phase::Open;
                Ok(())
            }
            _ => Err(Violation),
        }
    }

    /// Data came. Whether the host still wants it is [`Connection::host_receives`]'s business.
    pub fn on_data(&mut self, len: u32) -> Result<(), Violation> {
        let held = self.received.wrapping_sub(self.forwarded);
        if self.phase != Phase::Open
            || !self.guest_sends
            || len > self.buf_alloc - held.min(self.buf_alloc)
        {
            return Err(Violation);
        }
        self.received = self.received.wrapping_add(len);
        Ok(())
    }

    /// The guest half-closed, or closed.
    pub fn on_shutdown(&mut self, flags: u32) -> Result<(), Violation> {
        if self.phase != Phase::Open {
            return Err(Violation);
        }
        self.guest_sends &= flags & SHUTDOWN_SEND == 0;
        self.guest_receives &= flags & SHUTDOWN_RCV == 0;
        Ok(())
    }

    /// The guest wants to know its credit.
    pub fn on_credit_request(&mut self) {
        self.owes_credit = true;
    }

    /// The guest forgot the connection, or has to.
    pub fn on_gone(&mut self) {
        self.phase = Phase::Gone;
        self.guest_sends = false;
        self.guest_receives = false;
    }

    // ---- what happened on the host ----

    /// Bytes from the guest reached the host, or were dropped because the host reads no more.
    pub fn on_forwarded(&mut self, len: u32) {
        self.forwarded = self.forwarded.wrapping_add(len);
        if self.forwarded.wrapping_sub(self.announced) >= self.buf_alloc / 4 {
            self.owes_credit = true;
        }
    }

    /// The host will send no more, and all that it sent is with the guest.
    pub fn on_host_eof(&mut self) {
        self.host_sends = false;
    }

    /// The host will read no more.
    pub fn on_host_deaf(&mut self) {
        self.host_receives = false;
    }

    /// Bytes went to the guest; asks for credit when that was the last.
    pub fn on_sent(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
        if self.guest_credit() == 0 && self.credit_asked.is_none() {
            self.credit_asked = Some(false);
        }
    }

    // ---- what follows ----

    /// Bytes that the guest has room for.
    pub fn guest_credit(&self) -> u32 {
        let under_way = self.sent.wrapping_sub(self.guest_fwd_cnt);
        self.guest_buf_alloc.saturating_sub(under_way)
    }

    /// Whether bytes from the host should go to the guest, credit or not.
    pub fn wants_host_data(&self) -> bool {
        self.phase == Phase::Open && self.guest_receives && self.host_sends && !self.owes_response
    }

    /// Whether the guest may still send.
    pub fn guest_sends(&self) -> bool {
        self.guest_sends
    }

    /// Whether the guest still receives.
    pub fn guest_receives(&self) -> bool {
        self.guest_receives
    }

    /// Whether the host still reads.
    pub fn host_receives(&self) -> bool {
        self.host_receives
    }

    /// Shutdown flags that the guest has to be told of.
    fn untold(&self) -> u32 {
        let mut flags = 0;
        if !self.host_sends {
            flags |= SHUTDOWN_SEND;
        }
        if !self.host_receives && self.guest_sends {
            flags |= SHUTDOWN_RCV;
        }
        // Nothing can come or go any more: say so, that the guest answers with RST.
        let to_guest_closed = !self.host_sends || !self.guest_receives;
        let to_host_closed = !self.host_receives || !self.guest_sends;
        if to_guest_closed && to_host_closed {
            flags = SHUTDOWN_BOTH;
        }
        if flags & !self.told == 0 { 0 } else { flags }
    }

    /// The packet without data that is due next. Credit updates that a data packet would carry as well come last.
    pub fn due(&self) -> Option<(Op, u32)> {
        match self.phase {
            Phase::Gone => None,
            Phase::Dialled => self.owes_request.then_some((Op::Request, 0)),
            Phase::Open if self.owes_response => Some((Op::Response, 0)),
            Phase::Open => match self.untold() {
                0 if self.owes_credit => Some((Op::CreditUpdate, 0)),
                0 if self.credit_asked == Some(false) => Some((Op::CreditRequest, 0)),
                0 => None,
                flags => Some((Op::Shutdown, flags)),
            },
        }
    }

    /// Makes a header that is about to be given to the guest, and takes note of what the guest learns by it.
    pub fn header(&mut self, op: Op, flags: u32, len: u32) -> Header {
        match op {
            Op::Request => self.owes_request = false,
            Op::Response => self.owes_response = false,
            Op::Shutdown => self.told |= flags,
            Op::CreditRequest => self.credit_asked = Some(true),
            Op::Reset | Op::Rw | Op::CreditUpdate => {}
        }
        self.owes_credit = false;
        self.announced = self.forwarded;
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: self.host_port,
            dst_port: self.guest_port,
            len,
            kind: TYPE_STREAM,
            op: op as u16,
            flags,
            buf_alloc: self.buf_alloc,
            fwd_cnt: self.forwarded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open(buf_alloc: u32, guest_buf_alloc: u32) -> Connection {
        let request = Header {
            src_cid: 3,
            dst_cid: HOST_CID,
            src_port: 1000,
            dst_port: 5,
            buf_alloc: guest_buf_alloc,
            ..Header::default()
        };
        let mut connection = Connection::dialled_by_guest(&request, buf_alloc);
        assert_eq!(connection.due(), Some((Op::Response, 0)));
        connection.header(Op::Response, 0, 0);
        connection
    }

    #[test]
    fn credit_towards_the_guest_survives_the_wrap() {
        let mut connection = open(1024, 1000);
        connection.sent = u32::MAX - 10;
        connection.guest_fwd_cnt = u32::MAX - 10;
        connection.on_sent(600);
        assert_eq!(connection.guest_credit(), 400);
        connection.on_sent(400);
        assert_eq!(connection.guest_credit(), 0);
        assert_eq!(connection.due(), Some((Op::CreditRequest, 0)));
        connection.header(Op::CreditRequest, 0, 0);
        assert_eq!(connection.due(), None, "asked once, not again and again");
        let fwd_cnt = (u32::MAX - 10).wrapping_add(1000);
        connection.on_credit(&Header {
            buf_alloc: 1000,
            fwd_cnt,
            ..Header::default()
        });
        assert_eq!(connection.guest_credit(), 1000);
    }

    #[test]
    fn a_liar_about_credit_gets_none() {
        let mut connection = open(1024, 1000);
        connection.on_credit(&Header {
            buf_alloc: 10,
            fwd_cnt: 1 << 31,
            ..Header::default()
        });
        assert_eq!(connection.guest_credit(), 0);
    }

    #[test]
    fn more_than_the_buffer_is_a_violation() {
        let mut connection = open(1024, 1000);
        connection.on_data(1000).unwrap();
        assert_eq!(connection.on_data(25), Err(Violation));
        connection.on_forwarded(1);
        connection.on_data(25).unwrap();
    }

    #[test]
    fn the_host_closing_in_two_steps_is_told_in_two_steps() {
        let mut connection = open(1024, 1000);
        connection.on_host_eof();
        assert_eq!(connection.due(), Some((Op::Shutdown, SHUTDOWN_SEND)));
        connection.header(Op::Shutdown, SHUTDOWN_SEND, 0);
        assert_eq!(connection.due(), None);
        connection.on_host_deaf();
        assert_eq!(connection.due(), Some((Op::Shutdown, SHUTDOWN_BOTH)));
    }

    #[test]
    fn half_closes_that_meet_end_the_connection() {
        let mut connection = open(1024, 1000);
        connection.on_shutdown(SHUTDOWN_SEND).unwrap();
        assert_eq!(connection.due(), None);
        assert!(connection.wants_host_data());
        connection.on_host_eof();
        assert_eq!(connection.due(), Some((Op::Shutdown, SHUTDOWN_BOTH)));
    }

    #[test]
    fn an_answer_that_nobody_asked_for() {
        let mut connection = Connection::dialled_by_host(3, 1 << 30, 5, 1024);
        assert_eq!(connection.on_response(), Err(Violation));
        connection.header(Op::Request, 0, 0);
        assert_eq!(connection.on_response(), Ok(()));
        assert_eq!(connection.on_response(), Err(Violation));
    }

    proptest! {
        /// A sender that waits for credit as the specification says is never stuck once all that it sent was
        /// forwarded: that is the stall that others have.
        #[test]
        fn no_stall(buf_alloc in 4u32..5000, sizes in prop::collection::vec((1u32..3000, 1u32..3000), 1..200)) {
            let mut connection = open(buf_alloc, 0);
            let (mut tx, mut known, mut held) = (0u32, 0u32, 0u32);
            for (send, take) in sizes {
                let len = send.min(buf_alloc - (tx - known));
                connection.on_data(len).unwrap();
                tx += len;
                held += len;
                let take = take.min(held);
                held -= take;
                connection.on_forwarded(take);
                if let Some((op, flags)) = connection.due() {
                    known = connection.header(op, flags, 0).fwd_cnt;
                }
                if held == 0 {
                    prop_assert!(buf_alloc - (tx - known) > 0);
                }
            }
        }
    }
}
