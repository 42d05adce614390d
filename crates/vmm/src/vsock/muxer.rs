//! All connections of one device: who gets a packet, who has something for the guest, what the host side is told.
//!
//! Host sockets are watched by an epoll instance of the muxer's own, edge-triggered, which the owner's loop watches
//! in turn ([`AsFd`]). A connection that has something for the guest is in `ready` once; the front of it gets one
//! turn at a time, so that none starves.
//!
//! Bounds: [`MAX_CONNECTIONS`], each with a backlog of at most its `buf_alloc`; [`MAX_RESETS`] and [`MAX_EVENTS`]
//! for what waits to be told.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::chain::Piece;
use super::connection::{Connection, Phase, Violation};
use super::packet::{HOST_CID, Header, Op, TYPE_STREAM};
use super::stream::{Deaf, Read, Stream};

/// Connections at once, those included that only wait for a slow host reader.
pub const MAX_CONNECTIONS: usize = 1024;
/// Refusals that wait for room in the guest's queue. Beyond, the guest's packets wait.
pub const MAX_RESETS: usize = 256;
/// Events that wait for the owner. Beyond, dials are refused.
pub const MAX_EVENTS: usize = 256;
/// Bytes that a connection may hold for its host reader...
const BUF_ALLOC: u32 = 256 * 1024;
/// ...and when there are already many connections, so that the sum stays below 90 MiB.
const BUF_ALLOC_CROWDED: u32 = 64 * 1024;
const CROWD: usize = 128;
/// Host ports of dials from the host start here, as a guest would not guess.
const FIRST_DIAL_PORT: u32 = 1 << 30;

/// What the owner has to know.
#[derive(Debug)]
pub enum Event {
    /// The guest dialled a port that is listened to.
    Dialled {
        /// Port on the host.
        port: u32,
        /// Port in the guest.
        guest_port: u32,
        /// The host's end.
        fd: OwnedFd,
    },
    /// What became of [`Muxer::connect`].
    Connected {
        /// As given to `connect`.
        id: u32,
        /// 0 or an errno.
        errno: i32,
    },
}

/// What has happened, for logs and tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets and chains that no sane guest sends.
    pub violations: u64,
    /// Dials that were refused: nobody listens, or too many connections.
    pub refused: u64,
    /// Connections that were opened.
    pub opened: u64,
    /// Bytes of data from the guest.
    pub from_guest: u64,
    /// Bytes of data to the guest.
    pub to_guest: u64,
    /// Credit updates sent on their own.
    pub credit_updates: u64,
}

struct Entry {
    connection: Connection,
    stream: Stream,
    /// In `ready`.
    queued: bool,
    /// The owner's name for a dial that is not answered.
    dial: Option<u32>,
    /// How many of the guest's buffers a read may fill: grows while reads fill them all.
    burst: usize,
}

/// Something for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A packet without data.
    Control,
    /// Data of this connection may be read: at most that many bytes, into at most that many buffers.
    Data {
        /// The connection.
        id: u64,
        /// Credit, in bytes.
        limit: usize,
        /// Buffers.
        burst: usize,
    },
}

/// The connections of one device.
pub struct Muxer {
    guest_cid: u64,
    epoll: OwnedFd,
    listening: HashSet<u32>,
    entries: HashMap<u64, Entry>,
    /// (host port, guest port) of connections that the guest knows.
    by_ports: HashMap<(u32, u32), u64>,
    ready: VecDeque<u64>,
    resets: VecDeque<Header>,
    events: VecDeque<Event>,
    next_id: u64,
    next_port: u32,
    /// See [`Counters`].
    pub counters: Counters,
}

impl Muxer {
    /// A muxer without connections, for the guest of that CID.
    pub fn new(guest_cid: u64) -> std::io::Result<Muxer> {
        Ok(Muxer {
            guest_cid,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            listening: HashSet::new(),
            entries: HashMap::new(),
            by_ports: HashMap::new(),
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            events: VecDeque::new(),
            next_id: 0,
            next_port: FIRST_DIAL_PORT,
            counters: Counters::default(),
        })
    }

    /// The guest's CID.
    pub fn guest_cid(&self) -> u64 {
        self.guest_cid
    }

    /// Connections that hold a host socket.
    pub fn connections(&self) -> usize {
        self.entries.len()
    }

