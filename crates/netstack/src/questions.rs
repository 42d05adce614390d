//! Names: what the gateway's DNS answers itself, what it passes on, and what an answer opens; in datagrams, and over connections
//! (RFC 7766), where each message has its length before it.

use std::time::Duration;

use crate::stack::{Event, Note, PortId, Stack, Target};
use crate::table::{Ends, FlowId, Side, TcpFlow};
use crate::wire::{self, Mac};
use crate::{dns, limit};

/// Bytes of a question that other networks are asked: more than any name needs, and little enough for many of them to be on their way.
const LONGEST_ELSEWHERE: usize = 512;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asker {
    pub port: PortId,
    pub mac: Mac,
    pub ends: Ends,
    /// Over this connection.
    pub stream: Option<FlowId>,
}

impl Stack {
    pub(crate) fn on_question(&mut self, asker: Asker, message: &[u8], now: Duration) {
        let id = asker.port;
        let Some(question) = dns::parse_query(message) else {
            self.counters.malformed += 1;
            if let Some(stream) = asker.stream {
                self.tcp_abort(stream);
            }
            return;
        };
        let own = |address| self.config.contains(address);
        if let Some(reply) = self.names.answer(message, &question, own) {
            return self.reply(asker, message, &reply);
        }
        let port = self.ports.get(&id);
        if message.len() <= LONGEST_ELSEWHERE && port.is_some_and(|port| port.elsewhere) {
            let flow = self.new_question(asker, message, now);
            self.events.push_back(Event::Elsewhere {
                flow,
                port: id,
                question: message.to_vec(),
            });
            return;
        }
        if self.may_ask(id, &question) {
            let flow = self.new_question(asker, message, now);
            self.ask_outside(flow);
        } else if let Some(reply) = dns::refuse(message, dns::Code::NxDomain) {
            self.reply(asker, message, &reply);
        }
    }

    fn new_question(&mut self, asker: Asker, message: &[u8], now: Duration) -> FlowId {
        let flow = self.new_udp(asker.port, asker.mac, asker.ends, Side::Question, now);
        if let Some(known) = self.table.udp.get_mut(&flow) {
            known.question = message.to_vec();
            known.stream = asker.stream;
        }
        let stream = asker.stream.and_then(|it| self.table.tcp.get_mut(&it));
        if let Some(known) = stream {
            known.names = known.names.map(|waiting| waiting + 1);
        }
        flow
    }

    /// Whether a question that no name of ours answers may go to a resolver. If not, the answer is "no such name" and not "refused",
    /// which musl's resolver takes for silence: it would wait for its time-out.
    fn may_ask(&mut self, id: PortId, question: &dns::Question) -> bool {
        // Names without a dot are containers'. The host's resolvers would only look in their search list.
        let local = question.name.ends_with("gourd.internal") || !question.name.contains('.');
        let mut rules = self.config.allow.iter();
        let listed = self.config.allow.is_empty() || rules.any(|rule| rule.names(&question.name));
        let refused = !local && !listed;
        self.note_question(id, question, refused);
        self.counters.refused += u64::from(refused);
        !(self.config.internal || local || refused)
    }

    /// Has a resolver asked: over a connection if that is how the question came.
    fn ask_outside(&mut self, flow: FlowId) {
        let Some(known) = self.table.udp.get(&flow) else {
            return;
        };
        let (port, mut payload) = (known.port, known.question.clone());
        // The guest's own number is one that it may have told others.
        let number = self.question_number(flow);
        payload[..number.len()].copy_from_slice(&number);
        let to = Target::Resolver;
        self.events.push_back(match known.stream {
            Some(_) => Event::Query {
                flow,
                port,
                payload,
            },
            None => Event::Datagram {
                flow,
                port,
                to,
                payload,
            },
        });
    }

    /// Whether a guest is on other networks, too: what nobody here is called is then asked there ([`Event::Elsewhere`]).
    pub fn set_elsewhere(&mut self, id: PortId, elsewhere: bool) {
        if let Some(port) = self.ports.get_mut(&id) {
            port.elsewhere = elsewhere;
        }
    }

    /// What another network's names answer to a question; `None`: nobody there is called so either. It opens nothing: an
    /// allow-list is about what is outside.
    pub fn elsewhere_answer(&mut self, flow: FlowId, answer: Option<&[u8]>) {
        let Some(known) = self.table.udp.get(&flow) else {
            return;
        };
        if known.side != Side::Question {
            return;
        }
        let (id, query) = (known.port, known.question.clone());
        let answer = answer.filter(|answer| dns::answers(answer, &query));
        let Some(question) = dns::parse_query(&query) else {
            return;
        };
        let refused;
        let reply = match answer {
            Some(answer) => answer,
            None if self.may_ask(id, &question) => return self.ask_outside(flow),
            None => {
                refused = dns::refuse(&query, dns::Code::NxDomain).unwrap_or_default();
                &refused
            }
        };
        self.answer(flow, reply);
        self.forget_udp(flow);
    }

    /// What the names of this network answer to a message; `None`: nobody here is called so, or it is no question.
    pub fn lookup(&self, message: &[u8]) -> Option<Vec<u8>> {
        let question = dns::parse_query(message)?;
        let own = |address| self.config.contains(address);
        self.names.answer(message, &question, own)
    }

