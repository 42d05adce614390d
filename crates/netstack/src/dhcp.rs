//! A DHCPv4 server (RFC 2131, RFC 2132) for guests that nobody configures otherwise.
//!
//! Addresses stick: the table of who has which is the network's ([`crate::Stack`]), which asks for one by the guest's Ethernet
//! address. Relays and other servers are no concern of ours.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::wire::{Mac, ipv4_at};

/// Bytes up to the options, the magic cookie included.
const FIXED_LEN: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];

/// How long a guest's own lease holds: nobody else gets the address while the guest is there, so that it may be long.
pub const LEASE: Duration = Duration::from_secs(24 * 3600);

/// Option codes.
mod option {
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DOMAIN_NAME_SERVER: u8 = 6;
    pub const INTERFACE_MTU: u8 = 26;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const RENEWAL: u8 = 58;
    pub const REBINDING: u8 = 59;
    pub const END: u8 = 255;
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Who is there?
    Discover,
    /// I take this one; or: I still have it.
    Request,
    /// Somebody else has it.
    Decline,
    /// I am done with it.
    Release,
    /// I have an address, and want the rest.
    Inform,
}

/// A client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Its own number.
    pub transaction: u32,
    /// The client.
    pub mac: Mac,
    /// The address that it has and uses.
    pub current: Ipv4Addr,
    /// The address that it would like.
    pub requested: Option<Ipv4Addr>,
    /// The server that it chose.
    pub server: Option<Ipv4Addr>,
    flags: [u8; 2],
}

/// Reads a client's message.
pub fn parse(bytes: &[u8]) -> Option<Message> {
    let fixed = bytes.get(..FIXED_LEN)?;
    // A request, Ethernet, six bytes of address.
    if fixed[..3] != [1, 1, 6] || fixed[236..240] != MAGIC {
        return None;
    }
    let (mut kind, mut requested, mut server) = (None, None, None);
    let mut options = &bytes[FIXED_LEN..];
    while let [code, rest @ ..] = options {
        if *code == 0 {
            options = rest;
            continue;
        }
        if *code == option::END {
            break;
        }
        let len = usize::from(*rest.first()?);
        let value = rest.get(1..=len)?;
        match *code {
            option::MESSAGE_TYPE => {
                kind = Some(match value {
                    [1] => Kind::Discover,
                    [3] => Kind::Request,
                    [4] => Kind::Decline,
                    [7] => Kind::Release,
                    [8] => Kind::Inform,
                    _ => return None,
                });
            }
            option::REQUESTED_ADDRESS => requested = ipv4_at(value, 0),
            option::SERVER => server = ipv4_at(value, 0),
            _ => {}
        }
        options = &rest[len + 1..];
    }
    Some(Message {
        kind: kind?,
        transaction: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
        mac: Mac([
            fixed[28], fixed[29], fixed[30], fixed[31], fixed[32], fixed[33],
        ]),
        current: ipv4_at(fixed, 12)?,
        requested,
        server,
        flags: [fixed[10], fixed[11]],
    })
}

/// What a network gives its guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The server's address, which is the router's and the resolver's as well.
    pub gateway: Ipv4Addr,
    /// The subnet's mask.
    pub mask: Ipv4Addr,
    /// Bytes of the largest packet.
    pub mtu: u16,
    /// How long an address is kept.
    pub lease: Duration,
}

