//! Whether a frame is one that a guest could be sent.

use std::net::IpAddr;

use netstack::wire::{ether_type, protocol};
use smoltcp::wire::{
    ArpPacket, EthernetFrame, Icmpv4Packet, Icmpv6Packet, Ipv4Packet, Ipv6Packet, TcpPacket,
    UdpPacket,
};

use crate::world::GATEWAY_MAC;

/// Oracle: smoltcp's parsers, which check lengths and checksums.
pub fn frame(frame: &[u8]) {
    let ethernet = EthernetFrame::new_checked(frame).unwrap();
    assert_eq!(ethernet.src_addr().0, GATEWAY_MAC.0);
    let payload = ethernet.payload();
    let (source, destination, next, payload): (IpAddr, IpAddr, _, _) =
        match u16::from(ethernet.ethertype()) {
            ether_type::ARP => {
                ArpPacket::new_checked(payload).unwrap();
                return;
            }
            ether_type::IPV4 => {
                let packet = Ipv4Packet::new_checked(payload).unwrap();
                assert!(packet.verify_checksum());
                assert_eq!(usize::from(packet.total_len()), payload.len());
                (
                    packet.src_addr().into(),
                    packet.dst_addr().into(),
                    packet.next_header(),
                    packet.payload(),
                )
            }
            _ => {
                let packet = Ipv6Packet::new_checked(payload).unwrap();
                assert_eq!(packet.total_len(), payload.len());
                (
                    packet.src_addr().into(),
                    packet.dst_addr().into(),
                    packet.next_header(),
                    packet.payload(),
                )
            }
        };
    let (from, to) = (source.into(), destination.into());
    match (u8::from(next), source, destination) {
        (protocol::TCP, ..) => assert!(
            TcpPacket::new_checked(payload)
                .unwrap()
                .verify_checksum(&from, &to)
        ),
        (protocol::UDP, ..) => assert!(
            UdpPacket::new_checked(payload)
                .unwrap()
                .verify_checksum(&from, &to)
        ),
        (protocol::ICMPV6, IpAddr::V6(from), IpAddr::V6(to)) => {
            assert!(
                Icmpv6Packet::new_checked(payload)
                    .unwrap()
                    .verify_checksum(&from, &to)
            );
        }
        _ => assert!(
            Icmpv4Packet::new_checked(payload)
                .unwrap()
                .verify_checksum()
        ),
    }
}
