//! The built `gourd-vmm`, confined as it always is, between a front-end and a supervisor that are played here.
//!
//! The front-end speaks vhost-user by hand (QEMU's `docs/interop/vhost-user.rst`), so that the library that the
//! back-end uses is not its own judge. Guest memory is a memfd; the guest is a few descriptors in it.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use vmm::control::{Control, ControlError, Msg};
use vmm::vsock::{HEADER_LEN, HOST_CID, Header, Op};

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
const GET_CONFIG: u32 = 24;

const F_PROTOCOL_FEATURES: u64 = 1 << 30;
const F_VERSION_1: u64 = 1 << 32;
const PROTOCOL_F_CONFIG: u64 = 1 << 9;

const MEM_SIZE: u64 = 4 << 20;
/// Where guest memory lies for the front-end, which is not where it lies for the guest.
const USER_BASE: u64 = 0x7f00_0000_0000;
const RINGS: [u64; 2] = [0x1000, 0x8000];
const RING_SIZE: u16 = 16;
const GUEST_PORT: u32 = 1000;
const HOST_PORT: u32 = 5;

struct Rig {
    child: Child,
    frontend: UnixStream,
    control: Control,
    memory: File,
    kicks: [OwnedFd; 2],
    calls: [OwnedFd; 2],
    sent: u16,
}

