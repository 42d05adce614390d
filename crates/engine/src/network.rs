//! Networks: make, list, look at, remove. What runs on one is the supervisors' affair ([`store::network`] says where).

mod connect;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use proto::network::{self as wire, Member, PROTOCOL, Reply, Request};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::{Map, Value, json};
use store::network::{self, Network, Spec};

use crate::container::mac;
use crate::{ContainerFilter, Engine, Error, blocking, time};

/// What to make a network of.
#[derive(Debug, Clone, Default)]
pub struct NetworkRequest {
    /// Unique among networks.
    pub name: String,
    /// `10.1.2.0/24`, `fd00:1::/64`: one of each at most. One that is free where there is none.
    pub subnets: Vec<String>,
    /// It has IPv6, as it has with a subnet of IPv6.
    pub ipv6: bool,
    /// Nothing outside of it can be reached.
    pub internal: bool,
    /// What can be reached outside of it ([`store::network::Allow`]); empty: everything.
    pub allow: Vec<String>,
    /// The user's.
    pub labels: BTreeMap<String, String>,
}

/// A row of `network ls`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkSummary {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub subnet: String,
    /// Its addresses of IPv6.
    pub subnet6: Option<String>,
    /// Nothing outside of it can be reached.
    pub internal: bool,
    /// What can be reached outside of it; empty: everything.
    pub allow: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Nanoseconds since 1970.
    pub created_ns: u64,
}

impl Engine {
    /// Makes a network; its id.
    ///
    /// # Errors
    /// The name is taken, a subnet overlaps with another network's, the allow-list makes no sense.
    pub fn create_network(&self, request: NetworkRequest) -> Result<String, Error> {
        let (mut subnet, mut subnet6) = (None, None);
        for text in &request.subnets {
            let twice = match text.contains(':') {
                true => subnet6.replace(text.parse()?).is_some(),
                false => subnet.replace(text.parse()?).is_some(),
            };
            if twice {
                let reason = "a network has one of IPv4 and one of IPv6 at most".to_owned();
                return Err(Error::invalid("subnet", reason));
            }
        }
        let allow = request.allow.iter().map(|text| text.parse());
        let allow = allow.collect::<Result<Vec<_>, _>>()?;
        // `default` exists, whether it was used or not.
        if request.name == network::DEFAULT {
            return Err(network::Error::Exists(request.name).into());
        }
        let made = network::create(
            &self.root,
            network::Request {
                name: request.name,
                id: crate::container::new_id()?,
                subnet,
                ipv6: request.ipv6,
                subnet6,
                internal: request.internal,
                allow,
                labels: request.labels,
            },
        )?;
        Ok(made.spec().id.clone())
    }

