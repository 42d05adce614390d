//! The loop: frames, sockets, supervisors, timers.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use netstack::{Config, Event, FlowId, Note, Stack, Target, Transmitted};
use proto::network::{self, Lookup, MAX_LOOKUP, PROTOCOL, Protocol, Reply, Request};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};
use thiserror::Error;

use crate::datagrams::{Datagrams, LARGEST};
use crate::echoes::Echoes;
use crate::journal::{self, Journal};
use crate::members::{self, Clients};
use crate::poll::{Poll, Ready, Token};
use crate::published::Ports;
use crate::resolvers::Resolvers;
use crate::streams::Streams;

/// Frames of one guest before others have their turn.
const FRAMES: usize = 64;

/// Datagrams of one published port, and connections to one, before others have their turn.
const TURN: usize = 64;

/// The host's resolvers are named here.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Why a network can't go on.
#[derive(Debug, Error)]
pub enum Error {
    /// The system refused.
    #[error("{0}: {1}")]
    System(&'static str, io::Error),
}

fn system<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> Error {
    move |error| Error::System(step, error.into())
}

/// The process.
pub struct Server {
    poll: Poll,
    listener: OwnedFd,
    /// Held for as long as the process lives.
    lock: Option<OwnedFd>,
    stack: Stack,
    clients: Clients,
    ports: Ports,
    streams: Streams,
    datagrams: Datagrams,
    echoes: Echoes,
    journal: Journal,
    resolvers: Resolvers,
    start: Instant,
    /// Somebody was here.
    used: bool,
    buffer: Vec<u8>,
}

/// Whether to go on.
enum Next {
    On,
    End,
}

impl Server {
    /// The listening socket is standard input, the network's lock is standard output.
    pub fn new(config: Config) -> Result<Server, Error> {
        let duplicate = |fd: std::os::fd::BorrowedFd<'_>| {
            let fd = fd.try_clone_to_owned();
            fd.map_err(system("the standard streams"))
        };
        let listener = duplicate(io::stdin().as_fd())?;
        let lock = duplicate(io::stdout().as_fd())?;
        let log = File::from(duplicate(io::stderr().as_fd())?);
        let mut server = Server::with(config, listener, Some(lock), RESOLV_CONF.into())?;
        server.journal = Journal::new(Some(log));
        Ok(server)
    }

    fn with(
        config: Config,
        listener: OwnedFd,
        lock: Option<OwnedFd>,
        resolv_conf: PathBuf,
    ) -> Result<Server, Error> {
        let poll = Poll::new().map_err(system("epoll instance"))?;
        rustix::io::ioctl_fionbio(&listener, true).map_err(system("listening socket"))?;
        poll.watch_input(listener.as_fd(), Token::Listener)
            .map_err(system("listening socket"))?;
        Ok(Server {
            poll,
            listener,
            lock,
            stack: Stack::new(config),
            clients: Clients::default(),
            ports: Ports::default(),
            streams: Streams::default(),
            datagrams: Datagrams::default(),
            echoes: Echoes::default(),
            journal: Journal::new(None),
            resolvers: Resolvers::new(resolv_conf),
            start: Instant::now(),
            used: false,
            buffer: vec![0; LARGEST + 64],
        })
    }

