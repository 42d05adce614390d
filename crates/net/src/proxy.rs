//! The header by which a server behind us learns who its client is: the PROXY protocol, versions 1 and 2 (haproxy's
//! `doc/proxy-protocol.txt`, sections 2.1 and 2.2).

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use proto::network::ProxyProtocol;

/// What every header of version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2, command PROXY.
const PROXY: u8 = 0x21;

/// TCP over IPv4, and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// The header of a connection that a client has made to a published port. Who can't be asked where the client came in is told that it
/// is not known, as the protocol has it.
pub fn header(version: ProxyProtocol, client: SocketAddr, connection: impl AsFd) -> Vec<u8> {
    let local = rustix::net::getsockname(connection).ok();
    let local = local.and_then(|local| SocketAddr::try_from(local).ok());
    match local.filter(|local| local.is_ipv4() == client.is_ipv4()) {
        Some(local) => write(version, client, local),
        None => match version {
            ProxyProtocol::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
            ProxyProtocol::V2 => [&SIGNATURE[..], &[PROXY, 0, 0, 0]].concat(),
        },
    }
}

fn write(version: ProxyProtocol, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    let v4 = client.is_ipv4();
    if version == ProxyProtocol::V1 {
        let family = if v4 { "TCP4" } else { "TCP6" };
        let (from, to) = (client.ip(), local.ip());
        let ports = (client.port(), local.port());
        return format!("PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1).into_bytes();
    }
    let mut addresses = Vec::with_capacity(36);
    for address in [client.ip(), local.ip()] {
        match address {
            IpAddr::V4(address) => addresses.extend(address.octets()),
            IpAddr::V6(address) => addresses.extend(address.octets()),
        }
    }
    for port in [client.port(), local.port()] {
        addresses.extend(port.to_be_bytes());
    }
    let len = addresses.len() as u8;
    let fixed = [PROXY, if v4 { TCP4 } else { TCP6 }, 0, len];
    [&SIGNATURE[..], &fixed, &addresses].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ppp::HeaderResult;

    /// Oracle: the crate `ppp`.
    #[test]
    fn somebody_else_reads_it() {
        let check = |client: &str, local: &str| {
            let (from, to): (SocketAddr, SocketAddr) =
                (client.parse().unwrap(), local.parse().unwrap());
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let bytes = write(version, from, to);
                let found = match HeaderResult::parse(&bytes) {
                    HeaderResult::V1(header) => match header.unwrap().addresses {
                        ppp::v1::Addresses::Tcp4(it) => (
                            SocketAddr::from((it.source_address, it.source_port)),
                            SocketAddr::from((it.destination_address, it.destination_port)),
                        ),
                        ppp::v1::Addresses::Tcp6(it) => (
                            SocketAddr::from((it.source_address, it.source_port)),
                            SocketAddr::from((it.destination_address, it.destination_port)),
                        ),
                        ppp::v1::Addresses::Unknown => panic!("unknown"),
                    },
                    HeaderResult::V2(header) => {
                        let header = header.unwrap();
                        assert_eq!(header.protocol, ppp::v2::Protocol::Stream);
                        assert_eq!(header.command, ppp::v2::Command::Proxy);
                        match header.addresses {
                            ppp::v2::Addresses::IPv4(it) => (
                                SocketAddr::from((it.source_address, it.source_port)),
                                SocketAddr::from((it.destination_address, it.destination_port)),
                            ),
                            ppp::v2::Addresses::IPv6(it) => (
                                SocketAddr::from((it.source_address, it.source_port)),
                                SocketAddr::from((it.destination_address, it.destination_port)),
                            ),
                            other => panic!("{other:?}"),
                        }
                    }
                };
                assert_eq!(found, (from, to), "{version:?}");
            }
        };
        check("192.0.2.7:40000", "127.0.0.1:80");
        check("[2001:db8::7]:1", "[::1]:65535");
    }

    #[test]
    fn what_is_not_known_is_said() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let client = "192.0.2.7:40000".parse().unwrap();
        for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
            let bytes = header(version, client, &socket);
            match HeaderResult::parse(&bytes) {
                HeaderResult::V1(header) => {
                    assert_eq!(header.unwrap().addresses, ppp::v1::Addresses::Unknown);
                }
                HeaderResult::V2(header) => {
                    assert_eq!(header.unwrap().addresses, ppp::v2::Addresses::Unspecified);
                }
            }
        }
    }
}
