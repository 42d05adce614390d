//! A container's networks and ports: what a request may ask for, and what `inspect` says, in Docker's shape.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};
use store::container::{Attached, Endpoint, Port, Protocol, Resolution, Spec, State};
use store::network;

use super::CreateRequest;
use crate::Error;

/// Which networks a container joins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Networks {
    /// The network `default`.
    #[default]
    Default,
    /// None: it has nothing but lo.
    None,
    /// These, in this order: the first that is not internal leads out.
    Named(Vec<Endpoint>),
}

/// The parts of a spec that a request's networks come to.
pub(super) struct Connections {
    pub(super) networks: Vec<Endpoint>,
    pub(super) ports: Vec<Port>,
    pub(super) exposed: Vec<String>,
    pub(super) resolution: Resolution,
}

/// Checks what is asked for; the networks are there.
pub(super) fn connections(
    root: &store::Root,
    request: &CreateRequest,
    image: &[String],
) -> Result<Connections, Error> {
    let mut networks = match &request.networks {
        Networks::None => Vec::new(),
        // Made by the first one that joins it.
        Networks::Default => vec![Endpoint {
            network: network::DEFAULT.to_owned(),
            ..Endpoint::default()
        }],
        Networks::Named(named) => named.clone(),
    };
    check_networks(&networks)?;
    for endpoint in &mut networks {
        check_endpoint(root, endpoint)?;
    }
    let exposed = exposed(image, &request.expose)?;
    let mut ports = request.ports.clone();
    if request.publish_all {
        let asked = |port: &(u16, Protocol)| {
            let known = ports.iter().map(|port| (port.container, port.protocol));
            known.clone().any(|known| known == *port)
        };
        let more: Vec<Port> = exposed
            .iter()
            .copied()
            .filter(|port| !asked(port))
            .map(|(container, protocol)| Port {
                protocol,
                address: None,
                host: 0,
                host_last: None,
                container,
                proxy: None,
            })
            .collect();
        ports.extend(more);
    }
    if networks.is_empty() && !ports.is_empty() {
        let reason = "a container on no network has none to publish".to_owned();
        return Err(Error::invalid("port", reason));
    }
    Ok(Connections {
        networks,
        ports,
        exposed: exposed
            .iter()
            .map(|(port, protocol)| format!("{port}/{protocol}"))
            .collect(),
        resolution: request.resolution.clone(),
    })
}

/// The most networks of a container: as many cards as a VM has room for.
const MOST_NETWORKS: usize = 8;

/// Whether a container can be on all of these.
pub(crate) fn check_networks(networks: &[Endpoint]) -> Result<(), Error> {
    if networks.len() > MOST_NETWORKS {
        let reason = format!("a container is on {MOST_NETWORKS} at most");
        return Err(Error::invalid("network", reason));
    }
    for (index, endpoint) in networks.iter().enumerate() {
        let name = &endpoint.network;
        if networks[..index].iter().any(|other| other.network == *name) {
            return Err(Error::invalid("network", format!("{name} is named twice")));
        }
    }
    Ok(())
}

/// Whether the network is there, and has the addresses; one of IPv6 decides that of IPv4, whose twin it is.
pub(crate) fn check_endpoint(root: &store::Root, endpoint: &mut Endpoint) -> Result<(), Error> {
    let plain = endpoint.address.is_none() && endpoint.address6.is_none();
    if endpoint.network == network::DEFAULT && plain {
        return Ok(());
    }
    let network = network::open(root, &endpoint.network)?;
    let (subnet, name) = (network.spec().subnet, &endpoint.network);
    if let Some(address) = endpoint.address6 {
        let Some(subnet6) = network.spec().subnet6 else {
            let reason = format!("{address} can't be had: the network {name} has no IPv6");
            return Err(Error::invalid("address", reason));
        };
        let own = endpoint.address.or_else(|| subnet6.twin_of(address));
        match own.filter(|own| subnet.contains(*own) && subnet6.twin(*own) == address) {
            Some(own) => endpoint.address = Some(own),
            None => {
                let example = endpoint.address.unwrap_or(subnet.gateway());
                let reason = format!(
                    "{address} goes with no address of IPv4 that is asked for: its end is that, in the network {name} as {} with \
                     {example}",
                    subnet6.twin(example)
                );
                return Err(Error::invalid("address", reason));
            }
        }
    }
    if let Some(address) = endpoint
        .address
        .filter(|address| !subnet.contains(*address))
    {
        let reason = format!("{address} is none of the network {name}, whose subnet is {subnet}");
        return Err(Error::invalid("address", reason));
    }
    Ok(())
}