    /// Runs until the last guest has left.
    pub fn run(mut self) -> Result<(), Error> {
        /// Who started this is about to join. One that died in between must not leave this behind for ever.
        const PATIENCE: Duration = Duration::from_secs(20);
        loop {
            let now = self.now();
            let mut limit = self.stack.deadline().saturating_sub(now);
            if let Some(deadline) = self.datagrams.deadline() {
                limit = limit.min(deadline.saturating_sub(now));
            }
            if !self.streams.again.is_empty() {
                limit = Duration::ZERO;
            }
            if !self.used {
                limit = limit.min(PATIENCE.saturating_sub(now));
            }
            let ready = self.poll.wait(limit).map_err(system("wait for events"))?;
            let now = self.now();
            for ready in ready {
                if let Next::End = self.on_ready(ready, now) {
                    // The lock first: whoever sees the end of a connection finds it free.
                    if let Some(lock) = &self.lock {
                        let _ = rustix::fs::flock(lock, rustix::fs::FlockOperation::Unlock);
                    }
                    return Ok(());
                }
            }
            for flow in std::mem::take(&mut self.streams.again) {
                self.streams.look(&mut self.stack, flow, now);
            }
            if self.stack.deadline() <= now {
                self.stack.on_time(now);
            }
            self.datagrams.on_time(&self.poll, &mut self.stack, now);
            self.settle(now);
            if self.clients.is_captured() {
                self.clients.flush_captures();
            }
            if !self.used && now >= PATIENCE {
                return Ok(());
            }
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn on_ready(&mut self, ready: Ready, now: Duration) -> Next {
        match ready.token {
            Token::Listener => self.accept(),
            Token::Client(id) => return self.on_client(id),
            Token::Link(id) => self.on_link(id, ready, now),
            Token::Stream(flow) => {
                let (input, output) = (ready.input, ready.output);
                self.streams
                    .on_ready(&mut self.stack, flow, input, output, now);
            }
            Token::Datagrams(flow) => {
                let (poll, stack) = (&self.poll, &mut self.stack);
                self.datagrams
                    .on_ready(poll, stack, flow, &mut self.buffer, now);
            }
            Token::Echoes(flow) => {
                let stack = &mut self.stack;
                self.echoes.on_ready(stack, flow, &mut self.buffer, now);
            }
            Token::Published(id) => self.on_published(id, now),
        }
        Next::On
    }

    fn accept(&mut self) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        while let Ok(socket) = rustix::net::accept_with(&self.listener, flags) {
            // One that can't be watched is closed, and its supervisor tries again.
            let _ = self.clients.insert(&self.poll, socket);
        }
    }

    /// A message of a supervisor or engine, or its end.
    fn on_client(&mut self, id: u32) -> Next {
        let Some(client) = self.clients.get(id) else {
            return Next::On;
        };
        let message = match network::receive::<Request>(client.socket.as_fd()) {
            Ok(Some(message)) => message,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::On,
            // The end, or nothing that anybody of ours would say.
            Ok(None) | Err(_) => {
                let (poll, stack) = (&self.poll, &mut self.stack);
                let left = self.clients.leave(poll, stack, &mut self.ports, id);
                self.journal.forget(id);
                // The last guest, or the only one that wanted to be one.
                let over = self.clients.guests() == 0 && (left || self.clients.is_empty());
                return if over { Next::End } else { Next::On };
            }
        };
        let reply = match message {
            (Request::Join(join), link) => {
                let (poll, stack, ports) = (&self.poll, &mut self.stack, &mut self.ports);
                match self.clients.join(poll, stack, ports, id, join, link) {
                    Ok(joined) => {
                        self.used = true;
                        Reply::Joined(joined)
                    }
                    Err(refused) => Reply::Refused(refused),
                }
            }
            (Request::Publish(wanted), _) => {
                let (poll, ports) = (&self.poll, &mut self.ports);
                match self.clients.publish(poll, ports, id, &wanted) {
                    Ok(published) => Reply::Published(published),
                    Err(refused) => Reply::Refused(refused),
                }
            }
            (Request::Elsewhere(elsewhere), _) => {
                self.stack.set_elsewhere(id, elsewhere);
                return Next::On;
            }
            (Request::Answer(Lookup { id: flow, message }), _) => {
                let flow = FlowId(flow);
                if self.stack.is_of(flow, id) {
                    self.stack.elsewhere_answer(flow, message.as_deref());
                }
                return Next::On;
            }
            (Request::Lookup(asked), _) => Reply::Found(self.look_up(id, asked)),
            (
                Request::Watch {
                    protocol: PROTOCOL,
                    container,
                },
                file,
            ) => {
                self.clients.watch(id, container, file);
                return Next::On;
            }
            // Of another version: it hears nothing that it could take for something else.
            (Request::Watch { .. }, _) => return Next::On,
            (Request::Report { protocol: PROTOCOL }, _) => Reply::Report(self.clients.report()),
            // Of another version: no answer that it would know.
            (Request::Report { .. }, _) => Reply::Report(Vec::new()),
        };
        if let Some(client) = self.clients.get(id) {
            members::reply(client, &reply);
        }
        Next::On
    }

    /// What the names here say to a guest of ours that is asked for on another network.
    fn look_up(&mut self, id: u32, asked: Lookup) -> Lookup {
        let here = self.clients.guest(id).is_some();
        let question = asked.message.filter(|_| here);
        let found = question.and_then(|question| self.stack.lookup(&question));
        Lookup {
            id: asked.id,
            message: found.filter(|message| message.len() <= MAX_LOOKUP),
        }
    }

    /// Frames of a guest, or room for some.
    fn on_link(&mut self, id: u32, ready: Ready, now: Duration) {
        if ready.output
            && let Some(guest) = self.clients.guest(id)
            && guest.full
        {
            guest.full = false;
            let _ = self
                .poll
                .rewatch(guest.link.fd.as_fd(), Token::Link(id), false);
            self.transmit(id, now);
            self.resume(id);
        }
        for _ in 0..FRAMES {
            let Some(guest) = self.clients.guest(id) else {
                return;
            };
            match guest.link.receive(&mut self.buffer) {
                Ok(count) => {
                    for frame in guest.link.frames(&self.buffer[..count]) {
                        if self.clients.is_captured() {
                            let gateway = self.stack.config().mac;
                            self.clients.capture(id, false, frame, gateway);
                        }
                        self.stack.receive(id, frame, now);
                    }
                }
                Err(Errno::INTR) => {}
                // Nothing more; or the VM is gone, and its supervisor will say so.
                Err(_) => return,
            }
        }
    }

    /// Sends what there is for a guest, as far as there is room.
    fn transmit(&mut self, id: u32, now: Duration) {
        loop {
            let mut recorded = self.clients.is_captured().then(Vec::new);
            let Some(guest) = self.clients.guest(id).filter(|guest| !guest.full) else {
                return;
            };
            let link = &mut guest.link;
            let offered = self.stack.transmit_with(id, now, |pieces| {
                let taken = link.send(pieces);
                if let Some(frame) = recorded.as_mut().filter(|_| taken) {
                    pieces
                        .iter()
                        .for_each(|piece| frame.extend_from_slice(piece));
                }
                taken
            });
            match offered {
                Transmitted::Sent => {}
                Transmitted::Nothing if link.flush() => return,
                Transmitted::Nothing | Transmitted::Full => {
                    guest.full = true;
                    let fd = link.fd.as_fd();
                    let _ = self.poll.rewatch(fd, Token::Link(id), true);
                    return;
                }
            }
            if let Some(frame) = recorded {
                let gateway = self.stack.config().mac;
                self.clients.capture(id, true, &frame, gateway);
            }
        }
    }

    fn on_published(&mut self, id: u64, now: Duration) {
        for _ in 0..TURN {
            let Some(published) = self.ports.get(id) else {
                return;
            };
            let (member, guest_port) = (published.member, published.port.guest_port);
            if published.port.protocol == Protocol::Udp {
                if !self.stack.has_room(member) {
                    return self.pause(member, id);
                }
                let flags = RecvFlags::empty();
                let received = rustix::net::recvfrom(&published.fd, &mut self.buffer[..], flags);
                let Ok((count, _, Some(peer))) = received else {
                    return;
                };
                if let Ok(peer) = SocketAddr::try_from(peer) {
                    let payload = &self.buffer[..count];
                    self.stack
                        .udp_inbound(member, id, peer, guest_port, payload, now);
                }
                continue;
            }
            let Some((fd, client)) = Ports::accept(published) else {
                return;
            };
            // Too many: the connection is closed.
            let Some(flow) = self.stack.tcp_dial(member, client, guest_port, now) else {
                continue;
            };
            if self.streams.take(&self.poll, flow, fd).is_err() {
                self.stack.tcp_abort(flow);
            }
        }
    }

    /// A guest takes no more datagrams: the kernel keeps some, and drops the rest for less than it would cost us.
    fn pause(&mut self, member: u32, id: u64) {
        if let Some(published) = self.ports.get(id)
            && let Some(guest) = self.clients.guest(member)
            && guest.full
            && self
                .poll
                .pause(published.fd.as_fd(), Token::Published(id))
                .is_ok()
        {
            guest.paused.push(id);
        }
    }

    /// It does again.
    fn resume(&mut self, member: u32) {
        let Some(guest) = self.clients.guest(member) else {
            return;
        };
        if guest.paused.is_empty() || !self.stack.has_room(member) {
            return;
        }
        for id in std::mem::take(&mut guest.paused) {
            // One that was withdrawn meanwhile is no more.
            if let Some(published) = self.ports.get(id) {
                let fd = published.fd.as_fd();
                let _ = self.poll.rewatch(fd, Token::Published(id), false);
            }
        }
    }

    /// Does what the stack wants done, until it wants nothing more.
    fn settle(&mut self, now: Duration) {
        loop {
            let mut idle = true;
            while let Some(event) = self.stack.event() {
                idle = false;
                self.on_event(event, now);
            }
            while let Some(id) = self.stack.ready_port() {
                idle = false;
                self.transmit(id, now);
            }
            if idle {
                return;
            }
        }
    }

    fn on_event(&mut self, event: Event, now: Duration) {
        match event {
            Event::Dial { flow, port, to } => {
                let Some(to) = self.address(port, to) else {
                    return self.stack.tcp_abort(flow);
                };
                if self.streams.dial(&self.poll, flow, to).is_err() {
                    self.stack.tcp_abort(flow);
                }
            }
            Event::Look(flow) => self.streams.look(&mut self.stack, flow, now),
            Event::Done(flow) => self.streams.done(flow),
            Event::Reset(flow) => self.streams.reset(flow),
            Event::Datagram {
                flow,
                port,
                to: Target::Resolver,
                payload,
            } => self.ask(flow, port, payload, now),
            Event::Datagram {
                flow,
                to: Target::Address(to),
                payload,
                ..
            } => self
                .datagrams
                .send(&self.poll, &mut self.stack, flow, to, &payload),
            Event::Elsewhere {
                flow,
                port,
                question,
            } => {
                if let Some(client) = self.clients.get(port) {
                    let message = Some(question);
                    members::reply(
                        client,
                        &Reply::Ask(Lookup {
                            id: flow.0,
                            message,
                        }),
                    );
                }
            }
            Event::Reply {
                published,
                peer,
                payload,
            } => {
                if let Some(published) = self.ports.get(published) {
                    // Lost when there is no room, as datagrams are.
                    let flags = SendFlags::NOSIGNAL;
                    let _ = rustix::net::sendto(&published.fd, &payload, flags, &peer);
                }
            }
            Event::Echo {
                flow,
                to,
                sequence,
                payload,
            } => {
                let (poll, stack) = (&self.poll, &mut self.stack);
                self.echoes
                    .send(poll, stack, (flow, to), sequence, &payload);
            }
            Event::Forgotten(flow) => {
                self.datagrams.forget(flow);
                self.echoes.forget(flow);
            }
            Event::Note(port, note) => self.note(port, &note, now),
        }
    }

    /// Tells those who watch, and the log what lasts.
    fn note(&mut self, port: u32, note: &Note, now: Duration) {
        let lasts = journal::lasts(note);
        if !lasts && !self.clients.is_watched() {
            return;
        }
        let name = self.clients.name(port).to_owned();
        let Some(line) = self.journal.line(port, &name, note, now) else {
            return;
        };
        if lasts {
            self.journal.write(&line);
        }
        self.clients.tell(port, &line);
    }

    fn resolvers(&mut self, port: u32) -> Vec<SocketAddr> {
        match self.clients.guest(port) {
            Some(guest) if !guest.resolvers.is_empty() => guest.resolvers.clone(),
            _ => self.resolvers.now().to_vec(),
        }
    }

    fn address(&mut self, port: u32, to: Target) -> Option<SocketAddr> {
        match to {
            Target::Address(to) => Some(to),
            Target::Resolver => self.resolvers(port).first().copied(),
        }
    }

    fn ask(&mut self, flow: FlowId, port: u32, payload: Vec<u8>, now: Duration) {
        let resolvers = self.resolvers(port);
        let (poll, stack) = (&self.poll, &mut self.stack);
        self.datagrams
            .ask(poll, stack, flow, &resolvers, payload, now);
    }
}

#[cfg(test)]
mod tests;