    // ---- the owner ----

    /// Accepts the guest's dials to this port from now on.
    pub fn listen(&mut self, port: u32) {
        self.listening.insert(port);
    }

    /// Refuses them from now on.
    pub fn unlisten(&mut self, port: u32) {
        self.listening.remove(&port);
    }

    /// Dials the guest. The answer comes as [`Event::Connected`] with this id.
    pub fn connect(&mut self, id: u32, guest_port: u32, fd: OwnedFd) {
        if self.entries.len() >= MAX_CONNECTIONS {
            self.events.push_back(Event::Connected {
                id,
                errno: libc::EMFILE,
            });
            return;
        }
        while self.by_ports.contains_key(&(self.next_port, guest_port)) {
            self.next_port = self.next_port.wrapping_add(1).max(FIRST_DIAL_PORT);
        }
        let port = self.next_port;
        self.next_port = port.wrapping_add(1).max(FIRST_DIAL_PORT);
        let connection =
            Connection::dialled_by_host(self.guest_cid, port, guest_port, self.buf_alloc());
        if self.add(connection, fd, Some(id)).is_err() {
            self.events.push_back(Event::Connected {
                id,
                errno: libc::ENOMEM,
            });
        }
    }

    /// Answers a dial whose descriptor did not arrive.
    pub fn refuse_connect(&mut self, id: u32) {
        self.events.push_back(Event::Connected {
            id,
            errno: libc::EMFILE,
        });
    }

    /// The next thing that the owner has to know.
    pub fn pop_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Puts back an event that could not be delivered yet.
    pub fn unpop_event(&mut self, event: Event) {
        self.events.push_front(event);
    }

    /// The guest starts anew and knows of no connection. What it had sent still reaches the host. Dials that it has not
    /// seen yet are for the new one.
    pub fn reset(&mut self) {
        self.resets.clear();
        self.ready.clear();
        let ids: Vec<u64> = self.by_ports.values().copied().collect();
        for id in ids {
            let unseen = |entry: &Entry| matches!(entry.connection.due(), Some((Op::Request, _)));
            match self.entries.get(&id).is_some_and(unseen) {
                true => self.ready.push_back(id),
                false => self.forget(id, libc::ECONNRESET),
            }
        }
    }

    /// Ends the dials that the guest has not seen: there will be no guest.
    pub fn give_up_dials(&mut self) {
        let ids: Vec<u64> = self.by_ports.values().copied().collect();
        for id in ids {
            self.forget(id, libc::ECONNRESET);
        }
    }

    // ---- the host's sockets ----

    /// Takes in what the host's sockets have to say. Never waits.
    pub fn poll_host(&mut self) {
        let zero = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        loop {
            let mut buffer = [const { std::mem::MaybeUninit::uninit() }; 128];
            let full = buffer.len();
            let (events, _) = match epoll::wait(&self.epoll, &mut buffer[..], Some(&zero)) {
                Ok(events) => events,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            };
            for event in events.iter() {
                self.on_host_event(event.data.u64(), event.flags);
            }
            if events.len() < full {
                return;
            }
        }
    }

