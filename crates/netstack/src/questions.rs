//! Names: what the gateway's DNS answers itself, what it passes on, and what an answer opens.

use std::time::Duration;

use crate::stack::{Event, Note, PortId, Stack, Target};
use crate::table::{Ends, FlowId, Side};
use crate::wire::Mac;
use crate::{dns, limit};

/// Bytes of a question that other networks are asked: more than any name needs, and little enough for many of them to be on their way.
const LONGEST_ELSEWHERE: usize = 512;

impl Stack {
    pub(crate) fn on_question(
        &mut self,
        id: PortId,
        mac: Mac,
        ends: Ends,
        message: &[u8],
        now: Duration,
    ) {
        let Some(question) = dns::parse_query(message) else {
            self.counters.malformed += 1;
            return;
        };
        let own = |address| self.config.contains(address);
        if let Some(reply) = self.names.answer(message, &question, own) {
            return self.put_udp(id, mac, ends, &reply);
        }
        let port = self.ports.get(&id);
        if message.len() <= LONGEST_ELSEWHERE && port.is_some_and(|port| port.elsewhere) {
            let flow = self.new_question(id, mac, ends, message, now);
            self.events.push_back(Event::Elsewhere {
                flow,
                port: id,
                question: message.to_vec(),
            });
            return;
        }
        if self.may_ask(id, &question) {
            let flow = self.new_question(id, mac, ends, message, now);
            self.ask_outside(flow);
        } else if let Some(reply) = dns::refuse(message, dns::Code::NxDomain) {
            self.put_udp(id, mac, ends, &reply);
        }
    }

    fn new_question(
        &mut self,
        id: PortId,
        mac: Mac,
        ends: Ends,
        message: &[u8],
        now: Duration,
    ) -> FlowId {
        let flow = self.new_udp(id, mac, ends, Side::Question, now);
        if let Some(known) = self.table.udp.get_mut(&flow) {
            known.question = message.to_vec();
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

    /// Has a resolver asked.
    fn ask_outside(&mut self, flow: FlowId) {
        if let Some(known) = self.table.udp.get(&flow) {
            self.events.push_back(Event::Datagram {
                flow,
                port: known.port,
                to: Target::Resolver,
                payload: known.question.clone(),
            });
        }
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
        self.send_udp(flow, reply);
        self.forget_udp(flow);
    }

    /// What the names of this network answer to a message; `None`: nobody here is called so, or it is no question.
    pub fn lookup(&self, message: &[u8]) -> Option<Vec<u8>> {
        let question = dns::parse_query(message)?;
        let own = |address| self.config.contains(address);
        self.names.answer(message, &question, own)
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
        if !dns::answers(payload, &known.question) {
            return;
        }
        let id = known.port;
        if let Some(question) = dns::parse_query(&known.question) {
            self.open(id, &question.name, payload, now);
        }
        self.send_udp(flow, payload);
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
