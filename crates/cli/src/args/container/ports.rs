//! The words of `-p`, in Docker's forms.

use std::net::IpAddr;

use engine::{Port, Protocol, ProxyProtocol};

/// The ports of one `-p`: a range is several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports(pub Vec<Port>);

/// `80`, `8080:80`, `127.0.0.1:8080:80/udp`, `[::1]:8000-8010:9000-9010`, `127.0.0.1::80`, `8000-8010:80`,
/// `published=8080,target=80`.
pub(super) fn publish(text: &str) -> Result<Ports, String> {
    let (first, options) = text.split_once(',').unwrap_or((text, ""));
    if first.contains('=') {
        return by_keys(text);
    }
    let (ports, name) = split_protocol(first);
    let (rest, container) = match ports.rsplit_once(':') {
        Some((rest, container)) => (rest, container),
        None => ("", ports),
    };
    let (address, host) = rest.rsplit_once(':').unwrap_or(("", rest));
    let words = Words {
        address,
        host,
        container,
        protocol: name,
    };
    let proxy = match options {
        "" => None,
        options => match options.split_once('=') {
            Some(("proxy-protocol", version)) => Some(version),
            _ => {
                return Err(format!(
                    "{options:?} is no option of a port: write for example 8080:80,proxy-protocol=v2, or v1"
                ));
            }
        },
    };
    words.ports(text, proxy)
}

/// Docker's long form, a list of `KEY=VALUE` in any order.
fn by_keys(text: &str) -> Result<Ports, String> {
    let mut words = Words {
        protocol: "tcp",
        ..Words::default()
    };
    let mut proxy = None;
    for part in text.split(',') {
        let Some((key, value)) = part.split_once('=') else {
            return Err(format!(
                "{part:?} in {text:?} is no option: write KEY=VALUE"
            ));
        };
        match key {
            "target" => words.container = value,
            "published" => words.host = value,
            "protocol" => words.protocol = value,
            "host_ip" => words.address = value,
            "proxy-protocol" => proxy = Some(value),
            // Of a swarm, where it says on which machines: here there is one.
            "mode" if matches!(value, "host" | "ingress") => {}
            _ => {
                return Err(format!(
                    "a port has no option {part:?}; there are target, published, protocol, host_ip, proxy-protocol"
                ));
            }
        }
    }
    if words.container.is_empty() {
        return Err(format!(
            "{text:?} names no port of the container's: write for example published=8080,target=80"
        ));
    }
    words.ports(text, proxy)
}

/// What a form says, in words.
#[derive(Default)]
struct Words<'a> {
    /// Of the host's; empty: all.
    address: &'a str,
    /// A number or range; empty: any.
    host: &'a str,
    container: &'a str,
    protocol: &'a str,
}

impl Words<'_> {
    /// The ports that they mean; `text` is what was typed.
    fn ports(&self, text: &str, proxy: Option<&str>) -> Result<Ports, String> {
        let wrong = || {
            format!(
                "{text:?} is no port to publish: write [ADDRESS:][HOST_PORT:]PORT[/tcp|udp], for example 8080:80"
            )
        };
        let protocol = Protocol::named(self.protocol).ok_or_else(wrong)?;
        let proxy = proxy.map(|version| proxy_protocol(version, protocol));
        let proxy = proxy.transpose()?;
        let container = range(self.container).filter(|(first, _)| *first > 0);
        let container = container.ok_or_else(wrong)?;
        let address = match self.address {
            "" => None,
            address => {
                let bare = address
                    .strip_prefix('[')
                    .and_then(|it| it.strip_suffix(']'));
                let parsed = bare.unwrap_or(address).parse::<IpAddr>();
                // Docker takes 0.0.0.0 for IPv4 alone, and so do we.
                Some(parsed.map_err(|_| {
                    format!("{address:?} is no address of the host's; IPv6 stands in [ ]")
                })?)
            }
        };
        let host = match self.host {
            "" => (0, 0),
            host => range(host).ok_or_else(wrong)?,
        };
        let any = host == (0, 0);
        if host.0 == 0 && !any {
            return Err(wrong());
        }
        let count = container.1 - container.0;
        let choice = (count == 0 && host.0 < host.1).then_some(host.1);
        if !any && choice.is_none() && host.1 - host.0 != count {
            return Err(format!(
                "both ranges of {text:?} must be as long as each other, or the container's a single port"
            ));
        }
        let port = |offset: u16| Port {
            protocol,
            address,
            host: if any { 0 } else { host.0 + offset },
            host_last: choice,
            container: container.0 + offset,
            proxy,
        };
        Ok(Ports((0..=count).map(port).collect()))
    }
}

/// A version of `proxy-protocol=v1|v2`, the protocol's own name.
fn proxy_protocol(version: &str, protocol: Protocol) -> Result<ProxyProtocol, String> {
    let version = match version {
        "v1" => ProxyProtocol::V1,
        "v2" => ProxyProtocol::V2,
        _ => {
            return Err(format!(
                "there is no version {version:?} of the PROXY protocol: write proxy-protocol=v2, or v1"
            ));
        }
    };
    match protocol {
        Protocol::Tcp => Ok(version),
        Protocol::Udp => {
            Err("the PROXY protocol names the client of a connection: UDP has none".to_owned())
        }
    }
}