    /// Tells who asked. A datagram that does not fit says so, and the question comes again over a connection.
    fn reply(&mut self, asker: Asker, query: &[u8], reply: &[u8]) {
        let Some(stream) = asker.stream else {
            let headers = wire::ip_len(asker.ends.guest.ip()) + wire::UDP_LEN;
            let most = usize::from(self.config.mtu).saturating_sub(headers);
            let cut = dns::truncated(query, reply, most);
            let reply = cut.as_deref().unwrap_or(reply);
            return self.put_udp(asker.port, asker.mac, asker.ends, reply);
        };
        let Some(known) = self.table.tcp.get(&stream) else {
            return;
        };
        let now = known.tcp.heard();
        let Ok(len) = u16::try_from(reply.len()) else {
            return self.tcp_abort(stream);
        };
        let message = [&len.to_be_bytes()[..], reply].concat();
        // Who asks and does not listen has no claim to our memory.
        if self.tcp_room(stream) < message.len() {
            return self.tcp_abort(stream);
        }
        self.tcp_write(stream, &message, now);
    }

    /// Tells who asked the question that a flow is.
    pub(crate) fn answer(&mut self, flow: FlowId, reply: &[u8]) {
        let Some(known) = self.table.udp.get(&flow) else {
            return;
        };
        let asker = Asker {
            port: known.port,
            mac: known.mac,
            ends: known.ends,
            stream: known.stream,
        };
        let question = known.question.clone();
        self.reply(asker, &question, reply);
    }

    /// Questions may have come over a connection, or its end.
    pub(crate) fn on_names(&mut self, flow: FlowId) {
        while let Some(known) = self.table.tcp.get(&flow)
            && known.names.is_some()
        {
            let now = known.tcp.heard();
            let asker = Asker {
                port: known.port,
                mac: known.mac,
                ends: known.ends,
                stream: Some(flow),
            };
            let (front, back) = known.tcp.input();
            let have = front.len() + back.len();
            let bytes = || front.iter().chain(back).copied();
            let mut head = bytes();
            let len = match (head.next(), head.next()) {
                (Some(high), Some(low)) => Some(usize::from(u16::from_be_bytes([high, low]))),
                _ => None,
            };
            match len {
                Some(len) if len > limit::QUESTION_BYTES => return self.tcp_abort(flow),
                Some(len) if have >= 2 + len => {
                    let message: Vec<u8> = bytes().skip(2).take(len).collect();
                    self.tcp_consume(flow, 2 + len);
                    self.on_question(asker, &message, now);
                }
                _ => {
                    // The end: half of a question is none.
                    if known.tcp.input_ended() {
                        self.tcp_consume(flow, have);
                        self.end_names(flow);
                    }
                    return;
                }
            }
        }
    }

    /// One of a connection's questions waits no more.
    pub(crate) fn names_answered(&mut self, flow: FlowId) {
        if let Some(known) = self.table.tcp.get_mut(&flow) {
            known.names = known.names.map(|waiting| waiting.saturating_sub(1));
        }
        self.end_names(flow);
    }

    /// When the guest asks no more and all is answered, we have no more to say.
    fn end_names(&mut self, flow: FlowId) {
        let over = |known: &TcpFlow| {
            known.names == Some(0) && known.tcp.input_ended() && known.tcp.input().0.is_empty()
        };
        if self.table.tcp.get(&flow).is_some_and(over) {
            self.tcp_finish(flow);
        }
    }

    fn note_question(&mut self, id: PortId, question: &dns::Question, refused: bool) {
        let note = Note::Question {
            name: question.name.clone(),
            kind: question.kind,
            refused,
        };
        self.events.push_back(Event::Note(id, note));
    }

    /// A resolver has answered a question, if this is an answer to it.
    pub(crate) fn on_answer(&mut self, flow: FlowId, payload: &[u8], now: Duration) {
        let Some(known) = self.table.udp.get(&flow) else {
            return;
        };
        let Some(rest) = payload.strip_prefix(&self.question_number(flow)) else {
            return;
        };
        let payload = &[&known.question[..2], rest].concat()[..];
        if !dns::answers(payload, &known.question) {
            return;
        }
        let id = known.port;
        if let Some(question) = dns::parse_query(&known.question) {
            self.open(id, &question.name, payload, now);
        }
        self.answer(flow, payload);
        self.forget_udp(flow);
    }

    /// What an answer about a name of the allow-list opens, before the guest hears it.
    fn open(&mut self, id: PortId, name: &str, answer: &[u8], now: Duration) {
        let rules = self.config.allow.iter().filter(|rule| rule.names(name));
        let ports: Vec<Option<u16>> = rules.map(|rule| rule.port).collect();
        let Some(port) = self.ports.get_mut(&id).filter(|_| !ports.is_empty()) else {
            return;
        };
        for (address, ttl) in dns::addresses(answer) {
            let held = Duration::from_secs(ttl.into());
            let until = now + held.clamp(limit::OPEN_LEAST, limit::OPEN_MOST);
            for allowed in &ports {
                port.opened.open(address, *allowed, until, now);
            }
        }
    }
}
