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

use crate::deadlines::{self, Deadlines};
use crate::descriptors::Share;
use crate::poll::{Poll, Token};
use crate::streams::socket;

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
    /// When it was asked.
    begun: Duration,
    fd: Option<OwnedFd>,
    /// The message with its length, and how much of it was sent.
    message: Vec<u8>,
    sent: usize,
    answer: Vec<u8>,
    _share: Share,
}

impl Query {
    /// A question for these resolvers.
    pub fn new(
        (flow, port): (FlowId, PortId),
        resolvers: &[SocketAddr],
        question: &[u8],
        begun: Duration,
        share: Share,
    ) -> Query {
        let len = question.len() as u16;
        Query {
            flow,
            port,
            rest: resolvers.iter().copied().collect(),
            begun,
            fd: None,
            message: [&len.to_be_bytes()[..], question].concat(),
            sent: 0,
            answer: Vec::new(),
            _share: share,
        }
    }

    /// The question.
    pub fn question(&self) -> &[u8] {
        &self.message[LEN..]
    }

    /// When an answer is too late, in a datagram as well.
    pub fn end(&self) -> Duration {
        self.begun + deadlines::WHOLE
    }

    /// Connects to the next resolver, which is asked until then. `None`: there is none left.
    fn next(&mut self, poll: &Poll, now: Duration) -> Option<Duration> {
        (self.sent, self.fd) = (0, None);
        self.answer.clear();
        loop {
            let left = self.rest.len();
            let to = self.rest.pop_front()?;
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
                // Half of the time is for asking in datagrams.
                let end = self.begun + deadlines::WHOLE / 2;
                return Some(now + deadlines::patience(now, end, left));
            }
        }
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
    /// When to lose patience with which resolver.
    impatience: Deadlines,
}

impl Queries {
    /// Asks the first resolver, and in time the others.
    pub fn ask(&mut self, poll: &Poll, mut query: Query, now: Duration) -> Option<Query> {
        let Some(until) = query.next(poll, now) else {
            self.impatience.forget(query.flow);
            return Some(query);
        };
        self.impatience.set(query.flow, until);
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
        self.impatience.next()
    }

    /// Asks others where nobody has answered. To be called until it returns nothing.
    pub fn on_time(&mut self, poll: &Poll, now: Duration) -> Option<Query> {
        while let Some(flow) = self.impatience.due(now) {
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
        self.impatience.forget(flow);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptors::{Account, Descriptors};
    use std::net::TcpListener;

    #[test]
    fn resolvers_that_say_nothing_leave_time_for_datagrams() {
        let poll = Poll::new().unwrap();
        let silent = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let resolvers = [0, 1].map(|at| silent[at].local_addr().unwrap());
        let connected = |at: usize| {
            silent[at].set_nonblocking(true).unwrap();
            silent[at].accept().is_ok()
        };
        let guest = Account::default();
        let share = Descriptors::new().share(&guest, 0).unwrap();
        let now = Duration::from_secs(5);
        let mut queries = Queries::default();
        let query = Query::new((FlowId(1), 1), &resolvers, b"?", now, share);
        assert!(queries.ask(&poll, query, now).is_none());
        let now = queries.deadline().unwrap();
        assert_eq!(now, Duration::from_secs(7));
        assert!(connected(0) && !connected(1));
        assert!(queries.on_time(&poll, now).is_none());
        assert!(connected(1));
        let now = queries.deadline().unwrap();
        let failed = queries.on_time(&poll, now).unwrap();
        assert_eq!(failed.question(), b"?");
        let left = failed.end() - now;
        assert!(left >= Duration::from_secs(4), "{left:?}");
        assert_eq!(queries.deadline(), None);
    }
}
