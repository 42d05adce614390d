//! Names for shells to complete, read at once: nothing is repaired, nobody is asked, nothing is waited for.

use store::{container, kernels, network, refs};

use crate::Engine;

/// A container as its files have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerName {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its image's reference.
    pub image: String,
    /// It has a supervisor, unless that has died unnoticed.
    pub alive: bool,
    /// It is frozen.
    pub paused: bool,
}

impl Engine {
    /// The containers whose files can be read, by name.
    #[must_use]
    pub fn container_names(&self) -> Vec<ContainerName> {
        let readable = container::list(&self.root).unwrap_or_default();
        let mut names: Vec<ContainerName> = readable
            .into_iter()
            .flatten()
            .filter_map(|container| {
                let status = container.state().ok()?.status;
                let spec = container.spec();
                Some(ContainerName {
                    id: spec.id.clone(),
                    name: spec.name.clone(),
                    image: spec.image.reference.clone(),
                    alive: status.is_alive(),
                    paused: status == container::Status::Paused,
                })
            })
            .collect();
        names.sort_by(|a, b| a.name.cmp(&b.name));
        names
    }

    /// The references of images in familiar form, sorted.
    #[must_use]
    pub fn image_names(&self) -> Vec<String> {
        let entries = refs::list(&self.root).unwrap_or_default();
        let mut names: Vec<String> = entries
            .iter()
            .map(|entry| entry.reference.familiar())
            .collect();
        names.sort_unstable();
        names
    }

    /// The networks, by name.
    #[must_use]
    pub fn network_names(&self) -> Vec<String> {
        let networks = network::list(&self.root).unwrap_or_default();
        let names = networks.iter().map(|network| network.spec().name.clone());
        let mut names: Vec<String> = names.collect();
        if !names.iter().any(|name| name == network::DEFAULT) {
            names.push(network::DEFAULT.to_owned());
        }
        names
    }

    /// The kernels, by name.
    #[must_use]
    pub fn kernel_names(&self) -> Vec<String> {
        let kernels = kernels::list(&self.root).unwrap_or_default();
        kernels.into_iter().map(|kernel| kernel.name).collect()
    }
}