/// Docker takes nothing after the slash for TCP, too.
fn split_protocol(text: &str) -> (&str, &str) {
    match text.split_once('/') {
        Some((rest, protocol)) if !protocol.is_empty() => (rest, protocol),
        Some((rest, _)) => (rest, "tcp"),
        None => (text, "tcp"),
    }
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = (first.parse().ok()?, last.parse().ok()?);
    (range.0 <= range.1).then_some(range)
}

/// A port of a container's: `80`, `53/udp`.
pub(super) fn private_port(text: &str) -> Result<(u16, Protocol), String> {
    let (port, name) = split_protocol(text);
    let parsed = port.parse().ok().zip(Protocol::named(name));
    parsed.ok_or_else(|| format!("{text:?} is no port: write for example 80 or 53/udp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match publish(text) {
            Ok(ports) => {
                let shown = ports.0.iter().map(|port| {
                    let address = port.address.map_or("*".to_owned(), |it| it.to_string());
                    let last = port.host_last.map_or(String::new(), |it| format!("-{it}"));
                    let proxy = port.proxy.map_or(String::new(), |it| format!(" {it:?}"));
                    let (host, container) = (port.host, port.container);
                    format!(
                        "{address} {host}{last} {container}/{}{proxy}",
                        port.protocol
                    )
                });
                shown.collect::<Vec<_>>().join(", ")
            }
            Err(error) => error,
        }
    }

    /// Oracle: go-connections' nat.ParsePortSpec, which Docker's `-p` uses, and its tests.
    #[test]
    fn ports_in_dockers_forms() {
        let check = |text: &str, expect: &str| assert_eq!(shown(text), expect, "{text}");
        check("80", "* 0 80/tcp");
        check("8080:80", "* 8080 80/tcp");
        check("8080:80/udp", "* 8080 80/udp");
        check("8080:80/UDP", "* 8080 80/udp");
        check("80/Tcp", "* 0 80/tcp");
        check("80/", "* 0 80/tcp");
        check("0:80", "* 0 80/tcp");
        check(":80", "* 0 80/tcp");
        check("127.0.0.1:8080:80", "127.0.0.1 8080 80/tcp");
        check("127.0.0.1::80", "127.0.0.1 0 80/tcp");
        check("[::1]:8080:80", "::1 8080 80/tcp");
        check("::1:8080:80", "::1 8080 80/tcp");
        check("8000-8001:80-81", "* 8000 80/tcp, * 8001 81/tcp");
        check("80-81", "* 0 80/tcp, * 0 81/tcp");
        check("80-80", "* 0 80/tcp");
        check("8000-8010:80", "* 8000-8010 80/tcp");
        check("8000-8000:80", "* 8000 80/tcp");
        check("[::1]:8000-8010:80/UDP", "::1 8000-8010 80/udp");
        check(
            "8000-8002:80-81",
            "both ranges of \"8000-8002:80-81\" must be as long as each other, or the container's a single port",
        );
        check("8080:80,proxy-protocol=v2", "* 8080 80/tcp V2");
        check(
            "80-81/tcp,proxy-protocol=v1",
            "* 0 80/tcp V1, * 0 81/tcp V1",
        );
        for wrong in [
            "",
            "80/udp,proxy-protocol=v2",
            "80,proxy-protocol=v3",
            "80,speed=1",
            "80,proxy-protocol",
            "x",
            "80/sctp",
            "80/tcp/udp",
            "0",
            "81-80",
            "0-9:80",
            "8010-8000:80",
            "8080:",
            "70000:80",
            "a.b:80:80",
            "1:2:3:4",
        ] {
            assert!(publish(wrong).is_err(), "{wrong}");
        }
    }

    /// Oracle: Docker's documentation of `--publish`, whose long form `docker run` turns into the short one.
    #[test]
    fn ports_by_keys() {
        let check = |text: &str, expect: &str| assert_eq!(shown(text), expect, "{text}");
        check("target=80", "* 0 80/tcp");
        check("published=8080,target=80", "* 8080 80/tcp");
        check("target=53,published=5353,protocol=UDP", "* 5353 53/udp");
        check("published=8000-8010,target=80", "* 8000-8010 80/tcp");
        check(
            "published=8000-8001,target=80-81",
            "* 8000 80/tcp, * 8001 81/tcp",
        );
        check(
            "published=80,target=80,host_ip=::1,mode=host",
            "::1 80 80/tcp",
        );
        check("target=80,proxy-protocol=v1", "* 0 80/tcp V1");
        check(
            "published=80",
            "\"published=80\" names no port of the container's: write for example published=8080,target=80",
        );
        check(
            "target=80,speed=1",
            "a port has no option \"speed=1\"; there are target, published, protocol, host_ip, proxy-protocol",
        );
        check(
            "target=80,81",
            "\"81\" in \"target=80,81\" is no option: write KEY=VALUE",
        );
        for wrong in [
            "target=80,protocol=sctp",
            "target=x",
            "target=80,published=x",
            "target=80,mode=fast",
            "target=80,host_ip=x",
            "target=80,protocol=udp,proxy-protocol=v1",
            "published=1-2,target=80-82",
        ] {
            assert!(publish(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_of_containers() {
        assert_eq!(private_port("80"), Ok((80, Protocol::Tcp)));
        assert_eq!(private_port("53/UDP"), Ok((53, Protocol::Udp)));
        assert!(private_port("80/sctp").is_err());
    }
}