/// `80`, `80/tcp`, `53/udp`, `8000-8010` of an image or a line; those of an image that make no sense are left out, as they are
/// documentation only.
fn exposed(image: &[String], own: &[String]) -> Result<Vec<(u16, Protocol)>, Error> {
    let mut ports: Vec<(u16, Protocol)> = image
        .iter()
        .filter_map(|text| expose(text))
        .flatten()
        .collect();
    for text in own {
        let port = expose(text).ok_or_else(|| {
            let reason = format!("{text:?} is none: write 80, 80/tcp or 8000-8010/udp");
            Error::invalid("exposed port", reason)
        })?;
        ports.extend(port);
    }
    ports.sort_unstable();
    ports.dedup();
    Ok(ports)
}

fn expose(text: &str) -> Option<Vec<(u16, Protocol)>> {
    let (numbers, protocol) = port_numbers(text)?;
    (*numbers.start() > 0).then(|| numbers.map(|port| (port, protocol)).collect())
}

/// `PORT[/PROTOCOL]` or `FIRST-LAST[/PROTOCOL]`, at least one number; TCP where no protocol is named.
#[must_use]
pub fn port_numbers(text: &str) -> Option<(RangeInclusive<u16>, Protocol)> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = Protocol::named(protocol)?;
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let numbers = first.parse().ok()?..=last.parse().ok()?;
    (!numbers.is_empty()).then_some((numbers, protocol))
}

/// Docker's `HostConfig.NetworkMode`.
pub(super) fn mode(spec: &Spec) -> &str {
    spec.networks
        .first()
        .map_or("none", |endpoint| &endpoint.network)
}

/// Docker's map of ports: `"80/tcp": [{"HostIp": …, "HostPort": …}]`.
fn ports<'a>(ports: impl IntoIterator<Item = &'a Port>, any: &str) -> BTreeMap<String, Value> {
    let mut map: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for port in ports {
        let address = port
            .address
            .map_or(any.to_owned(), |address| address.to_string());
        let number = match port.host {
            0 => String::new(),
            first => range(first, port.host_last.unwrap_or(first)),
        };
        let bindings = map.entry(format!("{}/{}", port.container, port.protocol));
        let mut binding = json!({ "HostIp": address, "HostPort": number });
        if let Some(version) = port.proxy {
            // Beyond Docker's.
            binding["ProxyProtocol"] = json!(version);
        }
        bindings.or_default().push(binding);
    }
    map.into_iter()
        .map(|(port, bindings)| (port, bindings.into()))
        .collect()
}

/// `HostConfig.PortBindings`: what was asked for.
pub(super) fn bindings(spec: &Spec) -> Value {
    json!(ports(&spec.ports, ""))
}

/// `NetworkSettings`: what it has now.
pub(super) fn settings(root: &store::Root, spec: &Spec, state: &State) -> Value {
    let there = |endpoint: &Endpoint| {
        let mut attached = state.networks.iter().filter(|_| state.status.is_alive());
        attached.find(|attached| attached.network == endpoint.network)
    };
    let mut networks = Map::new();
    let mut bound: BTreeMap<String, Value> = BTreeMap::new();
    for endpoint in &spec.networks {
        let attached = there(endpoint);
        networks.insert(
            endpoint.network.clone(),
            described(root, spec, endpoint, attached),
        );
        if let Some(attached) = attached {
            bound.extend(ports(&attached.ports, "0.0.0.0"));
        }
    }
    for port in &spec.exposed {
        bound.entry(port.clone()).or_insert(Value::Null);
    }
    let first = spec.networks.first().and_then(there);
    let text = |address: Option<Ipv4Addr>| address.map(|it| it.to_string()).unwrap_or_default();
    json!({
        "Ports": bound,
        "IPAddress": text(first.map(|first| first.address)),
        "IPPrefixLen": first.map_or(0, |first| first.prefix),
        "Gateway": text(first.map(|first| first.gateway)),
        "GlobalIPv6Address": text6(first.and_then(|first| first.ipv6).map(|(address, ..)| address)),
        "GlobalIPv6PrefixLen": first.and_then(|first| first.ipv6).map_or(0, |(_, prefix, _)| prefix),
        "IPv6Gateway": text6(first.and_then(|first| first.ipv6).map(|(.., gateway)| gateway)),
        "MacAddress": first.map(|first| mac(first.mac)).unwrap_or_default(),
        "Networks": networks,
    })
}

fn text6(address: Option<Ipv6Addr>) -> String {
    address.map_or(String::new(), |address| address.to_string())
}

