//! Flags of `run` and `create` about networks, ports and names; `gourd port`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use clap::Args;
use engine::{Endpoint, Networks, Port, Protocol, PublishedSocket, Resolution};

use super::ports::{Ports, private_port, publish};

/// How a container is reached, and what it reaches.
#[derive(Debug, Args)]
pub struct Connections {
    /// Network to join, may be given several times: NAME[:alias=NAME][,ip=ADDRESS][,ip6=ADDRESS][,host=allow], or none
    /// [default: default]
    #[arg(long, visible_alias = "net", value_name = "NETWORK", value_parser = network, help_heading = "Network")]
    pub network: Vec<Choice>,
    /// Further name of the container on its first network
    #[arg(long, value_name = "ALIAS", help_heading = "Network")]
    pub network_alias: Vec<String>,
    /// Address of the container on its first network
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub ip: Option<Ipv4Addr>,
    /// Address of IPv6 of the container on its first network, of which its address of IPv4 is the end
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub ip6: Option<Ipv6Addr>,
    /// Publish a port: [ADDRESS:][HOST_PORT:]PORT[/tcp|udp][,proxy-protocol=v1|v2], or
    /// [published=HOST_PORT,]target=PORT[,protocol=tcp|udp][,host_ip=ADDRESS]; ranges as 8000-8010, of the host's for one PORT the first
    /// that is free; without HOST_PORT, or with 0: any
    #[arg(short, long, value_name = "PORT", value_parser = publish, help_heading = "Network")]
    pub publish: Vec<Ports>,
    /// Publish all ports that the image or --expose names, on any ports of the host that are free
    #[arg(short = 'P', long, help_heading = "Network")]
    pub publish_all: bool,
    /// Name a port that the container serves: PORT[-PORT][/tcp|udp]
    #[arg(long, value_name = "PORT", help_heading = "Network")]
    pub expose: Vec<String>,
    /// Server to ask for names that are no container's [default: the host's]
    #[arg(long, value_name = "SERVER", help_heading = "Network")]
    pub dns: Vec<IpAddr>,
    /// Domain in which short names are looked for
    #[arg(long, value_name = "DOMAIN", value_parser = domain, help_heading = "Network")]
    pub dns_search: Vec<String>,
    /// Add a line to /etc/hosts: NAME:ADDRESS, where host-gateway is the host
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = add_host, help_heading = "Network")]
    pub add_host: Vec<(String, String)>,
    /// Publish a unix socket of the container as one of the host's: HOST_PATH:CONTAINER_PATH (-v takes one of the host's in)
    #[arg(long, value_name = "HOST_PATH:PATH", value_parser = publish_socket, help_heading = "Network")]
    pub publish_socket: Vec<PublishedSocket>,
    /// Forward the SSH agent of whoever starts it, and set SSH_AUTH_SOCK
    #[arg(long, help_heading = "Network")]
    pub ssh: bool,
}

/// `gourd port`.
#[derive(Debug, Args)]
pub struct PortList {
    /// Name or id
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// Only where this port of the container's can be reached: PORT[/tcp|udp]
    #[arg(value_name = "PORT", value_parser = private_port)]
    pub port: Option<(u16, Protocol)>,
}

/// What `--network` can say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// No network.
    None,
    /// This one.
    Named(Endpoint),
}

impl Connections {
    /// The networks that are asked for; an error when flags contradict each other.
    pub fn networks(&self) -> Result<Networks, String> {
        let plain = self.network_alias.is_empty() && self.ip.is_none() && self.ip6.is_none();
        let mut named = Vec::new();
        for choice in &self.network {
            match choice {
                Choice::Named(endpoint) => named.push(endpoint.clone()),
                Choice::None if self.network.len() > 1 => {
                    return Err("--network none goes with no other network".to_owned());
                }
                Choice::None if plain => return Ok(Networks::None),
                Choice::None => {
                    return Err("--network-alias, --ip and --ip6 need a network".to_owned());
                }
            }
        }
        if named.is_empty() && plain {
            return Ok(Networks::Default);
        }
        if named.is_empty() {
            named.push(Endpoint {
                network: DEFAULT.to_owned(),
                ..Endpoint::default()
            });
        }
        named[0].aliases.extend(self.network_alias.iter().cloned());
        named[0].address = self.ip.or(named[0].address);
        named[0].address6 = self.ip6.or(named[0].address6);
        Ok(Networks::Named(named))
    }

    /// How it finds names.
    pub fn resolution(&self) -> Resolution {
        Resolution {
            servers: self.dns.clone(),
            search: self.dns_search.clone(),
            hosts: self.add_host.clone(),
        }
    }

    /// All ports that are to be published.
    pub fn ports(&self) -> Vec<Port> {
        let all = self.publish.iter().flat_map(|ports| &ports.0);
        all.copied().collect()
    }
}

/// Docker calls its own `bridge`.
const DEFAULT: &str = "default";

