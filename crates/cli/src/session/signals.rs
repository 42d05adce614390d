//! Signals that a session passes on, and those that it heeds itself.
//!
//! | signal | keys go to the guest raw | otherwise |
//! | --- | --- | --- |
//! | INT QUIT USR1 USR2 ALRM | passed on | passed on; the third INT or TERM gives up |
//! | TERM HUP | the session ends, the terminal is restored | passed on |
//! | WINCH | the guest's terminal is resized | the same, when it has one |
//! | CONT | raw mode again, and the size | the size |
//! | TSTP | the terminal is restored, then the process stops | stops the process |
//!
//! TTIN and TTOU keep their meaning, so that job control works. In raw mode ctrl-z is a key like any other, and a TSTP comes
//! from somewhere else.

use std::future::poll_fn;
use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;
use crate::terminal;

const SIGHUP: u32 = 1;
const SIGINT: u32 = 2;
const SIGTERM: u32 = 15;
const SIGCONT: u32 = 18;
const SIGTSTP: u32 = 20;
const SIGWINCH: u32 = 28;

/// HUP, INT, QUIT, USR1, USR2, ALRM, TERM.
const PASSED_ON: [u32; 7] = [SIGHUP, SIGINT, 3, 10, 12, 14, SIGTERM];
/// That many interrupts end a session whose guest does not heed them.
const PATIENCE: u32 = 3;

/// What a signal asks of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Pass this signal on.
    PassOn(u32),
    /// The terminal has another size.
    Resize,
    /// The process was stopped and goes on.
    Continue,
    /// Stop the process, as somebody asks for.
    Stop,
    /// End now, because of this signal.
    End(u32),
    /// End now: the third interrupt.
    GiveUp,
}

/// Turns signals into wishes.
#[derive(Debug, Default)]
struct Policy {
    interrupts: u32,
}

impl Policy {
    fn wish(&mut self, number: u32, raw: bool) -> Wish {
        match number {
            SIGWINCH => Wish::Resize,
            SIGCONT => Wish::Continue,
            SIGTSTP => Wish::Stop,
            SIGHUP | SIGTERM if raw => Wish::End(number),
            SIGINT | SIGTERM if !raw => {
                self.interrupts += 1;
                if self.interrupts < PATIENCE {
                    Wish::PassOn(number)
                } else {
                    Wish::GiveUp
                }
            }
            _ => Wish::PassOn(number),
        }
    }
}

/// The signals of a session, caught from its making on.
pub struct Signals {
    caught: Vec<(u32, Signal)>,
    policy: Policy,
}

impl Signals {
    /// Catches them.
    pub fn catch() -> Result<Signals, Failure> {
        Self::caught().map_err(|source| Failure::SetUp {
            what: "signal handlers",
            source,
        })
    }

    /// Catches TSTP as well: for raw mode, which must be left before the process stops.
    pub fn catch_stop(&mut self) -> io::Result<()> {
        let kind = SignalKind::from_raw(SIGTSTP as i32);
        self.caught.push((SIGTSTP, signal(kind)?));
        Ok(())
    }

    fn caught() -> io::Result<Signals> {
        let mut caught = Vec::new();
        for number in PASSED_ON.into_iter().chain([SIGCONT, SIGWINCH]) {
            // Under nohup(1) a hang-up stays ignored.
            if number == SIGHUP && hang_up_is_ignored() {
                continue;
            }
            caught.push((number, signal(SignalKind::from_raw(number as i32))?));
        }
        Ok(Signals {
            caught,
            policy: Policy::default(),
        })
    }

    /// The first signal that would end a process that does not catch it.
    pub async fn end(&mut self) -> u32 {
        loop {
            match self.next().await {
                Wish::PassOn(number) | Wish::End(number) => return number,
                Wish::GiveUp => return SIGINT,
                Wish::Resize | Wish::Continue | Wish::Stop => {}
            }
        }
    }

    /// The next wish.
    pub async fn next(&mut self) -> Wish {
        let number = poll_fn(|context| {
            for (number, signal) in &mut self.caught {
                if let Poll::Ready(Some(())) = signal.poll_recv(context) {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await;
        self.policy.wish(number, terminal::is_raw())
    }
}

/// Bit 0 of `SigIgn` in /proc/self/status (proc(5)).
fn hang_up_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes() {
        let check = |raw: bool, numbers: &[u32], expect: &[Wish]| {
            let mut policy = Policy::default();
            let wishes: Vec<Wish> = numbers
                .iter()
                .map(|&number| policy.wish(number, raw))
                .collect();
            assert_eq!(wishes, expect, "{raw} {numbers:?}");
        };
        use Wish::{Continue, End, GiveUp, PassOn, Resize, Stop};
        check(false, &[2, 15, 2], &[PassOn(2), PassOn(15), GiveUp]);
        check(
            false,
            &[1, 10, 10, 10],
            &[PassOn(1), PassOn(10), PassOn(10), PassOn(10)],
        );
        check(true, &[2, 2, 2, 2], &[PassOn(2); 4]);
        check(true, &[15], &[End(15)]);
        check(true, &[1], &[End(1)]);
        check(true, &[28, 18, 20], &[Resize, Continue, Stop]);
    }
}