fn inheritable(fd: BorrowedFd<'_>) -> String {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    fd.as_raw_fd().to_string()
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn state(index: u32, num: u32) -> Vec<u8> {
    [index.to_ne_bytes(), num.to_ne_bytes()].concat()
}

impl Rig {
    /// Starts the process; returns when it is ready.
    fn start() -> Rig {
        let (frontend, back) = UnixStream::pair().unwrap();
        frontend
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let (control, monitor_end) = Control::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_gourd-vmm"))
            .args(["--vhost-user-fd", &inheritable(back.as_fd())])
            .args(["--control-fd", &inheritable(monitor_end.as_fd())])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop((back, monitor_end));
        let memory = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, MEM_SIZE).unwrap();
        let eventfd = || rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        control.send(Msg::Listen { port: HOST_PORT }, None).unwrap();
        let (ready, _) = control.recv().unwrap();
        assert!(
            matches!(ready, Msg::Ready { seccomp: true, .. }),
            "{ready:?}"
        );
        Rig {
            child,
            frontend,
            control,
            memory: memory.into(),
            kicks: [eventfd(), eventfd()],
            calls: [eventfd(), eventfd()],
            sent: 0,
        }
    }

    fn request(&self, code: u32, payload: &[u8], fd: Option<BorrowedFd<'_>>) {
        const VERSION: u32 = 1;
        let header = [
            code.to_ne_bytes(),
            VERSION.to_ne_bytes(),
            (payload.len() as u32).to_ne_bytes(),
        ]
        .concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = fd.into_iter().collect();
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        }
        let parts = [IoSlice::new(&header), IoSlice::new(payload)];
        rustix::net::sendmsg(&self.frontend, &parts, &mut ancillary, SendFlags::empty()).unwrap();
    }

    fn reply(&self) -> Vec<u8> {
        let mut header = [0; 12];
        (&self.frontend).read_exact(&mut header).unwrap();
        let len = u32::from_ne_bytes(header[8..].try_into().unwrap());
        let mut payload = vec![0; len as usize];
        (&self.frontend).read_exact(&mut payload).unwrap();
        payload
    }

    /// What QEMU does until the driver is ready.
    fn set_up(&self) {
        self.request(GET_FEATURES, &[], None);
        let features = u64::from_ne_bytes(self.reply().try_into().unwrap());
        assert_eq!(
            features & (F_VERSION_1 | F_PROTOCOL_FEATURES),
            F_VERSION_1 | F_PROTOCOL_FEATURES
        );
        self.request(GET_PROTOCOL_FEATURES, &[], None);
        self.reply();
        self.request(SET_PROTOCOL_FEATURES, &words(&[PROTOCOL_F_CONFIG]), None);
        self.request(SET_OWNER, &[], None);
        let config = [0u32, 8, 0].map(u32::to_ne_bytes).concat();
        self.request(GET_CONFIG, &[config, vec![0; 8]].concat(), None);
        assert_eq!(self.reply()[12..], 3u64.to_le_bytes());
        self.request(
            SET_FEATURES,
            &words(&[F_VERSION_1 | F_PROTOCOL_FEATURES]),
            None,
        );
        let table = [state(1, 0), words(&[0, MEM_SIZE, USER_BASE, 0])].concat();
        self.request(SET_MEM_TABLE, &table, Some(self.memory.as_fd()));
        for (index, ring) in RINGS.into_iter().enumerate() {
            let number = index as u32;
            self.request(SET_VRING_NUM, &state(number, u32::from(RING_SIZE)), None);
            self.request(SET_VRING_BASE, &state(number, 0), None);
            let (desc, avail, used) = (ring, ring + 0x1000, ring + 0x2000);
            let addresses = words(&[USER_BASE + desc, USER_BASE + used, USER_BASE + avail, 0]);
            self.request(
                SET_VRING_ADDR,
                &[state(number, 0), addresses].concat(),
                None,
            );
            self.request(
                SET_VRING_KICK,
                &words(&[index as u64]),
                Some(self.kicks[index].as_fd()),
            );
            self.request(
                SET_VRING_CALL,
                &words(&[index as u64]),
                Some(self.calls[index].as_fd()),
            );
            self.request(SET_VRING_ENABLE, &state(number, 1), None);
        }
        // Buffers for packets to the guest.
        for slot in 0..RING_SIZE {
            self.describe(0, slot, 0x10_0000 + 0x2000 * u64::from(slot), 0x2000, true);
        }
        self.publish(0, RING_SIZE);
    }

    fn describe(&self, ring: usize, slot: u16, addr: u64, len: u32, write: bool) {
        let flags = if write { 2u16 } else { 0 };
        let desc = [
            &addr.to_le_bytes()[..],
            &len.to_le_bytes(),
            &flags.to_le_bytes(),
            &[0; 2],
        ]
        .concat();
        self.memory
            .write_all_at(&desc, RINGS[ring] + 16 * u64::from(slot))
            .unwrap();
        let avail = RINGS[ring] + 0x1000;
        self.memory
            .write_all_at(&slot.to_le_bytes(), avail + 4 + 2 * u64::from(slot))
            .unwrap();
    }

    fn publish(&self, ring: usize, index: u16) {
        self.memory
            .write_all_at(&index.to_le_bytes(), RINGS[ring] + 0x1002)
            .unwrap();
        rustix::io::write(&self.kicks[ring], &1u64.to_ne_bytes()).unwrap();
    }

    fn send(&mut self, op: Op, flags: u32, data: &[u8]) {
        let header = Header {
            src_cid: 3,
            dst_cid: HOST_CID,
            src_port: GUEST_PORT,
            dst_port: HOST_PORT,
            len: data.len() as u32,
            kind: 1,
            op: op as u16,
            flags,
            buf_alloc: 1 << 16,
            fwd_cnt: 0,
        };
        let slot = self.sent;
        assert!(slot < RING_SIZE, "this guest sends each descriptor once");
        let addr = 0x20_0000 + 0x1_0000 * u64::from(slot);
        let bytes = [&header.to_bytes()[..], data].concat();
        self.memory.write_all_at(&bytes, addr).unwrap();
        self.describe(1, slot, addr, bytes.len() as u32, false);
        self.sent += 1;
        self.publish(1, self.sent);
    }

    /// The packet in that rx buffer, once the device says that it is used.
    fn packet(&self, slot: u16) -> (Header, Vec<u8>) {
        let mut index = [0; 2];
        loop {
            self.memory
                .read_exact_at(&mut index, RINGS[0] + 0x2002)
                .unwrap();
            if u16::from_le_bytes(index) > slot {
                break;
            }
            let mut fds = [rustix::event::PollFd::new(
                &self.calls[0],
                rustix::event::PollFlags::IN,
            )];
            let limit = rustix::event::Timespec {
                tv_sec: 20,
                tv_nsec: 0,
            };
            assert_eq!(
                rustix::event::poll(&mut fds, Some(&limit)),
                Ok(1),
                "no interrupt"
            );
            rustix::io::read(&self.calls[0], &mut [0; 8]).unwrap();
        }
        let addr = 0x10_0000 + 0x2000 * u64::from(slot);
        let mut bytes = [0; HEADER_LEN];
        self.memory.read_exact_at(&mut bytes, addr).unwrap();
        let header = Header::parse(&bytes);
        let mut data = vec![0; header.len as usize];
        self.memory
            .read_exact_at(&mut data, addr + HEADER_LEN as u64)
            .unwrap();
        (header, data)
    }

    fn dial(&mut self) -> UnixStream {
        self.send(Op::Request, 0, &[]);
        let (msg, fd) = self.control.recv().unwrap();
        let (port, guest_port) = (HOST_PORT, GUEST_PORT);
        assert_eq!(msg, Msg::Dialled { port, guest_port });
        assert_eq!(self.packet(0).0.op(), Some(Op::Response));
        UnixStream::from(fd.unwrap())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn data_passes_and_the_supervisor_ends_it() {
    let mut rig = Rig::start();
    rig.set_up();
    let mut host = rig.dial();
    rig.send(Op::Rw, 0, b"to the host");
    let mut got = [0; 11];
    host.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"to the host");
    host.write_all(b"to the guest").unwrap();
    assert_eq!(rig.packet(1).1, b"to the guest");

    let (closed, _) = Control::pair().unwrap();
    drop(std::mem::replace(&mut rig.control, closed));
    assert_eq!(rig.child.wait().unwrap().code(), Some(0));
    assert_eq!(host.read(&mut got).unwrap(), 0);
}

