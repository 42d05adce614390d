//! The loop: frames, sockets, supervisors, timers.

mod control;
mod events;
mod shortage;
mod traffic;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use netstack::{Config, Stack};
use thiserror::Error;

use crate::datagrams::{Datagrams, LARGEST};
use crate::descriptors::Descriptors;
use crate::echoes::Echoes;
use crate::journal::Journal;
use crate::members::Clients;
use crate::poll::{Poll, Ready, Token};
use crate::published::Ports;
use crate::queries::Queries;
use crate::resolvers::Resolvers;
use crate::streams::Streams;
use shortage::Starved;

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
    queries: Queries,
    journal: Journal,
    resolvers: Resolvers,
    descriptors: Descriptors,
    starved: Starved,
    /// The guest whose flow began last.
    begun: u32,
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
            queries: Queries::default(),
            journal: Journal::new(None),
            resolvers: Resolvers::new(resolv_conf),
            descriptors: Descriptors::new(),
            starved: Starved::default(),
            begun: 0,
            start: Instant::now(),
            used: false,
            buffer: vec![0; LARGEST + 64],
        })
    }

    /// Runs until the last guest has left.
    pub fn run(mut self) -> Result<(), Error> {
        while let Next::On = self.turn()? {}
        Ok(())
    }

    /// Waits until something happens, and does what there is to do.
    fn turn(&mut self) -> Result<Next, Error> {
        /// Who started this is about to join. One that died in between must not leave this behind for ever.
        const PATIENCE: Duration = Duration::from_secs(20);
        let now = self.now();
        let mut limit = self.stack.deadline().saturating_sub(now);
        let deadlines = [
            self.datagrams.deadline(),
            self.queries.deadline(),
            self.starved.deadline(),
        ];
        for deadline in deadlines.into_iter().flatten() {
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
                return Ok(Next::End);
            }
        }
        for flow in std::mem::take(&mut self.streams.again) {
            self.streams.look(&mut self.stack, flow, now);
        }
        if self.stack.deadline() <= now {
            self.stack.on_time(now);
        }
        self.datagrams.on_time(&self.poll, &mut self.stack, now);
        while let Some(failed) = self.queries.on_time(&self.poll, now) {
            self.ask_again(failed, now);
        }
        self.settle(now);
        self.feed(now);
        if self.clients.is_captured() {
            self.clients.flush_captures();
        }
        let over = !self.used && now >= PATIENCE;
        Ok(if over { Next::End } else { Next::On })
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn on_ready(&mut self, ready: Ready, now: Duration) -> Next {
        match ready.token {
            Token::Listener => self.accept(now),
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
            Token::Queries(flow) => {
                let (poll, stack) = (&self.poll, &mut self.stack);
                let buffer = &mut self.buffer;
                if let Some(failed) = self.queries.on_ready(poll, stack, flow, buffer, now) {
                    self.ask_again(failed, now);
                }
            }
            Token::Published(id) => self.on_published(id, now),
        }
        Next::On
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
}

#[cfg(test)]
mod tests;
