//! Between what a container's files say about its networks and what a network's process is told.

use hypervisor::DriverKind;
use proto::network::{self, Join, Joined, PROTOCOL};
use store::container::{Attached, Endpoint, Port, Protocol, ProxyProtocol, Spec};

use super::Seat;
use super::ports::Wanted;

/// What `state.json` says about it.
pub fn attached(network: &str, mac: [u8; 6], joined: &Joined) -> Attached {
    let port = |port: &network::Publish| Port {
        protocol: match port.protocol {
            network::Protocol::Tcp => Protocol::Tcp,
            network::Protocol::Udp => Protocol::Udp,
        },
        address: port.address,
        host: port.host_port,
        host_last: None,
        container: port.guest_port,
        proxy: port.proxy.map(|version| match version {
            network::ProxyProtocol::V1 => ProxyProtocol::V1,
            network::ProxyProtocol::V2 => ProxyProtocol::V2,
        }),
    };
    Attached {
        network: network.to_owned(),
        address: joined.address,
        prefix: joined.prefix,
        gateway: joined.gateway,
        ipv6: joined
            .ipv6
            .map(|ipv6| (ipv6.address, ipv6.prefix, ipv6.gateway)),
        mac,
        ports: joined.published.iter().map(port).collect(),
    }
}

/// The host's ports that a container's spec asks for.
pub fn wanted(spec: &Spec) -> Vec<Wanted> {
    let publish = |port: &Port| network::Publish {
        protocol: match port.protocol {
            Protocol::Tcp => network::Protocol::Tcp,
            Protocol::Udp => network::Protocol::Udp,
        },
        address: port.address,
        host_port: port.host,
        guest_port: port.container,
        proxy: port.proxy.map(|version| match version {
            ProxyProtocol::V1 => network::ProxyProtocol::V1,
            ProxyProtocol::V2 => network::ProxyProtocol::V2,
        }),
    };
    let wanted = spec.ports.iter().map(|port| Wanted {
        publish: publish(port),
        last: port.host_last.unwrap_or(port.host),
    });
    wanted.collect()
}

/// What a datagram of a link is, by the driver whose monitor has its other end.
pub fn framing(driver: DriverKind) -> network::Framing {
    match driver.framing() {
        hypervisor::Framing::Plain => network::Framing::Plain,
        hypervisor::Framing::Packed => network::Framing::Packed,
        hypervisor::Framing::Offload => network::Framing::Offload,
    }
}

/// What the network is told about a container.
pub(super) fn join(spec: &Spec, endpoint: &Endpoint, seat: Seat) -> Join {
    let mut names = vec![
        spec.name.clone(),
        spec.id[..spec.id.len().min(12)].to_owned(),
    ];
    names.push(spec.hostname.clone());
    names.extend(endpoint.aliases.iter().cloned());
    names.dedup();
    Join {
        protocol: PROTOCOL,
        container: spec.id.clone(),
        names,
        mac: seat.mac,
        wish: endpoint.address.or(seat.wish),
        insists: endpoint.address.is_some(),
        host: endpoint.host,
        resolvers: spec.resolution.servers.clone(),
        // Chosen when it joins.
        publish: Vec::new(),
        elsewhere: seat.elsewhere,
        framing: seat.framing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::mac;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    #[test]
    fn what_others_call_it() {
        let spec = Spec {
            id: "0123456789abcdef".to_owned(),
            name: "web".to_owned(),
            hostname: "0123456789ab".to_owned(),
            ..Spec::default()
        };
        let endpoint = Endpoint {
            aliases: vec!["www".to_owned()],
            ..Endpoint::default()
        };
        let wish = Ipv4Addr::new(10, 219, 0, 9);
        let seat = Seat {
            mac: mac(&spec.id, 0),
            wish: Some(wish),
            publish: Vec::new(),
            directory: Arc::default(),
            elsewhere: false,
            framing: network::Framing::Plain,
        };
        let join = join(&spec, &endpoint, seat);
        assert_eq!(join.names, ["web", "0123456789ab", "www"]);
        assert_eq!((join.wish, join.insists), (Some(wish), false));
    }
}
