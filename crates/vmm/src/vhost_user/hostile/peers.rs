//! The ends that the service talks to, played.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::super::{GUEST_CID, Service, Turn, Woken};
use super::acts::{Act, Fd};
use crate::control::{Control, Msg};
use crate::vsock::{HOST_CID, Header};

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;

/// The version, in a message's flags.
const VERSION: u32 = 1;
const FEATURES: u64 = 1 << 32 | 1 << 30 | 1 << 29 | 1 << 28;
/// Bytes of guest memory.
const MEMORY: u64 = 1 << 20;
/// Where guest memory lies for the front-end.
const USER: u64 = 0x7f00_0000_0000;
const RINGS: [u64; 2] = [0x1000, 0x8000];
const SIZE: u16 = 16;
const AVAILABLE: u64 = 0x1000;
const USED: u64 = 0x2000;
/// Where buffers lie.
const DATA: u64 = 0x1_0000;
/// A port that the guest may dial.
const LISTENING: u32 = 7;
/// What regions are made of.
const LIKELY: [u64; 14] = [
    0,
    MEMORY,
    MEMORY / 2,
    USER,
    USER + MEMORY / 2,
    0x1000,
    0xfff,
    1,
    MEMORY - 0x1000,
    MEMORY + 0x1000,
    1 << 40,
    u64::MAX,
    u64::MAX - 0xfff,
    1 << 63,
];

/// The front-end with its guest, and the supervisor.
pub struct Peers {
    service: Option<Service>,
    frontend: Option<UnixStream>,
    control: Control,
    memory: File,
    short: File,
    kicks: [OwnedFd; 2],
    call: OwnedFd,
    streams: Vec<UnixStream>,
    /// Available index of each ring.
    next: [u16; 2],
    again: bool,
}