/// The guest writes, closes and powers off; QEMU is gone before the host has read.
#[test]
fn last_words_outlive_the_guest() {
    let mut rig = Rig::start();
    rig.set_up();
    let mut host = rig.dial();
    let part = [7; 60_000];
    for _ in 0..4 {
        rig.send(Op::Rw, 0, &part);
    }
    rig.send(Op::Shutdown, 3, &[]);
    rig.request(GET_VRING_BASE, &state(1, 0), None);
    assert_eq!(rig.reply(), state(1, 6), "all that was sent was taken");
    rig.frontend.shutdown(std::net::Shutdown::Both).unwrap();
    let mut got = Vec::new();
    host.read_to_end(&mut got).unwrap();
    assert!(got == part.repeat(4));
    assert_eq!(rig.child.wait().unwrap().code(), Some(0));
    assert!(matches!(rig.control.recv(), Err(ControlError::Closed)));
}

#[test]
fn a_dial_that_no_guest_answers() {
    let rig = Rig::start();
    let (ours, theirs) = UnixStream::pair().unwrap();
    rig.control
        .send(Msg::Connect { id: 9, port: 22 }, Some(theirs.as_fd()))
        .unwrap();
    drop((ours, theirs));
    let (id, errno) = (9, libc::ECONNABORTED as u32);
    assert_eq!(rig.control.recv().unwrap().0, Msg::Connected { id, errno });
}

#[test]
fn wrong_calls_are_told() {
    for (args, want) in [
        (&[][..], "--vhost-user-fd is missing"),
        (&["--control-fd", "900"], "Bad file descriptor"),
        (&["--control-fd", "x"], "not a descriptor's number"),
        (&["--bogus", "1"], "unknown or repeated argument --bogus"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_gourd-vmm"))
            .args(args)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(want), "{text}");
    }
}
