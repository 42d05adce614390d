//! DNS messages (RFC 1035): reading a question, answering it from a table of names. Everything else goes to the host's resolvers as
//! it is.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::wire::be16;

/// Bytes of a header.
pub const HEADER_LEN: usize = 12;

/// Seconds that an answer of ours holds: containers come and go.
const TTL: u32 = 5;

/// Resource record types.
mod kind {
    pub const A: u16 = 1;
    pub const PTR: u16 = 12;
    pub const ANY: u16 = 255;
}

const CLASS_IN: u16 = 1;

/// Response codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Fine.
    NoError = 0,
    /// Nobody could be asked.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// Not done here.
    NotImp = 4,
    /// Not for you.
    Refused = 5,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Lower case, without the last dot; bytes of labels that are no letters, digits, `-` or `_` make it none of ours.
    pub name: String,
    /// A, AAAA, …
    pub kind: u16,
    /// IN.
    pub class: u16,
    /// Where the question ends in the message.
    end: usize,
}

/// Reads the one question of a query. `None`: it is no query with one question, and deserves no answer.
pub fn parse_query(message: &[u8]) -> Option<Question> {
    const RESPONSE: u16 = 0x8000;
    const OPCODE: u16 = 0x7800;
    let flags = be16(message, 2)?;
    if flags & (RESPONSE | OPCODE) != 0 || be16(message, 4)? != 1 {
        return None;
    }
    let (name, at) = parse_name(message, HEADER_LEN)?;
    Some(Question {
        name,
        kind: be16(message, at)?,
        class: be16(message, at + 2)?,
        end: at + 4,
    })
}

/// Reads a name that is not compressed, as a question's never is: the name, and where it ends.
fn parse_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    const MOST: usize = 255;
    let mut name = String::new();
    loop {
        let len = usize::from(*message.get(at)?);
        at += 1;
        if len == 0 {
            return Some((name, at));
        }
        if len > 63 || name.len() + len + 1 > MOST {
            return None;
        }
        if !name.is_empty() {
            name.push('.');
        }
        for byte in message.get(at..at + len)? {
            let fine = byte.is_ascii_alphanumeric() || b"-_".contains(byte);
            // A space is in no name of ours, so that nothing is mistaken for one.
            let letter = if fine {
                byte.to_ascii_lowercase()
            } else {
                b' '
            };
            name.push(char::from(letter));
        }
        at += len;
    }
}

/// The transaction's number.
pub fn id(message: &[u8]) -> Option<u16> {
    be16(message, 0)
}

/// Whether `message` answers a query with this number and this question, which resolvers repeat.
pub fn answers(message: &[u8], query: &[u8]) -> bool {
    let Some(question) = parse_query(query) else {
        return false;
    };
    let asked = &query[HEADER_LEN..question.end];
    let repeated = message.get(HEADER_LEN..question.end);
    let same = repeated.is_some_and(|repeated| repeated.eq_ignore_ascii_case(asked));
    message.len() >= HEADER_LEN && message[2] & 0x80 != 0 && message[..2] == query[..2] && same
}

/// Writes the answer to a query whose question this is.
fn answer(query: &[u8], question: &Question, code: Code, records: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut message = Vec::with_capacity(512);
    let recursion_desired = query[2] & 1;
    message.extend_from_slice(&query[..2]);
    // A response, authoritative, recursion available.
    message.extend_from_slice(&[0x84 | recursion_desired, 0x80 | code as u8]);
    message.extend_from_slice(&[0, 1]);
    message.extend_from_slice(&(records.len() as u16).to_be_bytes());
    message.extend_from_slice(&[0; 4]);
    message.extend_from_slice(&query[HEADER_LEN..question.end]);
    for (kind, data) in records {
        // A pointer to the question's name.
        message.extend_from_slice(&[0xc0, HEADER_LEN as u8]);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        message.extend_from_slice(&TTL.to_be_bytes());
        message.extend_from_slice(&(data.len() as u16).to_be_bytes());
        message.extend_from_slice(data);
    }
    message
}

/// The answer without records.
pub fn refuse(query: &[u8], code: Code) -> Option<Vec<u8>> {
    let question = parse_query(query)?;
    Some(answer(query, &question, code, &[]))
}

/// A name in the form that messages have; `None` when it is none.
fn encode_name(name: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return None;
        }
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    (bytes.len() <= 255).then_some(bytes)
}

/// The names of a network.
#[derive(Debug, Default)]
pub struct Names {
    addresses: BTreeMap<String, Vec<Ipv4Addr>>,
    /// The first name of each address.
    names: BTreeMap<Ipv4Addr, String>,
}

impl Names {
    /// Adds a name of an address. Several addresses may have one name.
    pub fn insert(&mut self, name: &str, address: Ipv4Addr) {
        let name = name.to_ascii_lowercase();
        let addresses = self.addresses.entry(name.clone()).or_default();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
        self.names.entry(address).or_insert(name);
    }

    /// Takes an address's names away.
    pub fn remove(&mut self, address: Ipv4Addr) {
        self.names.remove(&address);
        self.addresses.retain(|_, addresses| {
            addresses.retain(|known| *known != address);
            !addresses.is_empty()
        });
    }

