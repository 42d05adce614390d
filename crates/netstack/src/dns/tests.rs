//! Oracle of messages: smoltcp's parser.

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
    let own = |address| match address {
        IpAddr::V4(address) => address.octets()[..2] == [10, 88],
        IpAddr::V6(address) => address.segments()[0] == 0xfd00,
    };
    let reply = names.answer(&query, &question, own);
    if let Some(reply) = &reply {
        assert!(answers(reply, &query));
    }
    reply
}

fn table() -> Names {
    let mut names = Names::default();
    let two = Ipv4Addr::new(10, 88, 0, 2);
    names.insert("Web", two.into());
    names.insert("api", two.into());
    names.insert("api", Ipv4Addr::new(10, 88, 0, 3).into());
    names.insert("six", two.into());
    names.insert("six", "fd00::a58:2".parse().unwrap());
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
    let six = ask(&names, "six", kind::AAAA).unwrap();
    assert!(six[7] == 1 && six.ends_with(&[0, 0, 0x0a, 0x58, 0, 2]));
    assert_eq!(ask(&names, "six", kind::ANY).unwrap()[7], 2);
    let digits = "2.0.0.0.8.5.a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
    let back = ask(&names, digits, kind::PTR).unwrap();
    assert!(back.ends_with(b"\x03six\0"));
    assert_eq!(ask(&names, "d.f.ip6.arpa", kind::PTR), None);
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
    names.remove(Ipv4Addr::new(10, 88, 0, 2).into());
    assert!(names.get("web").is_empty());
    assert_eq!(names.get("api"), [IpAddr::from([10, 88, 0, 3])]);
    assert_eq!(names.get("six").len(), 1);
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

/// A response about `name` with these records: owner, type, seconds, data.
fn response(name: &str, records: &[(&str, u16, u32, Vec<u8>)]) -> Vec<u8> {
    let mut message = query(name, kind::A);
    message[2] = 0x81;
    message[7] = records.len() as u8;
    for (owner, kind, ttl, data) in records {
        match *owner {
            // A pointer to the question's name.
            "" => message.extend([0xc0, 12]),
            owner => message.extend(encode_name(owner).unwrap()),
        }
        message.extend(kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message.extend(ttl.to_be_bytes());
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(data);
    }
    message
}

#[test]
fn an_answer_gives_the_addresses_of_its_name_and_no_others() {
    let name = |name| encode_name(name).unwrap();
    let a = |last| vec![192, 0, 2, last];
    let message = response(
        "www.example.org",
        &[
            ("cdn.example.net", kind::A, 60, a(1)),
            ("", kind::CNAME, 30, name("Edge.Example.Net")),
            (
                "edge.example.net",
                kind::CNAME,
                300,
                name("cdn.example.net"),
            ),
            (
                "cdn.example.net",
                kind::AAAA,
                20,
                [&[0x20, 1][..], &[0; 14]].concat(),
            ),
            ("other.example.net", kind::A, 60, a(2)),
            ("cdn.example.net", kind::A, 60, a(3)[..3].to_vec()),
            ("cdn.example.net", kind::A, 1 << 31, a(4)),
        ],
    );
    let expect = [("192.0.2.1", 30), ("2001::", 20), ("192.0.2.4", 0)];
    let expect = expect.map(|(address, ttl)| (address.parse::<IpAddr>().unwrap(), ttl));
    assert_eq!(addresses(&message), expect);
    // Cut anywhere: what is whole counts, and nothing panics.
    for len in 0..message.len() {
        assert!(addresses(&message[..len]).len() <= 3);
    }
    // A name that points at itself, and one at what follows it.
    for to in [12_u8, 14] {
        let mut circle = response("a", &[("", kind::A, 9, a(5))]);
        circle[12..14].copy_from_slice(&[0xc0, to]);
        assert_eq!(addresses(&circle), []);
    }
    let circle = response(
        "a",
        &[
            ("", kind::CNAME, 9, name("b")),
            ("b", kind::CNAME, 9, name("a")),
        ],
    );
    assert_eq!(addresses(&circle), []);
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
            let _ = addresses(message);
        }
    }
}