/// The answer, and to whom it goes. `address` is the guest's, if it can have one.
pub fn answer(
    message: &Message,
    address: Option<Ipv4Addr>,
    offer: &Offer,
) -> Option<(Vec<u8>, Ipv4Addr)> {
    const OFFER: u8 = 2;
    const ACK: u8 = 5;
    const NAK: u8 = 6;
    let none = Ipv4Addr::UNSPECIFIED;
    let (kind, given) = match message.kind {
        Kind::Discover => (OFFER, address?),
        Kind::Request => {
            if message.server.is_some_and(|server| server != offer.gateway) {
                return None;
            }
            let wanted = message.requested.unwrap_or(message.current);
            match address {
                Some(address) if address == wanted => (ACK, address),
                _ => (NAK, none),
            }
        }
        Kind::Inform => (ACK, none),
        Kind::Decline | Kind::Release => return None,
    };
    let mut bytes = vec![0; FIXED_LEN];
    bytes[..3].copy_from_slice(&[2, 1, 6]);
    bytes[4..8].copy_from_slice(&message.transaction.to_be_bytes());
    bytes[10..12].copy_from_slice(&message.flags);
    bytes[12..16].copy_from_slice(&message.current.octets());
    bytes[16..20].copy_from_slice(&given.octets());
    bytes[28..34].copy_from_slice(&message.mac.0);
    bytes[236..240].copy_from_slice(&MAGIC);
    let mut put = |code: u8, value: &[u8]| {
        bytes.extend_from_slice(&[code, value.len() as u8]);
        bytes.extend_from_slice(value);
    };
    put(option::MESSAGE_TYPE, &[kind]);
    put(option::SERVER, &offer.gateway.octets());
    if kind != NAK {
        if message.kind != Kind::Inform {
            let lease = u32::try_from(offer.lease.as_secs()).unwrap_or(u32::MAX);
            put(option::LEASE_TIME, &lease.to_be_bytes());
            put(option::RENEWAL, &(lease / 2).to_be_bytes());
            put(option::REBINDING, &(lease / 8 * 7).to_be_bytes());
        }
        put(option::SUBNET_MASK, &offer.mask.octets());
        put(option::ROUTER, &offer.gateway.octets());
        put(option::DOMAIN_NAME_SERVER, &offer.gateway.octets());
        put(option::INTERFACE_MTU, &offer.mtu.to_be_bytes());
    }
    bytes.push(option::END);
    // Old clients want 300 bytes, as BOOTP has.
    bytes.resize(bytes.len().max(300), 0);
    // A client that has an address hears on it; one that has none hears what is for everybody.
    let receiver = if message.current.is_unspecified() || kind == NAK {
        Ipv4Addr::BROADCAST
    } else {
        message.current
    };
    Some((bytes, receiver))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoltcp::wire::{DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress};

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
    const OURS: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 7);
    const OFFER: Offer = Offer {
        gateway: GATEWAY,
        mask: Ipv4Addr::new(255, 255, 0, 0),
        mtu: 65520,
        lease: LEASE,
    };

    /// A client's message as smoltcp, our oracle, writes it.
    fn client(kind: DhcpMessageType, requested: Option<Ipv4Addr>) -> Vec<u8> {
        let repr = DhcpRepr {
            message_type: kind,
            transaction_id: 0xdead_beef,
            secs: 0,
            client_hardware_address: EthernetAddress(MAC.0),
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: requested,
            client_identifier: None,
            server_identifier: requested.map(|_| GATEWAY),
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut DhcpPacket::new_unchecked(&mut bytes))
            .unwrap();
        bytes
    }

    fn check(kind: DhcpMessageType, requested: Option<Ipv4Addr>, expect: DhcpMessageType) {
        let message = parse(&client(kind, requested)).unwrap();
        assert_eq!(message.mac, MAC);
        let (bytes, receiver) = answer(&message, Some(OURS), &OFFER).unwrap();
        assert_eq!(receiver, Ipv4Addr::BROADCAST);
        let packet = DhcpPacket::new_checked(&bytes[..]).unwrap();
        let reply = DhcpRepr::parse(&packet).unwrap();
        assert_eq!(reply.message_type, expect);
        assert_eq!(reply.transaction_id, 0xdead_beef);
        assert_eq!(reply.server_identifier, Some(GATEWAY));
        if expect != DhcpMessageType::Nak {
            assert_eq!(reply.your_ip, OURS);
            assert_eq!(reply.router, Some(GATEWAY));
            assert_eq!(reply.subnet_mask, Some(OFFER.mask));
            assert_eq!(reply.dns_servers.unwrap()[..], [GATEWAY]);
        }
    }

    #[test]
    fn a_client_gets_its_address() {
        check(DhcpMessageType::Discover, None, DhcpMessageType::Offer);
        check(DhcpMessageType::Request, Some(OURS), DhcpMessageType::Ack);
        check(
            DhcpMessageType::Request,
            Some(GATEWAY),
            DhcpMessageType::Nak,
        );
    }

    #[test]
    fn one_that_chose_another_server_is_left_alone() {
        let mut message = parse(&client(DhcpMessageType::Request, Some(OURS))).unwrap();
        message.server = Some(OURS);
        assert_eq!(answer(&message, Some(OURS), &OFFER), None);
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60), kind in 0_u8..10) {
            let mut message = client(DhcpMessageType::Discover, None);
            message.truncate(FIXED_LEN);
            message.extend([53, 1, kind]);
            message.extend(&bytes);
            for bytes in [&bytes, &message] {
                if let Some(message) = parse(bytes) {
                    let _ = answer(&message, Some(OURS), &OFFER);
                }
            }
        }
    }
}
