//! What is written is what others read; what is read is bounded.

use super::*;
use proptest::prelude::*;

const A: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

/// The definition of RFC 1071, word by word.
fn slow(bytes: &[u8], partial: u64) -> u16 {
    let mut sum = partial;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    !fold(sum)
}

proptest! {
    #[test]
    fn checksums_are_the_standards(bytes in proptest::collection::vec(any::<u8>(), 0..300), partial in 0_u64..1 << 20) {
        prop_assert_eq!(checksum(&bytes, partial), slow(&bytes, partial));
    }

    #[test]
    fn anything_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = parse_ethernet(&bytes);
        let _ = parse_arp(&bytes);
        let _ = parse_ipv4(&bytes);
        if let Some(packet) = parse_ipv6(&bytes) {
            let _ = ipv6::parse_neighbour(&packet);
            let _ = ipv6::parse_echo(packet.payload);
        }
        let _ = parse_udp(&bytes);
        let _ = parse_echo(&bytes);
    }
}

/// Oracle: smoltcp's parsers, which check lengths and checksums.
#[test]
fn what_is_written_is_what_others_read() {
    use smoltcp::wire::{Icmpv4Packet, Ipv4Packet, UdpPacket};
    let mut packet = Vec::new();
    put_ipv4(&mut packet, A, B, protocol::UDP, UDP_LEN + 5);
    put_udp(&mut packet, (A, 53).into(), (B, 4000).into(), b"hello");
    let ip = Ipv4Packet::new_checked(&packet).unwrap();
    assert!(ip.verify_checksum());
    assert_eq!((ip.src_addr(), ip.dst_addr()), (A, B));
    let udp = UdpPacket::new_checked(ip.payload()).unwrap();
    assert!(udp.verify_checksum(&A.into(), &B.into()));
    assert_eq!(udp.payload(), b"hello");
    let ours = parse_ipv4(&packet).unwrap();
    assert_eq!(parse_udp(ours.payload).unwrap().payload, b"hello");

    let mut message = Vec::new();
    put_unreachable(&mut message, Unreachable::Port, &packet);
    let icmp = Icmpv4Packet::new_checked(&message).unwrap();
    assert!(icmp.verify_checksum());
    message.clear();
    let echo = Echo {
        request: true,
        identifier: 7,
        sequence: 9,
        payload: b"ping!",
    };
    put_echo(&mut message, &echo);
    assert!(
        Icmpv4Packet::new_checked(&message)
            .unwrap()
            .verify_checksum()
    );
    assert_eq!(parse_echo(&message), Some(echo));
}

#[test]
fn fragments_and_short_packets_are_refused() {
    let mut packet = Vec::new();
    put_ipv4(&mut packet, A, B, protocol::UDP, 0);
    assert!(parse_ipv4(&packet).is_some());
    assert!(parse_ipv4(&packet[..19]).is_none());
    for (at, byte) in [(6, 0x20), (7, 1), (0, 0x65), (0, 0x44), (3, 10), (3, 21)] {
        let mut wrong = packet.clone();
        wrong[at] = byte;
        assert!(parse_ipv4(&wrong).is_none(), "{at} {byte}");
    }
}
