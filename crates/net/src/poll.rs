//! What the loop waits for: descriptors by token.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netstack::FlowId;
use rustix::event::{Timespec, epoll};

/// Whose descriptor it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The listening socket of supervisors.
    Listener,
    /// A connection of a supervisor or engine.
    Client(u32),
    /// The link of a guest.
    Link(u32),
    /// A stream of the host's.
    Stream(FlowId),
    /// A datagram socket of the host's.
    Datagrams(FlowId),
    /// A ping socket of the host's.
    Echoes(FlowId),
    /// A connection to a resolver.
    Queries(FlowId),
    /// A port that was published.
    Published(u64),
}

const KIND: u32 = 56;

impl Token {
    fn word(self) -> u64 {
        let (kind, number) = match self {
            Token::Listener => (0, 0),
            Token::Client(id) => (1, u64::from(id)),
            Token::Link(id) => (2, u64::from(id)),
            Token::Stream(flow) => (3, flow.0),
            Token::Datagrams(flow) => (4, flow.0),
            Token::Published(id) => (5, id),
            Token::Echoes(flow) => (6, flow.0),
            Token::Queries(flow) => (7, flow.0),
        };
        kind << KIND | number
    }

    fn of(word: u64) -> Token {
        let number = word & ((1 << KIND) - 1);
        match word >> KIND {
            1 => Token::Client(number as u32),
            2 => Token::Link(number as u32),
            3 => Token::Stream(FlowId(number)),
            4 => Token::Datagrams(FlowId(number)),
            5 => Token::Published(number),
            6 => Token::Echoes(FlowId(number)),
            7 => Token::Queries(FlowId(number)),
            _ => Token::Listener,
        }
    }
}

/// What is ready.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// Whose descriptor.
    pub token: Token,
    /// Something can be read: bytes, an end, an error.
    pub input: bool,
    /// Something can be written, or there is an error.
    pub output: bool,
}

/// An `epoll`.
#[derive(Debug)]
pub struct Poll(OwnedFd);

impl Poll {
    /// One that watches nothing.
    pub fn new() -> io::Result<Poll> {
        Ok(Poll(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    /// Says nothing of a descriptor that is watched for input, until it is [watched again](Poll::rewatch).
    pub fn pause(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token.word());
        Ok(epoll::modify(
            &self.0,
            fd,
            data,
            epoll::EventFlags::empty(),
        )?)
    }

    /// Says for as long as there is input.
    pub fn watch_input(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        self.add(fd, token, epoll::EventFlags::IN)
    }

    /// Says each time that input or room comes.
    pub fn watch_changes(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let all = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP;
        self.add(fd, token, all | epoll::EventFlags::ET)
    }

    fn add(&self, fd: impl AsFd, token: Token, flags: epoll::EventFlags) -> io::Result<()> {
        let data = epoll::EventData::new_u64(token.word());
        Ok(epoll::add(&self.0, fd, data, flags)?)
    }

    /// Watches a link for input, and for room when `output`.
    pub fn rewatch(&self, fd: impl AsFd, token: Token, output: bool) -> io::Result<()> {
        let mut flags = epoll::EventFlags::IN;
        if output {
            flags |= epoll::EventFlags::OUT;
        }
        let data = epoll::EventData::new_u64(token.word());
        Ok(epoll::modify(&self.0, fd, data, flags)?)
    }

    /// Watches no more. A descriptor that was duplicated elsewhere would be watched beyond its close.
    pub fn forget(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.0, fd);
    }

    /// Waits until something is ready, `limit` has passed, or a signal came.
    pub fn wait(&self, limit: Duration) -> io::Result<Vec<Ready>> {
        const AT_ONCE: usize = 64;
        let limit = Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        };
        let mut buffer = [const { MaybeUninit::uninit() }; AT_ONCE];
        let (ready, _) = match epoll::wait(&self.0, &mut buffer[..], Some(&limit)) {
            Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            other => other?,
        };
        let broken = epoll::EventFlags::ERR | epoll::EventFlags::HUP;
        let described = ready.iter().map(|event| {
            let flags = event.flags;
            let either = flags.intersects(broken);
            Ready {
                token: Token::of(event.data.u64()),
                input: either || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP),
                output: either || flags.contains(epoll::EventFlags::OUT),
            }
        });
        Ok(described.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        for token in [
            Token::Listener,
            Token::Client(7),
            Token::Link(u32::MAX),
            Token::Stream(FlowId(1 << 50)),
            Token::Datagrams(FlowId(3)),
            Token::Published(9),
            Token::Echoes(FlowId(8)),
            Token::Queries(FlowId(9)),
        ] {
            assert_eq!(Token::of(token.word()), token);
        }
    }
}
