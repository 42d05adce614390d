//! Questions to resolvers over TCP: a connection each, for those that a guest asks over one. What does not fit into a datagram comes
//! whole this way.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netstack::{FlowId, PortId, Stack};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType};

use crate::poll::{Poll, Token};
use crate::streams::socket;

/// How long a resolver may take before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(3);

/// Bytes of a message's length.
const LEN: usize = 2;

/// A question that was asked.
#[derive(Debug)]
pub struct Query {
    /// Its flow.
    pub flow: FlowId,
    /// Who asks.
    pub port: PortId,
    /// Who is to be asked next.
    rest: VecDeque<SocketAddr>,
    fd: Option<OwnedFd>,
    /// The message with its length, and how much of it was sent.
    message: Vec<u8>,
    sent: usize,
    answer: Vec<u8>,
}

impl Query {
    /// A question for these resolvers.
    pub fn new(flow: FlowId, port: PortId, resolvers: &[SocketAddr], question: &[u8]) -> Query {
        let len = question.len() as u16;
        Query {
            flow,
            port,
            rest: resolvers.iter().copied().collect(),
            fd: None,
            message: [&len.to_be_bytes()[..], question].concat(),
            sent: 0,
            answer: Vec::new(),
        }
    }

    /// The question.
    pub fn question(&self) -> &[u8] {
        &self.message[LEN..]
    }

    /// Connects to the next resolver. False: there is none left.
    fn next(&mut self, poll: &Poll) -> bool {
        (self.sent, self.fd) = (0, None);
        self.answer.clear();
        while let Some(to) = self.rest.pop_front() {
            let dialled = || -> io::Result<OwnedFd> {
                let fd = socket(to, SocketType::STREAM)?;
                match rustix::net::connect(&fd, &to) {
                    Ok(()) | Err(Errno::INPROGRESS) => {}
                    Err(errno) => return Err(errno.into()),
                }
                poll.watch_changes(fd.as_fd(), Token::Queries(self.flow))?;
                Ok(fd)
            };
            if let Ok(fd) = dialled() {
                self.fd = Some(fd);
                return true;
            }
        }
        false
    }

    /// Sends and receives what there is. False: the connection is over.
    fn talk(&mut self, buffer: &mut [u8], mut answered: impl FnMut(&[u8])) -> bool {
        let Some(fd) = &self.fd else {
            return false;
        };
        while self.sent < self.message.len() {
            match rustix::net::send(fd, &self.message[self.sent..], SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => return false,
            }
        }
        loop {
            match rustix::net::recv(fd, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return false,
                Ok((count, _)) => self.answer.extend_from_slice(&buffer[..count]),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return true,
                Err(_) => return false,
            }
            // There should be one; what it is worth is the stack's to say.
            while let Some((head, rest)) = self.answer.split_first_chunk::<LEN>()
                && let Some(answer) = rest.get(..usize::from(u16::from_be_bytes(*head)))
            {
                let len = LEN + answer.len();
                answered(answer);
                self.answer.drain(..len);
            }
        }
    }
}

/// All questions. What comes back from a call is one that nobody takes.
#[derive(Debug, Default)]
pub struct Queries {
    all: HashMap<FlowId, Query>,
    /// When to lose patience with which; in order.
    impatience: VecDeque<(Duration, FlowId)>,
}

impl Queries {
    /// Asks the first resolver, and in time the others.
    pub fn ask(&mut self, poll: &Poll, mut query: Query, now: Duration) -> Option<Query> {
        if !query.next(poll) {
            return Some(query);
        }
        self.impatience.push_back((now + PATIENCE, query.flow));
        self.all.insert(query.flow, query);
        None
    }

    /// Something has changed about a connection.
    pub fn on_ready(
        &mut self,
        poll: &Poll,
        stack: &mut Stack,
        flow: FlowId,
        buffer: &mut [u8],
        now: Duration,
    ) -> Option<Query> {
        let query = self.all.get_mut(&flow)?;
        let mut done = false;
        let alive = query.talk(buffer, |answer| {
            done = true;
            stack.udp_answer(flow, answer, now);
        });
        // After an answer its end is no news; one that was none is out of time soon.
        if alive || done {
            return None;
        }
        let query = self.all.remove(&flow)?;
        self.ask(poll, query, now)
    }

    /// When [`Queries::on_time`] wants to be called.
    pub fn deadline(&self) -> Option<Duration> {
        self.impatience.front().map(|(when, _)| *when)
    }

    /// Asks others where nobody has answered. To be called until it returns nothing.
    pub fn on_time(&mut self, poll: &Poll, now: Duration) -> Option<Query> {
        while let Some((_, flow)) = self.impatience.pop_front_if(|(when, _)| *when <= now) {
            // One whose connection ended has a later entry, and little is lost when it is asked elsewhere a bit early.
            if let Some(query) = self.all.remove(&flow)
                && let Some(failed) = self.ask(poll, query, now)
            {
                return Some(failed);
            }
        }
        None
    }

    /// The flow is over.
    pub fn forget(&mut self, flow: FlowId) {
        self.all.remove(&flow);
    }
}
