//! What a supervisor and its `gourd-vmm` say to each other.
//!
//! One message is one packet of [`WIRE_LEN`] bytes on an `AF_UNIX` `SOCK_SEQPACKET` pair: four little-endian 32-bit
//! words, the kind first, unused words zero. A message carries at most one descriptor (`SCM_RIGHTS`), and each kind
//! either always carries one or never does. End of file means that the other side is dead.
//!
//! ```text
//! supervisor                          gourd-vmm
//!     |  Listen{port}  --------------->  |   guest may dial that host port from now on
//!     |  <-----------------------  Ready |   confined; guest bytes are looked at only after this
//!     |  <------  Dialled{..} + fd       |   guest dialled; fd is the host's end of the connection
//!     |  Connect{id, port} + fd  ----->  |   dial the guest; fd's other end stays with the supervisor
//!     |  <---------------  Connected{id} |   the guest's answer
//! ```
//!
//! A `gourd-vmm machine` speaks the same, and more:
//!
//! ```text
//!     |  a packet of JSON  ----------->  |   first of all: [`crate::machine::Machine`]
//!     |  PowerButton, Balloon{mib}  -->  |
//!     |  Pause{id}, Resume{id}  ------>  |
//!     |  <--------------------  Done{id} |   all processors stand still, or run again
//!     |  <--------------  Counters{slot} |   a device met what makes no sense, for the first time; and before the end
//!     |  <-----------------  Ended{how}  |   the machine's end; the process ends soon after
//! ```
//!
//! Both sides own their end; the supervisor trusts nothing but the shape: a monitor that the guest has taken over
//! can send any message, so its parser is pure and tested on random bytes.

use thiserror::Error;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::{Control, ControlError};

/// Version of this protocol, sent in [`Msg::Ready`].
pub const VERSION: u32 = 3;

/// Bytes of every message.
pub const WIRE_LEN: usize = 16;

const KIND_LISTEN: u32 = 1;
const KIND_UNLISTEN: u32 = 2;
const KIND_CONNECT: u32 = 3;
const KIND_POWER_BUTTON: u32 = 4;
const KIND_PAUSE: u32 = 5;
const KIND_RESUME: u32 = 6;
const KIND_BALLOON: u32 = 7;
const KIND_READY: u32 = 0x101;
const KIND_DIALLED: u32 = 0x102;
const KIND_CONNECTED: u32 = 0x103;
const KIND_DONE: u32 = 0x104;
const KIND_ENDED: u32 = 0x105;
const KIND_COUNTERS: u32 = 0x106;

/// One message. Those before [`Msg::Ready`] go to `gourd-vmm`, the others come from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Msg {
    /// Accept the guest's dials to this host port. Listening twice is the same as once.
    Listen {
        /// vsock port on the host.
        port: u32,
    },
    /// Refuse dials to this host port from now on; connections that exist stay.
    Unlisten {
        /// vsock port on the host.
        port: u32,
    },
    /// Dial the guest. Carries a connected stream socket that becomes the connection's host side. Closing its other
    /// end gives the attempt up.
    Connect {
        /// The supervisor's name for the attempt, repeated in [`Msg::Connected`].
        id: u32,
        /// vsock port in the guest.
        port: u32,
    },
    /// Press the power button.
    PowerButton,
    /// Stop the processors. Devices stay.
    Pause {
        /// Repeated in [`Msg::Done`].
        id: u32,
    },
    /// Let the processors run again.
    Resume {
        /// Repeated in [`Msg::Done`].
        id: u32,
    },
    /// Ask the guest to give that much memory back, in all. It follows when it can.
    Balloon {
        /// In MiB.
        mib: u32,
    },
    /// The device is up and the process confined.
    Ready {
        /// [`VERSION`] of the sender.
        version: u32,
        /// Landlock ABI in force, 0 for none.
        landlock_abi: u32,
        /// Whether the system call filter is in force.
        seccomp: bool,
    },
    /// The guest dialled a port that is listened to. Carries the host's end, a stream socket.
    Dialled {
        /// vsock port on the host.
        port: u32,
        /// vsock port in the guest that the dial came from.
        guest_port: u32,
    },
    /// The guest's answer to [`Msg::Connect`].
    Connected {
        /// As in [`Msg::Connect`].
        id: u32,
        /// 0: accepted. Otherwise a Linux errno: `ECONNREFUSED` the guest refused, `ECONNRESET` it was restarted,
        /// `EMFILE` too many connections, `ECONNABORTED` the descriptor's other end was closed before an answer.
        errno: u32,
    },
    /// What was asked for has happened.
    Done {
        /// As in [`Msg::Pause`] or [`Msg::Resume`].
        id: u32,
    },
    /// What went wrong with a device so far. Numbers that are too large to be said are the largest.
    Counters {
        /// The device's place in the machine.
        slot: u16,
        /// Its number (virtio 1.2, section 5).
        device: u16,
        /// What the guest did that no sane driver does.
        violations: u32,
        /// What the host's system refused.
        failures: u32,
    },
    /// The guest ended the machine.
    Ended {
        /// How.
        how: HowEnded,
    },
}