fn described(
    root: &store::Root,
    spec: &Spec,
    endpoint: &Endpoint,
    attached: Option<&Attached>,
) -> Value {
    let id = network::open(root, &endpoint.network).map(|network| network.spec().id.clone());
    let text = |address: Option<Ipv4Addr>| address.map(|it| it.to_string()).unwrap_or_default();
    let ipv6 = attached.and_then(|there| there.ipv6);
    let fixed = match (endpoint.address, endpoint.address6) {
        (None, None) => Value::Null,
        (address, None) => json!({ "IPv4Address": address }),
        (address, address6) => json!({ "IPv4Address": address, "IPv6Address": address6 }),
    };
    let mut names = vec![
        spec.name.clone(),
        spec.id[..spec.id.len().min(12)].to_owned(),
    ];
    names.extend(endpoint.aliases.iter().cloned());
    json!({
        "IPAMConfig": fixed,
        "Aliases": endpoint.aliases,
        "DNSNames": names,
        "NetworkID": id.unwrap_or_default(),
        "MacAddress": attached.map(|there| mac(there.mac)).unwrap_or_default(),
        "IPAddress": text(attached.map(|there| there.address)),
        "IPPrefixLen": attached.map_or(0, |there| there.prefix),
        "Gateway": text(attached.map(|there| there.gateway)),
        "GlobalIPv6Address": text6(ipv6.map(|(address, ..)| address)),
        "GlobalIPv6PrefixLen": ipv6.map_or(0, |(_, prefix, _)| prefix),
        "IPv6Gateway": text6(ipv6.map(|(.., gateway)| gateway)),
        // Beyond Docker's.
        "HostAllowed": endpoint.host,
    })
}

/// `02:01:…`
pub(crate) fn mac(bytes: [u8; 6]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(":")
}

/// Docker's words for ports that are open, in a row of `ps`: `0.0.0.0:8080->80/tcp`. Those that nothing leads to are only named.
/// Neighbours are one word, as there: `100-102/tcp`, `0.0.0.0:80-82->80-82/tcp`, the latter where the numbers are the same inside.
#[must_use]
pub fn port_words(open: &[Port], exposed: &[String]) -> Vec<String> {
    // First and last of each run of neighbours.
    let mut runs: Vec<(&Port, &Port)> = Vec::new();
    for port in open {
        match runs.last_mut() {
            Some((_, last)) if follows(last, port) => *last = port,
            _ => runs.push((port, port)),
        }
    }
    let mut words: Vec<String> = runs
        .into_iter()
        .map(|(first, last)| {
            let address = match first.address {
                Some(IpAddr::V6(address)) => format!("[{address}]"),
                Some(address) => address.to_string(),
                None => "0.0.0.0".to_owned(),
            };
            let host = range(first.host, last.host);
            let container = range(first.container, last.container);
            format!("{address}:{host}->{container}/{}", first.protocol)
        })
        .collect();
    let is_open = |&(number, protocol): &(u16, Protocol)| {
        open.iter()
            .any(|port| (port.container, port.protocol) == (number, protocol))
    };
    let mut closed: Vec<(u16, u16, Protocol)> = Vec::new();
    let named = exposed.iter().filter_map(|text| expose(text)).flatten();
    for (number, protocol) in named.filter(|port| !is_open(port)) {
        match closed.last_mut() {
            Some((_, last, same)) if *same == protocol && last.checked_add(1) == Some(number) => {
                *last = number
            }
            _ => closed.push((number, number, protocol)),
        }
    }
    words.extend(
        closed
            .into_iter()
            .map(|(first, last, protocol)| format!("{}/{protocol}", range(first, last))),
    );
    words
}

/// Whether a port is the next one, and both have the same number inside and outside.
fn follows(last: &Port, port: &Port) -> bool {
    (last.protocol, last.address) == (port.protocol, port.address)
        && last.host == last.container
        && last.host.checked_add(1) == Some(port.host)
        && last.container.checked_add(1) == Some(port.container)
}

