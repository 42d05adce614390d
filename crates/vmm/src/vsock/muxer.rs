//! All connections of one device: who gets a packet, who has something for the guest, what the host side is told.
//!
//! Host sockets are watched by an epoll instance of the muxer's own, edge-triggered, which the owner's loop watches
//! in turn ([`AsFd`]). A connection that has something for the guest is in `ready` once; the front of it gets one
//! turn at a time, so that none starves.
//!
//! `host` holds what the host's sockets cause, `guest` what packets do, both ways.
//!
//! Bounds: [`MAX_CONNECTIONS`], each with a backlog of at most its `buf_alloc`; [`MAX_RESETS`] and [`MAX_EVENTS`]
//! for what waits to be told.

mod guest;
mod host;

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll;

use super::connection::{Connection, Phase};
use super::packet::{Header, Op};
use super::stream::Stream;

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

/// Readable when [`Muxer::poll_host`] has something to do.
impl AsFd for Muxer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}