    /// The addresses of a name.
    pub fn get(&self, name: &str) -> &[Ipv4Addr] {
        self.addresses.get(name).map_or(&[], Vec::as_slice)
    }

    /// The answer to a query about a name of ours, or about an address for which `is_own` holds. `None`: others are to be asked.
    pub fn answer(
        &self,
        query: &[u8],
        question: &Question,
        is_own: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Vec<u8>> {
        if question.class != CLASS_IN {
            return None;
        }
        if let Some(addresses) = self.addresses.get(&question.name) {
            // Names of ours have no other records: "there is such a name, and nothing of that kind".
            let wanted = matches!(question.kind, kind::A | kind::ANY);
            let addresses = addresses.iter().filter(|_| wanted);
            let records: Vec<_> = addresses
                .map(|address| (kind::A, address.octets().to_vec()))
                .collect();
            return Some(answer(query, question, Code::NoError, &records));
        }
        let address = reverse(&question.name).filter(|address| is_own(*address))?;
        let name = self.names.get(&address).and_then(|name| encode_name(name));
        let Some(name) = name else {
            return Some(answer(query, question, Code::NxDomain, &[]));
        };
        let wanted = matches!(question.kind, kind::PTR | kind::ANY);
        let records = if wanted {
            vec![(kind::PTR, name)]
        } else {
            Vec::new()
        };
        Some(answer(query, question, Code::NoError, &records))
    }
}

/// The address of a name under `in-addr.arpa`.
fn reverse(name: &str) -> Option<Ipv4Addr> {
    let digits = name.strip_suffix(".in-addr.arpa")?;
    let address: Ipv4Addr = digits.parse().ok()?;
    let [a, b, c, d] = address.octets();
    Some(Ipv4Addr::new(d, c, b, a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        message.extend(encode_name(name).unwrap());
        message.extend(kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message
    }

    fn ask(names: &Names, name: &str, kind: u16) -> Option<Vec<u8>> {
        let query = query(name, kind);
        let question = parse_query(&query).unwrap();
        let own = |address: Ipv4Addr| address.octets()[..2] == [10, 88];
        let reply = names.answer(&query, &question, own);
        if let Some(reply) = &reply {
            assert!(answers(reply, &query));
        }
        reply
    }

    fn table() -> Names {
        let mut names = Names::default();
        names.insert("Web", Ipv4Addr::new(10, 88, 0, 2));
        names.insert("api", Ipv4Addr::new(10, 88, 0, 2));
        names.insert("api", Ipv4Addr::new(10, 88, 0, 3));
        names
    }

    /// Oracle: smoltcp's parser of messages.
    #[test]
    fn names_of_ours() {
        use smoltcp::wire::DnsPacket;
        let names = table();
        let reply = ask(&names, "WEB", kind::A).unwrap();
        let packet = DnsPacket::new_checked(&reply[..]).unwrap();
        assert_eq!(packet.transaction_id(), 0x1234);
        assert_eq!(
            (packet.question_count(), packet.answer_record_count()),
            (1, 1)
        );
        assert!(reply.ends_with(&[0, 4, 10, 88, 0, 2]));
        let both = ask(&names, "api", kind::A).unwrap();
        assert_eq!(both[7], 2);
        // AAAA: the name is there, and has none.
        let none = ask(&names, "web", 28).unwrap();
        assert_eq!((none[3] & 15, none[7]), (0, 0));
        let back = ask(&names, "2.0.88.10.in-addr.arpa", kind::PTR).unwrap();
        assert!(back.ends_with(b"\x03web\0"));
        let nobody = ask(&names, "9.0.88.10.in-addr.arpa", kind::PTR).unwrap();
        assert_eq!(nobody[3] & 15, 3);
        assert_eq!(ask(&names, "example.org", kind::A), None);
        assert_eq!(ask(&names, "1.1.1.1.in-addr.arpa", kind::PTR), None);
    }

    #[test]
    fn names_go_with_their_address() {
        let mut names = table();
        names.remove(Ipv4Addr::new(10, 88, 0, 2));
        assert!(names.get("web").is_empty());
        assert_eq!(names.get("api"), [Ipv4Addr::new(10, 88, 0, 3)]);
    }

    #[test]
    fn only_queries_are_answered() {
        let good = query("a.b", kind::A);
        assert_eq!(parse_query(&good).unwrap().name, "a.b");
        for (at, byte) in [(2, 0x80), (2, 0x10), (5, 0), (5, 2), (12, 0xc0), (12, 64)] {
            let mut wrong = good.clone();
            wrong[at] = byte;
            assert_eq!(parse_query(&wrong), None, "{at} {byte}");
        }
        let reply = refuse(&good, Code::ServFail).unwrap();
        assert_eq!(reply[3], 0x82);
        let mut other = reply.clone();
        other[13] = b'x';
        assert!(answers(&reply, &good) && !answers(&other, &good) && !answers(&good, &good));
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            message.extend(&bytes);
            for message in [&bytes, &message] {
                if let Some(question) = parse_query(message) {
                    let _ = table().answer(message, &question, |_| true);
                    prop_assert!(refuse(message, Code::ServFail).is_some());
                }
                let _ = answers(message, &query("web", kind::A));
            }
        }
    }
}
