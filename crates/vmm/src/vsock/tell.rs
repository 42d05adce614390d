//! What the supervisor hears of vsock.

use std::os::fd::AsFd;

use super::muxer::{Event, Muxer};
use crate::control::{Control, ControlError, Msg};

/// Tells the supervisor what happened since the last time. What it has no room for waits: there will be an edge when it has read some.
/// False: it is gone.
///
/// # Errors
/// The control socket's.
pub fn tell(muxer: &mut Muxer, control: &Control) -> Result<bool, ControlError> {
    while let Some(event) = muxer.pop_event() {
        let (msg, fd) = match &event {
            Event::Dialled {
                port,
                guest_port,
                fd,
            } => {
                let (port, guest_port) = (*port, *guest_port);
                (Msg::Dialled { port, guest_port }, Some(fd.as_fd()))
            }
            Event::Connected { id, errno } => {
                let (id, errno) = (*id, *errno as u32);
                (Msg::Connected { id, errno }, None)
            }
        };
        match control.send(msg, fd) {
            Ok(()) => {}
            Err(ControlError::WouldBlock) => {
                muxer.unpop_event(event);
                return Ok(true);
            }
            Err(ControlError::Closed) => return Ok(false),
            // Too many descriptors under way: the connection is dropped, and the guest sees it end.
            Err(ControlError::Io(_)) if matches!(event, Event::Dialled { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
