//! Names: what the gateway's DNS answers itself, what it passes on, and what an answer opens.

use std::time::Duration;

use crate::stack::{Event, Note, PortId, Stack, Target};
use crate::table::{Ends, FlowId, Side};
use crate::wire::Mac;
use crate::{dns, limit};

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
        // Names without a dot are containers'. The host's resolvers would only look in their search list.
        let local = question.name.ends_with("gourd.internal") || !question.name.contains('.');
        let mut rules = self.config.allow.iter();
        let listed = self.config.allow.is_empty() || rules.any(|rule| rule.names(&question.name));
        let refused = !local && !listed;
        self.note_question(id, &question, refused);
        if self.config.internal || local || refused {
            self.counters.refused += u64::from(refused);
            // "No such name" and not "refused", which musl's resolver takes for silence: it would wait for its time-out.
            if let Some(reply) = dns::refuse(message, dns::Code::NxDomain) {
                self.put_udp(id, mac, ends, &reply);
            }
            return;
        }
        let flow = self.new_udp(id, mac, ends, Side::Question, now);
        if let Some(known) = self.table.udp.get_mut(&flow) {
            known.question = message.to_vec();
        }
        self.events.push_back(Event::Datagram {
            flow,
            port: id,
            to: Target::Resolver,
            payload: message.to_vec(),
        });
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
