//! Which of the host's ports a container asks for, where any of a range will do.
//!
//! `gourd-net` takes ports by binding them, all or none, and says which it could not have. So nobody looks whether a port is free,
//! which it may not be a moment later: the next one of its range is asked for, until all are had or a range has no more.

use std::collections::HashSet;
use std::net::IpAddr;

use proto::network::{Protocol, Publish, Refused};
use rustix::io::Errno;

use super::PUBLISH;

/// A port that is wanted: that one, or any after it up to `last`.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// With the first of the host's ports that will do.
    pub publish: Publish,
    /// The last.
    pub last: u16,
}

impl Wanted {
    fn is_choice(&self) -> bool {
        self.publish.host_port < self.last
    }
}

/// A port of an address of the host's.
type Place = (Protocol, Option<IpAddr>, u16);

fn place(port: &Publish) -> Place {
    (port.protocol, port.address, port.host_port)
}

/// Whether two ports can't both be had.
fn collide(one: &Publish, other: &Publish) -> bool {
    let same = |one: IpAddr, other: IpAddr| {
        one == other
            || one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified())
    };
    let addresses = one.address.zip(other.address);
    (one.protocol, one.host_port) == (other.protocol, other.host_port)
        && addresses.is_none_or(|(one, other)| same(one, other))
}

/// The choice of a container's ports.
pub(super) struct Choice<'a> {
    wanted: &'a [Wanted],
    taken: HashSet<Place>,
}

impl<'a> Choice<'a> {
    pub(super) fn new(wanted: &'a [Wanted]) -> Choice<'a> {
        let taken = HashSet::new();
        Choice { wanted, taken }
    }

    /// What to ask for next, in the order of what is wanted: of each range the first that neither somebody else has, nor another of
    /// these.
    pub(super) fn ports(&self) -> Result<Vec<Publish>, Refused> {
        let fixed = self.wanted.iter().filter(|wanted| !wanted.is_choice());
        let mut chosen: Vec<Publish> = fixed.map(|wanted| wanted.publish).collect();
        let mut ports = Vec::new();
        for wanted in self.wanted {
            if !wanted.is_choice() {
                ports.push(wanted.publish);
                continue;
            }
            let all = (wanted.publish.host_port..=wanted.last).map(|host_port| Publish {
                host_port,
                ..wanted.publish
            });
            let mut free = all.filter(|port| !self.taken.contains(&place(port)));
            let free = free.find(|port| !chosen.iter().any(|other| collide(port, other)));
            let port = free.ok_or_else(|| exhausted(wanted))?;
            chosen.push(port);
            ports.push(port);
        }
        Ok(ports)
    }

    /// Takes note of a refusal of these ports; true when it was about one that others can stand in for.
    pub(super) fn is_taken(&mut self, ports: &[Publish], refused: &Refused) -> bool {
        // Low ports that are kept for root are as good as taken.
        let taken = [Errno::ADDRINUSE, Errno::ACCESS];
        let taken = taken.map(Errno::raw_os_error).contains(&refused.errno);
        let pairs = self.wanted.iter().zip(ports);
        let choices = pairs.filter(|(wanted, _)| wanted.is_choice());
        let mut about = choices.filter(|(_, port)| port.to_string() == refused.object);
        match about.next() {
            Some((_, port)) if taken && refused.step == PUBLISH => self.taken.insert(place(port)),
            _ => false,
        }
    }
}

fn exhausted(wanted: &Wanted) -> Refused {
    let first = &wanted.publish;
    Refused {
        step: PUBLISH.to_owned(),
        object: format!("{}-{}/{}", first.on_host(), wanted.last, first.protocol),
        errno: Errno::ADDRINUSE.raw_os_error(),
        message: "all ports of the range are taken".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(address: &str, first: u16, last: u16) -> Wanted {
        let publish = Publish {
            protocol: Protocol::Tcp,
            address: address.parse().ok(),
            host_port: first,
            guest_port: 80,
            proxy: None,
        };
        Wanted { publish, last }
    }

    /// What a container gets of a host on which these are taken, as `address:port/tcp`.
    fn got(wanted: &[Wanted], taken: &[&str]) -> Result<Vec<u16>, Refused> {
        let mut choice = Choice::new(wanted);
        loop {
            let ports = choice.ports()?;
            let is_taken = |port: &&Publish| taken.contains(&&*port.to_string());
            let Some(port) = ports.iter().find(is_taken) else {
                return Ok(ports.iter().map(|port| port.host_port).collect());
            };
            let refused = Refused {
                step: PUBLISH.to_owned(),
                object: port.to_string(),
                errno: 98,
                message: "the port is taken".to_owned(),
            };
            if !choice.is_taken(&ports, &refused) {
                return Err(refused);
            }
        }
    }

    #[test]
    fn the_first_of_a_range_that_is_free() {
        let check = |all: &[Wanted], taken: &[&str], expect: &[u16]| {
            assert_eq!(got(all, taken).unwrap(), expect, "{all:?}");
        };
        let range = wanted("", 8000, 8002);
        check(&[range], &[], &[8000]);
        check(&[range], &["0.0.0.0:8000/tcp"], &[8001]);
        check(
            &[range],
            &["0.0.0.0:8000/tcp", "0.0.0.0:8001/tcp", "0.0.0.0:80/tcp"],
            &[8002],
        );
        // Two of one container, and one that must have its own.
        check(&[range, range], &["0.0.0.0:8001/tcp"], &[8000, 8002]);
        check(&[range, wanted("", 8000, 8000)], &[], &[8001, 8000]);
        check(&[range, wanted("", 0, 0)], &[], &[8000, 0]);
        // Another address is another matter, unless one is all of them.
        let local = wanted("127.0.0.1", 8000, 8002);
        check(
            &[wanted("127.0.0.2", 8000, 8002), local],
            &[],
            &[8000, 8000],
        );
        check(&[local, wanted("0.0.0.0", 8000, 8002)], &[], &[8000, 8001]);
        check(&[local, range], &["127.0.0.1:8000/tcp"], &[8001, 8000]);
        check(&[local, wanted("::", 8000, 8002)], &[], &[8000, 8000]);
        let udp = Wanted {
            publish: Publish {
                protocol: Protocol::Udp,
                ..range.publish
            },
            ..range
        };
        check(&[range, udp], &["0.0.0.0:8000/tcp"], &[8001, 8000]);
    }

    #[test]
    fn what_can_t_be_had_is_named() {
        let range = wanted("127.0.0.1", 8000, 8001);
        let taken = ["127.0.0.1:8000/tcp", "127.0.0.1:8001/tcp"];
        let refused = got(&[range], &taken).unwrap_err();
        assert_eq!(refused.object, "127.0.0.1:8000-8001/tcp");
        assert_eq!(refused.message, "all ports of the range are taken");
        let refused = got(&[range, range, range], &[]).unwrap_err();
        assert_eq!(refused.object, "127.0.0.1:8000-8001/tcp");
        let refused = got(&[range, wanted("127.0.0.1", 80, 80)], &["127.0.0.1:80/tcp"]);
        assert_eq!(refused.unwrap_err().message, "the port is taken");
        // What is wrong with all of them does not get better with the next one.
        let mut choice = Choice::new(std::slice::from_ref(&range));
        let refused = Refused {
            step: PUBLISH.to_owned(),
            object: "127.0.0.1:8000/tcp".to_owned(),
            errno: Errno::ADDRNOTAVAIL.raw_os_error(),
            message: String::new(),
        };
        assert!(!choice.is_taken(&[range.publish], &refused));
    }
}
