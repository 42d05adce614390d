//! A guest without manners against all that it can reach: the bus with its ports and slots, and every device's queues.
//!
//! A program is bytes, read as the guest's acts (and some of the host's, at moments that the bytes choose too): registers,
//! descriptors, chains that are nearly right, packets, frames, resets in the middle. Any bytes are a program. Guest memory
//! is real and lies between pages that nobody may touch; a device that strays kills the test, and one that has the
//! host's kernel stray counts a failure that is asserted not to be.
//!
//! `tests/corpus/guest` holds programs that reached something new once, replayed by each run. Each run also changes them
//! at random, from a fixed seed and a bounded number of times. `GOURD_FUZZ_SECONDS=N` does so for N seconds from a seed of its
//! own and writes what reaches something new into `GOURD_FUZZ_KEEP`, a folder.

mod acts;
#[cfg(test)]
mod mutate;
mod share;
mod surface;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use acts::Act;
use surface::Surface;

/// What a program reached, roughly: how often each thing happened, in powers of two. A number that no other program had is
/// something new.
type Reached = Vec<u8>;

/// No program takes so long: one that does has found a loop.
const PATIENCE: Duration = Duration::from_secs(20);

/// Says which program it was that failed.
struct Witness<'a>(&'a [u8]);

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the program: {:?}", self.0);
        }
    }
}

fn play(bytes: &[u8]) -> Reached {
    let _witness = Witness(bytes);
    let begin = Instant::now();
    let mut surface = Surface::new();
    let mut rest = bytes;
    // A chain's act is a dozen bytes; no more than this fits in what `mutate` makes.
    while let Some(act) = Act::read(&mut rest) {
        surface.act(&act);
    }
    let reached = surface.finish();
    assert!(
        begin.elapsed() < PATIENCE,
        "{:?} for {} bytes",
        begin.elapsed(),
        bytes.len()
    );
    reached
}

/// Plays a program. A fuzz target. No file of the host's becomes longer than 64 MiB: guests allocate what they like.
#[cfg(fuzzing)]
pub fn program(bytes: &[u8]) {
    static LIMIT: std::sync::Once = std::sync::Once::new();
    LIMIT.call_once(|| {
        let most = rustix::process::Rlimit {
            current: Some(64 << 20),
            maximum: Some(64 << 20),
        };
        rustix::process::setrlimit(rustix::process::Resource::Fsize, most).expect("a limit");
        // SAFETY: no handler of anybody's is replaced; writes beyond the limit fail instead of ending the process.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    });
    play(bytes);
}
