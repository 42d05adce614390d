//! The host's side of UDP flows: one connected socket each, so that the kernel lets in answers from there only, and says when
//! nobody listens. Questions to resolvers are such flows, too, each from a port that nobody can guess.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netstack::{FlowId, Stack, Unreachable};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType};

use crate::deadlines::{self, Deadlines};
use crate::descriptors::Share;
use crate::poll::{Poll, Token};
use crate::streams::socket;

/// The largest datagram.
pub const LARGEST: usize = 65536;

/// Datagrams of one flow before others have their turn.
const TURN: usize = 32;

/// A question that was asked.
#[derive(Debug)]
struct Question {
    payload: Vec<u8>,
    /// Who is to be asked next.
    rest: VecDeque<SocketAddr>,
    /// When it is too late for an answer.
    end: Duration,
    _share: Share,
}

/// All flows.
#[derive(Debug, Default)]
pub struct Datagrams {
    /// A question's has its share there.
    sockets: HashMap<FlowId, (OwnedFd, Option<Share>)>,
    questions: HashMap<FlowId, Question>,
    /// When to lose patience with which resolver.
    impatience: Deadlines,
}

impl Datagrams {
    /// Whether a flow has its socket.
    pub fn is_open(&self, flow: FlowId) -> bool {
        self.sockets.contains_key(&flow)
    }

    /// Sends a datagram of a flow; the first needs a descriptor.
    pub fn send(
        &mut self,
        poll: &Poll,
        stack: &mut Stack,
        flow: FlowId,
        to: SocketAddr,
        payload: &[u8],
        share: Option<Share>,
    ) {
        let opened = match (self.is_open(flow), share) {
            (true, _) => Ok(()),
            (false, None) => Err(Errno::MFILE.into()),
            (false, share) => self.open(poll, flow, to, share),
        };
        if opened.and_then(|()| self.pass(flow, payload)).is_err() {
            stack.flow_failed(flow, Unreachable::Port);
        }
    }

    fn open(
        &mut self,
        poll: &Poll,
        flow: FlowId,
        to: SocketAddr,
        share: Option<Share>,
    ) -> io::Result<()> {
        let fd = socket(to, SocketType::DGRAM)?;
        rustix::net::connect(&fd, &to)?;
        poll.watch_input(fd.as_fd(), Token::Datagrams(flow))?;
        self.sockets.insert(flow, (fd, share));
        Ok(())
    }