    fn on_host_event(&mut self, id: u64, flags: epoll::EventFlags) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        if flags
            .intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::HUP)
        {
            entry.stream.readable = true;
        }
        let gone = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
        if gone && entry.connection.phase() == Phase::Dialled {
            let told = entry.connection.due().is_none();
            let reset = entry.connection.header(Op::Reset, 0, 0);
            if told {
                self.resets.push_back(reset);
            }
            self.forget(id, libc::ECONNABORTED);
            return;
        }
        if flags
            .intersects(epoll::EventFlags::OUT | epoll::EventFlags::HUP | epoll::EventFlags::ERR)
        {
            entry.stream.set_writable();
            match entry.stream.flush() {
                Ok(sent) => entry.connection.on_forwarded(sent as u32),
                Err(Deaf) => entry.deafen(),
            }
        }
        if gone {
            // The host reads no more, or there is nothing more for it. What it sent is still read.
            entry.deafen();
        }
        self.settle(id);
    }

    // ---- from the guest ----

    /// Whether the guest's packets have to wait until it reads ours.
    pub fn is_full(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    /// A chain that held no packet.
    pub fn on_malformed(&mut self) {
        self.counters.violations += 1;
    }

    /// A packet came. `data` holds what its chain holds after the header.
    pub fn on_packet(&mut self, header: &Header, data: &[Piece<'_>], data_len: usize) {
        if header.src_cid != self.guest_cid || header.len as usize > data_len {
            self.counters.violations += 1;
            return;
        }
        let Some(op) = header.op() else {
            self.counters.violations += 1;
            self.refuse(header);
            return;
        };
        if header.dst_cid != HOST_CID || header.kind != TYPE_STREAM {
            self.counters.refused += 1;
            self.refuse(header);
            return;
        }
        match self.by_ports.get(&(header.dst_port, header.src_port)) {
            None if op == Op::Request => self.on_dial(header),
            // Late packets of connections that the host side ended are nothing unusual.
            None => self.refuse(header),
            Some(&id) => self.on_packet_of(id, op, header, data),
        }
    }

    fn on_dial(&mut self, header: &Header) {
        let crowded = self.entries.len() >= MAX_CONNECTIONS || self.events.len() >= MAX_EVENTS;
        if !self.listening.contains(&header.dst_port) || crowded {
            self.counters.refused += 1;
            self.refuse(header);
            return;
        }
        let pair = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        );
        let connection = Connection::dialled_by_guest(header, self.buf_alloc());
        let added = pair.and_then(|(ours, theirs)| {
            self.add(connection, ours, None)?;
            Ok(theirs)
        });
        match added {
            Ok(fd) => {
                self.counters.opened += 1;
                self.events.push_back(Event::Dialled {
                    port: header.dst_port,
                    guest_port: header.src_port,
                    fd,
                });
            }
            Err(_) => {
                self.counters.refused += 1;
                self.refuse(header);
            }
        }
    }

    fn on_packet_of(&mut self, id: u64, op: Op, header: &Header, data: &[Piece<'_>]) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let connection = &mut entry.connection;
        connection.on_credit(header);
        let result = match op {
            Op::Request => Err(Violation),
            Op::Response => {
                let answer = connection.on_response();
                if let (Ok(()), Some(dial)) = (answer, entry.dial.take()) {
                    self.counters.opened += 1;
                    self.events
                        .push_back(Event::Connected { id: dial, errno: 0 });
                }
                answer
            }
            Op::Reset => {
                self.forget(id, libc::ECONNREFUSED);
                return;
            }
            Op::Shutdown => connection.on_shutdown(header.flags),
            Op::Rw => {
                let result = connection.on_data(header.len);
                if result.is_ok() {
                    self.counters.from_guest += u64::from(header.len);
                    entry.take_data(data, header.len);
                }
                result
            }
            Op::CreditUpdate => Ok(()),
            Op::CreditRequest => {
                connection.on_credit_request();
                Ok(())
            }
        };
        if result.is_err() {
            self.counters.violations += 1;
            self.refuse(header);
            self.forget(id, libc::EPROTO);
            return;
        }
        self.settle(id);
    }

    // ---- to the guest ----

    /// What the guest should get next, if anything. It stays the next until it is taken.
    pub fn peek(&mut self) -> Option<Next> {
        if !self.resets.is_empty() {
            return Some(Next::Control);
        }
        while let Some(&id) = self.ready.front() {
            if let Some(entry) = self.entries.get_mut(&id) {
                if entry.connection.due().is_some() {
                    return Some(Next::Control);
                }
                let limit = entry.connection.guest_credit() as usize;
                if entry.connection.wants_host_data() && entry.stream.readable && limit > 0 {
                    let burst = entry.burst;
                    return Some(Next::Data { id, limit, burst });
                }
                entry.queued = false;
            }
            self.ready.pop_front();
        }
        None
    }

    /// Takes the packet that [`Next::Control`] announced.
    pub fn take_control(&mut self) -> Option<Header> {
        if let Some(reset) = self.resets.pop_front() {
            return Some(reset);
        }
        let entry = self.entries.get_mut(self.ready.front()?)?;
        let (op, flags) = entry.connection.due()?;
        if op == Op::CreditUpdate {
            self.counters.credit_updates += 1;
        }
        let header = entry.connection.header(op, flags, 0);
        self.ready.rotate_left(1);
        Some(header)
    }

    /// Reads data of a connection that [`Next::Data`] announced into `iovecs`, which make up `buffers` buffers.
    /// `None` if there is none after all. The connection then has had its turn.
    pub fn read_host(&mut self, id: u64, iovecs: &[libc::iovec], room: usize) -> Option<usize> {
        let entry = self.entries.get_mut(&id)?;
        let read = entry.stream.read(iovecs);
        if self.ready.front() == Some(&id) {
            self.ready.rotate_left(1);
        }
        match read {
            Read::Bytes(len) => {
                entry.burst = if len == room {
                    (entry.burst * 2).min(64)
                } else {
                    entry.burst.div_ceil(2).max(2)
                };
                self.counters.to_guest += len as u64;
                Some(len)
            }
            Read::Nothing => None,
            Read::End => {
                entry.connection.on_host_eof();
                self.settle(id);
                None
            }
        }
    }

    /// The header for `len` bytes that [`Muxer::read_host`] read.
    pub fn data_header(&mut self, id: u64, len: u32) -> Option<Header> {
        let connection = &mut self.entries.get_mut(&id)?.connection;
        connection.on_sent(len);
        Some(connection.header(Op::Rw, 0, len))
    }

    // ---- inside ----

    fn buf_alloc(&self) -> u32 {
        if self.entries.len() < CROWD {
            BUF_ALLOC
        } else {
            BUF_ALLOC_CROWDED
        }
    }

    fn refuse(&mut self, header: &Header) {
        if header.op() != Some(Op::Reset) {
            self.resets.push_back(header.refusal());
        }
    }

    fn add(
        &mut self,
        connection: Connection,
        fd: OwnedFd,
        dial: Option<u32>,
    ) -> rustix::io::Result<()> {
        let id = self.next_id;
        self.next_id += 1;
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &fd, epoll::EventData::new_u64(id), flags)?;
        self.by_ports
            .insert((connection.host_port, connection.guest_port), id);
        let entry = Entry {
            connection,
            stream: Stream::new(fd),
            queued: true,
            dial,
            burst: 2,
        };
        self.entries.insert(id, entry);
        self.ready.push_back(id);
        Ok(())
    }

    /// The guest knows the connection no more. Its ports are free; its data goes on to the host.
    fn forget(&mut self, id: u64, errno: i32) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        self.by_ports
            .remove(&(entry.connection.host_port, entry.connection.guest_port));
        entry.connection.on_gone();
        if let Some(id) = entry.dial.take() {
            self.events.push_back(Event::Connected { id, errno });
        }
        self.settle(id);
    }

    /// Draws the conclusions after anything happened to a connection.
    fn settle(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let connection = &mut entry.connection;
        if connection.phase() == Phase::Open
            && !connection.guest_sends()
            && !connection.guest_receives()
        {
            // The guest closed: it waits for our reset, and then its ports may come again.
            let reset = connection.header(Op::Reset, 0, 0);
            self.resets.push_back(reset);
            self.forget(id, 0);
            return;
        }
        if !connection.guest_receives() {
            entry.stream.stop_reading();
        }
        if !connection.guest_sends() {
            entry.stream.finish_writing();
        }
        if connection.phase() == Phase::Gone && entry.stream.backlog() == 0 {
            // Closing takes it out of the epoll instance as well.
            self.entries.remove(&id);
            return;
        }
        if !entry.queued && connection.phase() != Phase::Gone {
            entry.queued = true;
            self.ready.push_back(id);
        }
    }
}

impl Entry {
    fn take_data(&mut self, data: &[Piece<'_>], len: u32) {
        if !self.connection.host_receives() {
            self.connection.on_forwarded(len);
            return;
        }
        match self.stream.write(data, len as usize) {
            Ok(taken) => self.connection.on_forwarded(taken as u32),
            Err(Deaf) => {
                self.connection.on_forwarded(len);
                self.deafen();
            }
        }
    }

    /// The host reads no more: what it has not read is lost, and the guest is to know.
    fn deafen(&mut self) {
        let held = self.stream.discard();
        self.connection.on_forwarded(held as u32);
        self.connection.on_host_deaf();
    }
}

/// Readable when [`Muxer::poll_host`] has something to do.
impl AsFd for Muxer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
