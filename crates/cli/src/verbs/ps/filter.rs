//! Which containers `ps` shows: Docker's `--filter`. Of filters with one key one must match; of each key.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use engine::{ContainerSummary, Engine, ErrorKind, HealthStatus, Protocol, port_numbers};
use regex_lite::Regex;

use super::state;
use crate::failure::Failure;

/// Checked filters, with what they refer to looked up.
#[derive(Default)]
pub struct Filters {
    ancestors: Option<BTreeSet<String>>,
    before_ns: Vec<u64>,
    since_ns: Vec<u64>,
    names: Vec<Regex>,
    ids: Vec<String>,
    statuses: Vec<String>,
    healths: Vec<String>,
    exited: Vec<String>,
    volumes: Vec<String>,
    networks: Vec<String>,
    published: Vec<(RangeInclusive<u16>, Protocol)>,
    exposed: Vec<(RangeInclusive<u16>, Protocol)>,
    labels: Vec<(String, Option<String>)>,
}

impl Filters {
    /// `all` are all containers: `before` and `since` name some of them.
    pub fn new(
        engine: &Engine,
        given: &[(String, String)],
        all: &[ContainerSummary],
    ) -> Result<Filters, Failure> {
        let mut filters = Filters::default();
        for (key, value) in given {
            let own = || value.clone();
            match key.as_str() {
                "ancestor" => {
                    let found = filters.ancestors.get_or_insert_default();
                    match engine.descendants(value) {
                        Ok(images) => found.extend(images),
                        // No container can be of an image that is not there.
                        Err(error) if error.kind() == ErrorKind::NotFound => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                "before" => filters.before_ns.push(created(all, value)?),
                "since" => filters.since_ns.push(created(all, value)?),
                // The parser has tried it.
                "name" => filters.names.extend(Regex::new(value)),
                "id" => filters.ids.push(own()),
                "status" => filters.statuses.push(own()),
                "health" => filters.healths.push(own()),
                "exited" => filters.exited.push(own()),
                "volume" => filters.volumes.push(own()),
                "network" => filters.networks.push(own()),
                // The parser has tried these, too.
                "publish" => filters.published.extend(port_numbers(value)),
                "expose" => filters.exposed.extend(port_numbers(value)),
                _ => filters.labels.push(match value.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (own(), None),
                }),
            }
        }
        Ok(filters)
    }

    /// Whether a container is shown.
    pub fn let_through(&self, container: &ContainerSummary) -> bool {
        let code = container.exit_code.map(|code| code.to_string());
        let slashed = format!("/{}", container.name);
        let health = match container.health {
            None => "none",
            Some(status) => health(status),
        };
        let has = |(name, value): &(String, Option<String>)| {
            let found = container.labels.get(name);
            found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        self.ancestors
            .as_ref()
            .is_none_or(|images| images.contains(&container.image_id))
            && any(&self.before_ns, |limit| container.created_ns < *limit)
            && any(&self.since_ns, |limit| container.created_ns > *limit)
            && any(&self.names, |name| {
                name.is_match(&container.name) || name.is_match(&slashed)
            })
            && any(&self.ids, |id| container.id.starts_with(id.as_str()))
            && any(&self.statuses, |status| state(container.status) == status)
            && any(&self.healths, |wanted| health == wanted)
            && any(&self.exited, |wanted| {
                state(container.status) == "exited" && code.as_ref() == Some(wanted)
            })
            && any(&self.volumes, |wanted| {
                let mut mounts = container.mounts.iter();
                mounts.any(|(source, target)| source == wanted || target == wanted)
            })
            && any(&self.networks, |network| container.networks.contains(network))
            && any(&self.published, |(numbers, protocol)| {
                let mut open = container.ports.iter();
                open.any(|port| port.protocol == *protocol && numbers.contains(&port.host))
            })
            && any(&self.exposed, |(numbers, protocol)| {
                let open = container.ports.iter();
                let open = open.map(|port| (port.container..=port.container, port.protocol));
                let named = container.exposed.iter().filter_map(|text| port_numbers(text));
                open.chain(named).any(|(there, of)| {
                    of == *protocol && there.start() <= numbers.end() && numbers.start() <= there.end()
                })
            })
            // Docker wants all labels.
            && self.labels.iter().all(has)
    }
}

/// Docker's word.
pub const fn health(status: HealthStatus) -> &'static str {
    match status {
        HealthStatus::Starting => "starting",
        HealthStatus::Healthy => "healthy",
        HealthStatus::Unhealthy => "unhealthy",
    }
}

fn any<T>(wanted: &[T], matches: impl Fn(&T) -> bool) -> bool {
    wanted.is_empty() || wanted.iter().any(matches)
}

fn created(all: &[ContainerSummary], wanted: &str) -> Result<u64, Failure> {
    let exact = all
        .iter()
        .find(|one| one.id == wanted || one.name == wanted);
    exact
        .or_else(|| all.iter().find(|one| one.id.starts_with(wanted)))
        .map(|one| one.created_ns)
        .ok_or_else(|| Failure::NoSuchContainer {
            name: wanted.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::super::tests::container;
    use super::*;
    use engine::Status;

    #[test]
    fn filters() {
        let dir = tempfile::tempdir().expect("a directory");
        let engine = Engine::open(engine::OpenOptions {
            root: Some(dir.path().join("root")),
            ..engine::OpenOptions::default()
        })
        .expect("an engine");
        let mut running = container("a", Status::Running);
        running.created_ns += 1;
        running.health = Some(HealthStatus::Healthy);
        let mounted = [("data", "/data"), ("/home/me/src", "/src")];
        running.mounts = mounted
            .map(|(source, target)| (source.to_owned(), target.to_owned()))
            .into();
        running.networks = vec!["apart".to_owned()];
        running.exposed = vec!["90-92/tcp".to_owned()];
        running.ports = vec![engine::Port {
            protocol: engine::Protocol::Udp,
            address: None,
            host: 5353,
            host_last: None,
            container: 53,
            proxy: None,
        }];
        let exited = container("b", Status::Exited);
        let all = [running.clone(), exited.clone()];
        let check = |filters: &[(&str, &str)], expect: (bool, bool)| {
            let given: Vec<_> = filters
                .iter()
                .map(|&(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            let filters = Filters::new(&engine, &given, &all).expect("filters");
            assert_eq!(
                (filters.let_through(&running), filters.let_through(&exited)),
                expect,
                "{given:?}"
            );
        };
        check(&[], (true, true));
        check(&[("status", "running")], (true, false));
        check(&[("status", "running"), ("status", "exited")], (true, true));
        check(&[("name", "name-b")], (false, true));
        check(&[("name", "^/?name-[ac]$")], (true, false));
        check(&[("name", "^ame")], (false, false));
        check(&[("name", "name"), ("status", "exited")], (false, true));
        check(&[("id", "aaa")], (true, false));
        check(&[("exited", "7")], (false, true));
        check(&[("health", "healthy")], (true, false));
        for volume in ["data", "/data", "/home/me/src", "/src"] {
            check(&[("volume", volume)], (true, false));
        }
        check(&[("volume", "dat")], (false, false));
        check(&[("network", "apart")], (true, false));
        check(&[("publish", "5353/udp")], (true, false));
        check(&[("publish", "5000-6000/udp")], (true, false));
        check(&[("publish", "5353")], (false, false));
        check(&[("expose", "53/udp")], (true, false));
        check(&[("expose", "91")], (true, false));
        check(&[("expose", "93-99")], (false, false));
        check(&[("health", "none")], (false, true));
        check(&[("label", "tier")], (true, true));
        check(&[("label", "tier=db")], (false, false));
        check(&[("label", "tier"), ("label", "none")], (false, false));
        check(&[("before", "name-a")], (false, true));
        check(&[("since", "bbbb")], (true, false));
        check(&[("ancestor", "nothing")], (false, false));
        let nobody = [("before".to_owned(), "nobody".to_owned())];
        assert!(Filters::new(&engine, &nobody, &all).is_err());
    }
}
