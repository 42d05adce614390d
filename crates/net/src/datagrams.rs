//! The host's side of UDP flows: one connected socket each, so that the kernel lets in answers from there only, and says when
//! nobody listens. Questions to resolvers are such flows, too, each from a port that nobody can guess.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netstack::{FlowId, Stack, Unreachable};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType};

use crate::poll::{Poll, Token};
use crate::streams::socket;

/// The largest datagram.
pub const LARGEST: usize = 65536;

/// Datagrams of one flow before others have their turn.
const TURN: usize = 32;

/// How long a resolver may take before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// A question that was asked.
#[derive(Debug)]
struct Question {
    payload: Vec<u8>,
    /// Who is to be asked next.
    rest: VecDeque<SocketAddr>,
}

/// All flows.
#[derive(Debug, Default)]
pub struct Datagrams {
    sockets: HashMap<FlowId, OwnedFd>,
    questions: HashMap<FlowId, Question>,
    /// When to lose patience with which; in order.
    impatience: VecDeque<(Duration, FlowId)>,
}

impl Datagrams {
    /// Sends a datagram of a flow.
    pub fn send(
        &mut self,
        poll: &Poll,
        stack: &mut Stack,
        flow: FlowId,
        to: SocketAddr,
        payload: &[u8],
    ) {
        if self.try_send(poll, flow, to, payload).is_err() {
            stack.flow_failed(flow, Unreachable::Port);
        }
    }

    fn try_send(
        &mut self,
        poll: &Poll,
        flow: FlowId,
        to: SocketAddr,
        payload: &[u8],
    ) -> io::Result<()> {
        let fd = match self.sockets.entry(flow) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => {
                let fd = socket(to, SocketType::DGRAM)?;
                rustix::net::connect(&fd, &to)?;
                poll.watch_input(fd.as_fd(), Token::Datagrams(flow))?;
                place.insert(fd)
            }
        };
        match rustix::net::send(&*fd, payload, SendFlags::NOSIGNAL) {
            // A full buffer loses datagrams, as everywhere.
            Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Asks the first of `resolvers`, and in time the others.
    pub fn ask(
        &mut self,
        poll: &Poll,
        stack: &mut Stack,
        flow: FlowId,
        resolvers: &[SocketAddr],
        payload: Vec<u8>,
        now: Duration,
    ) {
        let question = Question {
            payload,
            rest: resolvers.iter().copied().collect(),
        };
        self.questions.insert(flow, question);
        self.ask_next(poll, stack, flow, now);
    }

    fn ask_next(&mut self, poll: &Poll, stack: &mut Stack, flow: FlowId, now: Duration) {
        if let Some(fd) = self.sockets.remove(&flow) {
            poll.forget(fd.as_fd());
        }
        while let Some(question) = self.questions.get_mut(&flow) {
            let Some(to) = question.rest.pop_front() else {
                break;
            };
            let payload = std::mem::take(&mut question.payload);
            let sent = self.try_send(poll, flow, to, &payload);
            if let Some(question) = self.questions.get_mut(&flow) {
                question.payload = payload;
            }
            if sent.is_ok() {
                self.impatience.push_back((now + PATIENCE, flow));
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
            let Some(fd) = self.sockets.get(&flow) else {
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
        self.impatience.front().map(|(when, _)| *when)
    }

    /// Asks others where nobody has answered.
    pub fn on_time(&mut self, poll: &Poll, stack: &mut Stack, now: Duration) {
        while let Some((_, flow)) = self
            .impatience
            .front()
            .copied()
            .filter(|(when, _)| *when <= now)
        {
            self.impatience.pop_front();
            if self.questions.contains_key(&flow) {
                self.ask_next(poll, stack, flow, now);
            }
        }
    }

    /// The flow is over.
    pub fn forget(&mut self, flow: FlowId) {
        self.sockets.remove(&flow);
        self.questions.remove(&flow);
    }
}