/// How a guest ended its machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum HowEnded {
    /// It powered off.
    PoweredOff = 1,
    /// It asked for a reset.
    Reset = 2,
}

/// Why bytes are not a message.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// Wrong size.
    #[error("control message of {0} bytes, want {WIRE_LEN}")]
    Length(usize),
    /// No such kind.
    #[error("control message of unknown kind {0:#x}")]
    Kind(u32),
    /// A word has a value that its kind does not allow.
    #[error("control message of kind {kind:#x}: word {word} is {value:#x}")]
    Value {
        /// The kind.
        kind: u32,
        /// Which word, counted from 0.
        word: usize,
        /// What it held.
        value: u32,
    },
}

impl Msg {
    /// Whether this kind carries a descriptor.
    pub fn carries_fd(&self) -> bool {
        matches!(self, Msg::Connect { .. } | Msg::Dialled { .. })
    }

    /// The message's bytes.
    pub fn to_bytes(&self) -> [u8; WIRE_LEN] {
        let words = match *self {
            Msg::Listen { port } => [KIND_LISTEN, port, 0, 0],
            Msg::Unlisten { port } => [KIND_UNLISTEN, port, 0, 0],
            Msg::Connect { id, port } => [KIND_CONNECT, id, port, 0],
            Msg::PowerButton => [KIND_POWER_BUTTON, 0, 0, 0],
            Msg::Pause { id } => [KIND_PAUSE, id, 0, 0],
            Msg::Resume { id } => [KIND_RESUME, id, 0, 0],
            Msg::Balloon { mib } => [KIND_BALLOON, mib, 0, 0],
            Msg::Ready {
                version,
                landlock_abi,
                seccomp,
            } => [KIND_READY, version, landlock_abi, seccomp as u32],
            Msg::Dialled { port, guest_port } => [KIND_DIALLED, port, guest_port, 0],
            Msg::Connected { id, errno } => [KIND_CONNECTED, id, errno, 0],
            Msg::Done { id } => [KIND_DONE, id, 0, 0],
            Msg::Counters {
                slot,
                device,
                violations,
                failures,
            } => {
                let who = u32::from(slot) | u32::from(device) << 16;
                [KIND_COUNTERS, who, violations, failures]
            }
            Msg::Ended { how } => [KIND_ENDED, how as u32, 0, 0],
        };
        let mut bytes = [0; WIRE_LEN];
        for (to, word) in bytes.chunks_exact_mut(4).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Reads a message.
    pub fn parse(bytes: &[u8]) -> Result<Msg, ParseError> {
        if bytes.len() != WIRE_LEN {
            return Err(ParseError::Length(bytes.len()));
        }
        let mut words = [0u32; 4];
        for (word, from) in words.iter_mut().zip(bytes.chunks_exact(4)) {
            *word = u32::from_le_bytes([from[0], from[1], from[2], from[3]]);
        }
        let [kind, a, b, c] = words;
        let (msg, used) = match kind {
            KIND_LISTEN => (Msg::Listen { port: a }, 2),
            KIND_UNLISTEN => (Msg::Unlisten { port: a }, 2),
            KIND_CONNECT => (Msg::Connect { id: a, port: b }, 3),
            KIND_POWER_BUTTON => (Msg::PowerButton, 1),
            KIND_PAUSE => (Msg::Pause { id: a }, 2),
            KIND_RESUME => (Msg::Resume { id: a }, 2),
            KIND_BALLOON => (Msg::Balloon { mib: a }, 2),
            KIND_DONE => (Msg::Done { id: a }, 2),
            KIND_COUNTERS => {
                let counters = Msg::Counters {
                    slot: a as u16,
                    device: (a >> 16) as u16,
                    violations: b,
                    failures: c,
                };
                (counters, 4)
            }
            KIND_ENDED => {
                let how = match a {
                    1 => HowEnded::PoweredOff,
                    2 => HowEnded::Reset,
                    _ => {
                        return Err(ParseError::Value {
                            kind,
                            word: 1,
                            value: a,
                        });
                    }
                };
                (Msg::Ended { how }, 2)
            }
            KIND_READY if c <= 1 => {
                let ready = Msg::Ready {
                    version: a,
                    landlock_abi: b,
                    seccomp: c == 1,
                };
                (ready, 4)
            }
            KIND_READY => {
                return Err(ParseError::Value {
                    kind,
                    word: 3,
                    value: c,
                });
            }
            KIND_DIALLED => (
                Msg::Dialled {
                    port: a,
                    guest_port: b,
                },
                3,
            ),
            KIND_CONNECTED => (Msg::Connected { id: a, errno: b }, 3),
            _ => return Err(ParseError::Kind(kind)),
        };
        match (used..words.len()).find(|&word| words[word] != 0) {
            Some(word) => Err(ParseError::Value {
                kind,
                word,
                value: words[word],
            }),
            None => Ok(msg),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_msg() -> impl Strategy<Value = Msg> {
        let two = || (any::<u32>(), any::<u32>());
        prop_oneof![
            any::<u32>().prop_map(|port| Msg::Listen { port }),
            any::<u32>().prop_map(|port| Msg::Unlisten { port }),
            two().prop_map(|(id, port)| Msg::Connect { id, port }),
            (any::<u32>(), any::<u32>(), any::<bool>()).prop_map(
                |(version, landlock_abi, seccomp)| Msg::Ready {
                    version,
                    landlock_abi,
                    seccomp
                }
            ),
            two().prop_map(|(port, guest_port)| Msg::Dialled { port, guest_port }),
            two().prop_map(|(id, errno)| Msg::Connected { id, errno }),
            Just(Msg::PowerButton),
            any::<u32>().prop_map(|id| Msg::Pause { id }),
            any::<u32>().prop_map(|id| Msg::Resume { id }),
            any::<u32>().prop_map(|mib| Msg::Balloon { mib }),
            any::<u32>().prop_map(|id| Msg::Done { id }),
            (any::<u16>(), any::<u16>(), two()).prop_map(
                |(slot, device, (violations, failures))| Msg::Counters {
                    slot,
                    device,
                    violations,
                    failures
                }
            ),
            Just(Msg::Ended {
                how: HowEnded::PoweredOff
            }),
            Just(Msg::Ended {
                how: HowEnded::Reset
            }),
        ]
    }

    /// Whatever parses has one encoding only.
    #[test]
    fn corpus() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/control");
        let mut parsed = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            if let Ok(msg) = Msg::parse(&bytes) {
                assert_eq!(msg.to_bytes()[..], bytes[..]);
                parsed += 1;
            }
        }
        assert_eq!(parsed, 2, "two of the files are messages");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(msg in any_msg()) {
            prop_assert_eq!(Msg::parse(&msg.to_bytes()), Ok(msg));
        }

        /// Whatever parses has one encoding only.
        #[test]
        fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(msg) = Msg::parse(&bytes) {
                prop_assert_eq!(&msg.to_bytes()[..], &bytes[..]);
            }
        }

        #[test]
        fn random_words(kind in prop_oneof![0u32..5, 0x100u32..0x108], a: u32, b in 0u32..3, c in 0u32..3) {
            let bytes: Vec<u8> = [kind, a, b, c].iter().flat_map(|word| word.to_le_bytes()).collect();
            if let Ok(msg) = Msg::parse(&bytes) {
                prop_assert_eq!(&msg.to_bytes()[..], &bytes[..]);
            }
        }
    }
}
