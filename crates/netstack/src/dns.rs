//! DNS messages (RFC 1035): reading a question, answering it from a table of names. Everything else goes to the host's resolvers as
//! it is.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::ipv6::ipv6_at;
use crate::wire::{be16, be32, ipv4_at};

/// Bytes of a header.
pub const HEADER_LEN: usize = 12;

/// Seconds that an answer of ours holds: containers come and go.
const TTL: u32 = 5;

/// Resource record types.
mod kind {
    pub const A: u16 = 1;
    pub const CNAME: u16 = 5;
    pub const PTR: u16 = 12;
    pub const AAAA: u16 = 28;
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

/// What to say in a datagram instead of an answer that does not fit: the same without records, marked as truncated, upon which the
/// question comes again by TCP (RFC 2181, 9). `None`: it fits into `most` bytes and into what the query says that it takes: 512 bytes
/// unless it has an OPT record (RFC 6891, 6.2.3).
pub fn truncated(query: &[u8], answer: &[u8], most: usize) -> Option<Vec<u8>> {
    const TRUNCATED: u8 = 0x02;
    let question = parse_query(query)?;
    if answer.len() <= capacity(query, question.end).min(most) {
        return None;
    }
    let mut cut = answer.get(..HEADER_LEN)?.to_vec();
    cut[2] |= TRUNCATED;
    cut[4..].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    cut.extend_from_slice(query.get(HEADER_LEN..question.end)?);
    Some(cut)
}

/// Bytes of a datagram that who asks takes; `at` is where the question ends.
fn capacity(query: &[u8], mut at: usize) -> usize {
    const PLAIN: usize = 512;
    const OPT: u16 = 41;
    /// OPT, and perhaps a signature.
    const MOST: u16 = 4;
    // Answers and authorities in a question: none of the usual.
    if (be16(query, 6), be16(query, 8)) != (Some(0), Some(0)) {
        return PLAIN;
    }
    for _ in 0..be16(query, 10).unwrap_or(0).min(MOST) {
        let Some((_, next)) = whole_name(query, at) else {
            break;
        };
        let (kind, size, len) = (
            be16(query, next),
            be16(query, next + 2),
            be16(query, next + 8),
        );
        let (Some(kind), Some(size), Some(len)) = (kind, size, len) else {
            break;
        };
        if kind == OPT {
            return usize::from(size).max(PLAIN);
        }
        at = next + 10 + usize::from(len);
    }
    PLAIN
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
    addresses: BTreeMap<String, Vec<IpAddr>>,
    /// The first name of each address.
    names: BTreeMap<IpAddr, String>,
}

impl Names {
    /// Adds a name of an address. Several addresses may have one name.
    pub fn insert(&mut self, name: &str, address: IpAddr) {
        let name = name.to_ascii_lowercase();
        let addresses = self.addresses.entry(name.clone()).or_default();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
        self.names.entry(address).or_insert(name);
    }

    /// Takes an address's names away.
    pub fn remove(&mut self, address: IpAddr) {
        self.names.remove(&address);
        self.addresses.retain(|_, addresses| {
            addresses.retain(|known| *known != address);
            !addresses.is_empty()
        });
    }

    /// The addresses of a name.
    pub fn get(&self, name: &str) -> &[IpAddr] {
        self.addresses.get(name).map_or(&[], Vec::as_slice)
    }

