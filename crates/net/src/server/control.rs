//! What supervisors and engines say.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netstack::FlowId;
use proto::network::{self, Lookup, MAX_LOOKUP, PROTOCOL, Reply, Request};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::shortage::is_shortage;
use super::{Next, Server};
use crate::members;
use crate::poll::Token;

impl Server {
    pub(super) fn accept(&mut self, now: Duration) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        loop {
            // A link that finds no room is lost on its way, and with it the guest.
            if self.descriptors.left(self.others()) == 0 {
                return self.starve(Token::Listener, now);
            }
            match rustix::net::accept_with(&self.listener, flags) {
                // One that can't be watched is closed, and its supervisor tries again.
                Ok(socket) => drop(self.clients.insert(&self.poll, socket)),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) if is_shortage(errno) => return self.starve(Token::Listener, now),
                Err(_) => return,
            }
        }
    }

    /// A message of a supervisor or engine, or its end.
    pub(super) fn on_client(&mut self, id: u32) -> Next {
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
}
