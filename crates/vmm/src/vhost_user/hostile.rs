//! A front-end without manners, a guest that is as bad, and a supervisor that is not much better, against the service.
//!
//! A program is bytes, read as acts: messages that are nearly right, descriptors, bytes of guest memory, kicks, control
//! messages, what the host's ends of connections do. Any bytes are a program. The service gets its turns between the acts;
//! it may end, with an error or without, but it must not hang, and what it touches is guest memory.
//!
//! `tests/corpus/frontend` holds programs that reached something new once, replayed by each run.

mod acts;
mod peers;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use acts::Act;
use peers::Peers;

/// No program takes so long: one that does has found a loop.
const PATIENCE: Duration = Duration::from_secs(20);

/// Plays a program; says how many acts came before the service's end. A fuzz target.
pub fn program(bytes: &[u8]) -> usize {
    let begin = Instant::now();
    let (mut peers, mut rest, mut acts) = (Peers::new(), bytes, 0);
    while let Some(act) = Act::read(&mut rest) {
        acts += 1;
        if !peers.act(&act) {
            break;
        }
    }
    peers.finish();
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    acts
}
