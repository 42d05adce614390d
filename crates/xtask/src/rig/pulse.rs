//! The rig's pulse: a byte now and then for a port of the machine, so that it is interrupted from outside whatever becomes of its timer.
//!
//! QEMU 7.2 loses interrupts of a processor that starts a guest with an interrupt of its own waiting (`V_IRQ`): `helper_vmrun` sets a bit of
//! `interrupt_request` without the lock under which the main loop sets others, and what came in between is gone. The local APIC knows of
//! the interrupt still, and the processor looks there when the next one comes. If the lost one was the timer's, which Linux sets for one
//! shot at a time, and everybody waits for it, there is no next one: the machine stands still for ever with an idle processor
//! (`docs/design/0007`).

use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// The longest that a lost interrupt is missed. Each beat wakes one process.
const BEAT: Duration = Duration::from_millis(250);

/// Beats until the other end is closed.
pub fn start(mut port: UnixStream) {
    if port.set_nonblocking(true).is_err() {
        return;
    }
    std::thread::spawn(move || {
        loop {
            match port.write(&[0]) {
                Ok(_) => {}
                // The machine does not listen yet.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            std::thread::sleep(BEAT);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn it_beats() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        start(ours);
        let mut beats = [1; 2];
        theirs.read_exact(&mut beats).unwrap();
        assert_eq!(beats, [0; 2]);
    }
}
