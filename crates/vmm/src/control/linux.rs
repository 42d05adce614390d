//! The socket that carries control messages. One instance per end, owned by one thread or task.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use thiserror::Error;

use super::{Msg, ParseError, WIRE_LEN};

/// What can go wrong on the control socket.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The other side is gone.
    #[error("control socket closed by the other side")]
    Closed,
    /// Nothing to receive, or no room to send, on a non-blocking socket.
    #[error("control socket is not ready")]
    WouldBlock,
    /// The other side sent something that is no message.
    #[error("malformed control message")]
    Parse(#[from] ParseError),
    /// A message came with a descriptor that its kind has no use for, or without one that it needs.
    #[error("control message {msg:?} {} a descriptor", if *.present { "came with" } else { "lacks" })]
    Descriptor {
        /// The message.
        msg: Msg,
        /// Whether there was one.
        present: bool,
    },
    /// The system refused.
    #[error("control socket")]
    Io(#[source] io::Error),
}

impl From<Errno> for ControlError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::AGAIN => ControlError::WouldBlock,
            Errno::PIPE | Errno::CONNRESET => ControlError::Closed,
            other => ControlError::Io(other.into()),
        }
    }
}

/// For pollers that speak `io::Result`: the kinds are `WouldBlock`, `UnexpectedEof`, `InvalidData` and the system's.
impl From<ControlError> for io::Error {
    fn from(error: ControlError) -> Self {
        let kind = match error {
            ControlError::Closed => io::ErrorKind::UnexpectedEof,
            ControlError::WouldBlock => io::ErrorKind::WouldBlock,
            ControlError::Parse(_) | ControlError::Descriptor { .. } => io::ErrorKind::InvalidData,
            ControlError::Io(inner) => return inner,
        };
        io::Error::new(kind, error)
    }
}

/// One end of a control socket. Blocking unless [`Control::set_nonblocking`] says otherwise.
#[derive(Debug)]
pub struct Control {
    fd: OwnedFd,
}

impl Control {
    /// Makes a pair, both close-on-exec and blocking. The second end is for the child: it has to be made inheritable
    /// (`dup2`, or clearing the flag between fork and exec) and named by `--control-fd`.
    pub fn pair() -> io::Result<(Control, OwnedFd)> {
        let (ours, theirs) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        Ok((Control { fd: ours }, theirs))
    }

    /// Wraps an end that was made elsewhere.
    pub fn new(fd: OwnedFd) -> Control {
        Control { fd }
    }

    /// Whether `send` and `recv` return [`ControlError::WouldBlock`] instead of waiting.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        rustix::io::ioctl_fionbio(&self.fd, nonblocking)?;
        Ok(())
    }

    /// Sends a message whole or not at all. `fd` is duplicated into the receiver; the caller keeps its own.
    pub fn send(&self, msg: Msg, fd: Option<BorrowedFd<'_>>) -> Result<(), ControlError> {
        if fd.is_some() != msg.carries_fd() {
            return Err(ControlError::Descriptor {
                msg,
                present: fd.is_some(),
            });
        }
        let bytes = msg.to_bytes();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds;
        if let Some(fd) = fd {
            fds = [fd];
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let flags = SendFlags::NOSIGNAL;
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.fd, &[IoSlice::new(&bytes)], &mut ancillary, flags)
        })?;
        Ok(())
    }

    /// Sends the description of a machine: the packet before all messages.
    pub fn send_machine(&self, machine: &[u8]) -> Result<(), ControlError> {
        let flags = SendFlags::NOSIGNAL;
        rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, machine, flags))?;
        Ok(())
    }

    /// Receives the description of a machine.
    pub fn recv_machine(&self) -> Result<Vec<u8>, ControlError> {
        // One byte more, so that a longer one is no JSON any more.
        let mut bytes = vec![0; crate::machine::MAX_LEN + 1];
        let flags = RecvFlags::empty();
        let (count, _) =
            rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, &mut bytes[..], flags))?;
        if count == 0 {
            return Err(ControlError::Closed);
        }
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Receives one message and its descriptor (close-on-exec). A malformed one is consumed: the next call reads on.
    pub fn recv(&self) -> Result<(Msg, Option<OwnedFd>), ControlError> {
        // One byte more than a message, so that a longer one is noticed.
        let mut bytes = [0; WIRE_LEN + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            let mut buffers = [IoSliceMut::new(&mut bytes)];
            rustix::net::recvmsg(
                &self.fd,
                &mut buffers,
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            )
        })?;
        let mut fd = None;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fds.last();
            }
        }
        if received.bytes == 0 {
            return Err(ControlError::Closed);
        }
        let msg = Msg::parse(&bytes[..received.bytes])?;
        // More than one descriptor, or none left in our table for it, shows as a truncated control part.
        let truncated = received.flags.contains(ReturnFlags::CTRUNC);
        if truncated || fd.is_some() != msg.carries_fd() {
            return Err(ControlError::Descriptor {
                msg,
                present: fd.is_some(),
            });
        }
        Ok((msg, fd))
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Control {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<Control> for OwnedFd {
    fn from(control: Control) -> OwnedFd {
        control.fd
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_descriptor_travels() {
        let (left, right) = Control::pair().unwrap();
        let right = Control::new(right);
        let (mut near, far) = UnixStream::pair().unwrap();
        let msg = Msg::Connect { id: 7, port: 1024 };
        left.send(msg, Some(far.as_fd())).unwrap();
        drop(far);
        let (got, fd) = right.recv().unwrap();
        assert_eq!(got, msg);
        UnixStream::from(fd.unwrap()).write_all(b"hello").unwrap();
        let mut text = String::new();
        near.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn descriptors_must_match_the_kind() {
        let (left, right) = Control::pair().unwrap();
        let error = left
            .send(Msg::Connect { id: 7, port: 1 }, None)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "control message Connect { id: 7, port: 1 } lacks a descriptor"
        );
        // A peer that does not check: bytes only.
        rustix::io::write(
            &right,
            &Msg::Dialled {
                port: 1,
                guest_port: 2,
            }
            .to_bytes(),
        )
        .unwrap();
        assert!(matches!(
            left.recv(),
            Err(ControlError::Descriptor { present: false, .. })
        ));
        rustix::io::write(&right, b"longer than any message").unwrap();
        assert!(matches!(left.recv(), Err(ControlError::Parse(_))));
        rustix::io::write(&right, &Msg::Listen { port: 5 }.to_bytes()).unwrap();
        assert_eq!(left.recv().unwrap().0, Msg::Listen { port: 5 });
    }

    #[test]
    fn not_ready_and_closed_are_told_apart() {
        let (left, right) = Control::pair().unwrap();
        left.set_nonblocking(true).unwrap();
        assert!(matches!(left.recv(), Err(ControlError::WouldBlock)));
        drop(right);
        assert!(matches!(left.recv(), Err(ControlError::Closed)));
        assert!(matches!(
            left.send(Msg::Listen { port: 1 }, None),
            Err(ControlError::Closed)
        ));
    }
}