    /// All networks, by name; `default` is always among them.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn networks(&self) -> Result<Vec<NetworkSummary>, Error> {
        network::open(&self.root, network::DEFAULT)?;
        let summary = |network: Network| {
            let Spec {
                id,
                name,
                subnet,
                subnet6,
                internal,
                allow,
                labels,
                created_ns,
                ..
            } = network.spec().clone();
            NetworkSummary {
                id,
                name,
                subnet: subnet.to_string(),
                subnet6: subnet6.map(|subnet| subnet.to_string()),
                internal,
                allow: allow.iter().map(ToString::to_string).collect(),
                labels,
                created_ns,
            }
        };
        let all = network::list(&self.root)?;
        Ok(all.into_iter().map(summary).collect())
    }

    /// All about a network, in Docker's shape, with the containers that are on it now.
    ///
    /// # Errors
    /// No such network.
    pub async fn inspect_network(&self, name: &str) -> Result<Value, Error> {
        let network = self.network(name)?;
        let asked = network.clone();
        let members = blocking(move || report(&asked)).await?;
        Ok(describe(network.spec(), &members))
    }

    /// By name, or by the first digits of its id.
    fn network(&self, name: &str) -> Result<Network, Error> {
        match network::open(&self.root, name) {
            Err(network::Error::NotFound(_) | network::Error::InvalidName(_)) => {}
            other => return Ok(other?),
        }
        let all = network::list(&self.root)?.into_iter();
        let mut fitting =
            all.filter(|network| name.len() >= 4 && network.spec().id.starts_with(name));
        match (fitting.next(), fitting.next()) {
            (Some(network), None) => Ok(network),
            _ => Err(network::Error::NotFound(name.to_owned()).into()),
        }
    }

    /// What a network's process has written: what it refused, and what went wrong with it. Its newest MiB at most.
    ///
    /// # Errors
    /// No such network; its log can't be read.
    pub fn network_log(&self, name: &str) -> Result<Vec<u8>, Error> {
        Ok(self.network(name)?.read_log()?)
    }

    /// What happens on a network from now on: connections, questions about names, and what is refused; of all of its containers,
    /// or of one. Frames go into `pcap`, for as long as the watch lives.
    ///
    /// # Errors
    /// No such network or container; nobody is on it, so that nothing happens.
    pub fn watch_network(
        &self,
        name: &str,
        container: Option<&str>,
        pcap: Option<&File>,
    ) -> Result<NetworkWatch, Error> {
        let network = self.network(name)?;
        let found = container.map(|name| store::container::resolve(&self.root, name));
        let container = found
            .transpose()?
            .map(|container| container.spec().id.clone());
        let watch = || -> io::Result<OwnedFd> {
            let (_dir, path) = network.socket().map_err(io::Error::other)?;
            let socket = dial(&path)?;
            let question = Request::Watch {
                protocol: PROTOCOL,
                container: container.clone(),
            };
            wire::send(socket.as_fd(), &question, pcap.map(AsFd::as_fd))?;
            Ok(socket)
        };
        match watch() {
            Ok(socket) => Ok(NetworkWatch(socket)),
            Err(_) => {
                let name = &network.spec().name;
                let reason = format!("no running container is on {name}, so that nothing happens");
                Err(Error::invalid("network", reason))
            }
        }
    }

    /// Removes a network that no running container is on; its name.
    ///
    /// # Errors
    /// It is in use, or is `default`, which is always there.
    pub fn remove_network(&self, name: &str) -> Result<String, Error> {
        let network = self.network(name)?;
        let name = network.spec().name.clone();
        if name == network::DEFAULT {
            let reason = "default is always there".to_owned();
            return Err(Error::invalid("network", reason));
        }
        match network.clone().remove(&self.root) {
            Err(network::Error::InUse(_)) => {
                let members = report(&network)?.into_iter();
                Err(Error::NetworkInUse {
                    network: name,
                    containers: members.map(|member| member.name).collect(),
                })
            }
            Err(error) => Err(error.into()),
            Ok(()) => Ok(name),
        }
    }

    /// Removes the networks that no container is on, whether it runs or not, and that the filter lets through; their names.
    ///
    /// # Errors
    /// The networks or containers cannot be read.
    pub fn prune_networks(&self, filter: &ContainerFilter) -> Result<Vec<String>, Error> {
        let mut wanted = std::collections::BTreeSet::new();
        for container in store::container::list(&self.root)? {
            // One that can't be read may be on any: nothing is removed then.
            let container = container.map_err(|(_, error)| error)?;
            let endpoints = container.spec().networks.iter();
            wanted.extend(endpoints.map(|endpoint| endpoint.network.clone()));
        }
        let mut removed = Vec::new();
        for network in network::list(&self.root)? {
            let spec = network.spec();
            let name = spec.name.clone();
            let meant = filter.lets_through(spec.created_ns, &spec.labels);
            if !meant || name == network::DEFAULT || wanted.contains(&name) {
                continue;
            }
            match network.remove(&self.root) {
                Ok(()) => removed.push(name),
                Err(network::Error::InUse(_) | network::Error::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(removed)
    }
}

/// Who is on a network now; nobody when it has no process.
fn report(network: &Network) -> Result<Vec<Member>, network::Error> {
    let (_dir, path) = network.socket()?;
    // One that ends meanwhile has nobody on it.
    Ok(ask(&path).unwrap_or_default())
}

/// What happens on a network, line by line, each as it comes; it ends when the network's process does. Who reads too slowly misses some.
#[derive(Debug)]
pub struct NetworkWatch(OwnedFd);

impl Iterator for NetworkWatch {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        loop {
            match wire::expect::<Reply>(&self.0) {
                Ok((Reply::Note(line), _)) => return Some(line),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
}

fn dial(path: &std::path::Path) -> io::Result<OwnedFd> {
    let (kind, flags) = (SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let socket: OwnedFd = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn ask(path: &std::path::Path) -> io::Result<Vec<Member>> {
    let socket = dial(path)?;
    let question = Request::Report { protocol: PROTOCOL };
    wire::send(socket.as_fd(), &question, None)?;
    match wire::expect::<Reply>(&socket)?.0 {
        Reply::Report(members) => Ok(members),
        _ => Ok(Vec::new()),
    }
}

fn describe(spec: &Spec, members: &[Member]) -> Value {
    let containers: Map<String, Value> = members
        .iter()
        .map(|member| {
            let described = json!({
                "Name": member.name,
                "MacAddress": mac(member.mac),
                "IPv4Address": format!("{}/{}", member.address, spec.subnet.prefix),
                "IPv6Address": match (member.ipv6, spec.subnet6) {
                    (Some(address), Some(subnet)) => format!("{address}/{}", subnet.prefix),
                    _ => String::new(),
                },
            });
            (member.container.clone(), described)
        })
        .collect();
    let mut subnets = vec![json!({ "Subnet": spec.subnet, "Gateway": spec.subnet.gateway() })];
    if let Some(subnet) = spec.subnet6 {
        subnets.push(json!({ "Subnet": subnet, "Gateway": subnet.gateway() }));
    }
    json!({
        "Name": spec.name,
        "Id": spec.id,
        "Created": time::format(spec.created_ns),
        "Scope": "local",
        "Driver": "gourd",
        "EnableIPv4": true,
        "EnableIPv6": spec.subnet6.is_some(),
        "IPAM": {
            "Driver": "default",
            "Config": subnets,
        },
        "Internal": spec.internal,
        // Beyond Docker's.
        "Allow": spec.allow,
        "Containers": containers,
        "Labels": spec.labels,
    })
}