    fn pass(&self, flow: FlowId, payload: &[u8]) -> io::Result<()> {
        let Some((fd, _)) = self.sockets.get(&flow) else {
            return Ok(());
        };
        match rustix::net::send(fd, payload, SendFlags::NOSIGNAL) {
            // A full buffer loses datagrams, as everywhere.
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Asks the first of `resolvers`, and in time the others; at `end` an answer is too late.
    pub fn ask(
        &mut self,
        (poll, stack): (&Poll, &mut Stack),
        flow: FlowId,
        resolvers: &[SocketAddr],
        payload: Vec<u8>,
        (now, end): (Duration, Duration),
        share: Share,
    ) {
        let question = Question {
            payload,
            rest: resolvers.iter().copied().collect(),
            end,
            _share: share,
        };
        self.questions.insert(flow, question);
        self.ask_next(poll, stack, flow, now);
    }

    fn ask_next(&mut self, poll: &Poll, stack: &mut Stack, flow: FlowId, now: Duration) {
        if let Some((fd, _)) = self.sockets.remove(&flow) {
            poll.forget(fd.as_fd());
        }
        while let Some(question) = self.questions.get_mut(&flow) {
            let left = question.rest.len();
            let Some(to) = question.rest.pop_front() else {
                break;
            };
            let until = now + deadlines::patience(now, question.end, left);
            let payload = std::mem::take(&mut question.payload);
            let opened = self.open(poll, flow, to, None);
            let sent = opened.and_then(|()| self.pass(flow, &payload));
            if let Some(question) = self.questions.get_mut(&flow) {
                question.payload = payload;
            }
            if sent.is_ok() {
                self.impatience.set(flow, until);
                return;
            }
            self.sockets.remove(&flow);
        }
        stack.flow_failed(flow, Unreachable::Port);
    }

    /// Something came in.
    pub fn on_ready(
        &mut self,
        poll: &Poll,
        stack: &mut Stack,
        flow: FlowId,
        buffer: &mut [u8],
        now: Duration,
    ) {
        for _ in 0..TURN {
            let Some((fd, _)) = self.sockets.get(&flow) else {
                return;
            };
            match rustix::net::recv(fd, &mut *buffer, RecvFlags::empty()) {
                Ok((count, _)) => stack.udp_answer(flow, &buffer[..count], now),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // Nobody listens there, or there is no way.
                Err(_) if self.questions.contains_key(&flow) => {
                    return self.ask_next(poll, stack, flow, now);
                }
                Err(_) => return stack.flow_failed(flow, Unreachable::Port),
            }
        }
    }

    /// When [`Datagrams::on_time`] wants to be called.
    pub fn deadline(&self) -> Option<Duration> {
        self.impatience.next()
    }

    /// Asks others where nobody has answered.
    pub fn on_time(&mut self, poll: &Poll, stack: &mut Stack, now: Duration) {
        while let Some(flow) = self.impatience.due(now) {
            self.ask_next(poll, stack, flow, now);
        }
    }

    /// The flow is over.
    pub fn forget(&mut self, flow: FlowId) {
        self.sockets.remove(&flow);
        self.questions.remove(&flow);
        self.impatience.forget(flow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deadlines::WHOLE;
    use crate::descriptors::{Account, Descriptors};
    use std::net::UdpSocket;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Somebody who hears, and says nothing.
    fn silent() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        (socket, address)
    }

    fn hears(socket: &UdpSocket) -> bool {
        socket.recv(&mut [0; 8]).is_ok()
    }

    fn stack() -> Stack {
        Stack::new(netstack::Config {
            gateway: [10, 0, 0, 1].into(),
            prefix: 24,
            mac: netstack::Mac([2; 6]),
            mtu: 1500,
            internal: false,
            ipv6: None,
            allow: Vec::new(),
            seed: [0; 16],
        })
    }

    #[test]
    fn the_next_resolver_is_asked_soon_and_the_last_one_is_given_time() {
        let (poll, mut stack) = (Poll::new().unwrap(), stack());
        let (descriptors, guest) = (Descriptors::new(), Account::default());
        let mut datagrams = Datagrams::default();
        let (first, first_at) = silent();
        let (second, second_at) = silent();
        let mut ask = |datagrams: &mut Datagrams, flow: u64, resolvers: &[SocketAddr], now| {
            let share = descriptors.share(&guest, 0).unwrap();
            let on = (&poll, &mut stack);
            datagrams.ask(
                on,
                FlowId(flow),
                resolvers,
                b"?".to_vec(),
                (now, now + WHOLE),
                share,
            );
        };
        // One that has nobody else to ask is due long after one that comes later.
        ask(&mut datagrams, 1, &[first_at], seconds(0));
        assert_eq!(datagrams.deadline(), Some(WHOLE));
        ask(&mut datagrams, 2, &[first_at, second_at], seconds(1));
        assert!(hears(&first) && hears(&first) && !hears(&second));
        assert_eq!(datagrams.deadline(), Some(seconds(3)));
        datagrams.on_time(&poll, &mut stack, seconds(3));
        assert!(!hears(&first) && hears(&second));
        assert_eq!(datagrams.deadline(), Some(WHOLE));
        datagrams.forget(FlowId(1));
        assert_eq!(datagrams.deadline(), Some(seconds(1) + WHOLE));
        datagrams.on_time(&poll, &mut stack, seconds(1) + WHOLE);
        assert_eq!(datagrams.deadline(), None);
    }

    /// Where nobody listens, the system says so, and the next one has its full time.
    #[test]
    fn who_is_not_there_costs_no_time() {
        let (poll, mut stack) = (Poll::new().unwrap(), stack());
        let (descriptors, guest) = (Descriptors::new(), Account::default());
        let mut datagrams = Datagrams::default();
        let closed = silent().1;
        let (second, second_at) = silent();
        let flow = FlowId(1);
        let resolvers = [closed, second_at, closed];
        let share = descriptors.share(&guest, 0).unwrap();
        let on = (&poll, &mut stack);
        datagrams.ask(
            on,
            flow,
            &resolvers,
            b"?".to_vec(),
            (seconds(0), WHOLE),
            share,
        );
        let mut buffer = [0; 8];
        // The error comes by the kernel's loopback, at once; that we look late is our own doing.
        let late = Duration::from_millis(1900);
        while !hears(&second) {
            datagrams.on_ready(&poll, &mut stack, flow, &mut buffer, late);
        }
        assert_eq!(datagrams.deadline(), Some(late + seconds(2)));
    }
}
