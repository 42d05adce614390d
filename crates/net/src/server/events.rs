//! What the stack wants done on the host's side.

use std::net::SocketAddr;
use std::time::Duration;

use netstack::{Event, FlowId, Note, Target, Unreachable};
use proto::network::{Lookup, Reply};

use super::Server;
use crate::queries::Query;
use crate::{deadlines, journal, members};

impl Server {
    pub(super) fn on_event(&mut self, event: Event, now: Duration) {
        match event {
            Event::Dial { flow, to } => {
                let share = self.share(self.begun);
                let dialled = share.map(|share| self.streams.dial(&self.poll, flow, to, share));
                if !matches!(dialled, Some(Ok(()))) {
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
            } => self.ask(flow, port, payload, (now, now + deadlines::WHOLE)),
            Event::Datagram {
                flow,
                port,
                to: Target::Address(to),
                payload,
            } => {
                let share = match self.datagrams.is_open(flow) {
                    true => None,
                    false => self.share(port),
                };
                let (poll, stack) = (&self.poll, &mut self.stack);
                self.datagrams.send(poll, stack, flow, to, &payload, share);
            }
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
            Event::Query {
                flow,
                port,
                payload,
            } => {
                let resolvers = self.resolvers(port);
                let Some(share) = self.share(port) else {
                    return self.stack.flow_failed(flow, Unreachable::Port);
                };
                let query = Query::new((flow, port), &resolvers, &payload, now, share);
                if let Some(failed) = self.queries.ask(&self.poll, query, now) {
                    self.ask_again(failed, now);
                }
            }
            Event::Reply {
                published,
                peer,
                payload,
            } => self.ports.answer(published, peer, &payload),
            Event::Echo {
                flow,
                to,
                sequence,
                payload,
            } => {
                let open = self.echoes.is_open(flow);
                let guest = self.clients.find(|id| !open && self.stack.is_of(flow, id));
                let share = guest.and_then(|guest| self.share(guest));
                let (poll, stack) = (&self.poll, &mut self.stack);
                self.echoes
                    .send(poll, stack, (flow, to), sequence, &payload, share);
            }
            Event::Forgotten(flow) => {
                self.datagrams.forget(flow);
                self.echoes.forget(flow);
                self.queries.forget(flow);
            }
            Event::Note(port, note) => {
                // It comes right before the flow is dialled.
                if let Note::Flow { .. } = note {
                    self.begun = port;
                }
                self.note(port, &note, now);
            }
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

    /// No resolver takes a connection: it is asked in a datagram.
    pub(super) fn ask_again(&mut self, failed: Query, now: Duration) {
        let (flow, port, end) = (failed.flow, failed.port, failed.end());
        let payload = failed.question().to_vec();
        drop(failed);
        self.ask(flow, port, payload, (now, end));
    }

    fn ask(&mut self, flow: FlowId, port: u32, payload: Vec<u8>, (now, end): (Duration, Duration)) {
        let resolvers = self.resolvers(port);
        let Some(share) = self.share(port) else {
            return self.stack.flow_failed(flow, Unreachable::Port);
        };
        let on = (&self.poll, &mut self.stack);
        self.datagrams
            .ask(on, flow, &resolvers, payload, (now, end), share);
    }
}