fn range(first: u16, last: u16) -> String {
    match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::container::ProxyProtocol;

    fn port(address: &str, host: u16, container: u16) -> Port {
        Port {
            protocol: Protocol::Tcp,
            address: Some(address.parse().unwrap()),
            host,
            host_last: None,
            container,
            proxy: None,
        }
    }

    #[test]
    fn what_is_exposed() {
        let all = exposed(
            &[
                "80/tcp".to_owned(),
                "x/tcp".to_owned(),
                "53/sctp".to_owned(),
            ],
            &["53/UDP".to_owned(), "80".to_owned(), "8000-8001".to_owned()],
        );
        let tcp = Protocol::Tcp;
        let expect = [(53, Protocol::Udp), (80, tcp), (8000, tcp), (8001, tcp)];
        assert_eq!(all.unwrap(), expect);
        for wrong in ["0", "9-8", "80/sctp", "a", "70000", ""] {
            assert!(exposed(&[], &[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }

    /// Oracle: `docker ps` and `docker inspect` of Docker 28.
    #[test]
    fn ports_in_words_and_as_json() {
        let open = [port("0.0.0.0", 8080, 80), port("::", 8080, 80)];
        let words = port_words(&open, &["80/tcp".to_owned(), "443/tcp".to_owned()]);
        assert_eq!(
            words,
            ["0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp", "443/tcp"]
        );
        let told = Port {
            proxy: Some(ProxyProtocol::V2),
            ..open[0]
        };
        let first = &ports(&[told], "")["80/tcp"][0];
        assert_eq!(first["ProxyProtocol"], "v2");
        let range = Port {
            host_last: Some(8090),
            ..open[0]
        };
        let first = &ports(&[range], "")["80/tcp"][0];
        assert_eq!(first["HostPort"], "8080-8090");
        let map = json!(ports(&open, ""));
        let expect = json!({"80/tcp": [
            {"HostIp": "0.0.0.0", "HostPort": "8080"},
            {"HostIp": "::", "HostPort": "8080"},
        ]});
        assert_eq!(map, expect);
    }

    #[test]
    fn networks_and_addresses_that_go_together() {
        let dir = tempfile::tempdir().unwrap();
        let root = store::Root::open(dir.path()).unwrap();
        let request = network::Request {
            name: "mine".to_owned(),
            id: "0".repeat(64),
            subnet: Some("10.78.0.0/24".parse().unwrap()),
            subnet6: Some("fd00:78::/64".parse().unwrap()),
            ..network::Request::default()
        };
        network::create(&root, request).unwrap();
        let check = |ipv4: &str, ipv6: &str, expect: Result<&str, &str>| {
            let mut endpoint = Endpoint {
                network: "mine".to_owned(),
                address: ipv4.parse().ok(),
                address6: ipv6.parse().ok(),
                ..Endpoint::default()
            };
            let checked = check_endpoint(&root, &mut endpoint);
            let found = checked.map(|()| endpoint.address.map(|address| address.to_string()));
            match (found, expect) {
                (Ok(found), Ok(expect)) => assert_eq!(found.unwrap_or_default(), expect),
                (Err(error), Err(expect)) => {
                    assert!(error.to_string().contains(expect), "{error}");
                }
                (found, _) => panic!("{ipv4} {ipv6}: {found:?}"),
            }
        };
        check("", "", Ok(""));
        check("10.78.0.9", "", Ok("10.78.0.9"));
        check("", "fd00:78::a4e:9", Ok("10.78.0.9"));
        check("10.78.0.9", "fd00:78::a4e:9", Ok("10.78.0.9"));
        check(
            "10.78.0.9",
            "fd00:78::a4e:8",
            Err("as fd00:78::a4e:9 with 10.78.0.9"),
        );
        check("", "fd00:78::5", Err("goes with no address of IPv4"));
        check("", "fd00:79::a4e:9", Err("goes with no address"));
        check("10.79.0.9", "", Err("is none of the network mine"));
        let named = |name: &str| Endpoint {
            network: name.to_owned(),
            ..Endpoint::default()
        };
        let twice = check_networks(&[named("a"), named("b"), named("a")]);
        assert!(twice.unwrap_err().to_string().contains("a is named twice"));
        let many: Vec<Endpoint> = (0..9).map(|number| named(&format!("n{number}"))).collect();
        assert!(check_networks(&many[..8]).is_ok());
        assert!(
            check_networks(&many)
                .unwrap_err()
                .to_string()
                .contains("8 at most")
        );
    }

    #[test]
    fn neighbours_are_one_word() {
        let open = [
            port("0.0.0.0", 80, 80),
            port("0.0.0.0", 81, 81),
            port("0.0.0.0", 82, 82),
            port("127.0.0.1", 83, 83),
            port("127.0.0.1", 8000, 90),
            port("127.0.0.1", 8001, 91),
        ];
        let exposed = [
            "82/tcp", "100/tcp", "101/tcp", "102/tcp", "102/udp", "104/udp",
        ];
        assert_eq!(
            port_words(&open, &exposed.map(str::to_owned)),
            [
                "0.0.0.0:80-82->80-82/tcp",
                "127.0.0.1:83->83/tcp",
                "127.0.0.1:8000->90/tcp",
                "127.0.0.1:8001->91/tcp",
                "100-102/tcp",
                "102/udp",
                "104/udp"
            ]
        );
    }
}