    /// The answer to a query about a name of ours, or about an address for which `is_own` holds. `None`: others are to be asked.
    pub fn answer(
        &self,
        query: &[u8],
        question: &Question,
        is_own: impl Fn(IpAddr) -> bool,
    ) -> Option<Vec<u8>> {
        if question.class != CLASS_IN {
            return None;
        }
        if let Some(addresses) = self.addresses.get(&question.name) {
            // Names of ours have no other records: "there is such a name, and nothing of that kind".
            let records = addresses.iter().map(|address| match address {
                IpAddr::V4(address) => (kind::A, address.octets().to_vec()),
                IpAddr::V6(address) => (kind::AAAA, address.octets().to_vec()),
            });
            let wanted = |(kind, _): &(u16, Vec<u8>)| [*kind, kind::ANY].contains(&question.kind);
            let records: Vec<_> = records.filter(wanted).collect();
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

/// The address of a name under `in-addr.arpa` or `ip6.arpa` (RFC 3596, 2.5).
fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".ip6.arpa") {
        let mut bits = 0;
        let mut count = 0;
        for digit in digits.rsplit('.') {
            let value = match digit.as_bytes() {
                [digit] => char::from(*digit).to_digit(16)?,
                _ => return None,
            };
            bits = (bits << 4) | u128::from(value);
            count += 1;
        }
        return (count == 32).then(|| Ipv6Addr::from_bits(bits).into());
    }
    let digits = name.strip_suffix(".in-addr.arpa")?;
    let address: Ipv4Addr = digits.parse().ok()?;
    let [a, b, c, d] = address.octets();
    Some(Ipv4Addr::new(d, c, b, a).into())
}

/// The addresses that a response gives for its question's name, with the seconds that each holds: what stands under other names is
/// left out, but for those that the name is an alias of.
pub fn addresses(message: &[u8]) -> Vec<(IpAddr, u32)> {
    /// Nobody's name has more aliases in a row.
    const PASSES: usize = 16;
    let Some(records) = records(message) else {
        return Vec::new();
    };
    let Some((question, _)) = whole_name(message, HEADER_LEN) else {
        return Vec::new();
    };
    let mut names = vec![(question, u32::MAX)];
    // Aliases mostly stand before what they lead to, but need not.
    for _ in 0..PASSES {
        let before = names.len();
        for record in records.iter().filter(|record| record.kind == kind::CNAME) {
            let known = names.iter().find(|(name, _)| *name == record.name);
            if let Some((_, ttl)) = known
                && let Some((target, _)) = whole_name(message, record.data)
                && !names.iter().any(|(name, _)| *name == target)
            {
                names.push((target, record.ttl.min(*ttl)));
            }
        }
        if names.len() == before {
            break;
        }
    }
    let address = |record: &Record| {
        let (_, ttl) = names.iter().find(|(name, _)| *name == record.name)?;
        let address = match (record.kind, record.len) {
            (kind::A, 4) => IpAddr::from(ipv4_at(message, record.data)?),
            (kind::AAAA, 16) => IpAddr::from(ipv6_at(message, record.data)?),
            _ => return None,
        };
        Some((address, record.ttl.min(*ttl)))
    };
    records.iter().filter_map(address).collect()
}

/// A resource record of class IN.
struct Record {
    /// As [`whole_name`] has it.
    name: Vec<u8>,
    kind: u16,
    ttl: u32,
    /// Where its data begins in the message, and how long it is.
    data: usize,
    len: usize,
}

/// The answer section of a response with one question.
fn records(message: &[u8]) -> Option<Vec<Record>> {
    /// More are not looked at: a datagram has no room for more, unless it means harm.
    const MOST: usize = 256;
    if be16(message, 4)? != 1 {
        return None;
    }
    let count = usize::from(be16(message, 6)?).min(MOST);
    let mut at = whole_name(message, HEADER_LEN)?.1 + 4;
    let mut records = Vec::new();
    for _ in 0..count {
        // One that is cut short: those before it count.
        let Some((name, next)) = whole_name(message, at) else {
            break;
        };
        let fixed = (be16(message, next), be16(message, next + 2));
        let (Some(kind), Some(class)) = fixed else {
            break;
        };
        let (Some(ttl), Some(len)) = (be32(message, next + 4), be16(message, next + 8)) else {
            break;
        };
        let (data, len) = (next + 10, usize::from(len));
        at = data + len;
        if at > message.len() {
            break;
        }
        // The highest bit counts as none at all (RFC 2181, 8).
        let ttl = if ttl >> 31 == 0 { ttl } else { 0 };
        if class == CLASS_IN {
            records.push(Record {
                name,
                kind,
                ttl,
                data,
                len,
            });
        }
    }
    Some(records)
}

/// Reads a name that may be compressed: its labels in lower case, each with its length, and where it ends in the message.
fn whole_name(message: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    const POINTER: u8 = 0xc0;
    /// A name has 128 labels at most, and so have pointers to them.
    const JUMPS: usize = 128;
    let mut name = Vec::new();
    let mut end = None;
    for _ in 0..2 * JUMPS {
        let len = *message.get(at)?;
        if len & POINTER == POINTER {
            let to = be16(message, at)? & 0x3fff;
            end.get_or_insert(at + 2);
            at = usize::from(to);
            continue;
        }
        if len & POINTER != 0 || name.len() + usize::from(len) + 1 > 255 {
            return None;
        }
        let label = message.get(at + 1..at + 1 + usize::from(len))?;
        at += 1 + usize::from(len);
        if len == 0 {
            return Some((name, end.unwrap_or(at)));
        }
        name.push(len);
        name.extend(label.iter().map(u8::to_ascii_lowercase));
    }
    None
}

#[cfg(test)]
mod tests;
