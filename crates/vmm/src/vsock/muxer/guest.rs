//! Packets: from the guest, and to it.

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{Entry, Event, MAX_CONNECTIONS, MAX_EVENTS, MAX_RESETS, Muxer, Next};
use crate::vsock::chain::Piece;
use crate::vsock::connection::{Connection, Violation};
use crate::vsock::packet::{HOST_CID, Header, Op, TYPE_STREAM};
use crate::vsock::stream::{Deaf, Read};

impl Muxer {
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

    /// Takes the packet that `Next::Control` announced.
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

    /// Reads data of a connection that `Next::Data` announced into `iovecs`, which make up `buffers` buffers.
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
}