fn memory(size: u64) -> File {
    let memory = memfd_create("guest", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&memory, size).expect("a size");
    memory.into()
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn state(index: u32, value: u32) -> Vec<u8> {
    [index.to_ne_bytes(), value.to_ne_bytes()].concat()
}

impl Peers {
    pub fn new() -> Peers {
        let (frontend, theirs) = UnixStream::pair().expect("a pair");
        frontend.set_nonblocking(true).expect("a front-end");
        let (control, monitor) = Control::pair().expect("a pair");
        control.set_nonblocking(true).expect("a supervisor");
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("eventfd");
        let service = Service::new(theirs, Control::new(monitor), GUEST_CID).expect("a service");
        let listen = Msg::Listen { port: LISTENING };
        control.send(listen, None).expect("a message");
        Peers {
            service: Some(service),
            frontend: Some(frontend),
            control,
            memory: memory(MEMORY),
            short: memory(0x2800),
            kicks: [event(), event()],
            call: event(),
            streams: Vec::new(),
            next: [0; 2],
            again: false,
        }
    }

    /// False when the service has ended.
    pub fn act(&mut self, act: &Act) -> bool {
        match act {
            Act::SetUp { mask } => self.set_up(*mask),
            Act::Ring { index, what, value } => self.ring(*index, *what, *value),
            Act::Memory { regions } => self.regions(regions),
            Act::Message {
                request,
                flags,
                short,
                payload,
                fds,
            } => {
                let flags = VERSION | u32::from(*flags & 0x0c) | u32::from(*flags & 1) << 1;
                let size = payload.len() as u32;
                let size = if *short {
                    size ^ u32::from(*request)
                } else {
                    size
                };
                self.message(u32::from(*request), flags, size, payload, fds);
                if *short {
                    // A size that is too large would be waited for.
                    self.frontend = None;
                }
            }
            Act::Bytes { at, bytes } => self.put(u64::from(*at) * 16, bytes),
            Act::Chain { ring, pieces } => {
                let pieces: Vec<_> = pieces
                    .iter()
                    .map(|&(at, len, flags)| (DATA + u64::from(at) * 16, len.into(), flags.into()))
                    .collect();
                self.chain(usize::from(ring & 1), &pieces);
            }
            Act::Packet {
                op,
                ports,
                len,
                credit,
            } => self.packet(*op, *ports, *len, *credit),
            Act::Index { ring, index } => {
                let ring = usize::from(ring & 1);
                self.next[ring] = *index;
                self.put(RINGS[ring] + AVAILABLE + 2, &index.to_le_bytes());
                self.kick(ring);
            }
            Act::Control { kind, words, fd } => self.control(*kind, *words, *fd),
            Act::Host { what, len } => self.host(*what, *len),
            Act::Leave => self.frontend = None,
        }
        self.turns()
    }

    /// Turns of the service until there is nothing to do. False: it has ended.
    fn turns(&mut self) -> bool {
        /// No ring pretends to have more.
        const MOST: usize = 2000;
        let mut quiet = 0;
        for _ in 0..MOST {
            let Some(service) = &mut self.service else {
                return false;
            };
            // As `run` does, but that it does not wait: edges are not told apart from nothing.
            let woken: Woken = service.wait(true).expect("epoll");
            let busy = woken.by_control || woken.by_frontend || self.again;
            match service.turn(&woken) {
                Ok(Turn::Again(again)) => self.again = again,
                Ok(Turn::Ended(_)) | Err(_) => {
                    self.service = None;
                    return false;
                }
            }
            self.hear();
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet > 1 {
                return true;
            }
        }
        panic!("the service is never done");
    }

    /// Takes what the service says.
    fn hear(&mut self) {
        while let Ok((msg, fd)) = self.control.recv() {
            if let (Msg::Dialled { .. }, Some(fd)) = (msg, fd) {
                let stream = UnixStream::from(fd);
                stream.set_nonblocking(true).expect("a stream");
                self.streams.push(stream);
            }
        }
        if let Some(frontend) = &mut self.frontend {
            let _ = frontend.read(&mut [0; 4096]);
        }
    }

    fn message(&mut self, request: u32, flags: u32, size: u32, payload: &[u8], fds: &[Fd]) {
        let socket = self.control.as_fd();
        let fds: Vec<BorrowedFd<'_>> = fds
            .iter()
            .map(|fd| match fd {
                Fd::Memory => self.memory.as_fd(),
                Fd::Event => self.call.as_fd(),
                Fd::Short => self.short.as_fd(),
                Fd::Socket => socket,
            })
            .collect();
        self.send(request, flags, size, payload, &fds);
    }

    fn send(&self, request: u32, flags: u32, size: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        let Some(frontend) = &self.frontend else {
            return;
        };
        let header = [request, flags, size].map(u32::to_ne_bytes).concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        let flags = SendFlags::NOSIGNAL;
        let _ = rustix::net::sendmsg(frontend, &parts, &mut ancillary, flags);
    }

    fn say(&mut self, request: u32, payload: &[u8], fds: &[BorrowedFd<'_>]) {
        self.send(request, VERSION, payload.len() as u32, payload, fds);
    }

    fn set_up(&mut self, mask: u8) {
        let mut features = FEATURES;
        for (bit, feature) in [30, 29, 28, 32].into_iter().enumerate() {
            if mask >> bit & 1 != 0 {
                features &= !(1 << feature);
            }
        }
        self.say(GET_FEATURES, &[], &[]);
        self.say(SET_OWNER, &[], &[]);
        self.say(SET_FEATURES, &words(&[features]), &[]);
        self.say(GET_PROTOCOL_FEATURES, &[], &[]);
        self.say(SET_PROTOCOL_FEATURES, &words(&[1 | 1 << 3 | 1 << 9]), &[]);
        self.turns();
        self.regions(&[[0, 1, 3, 0]]);
        for index in 0..2u8 {
            self.next[usize::from(index)] = 0;
            self.put(RINGS[usize::from(index)] + AVAILABLE, &[0; 4]);
            self.put(RINGS[usize::from(index)] + USED, &[0; 4]);
            for what in 0..6 {
                let value = [SIZE.into(), 0, 0, 0, 0, 1][usize::from(what)];
                self.ring(index, what, value);
            }
        }
        self.turns();
    }

    /// One message about a ring.
    fn ring(&mut self, index: u8, what: u8, value: u64) {
        let ring = usize::from(index & 1);
        let index = u32::from(index & 7);
        let base = USER + RINGS[ring];
        let own = |fd: &OwnedFd| fd.try_clone().expect("a descriptor");
        match what % 8 {
            0 => self.say(SET_VRING_NUM, &state(index, value as u32), &[]),
            1 => self.say(SET_VRING_BASE, &state(index, value as u32), &[]),
            2 => {
                let at = |offset: u64| (base + offset).wrapping_add(value);
                let addresses = words(&[at(0), at(USED), at(AVAILABLE), 0]);
                let payload = [state(index, 0), addresses].concat();
                self.say(SET_VRING_ADDR, &payload, &[]);
            }
            3 => {
                let kick = own(&self.kicks[ring]);
                let payload = words(&[u64::from(index) | value & 0x100]);
                self.say(SET_VRING_KICK, &payload, &[kick.as_fd()]);
            }
            4 => {
                let call = own(&self.call);
                let payload = words(&[u64::from(index) | value & 0x100]);
                self.say(SET_VRING_CALL, &payload, &[call.as_fd()]);
            }
            5 => self.say(SET_VRING_ENABLE, &state(index, value as u32), &[]),
            6 => self.say(GET_VRING_BASE, &state(index, value as u32), &[]),
            _ => self.say(SET_FEATURES, &words(&[value]), &[]),
        }
    }

    fn regions(&mut self, regions: &[[u8; 4]]) {
        let likely = |at: u8| LIKELY[usize::from(at) % LIKELY.len()];
        let mut payload = state(regions.len() as u32, 0);
        for region in regions {
            payload.extend(words(&region.map(likely)));
        }
        let memory = self.memory.try_clone().expect("a descriptor");
        let fds = vec![memory.as_fd(); regions.len()];
        self.say(SET_MEM_TABLE, &payload, &fds);
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        if at + bytes.len() as u64 <= MEMORY {
            self.memory.write_all_at(bytes, at).expect("guest memory");
        }
    }

    fn kick(&self, ring: usize) {
        let _ = rustix::io::write(&self.kicks[ring], &1u64.to_ne_bytes());
    }

    fn chain(&mut self, ring: usize, pieces: &[(u64, u32, u16)]) {
        const NEXT: u16 = 1;
        let base = RINGS[ring];
        let first = self.next[ring].wrapping_mul(3) % SIZE;
        for (number, &(at, len, flags)) in pieces.iter().enumerate() {
            let index = (first + number as u16) % SIZE;
            let more = if number + 1 < pieces.len() { NEXT } else { 0 };
            let mut descriptor = at.to_le_bytes().to_vec();
            descriptor.extend(len.to_le_bytes());
            descriptor.extend(((flags & 7) ^ more).to_le_bytes());
            descriptor.extend(((index + 1) % SIZE).to_le_bytes());
            self.put(base + 16 * u64::from(index), &descriptor);
        }
        let place = base + AVAILABLE + 4 + 2 * u64::from(self.next[ring] % SIZE);
        self.next[ring] = self.next[ring].wrapping_add(1);
        self.put(place, &first.to_le_bytes());
        self.put(base + AVAILABLE + 2, &self.next[ring].to_le_bytes());
        self.kick(ring);
    }

    /// Among a few ports, so that packets meet connections.
    fn packet(&mut self, op: u8, ports: u8, len: u16, credit: u32) {
        let header = Header {
            src_cid: if ports & 0x80 == 0 {
                GUEST_CID
            } else {
                credit.into()
            },
            dst_cid: HOST_CID,
            src_port: 1000 + u32::from(ports & 3),
            dst_port: LISTENING + u32::from(ports >> 2 & 3),
            len: u32::from(len),
            kind: 1,
            op: u16::from(op),
            flags: u32::from(ports >> 4 & 3),
            buf_alloc: credit,
            fwd_cnt: credit >> 8,
        };
        self.put(DATA + 0x4000, &header.to_bytes());
        let len = crate::vsock::HEADER_LEN as u32 + u32::from(len);
        self.chain(1, &[(DATA + 0x4000, len, 0)]);
    }

    fn control(&mut self, kind: u8, [first, second]: [u16; 2], fd: bool) {
        let (id, port) = (u32::from(first), u32::from(second));
        let msg = match kind % 6 {
            0 => Msg::Listen {
                port: LISTENING + id % 4,
            },
            1 => Msg::Unlisten {
                port: LISTENING + id % 4,
            },
            2 | 3 => {
                let (ours, theirs) = UnixStream::pair().expect("a pair");
                ours.set_nonblocking(true).expect("a stream");
                let msg = Msg::Connect {
                    id,
                    port: 1000 + port % 4,
                };
                let _ = self.control.send(msg, Some(theirs.as_fd()));
                self.streams.push(ours);
                return;
            }
            4 => Msg::Pause { id },
            _ => {
                let raw = [u32::from(kind), id, port, 0]
                    .map(u32::to_le_bytes)
                    .concat();
                let len = usize::from(first % 20).min(raw.len());
                let _ = self.control.send_machine(&raw[..len.max(1)]);
                return;
            }
        };
        let call = self.call.as_fd();
        let _ = self.control.send(msg, fd.then_some(call));
    }

    fn host(&mut self, what: u8, len: u16) {
        let at = usize::from(what >> 4) % self.streams.len().max(1);
        let Some(stream) = self.streams.get_mut(at) else {
            return;
        };
        match what & 3 {
            0 => drop(self.streams.swap_remove(at)),
            1 => drop(stream.write(&vec![what; usize::from(len)])),
            2 => drop(stream.read(&mut vec![0; usize::from(len)])),
            _ => drop(stream.shutdown(std::net::Shutdown::Write)),
        }
    }

    /// The front-end leaves, then the host's ends do: the service ends by itself.
    pub fn finish(mut self) {
        self.frontend = None;
        self.turns();
        self.streams.clear();
        self.turns();
        assert!(self.service.is_none(), "the service goes on for nobody");
    }
}
