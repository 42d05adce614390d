//! What guests may reach outside: an allow-list of names, of all names below one, and of prefixes, each for one port or for all.
//!
//! A name is no address: it is opened by its answer. The gateway's DNS passes on questions about names of the list only, and the
//! addresses in an answer are open for who asked, for as long as the answer holds. So a name whose addresses change works, an
//! address next to it does not, and one that was guessed or learnt elsewhere does not either.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::limit;
use crate::wire::ipv6;

/// What a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// This name, in lower case.
    Name(String),
    /// All names below this one, which is none of them.
    Below(String),
    /// All addresses that have so many bits in common with this one.
    Prefix(IpAddr, u8),
}

/// A rule of an allow-list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What may be reached.
    pub what: What,
    /// At this port only; ICMP has none.
    pub port: Option<u16>,
}

impl Rule {
    /// Whether a name is one that it opens.
    pub fn names(&self, name: &str) -> bool {
        match &self.what {
            What::Name(own) => own == name,
            What::Below(own) => name
                .strip_suffix(own.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            What::Prefix(..) => false,
        }
    }

    /// Whether an address and port are among its prefix's. Echoes have port 0.
    pub fn covers(&self, to: SocketAddr) -> bool {
        let inside = match (&self.what, to.ip()) {
            (What::Prefix(IpAddr::V4(prefix), bits), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub((*bits).into()));
                (prefix.to_bits() ^ address.to_bits()) & mask.unwrap_or(0) == 0
            }
            (What::Prefix(IpAddr::V6(prefix), bits), IpAddr::V6(address)) => {
                (prefix.to_bits() ^ address.to_bits()) & ipv6::mask(*bits) == 0
            }
            _ => false,
        };
        inside && self.port.is_none_or(|port| port == to.port())
    }
}

/// The addresses that answers have opened for a guest, each with the rule's port, and until when.
#[derive(Debug, Default)]
pub(crate) struct Opened(HashMap<(IpAddr, Option<u16>), Duration>);

impl Opened {
    /// Opens an address; one that is open stays so for as long as any of its answers holds.
    pub fn open(&mut self, address: IpAddr, port: Option<u16>, until: Duration, now: Duration) {
        let key = (address, port);
        if self.0.len() >= limit::OPENED && !self.0.contains_key(&key) {
            self.0.retain(|_, until| *until > now);
        }
        if self.0.len() >= limit::OPENED && !self.0.contains_key(&key) {
            let first = self.0.iter().min_by_key(|(_, until)| **until);
            if let Some(first) = first.map(|(key, _)| *key) {
                self.0.remove(&first);
            }
        }
        let known = self.0.entry(key).or_insert(until);
        *known = (*known).max(until);
    }

    /// Whether it is open.
    pub fn allows(&self, to: SocketAddr, now: Duration) -> bool {
        [None, Some(to.port())].into_iter().any(|port| {
            let until = self.0.get(&(to.ip(), port));
            until.is_some_and(|until| now <= *until)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(address: &str, bits: u8, port: Option<u16>) -> Rule {
        Rule {
            what: What::Prefix(address.parse().unwrap(), bits),
            port,
        }
    }

    #[test]
    fn names_are_taken_at_their_word() {
        let name = |what| Rule { what, port: None };
        let one = name(What::Name("example.org".into()));
        let below = name(What::Below("example.org".into()));
        let check = |text: &str, expect: (bool, bool)| {
            assert_eq!((one.names(text), below.names(text)), expect, "{text}");
        };
        check("example.org", (true, false));
        check("www.example.org", (false, true));
        check("a.b.example.org", (false, true));
        check("badexample.org", (false, false));
        check(".example.org", (false, false));
        check("example.org.evil.test", (false, false));
        check("", (false, false));
    }

    #[test]
    fn prefixes_end_where_they_end() {
        let check = |rule: &Rule, to: &str, expect: bool| {
            assert_eq!(rule.covers(to.parse().unwrap()), expect, "{rule:?} {to}");
        };
        let some = prefix("192.0.2.64", 26, None);
        check(&some, "192.0.2.64:1", true);
        check(&some, "192.0.2.127:0", true);
        check(&some, "192.0.2.128:1", false);
        check(&some, "192.0.2.63:1", false);
        check(&some, "[::ffff:192.0.2.64]:1", false);
        let all = prefix("0.0.0.0", 0, Some(443));
        check(&all, "203.0.113.1:443", true);
        check(&all, "203.0.113.1:80", false);
        check(&all, "203.0.113.1:0", false);
        let one = prefix("2001:db8::9", 128, None);
        check(&one, "[2001:db8::9]:5", true);
        check(&one, "[2001:db8::8]:5", false);
        check(&prefix("::", 0, None), "[2001:db8::8]:5", true);
        check(&prefix("::", 0, None), "192.0.2.1:5", false);
    }

    #[test]
    fn what_is_opened_closes_and_is_bounded() {
        let second = Duration::from_secs;
        let at = |number: usize| IpAddr::from((number as u32).to_be_bytes());
        let mut opened = Opened::default();
        for number in 0..limit::OPENED + 10 {
            opened.open(at(number), None, second(5 + number as u64), second(0));
        }
        assert_eq!(opened.0.len(), limit::OPENED);
        let to = |number| SocketAddr::new(at(number), 80);
        assert!(!opened.allows(to(0), second(1)) && opened.allows(to(10), second(15)));
        assert!(!opened.allows(to(10), second(16)));
        // All that are over make room at once, and a shorter answer takes nothing away from a longer one.
        opened.open(at(7), Some(80), second(90_000), second(80_000));
        opened.open(at(7), Some(80), second(85_000), second(80_000));
        assert_eq!(opened.0.len(), 1);
        assert!(opened.allows(to(7), second(90_000)));
        assert!(!opened.allows(SocketAddr::new(at(7), 81), second(80_001)));
    }
}