fn network(text: &str) -> Result<Choice, String> {
    let mut endpoint = Endpoint::default();
    // NAME:OPTIONS is NAME,OPTIONS.
    let split = text.split_once(':');
    let parts = match split.filter(|(name, _)| *name != "container" && !name.contains(['=', ','])) {
        Some((name, options)) => format!("{name},{options}"),
        None => text.to_owned(),
    };
    for (index, part) in parts.split(',').enumerate() {
        let (key, value) = match part.split_once('=') {
            Some(pair) => pair,
            None if index == 0 => ("name", part),
            None => return Err(format!("{part:?} is no option: write KEY=VALUE")),
        };
        match (key, value) {
            (_, "") => return Err(format!("{key} is empty in {text:?}")),
            ("name", "bridge") => endpoint.network = DEFAULT.to_owned(),
            ("name", name) => endpoint.network = name.to_owned(),
            ("alias", alias) => endpoint.aliases.push(alias.to_owned()),
            ("ip", address) => {
                let parsed = address.parse();
                let wrong = |_| format!("{address:?} is no IPv4 address");
                endpoint.address = Some(parsed.map_err(wrong)?);
            }
            ("ip6", address) => {
                let parsed = address.parse();
                let wrong = |_| format!("{address:?} is no IPv6 address");
                endpoint.address6 = Some(parsed.map_err(wrong)?);
            }
            ("host", "allow") => endpoint.host = true,
            ("host", "deny") => endpoint.host = false,
            ("host", other) => return Err(format!("host is allow or deny, not {other:?}")),
            (other, _) => {
                return Err(format!(
                    "there is no option {other:?}; there are alias, ip, ip6, host"
                ));
            }
        }
    }
    match endpoint.network.as_str() {
        "none" if endpoint == named("none") => Ok(Choice::None),
        "none" => Err("the network none has no options".to_owned()),
        "host" => Err(
            "a VM can't have the host's own network: -p publishes ports, and --network default,host=allow lets the \
             container reach the host's at host.gourd.internal"
                .to_owned(),
        ),
        name if name.starts_with("container:") => {
            Err("a container can't have another one's network: put both on one, they find each other by name".to_owned())
        }
        "" => Err("the network has no name".to_owned()),
        _ => Ok(Choice::Named(endpoint)),
    }
}

fn named(name: &str) -> Endpoint {
    Endpoint {
        network: name.to_owned(),
        ..Endpoint::default()
    }
}

/// `HOST_PATH:CONTAINER_PATH`, in `-p`'s order: who connects to the first reaches the second.
fn publish_socket(text: &str) -> Result<PublishedSocket, String> {
    let wrong = || {
        format!(
            "{text:?} is no socket to publish: write HOST_PATH:CONTAINER_PATH, for example ./app.sock:/run/app.sock"
        )
    };
    let (host, container) = text.rsplit_once(':').ok_or_else(wrong)?;
    if host.is_empty() || !container.starts_with('/') {
        return Err(wrong());
    }
    let host = std::path::absolute(host).map_err(|error| format!("{host:?}: {error}"))?;
    Ok(PublishedSocket {
        host,
        container: container.to_owned(),
    })
}

/// One word of `search` in resolv.conf(5).
fn domain(text: &str) -> Result<String, String> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !text.is_empty() && text.len() <= 253 && text.bytes().all(fine) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no domain"))
    }
}

/// `NAME:ADDRESS`, as Docker also `NAME=ADDRESS`.
fn add_host(text: &str) -> Result<(String, String), String> {
    let wrong = || {
        format!(
            "{text:?} is no host: write NAME:ADDRESS, for example db:192.0.2.7 or me:host-gateway"
        )
    };
    let (name, address) = text.split_once(['=', ':']).ok_or_else(wrong)?;
    domain(name)?;
    let bare = address
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'));
    let address = bare.unwrap_or(address);
    if address != "host-gateway" && address.parse::<IpAddr>().is_err() {
        return Err(wrong());
    }
    Ok((name.to_owned(), address.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets() {
        let found = publish_socket("/a:b.sock:/run/x.sock").unwrap();
        assert_eq!(found.host.to_str(), Some("/a:b.sock"));
        assert_eq!(found.container, "/run/x.sock");
        assert!(publish_socket("a.sock:/x").unwrap().host.is_absolute());
        for wrong in ["", "/a", "/a:", ":/x", "/a:x"] {
            assert!(publish_socket(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn networks() {
        let check = |text: &str, expect: Result<Choice, &str>| match (network(text), expect) {
            (Ok(found), Ok(expect)) => assert_eq!(found, expect, "{text}"),
            (Err(found), Err(expect)) => assert!(found.contains(expect), "{text}: {found}"),
            (found, _) => panic!("{text}: {found:?}"),
        };
        check("none", Ok(Choice::None));
        check("mine", Ok(Choice::Named(named("mine"))));
        check("bridge", Ok(Choice::Named(named("default"))));
        let endpoint = Endpoint {
            network: "mine".to_owned(),
            aliases: vec!["a".to_owned(), "b".to_owned()],
            address: Some(Ipv4Addr::new(10, 1, 2, 3)),
            address6: Some("fd00::a01:203".parse().unwrap()),
            host: true,
        };
        for text in [
            "name=mine,alias=a,alias=b,ip=10.1.2.3,ip6=fd00::a01:203,host=allow",
            "mine:alias=a,alias=b,ip=10.1.2.3,ip6=fd00::a01:203,host=allow",
        ] {
            check(text, Ok(Choice::Named(endpoint.clone())));
        }
        check("mine:", Err("is no option"));
        check("none,alias=a", Err("no options"));
        check("host", Err("-p publishes ports"));
        check("container:x", Err("another one's network"));
        check("a,ip=x", Err("no IPv4 address"));
        check("a,speed=1", Err("there is no option"));
        check("", Err("is empty"));
    }

    #[test]
    fn hosts() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(add_host("db:192.0.2.7"), Ok(pair("db", "192.0.2.7")));
        assert_eq!(add_host("db=host-gateway"), Ok(pair("db", "host-gateway")));
        assert_eq!(add_host("db:[::1]"), Ok(pair("db", "::1")));
        assert_eq!(add_host("db:::1"), Ok(pair("db", "::1")));
        for wrong in ["db", "db:", "db:x", ":1.1.1.1", "a b:1.1.1.1"] {
            assert!(add_host(wrong).is_err(), "{wrong}");
        }
    }
}
