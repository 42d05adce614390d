//! The host's side of TCP connections: one socket each, watched for changes once and for all.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use netstack::{FlowId, Stack};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};

use crate::descriptors::Share;
use crate::poll::{Poll, Token};

/// Bytes that one connection moves before others have their turn.
const TURN: usize = 1 << 20;

/// Bytes of one read.
pub const CHUNK: usize = 256 << 10;

/// A socket.
#[derive(Debug)]
struct Stream {
    fd: OwnedFd,
    connected: bool,
    readable: bool,
    writable: bool,
    /// The guest's end was passed on.
    told_end: bool,
    /// The host's end was seen.
    saw_end: bool,
    _share: Share,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Streams {
    all: HashMap<FlowId, Stream>,
    /// Those that had more than a turn's worth.
    pub again: Vec<FlowId>,
}

/// What became of a look at a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Fine,
    /// There is more to do.
    Again,
    /// The host's side is broken.
    Broken,
}

/// A socket that does not block.
pub fn socket(to: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, kind, flags, None)?)
}

impl Streams {
    /// Begins to connect.
    pub fn dial(
        &mut self,
        poll: &Poll,
        flow: FlowId,
        to: SocketAddr,
        share: Share,
    ) -> io::Result<()> {
        let fd = socket(to, SocketType::STREAM)?;
        match rustix::net::connect(&fd, &to) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.insert(poll, flow, (fd, share), false)
    }

    /// Takes a connection that somebody made to a published port.
    pub fn take(&mut self, poll: &Poll, flow: FlowId, fd: OwnedFd, share: Share) -> io::Result<()> {
        self.insert(poll, flow, (fd, share), true)
    }

    fn insert(
        &mut self,
        poll: &Poll,
        flow: FlowId,
        (fd, share): (OwnedFd, Share),
        connected: bool,
    ) -> io::Result<()> {
        // The sender's own stack has collected what belongs together.
        let _ = sockopt::set_tcp_nodelay(&fd, true);
        let _ = sockopt::set_socket_keepalive(&fd, true);
        poll.watch_changes(fd.as_fd(), Token::Stream(flow))?;
        let stream = Stream {
            fd,
            connected,
            readable: connected,
            writable: connected,
            told_end: false,
            saw_end: false,
            _share: share,
        };
        self.all.insert(flow, stream);
        Ok(())
    }

    /// Something has changed on the host's side.
    pub fn on_ready(
        &mut self,
        stack: &mut Stack,
        flow: FlowId,
        input: bool,
        output: bool,
        now: Duration,
    ) {
        let Some(stream) = self.all.get_mut(&flow) else {
            return;
        };
        if !stream.connected {
            if !output {
                return;
            }
            match sockopt::socket_error(&stream.fd) {
                Ok(Ok(())) => {}
                _ => return self.broken(stack, flow),
            }
            stream.connected = true;
            stack.tcp_connected(flow);
        }
        stream.readable |= input;
        stream.writable |= output;
        self.look(stack, flow, now);
    }

    /// Moves what can be moved, both ways.
    pub fn look(&mut self, stack: &mut Stack, flow: FlowId, now: Duration) {
        let Some(stream) = self.all.get_mut(&flow) else {
            return;
        };
        let result = match output(stream, stack, flow) {
            Look::Broken => Look::Broken,
            first => match input(stream, stack, flow, now) {
                Look::Fine => first,
                second => second,
            },
        };
        match result {
            Look::Fine => {}
            Look::Again => self.again.push(flow),
            Look::Broken => self.broken(stack, flow),
        }
    }

    fn broken(&mut self, stack: &mut Stack, flow: FlowId) {
        self.all.remove(&flow);
        stack.tcp_abort(flow);
    }

    /// The flow has ended in peace.
    pub fn done(&mut self, flow: FlowId) {
        self.all.remove(&flow);
    }

    /// The flow was reset: so is the host's side.
    pub fn reset(&mut self, flow: FlowId) {
        if let Some(stream) = self.all.remove(&flow) {
            let _ = sockopt::set_socket_linger(&stream.fd, Some(Duration::ZERO));
        }
    }
}

/// From the guest to the host.
fn output(stream: &mut Stream, stack: &mut Stack, flow: FlowId) -> Look {
    let mut moved = 0;
    while stream.connected {
        let Some((front, back, ended)) = stack.tcp_input(flow) else {
            return Look::Fine;
        };
        if front.is_empty() && back.is_empty() {
            if ended && !stream.told_end {
                stream.told_end = true;
                // One that the host has reset meanwhile is found out by reading.
                let _ = rustix::net::shutdown(&stream.fd, Shutdown::Write);
            }
            return Look::Fine;
        }
        if !stream.writable {
            return Look::Fine;
        }
        if moved >= TURN {
            return Look::Again;
        }
        let slices = [IoSlice::new(front), IoSlice::new(back)];
        let mut none = rustix::net::SendAncillaryBuffer::default();
        let flags = rustix::net::SendFlags::NOSIGNAL;
        match rustix::net::sendmsg(&stream.fd, &slices, &mut none, flags) {
            Ok(count) => {
                moved += count;
                stack.tcp_consume(flow, count);
            }
            Err(Errno::AGAIN) => stream.writable = false,
            Err(Errno::INTR) => {}
            Err(_) => return Look::Broken,
        }
    }
    Look::Fine
}

/// From the host to the guest.
fn input(stream: &mut Stream, stack: &mut Stack, flow: FlowId, now: Duration) -> Look {
    let mut moved = 0;
    while stream.connected && stream.readable && !stream.saw_end {
        let (front, back) = stack.tcp_space(flow, CHUNK);
        if front.is_empty() {
            return Look::Fine;
        }
        if moved >= TURN {
            return Look::Again;
        }
        let mut pieces = [IoSliceMut::new(front), IoSliceMut::new(back)];
        match rustix::io::readv(&stream.fd, &mut pieces) {
            Ok(0) => {
                stream.saw_end = true;
                stack.tcp_finish(flow);
            }
            Ok(count) => {
                moved += count;
                stack.tcp_filled(flow, count, now);
            }
            Err(Errno::AGAIN) => stream.readable = false,
            Err(Errno::INTR) => {}
            Err(_) => return Look::Broken,
        }
    }
    Look::Fine
}
