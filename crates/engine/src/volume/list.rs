//! What there is of volumes: `volume ls`, `volume inspect`.

use serde_json::{Value, json};
use store::volume::{self, Volume};
use store::{file, lock};

use super::VolumeSummary;
use crate::{Engine, Error, time};

/// Which volumes are meant. What says nothing leaves nothing out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeFilter {
    /// With these labels; a value of `None` is any.
    pub labels: Vec<(String, Option<String>)>,
    /// Without these labels.
    pub without_labels: Vec<(String, Option<String>)>,
    /// Whose names contain one of these.
    pub names: Vec<String>,
    /// Of these drivers. There is `local` only.
    pub drivers: Vec<String>,
    /// Used by no container, or by one.
    pub dangling: Option<bool>,
}

impl VolumeFilter {
    pub(super) fn lets_through(&self, volume: &VolumeSummary) -> bool {
        let has = |(name, value): &(String, Option<String>)| {
            let found = volume.labels.get(name);
            found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found))
        };
        let one_of =
            |all: &[String], fits: &dyn Fn(&String) -> bool| all.is_empty() || all.iter().any(fits);
        self.labels.iter().all(has)
            && !self.without_labels.iter().any(has)
            && one_of(&self.names, &|part| volume.name.contains(part.as_str()))
            && one_of(&self.drivers, &|driver| driver == "local")
            && self
                .dangling
                .is_none_or(|dangling| dangling == volume.users.is_empty())
    }
}

impl Engine {
    /// The volumes that a filter lets through, by name.
    ///
    /// # Errors
    /// The directory cannot be read, or a container that may use any of them. A volume that cannot be read has an
    /// [`VolumeSummary::error`].
    pub fn volumes(&self, filter: &VolumeFilter) -> Result<Vec<VolumeSummary>, Error> {
        let mut users = match volume::users(&self.root) {
            // A list is better than none. Who asks for those that nobody uses wants to be sure.
            Err(volume::Error::Container { .. }) if filter.dangling.is_none() => Default::default(),
            other => other?,
        };
        let mut summaries = Vec::new();
        for volume in volume::list(&self.root)? {
            let mut names = |name: &str| -> Vec<String> {
                let users = users.remove(name).unwrap_or_default();
                users.into_iter().map(|user| user.name).collect()
            };
            let summary = match volume {
                Ok(volume) => summarize(&volume, names(volume.name()))?,
                Err((name, error)) => unreadable(&name, names(&name), &error),
            };
            if filter.lets_through(&summary) {
                summaries.push(summary);
            }
        }
        Ok(summaries)
    }

    /// All about a volume, in Docker's shape.
    ///
    /// # Errors
    /// No such volume.
    pub fn volume_inspect(&self, name: &str) -> Result<Value, Error> {
        let volume = volume::open(&self.root, name)?;
        let spec = volume.spec();
        let users = volume::users(&self.root)?.remove(name).unwrap_or_default();
        let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
        Ok(json!({
            "CreatedAt": time::format(spec.created_ns),
            "Driver": "local",
            "Labels": spec.labels,
            "Mountpoint": volume.disk(),
            "Name": spec.name,
            "Options": { "size": spec.size.to_string() },
            "Scope": "local",
            "UsageData": {
                "RefCount": users.len(),
                "Size": file::occupied(&volume.disk())?,
            },
            // Beyond Docker's.
            "Size": spec.size,
            "Owner": spec.owner.map(|owner| format!("{}:{}", owner.uid, owner.gid)),
            "Anonymous": spec.anonymous,
            "Containers": names,
            "InUse": !lock::holders(volume.dir()).is_empty(),
        }))
    }

    /// The names of all volumes, for completions.
    #[must_use]
    pub fn volume_names(&self) -> Vec<String> {
        file::names(&self.root.volumes()).unwrap_or_default()
    }
}

fn summarize(volume: &Volume, users: Vec<String>) -> Result<VolumeSummary, Error> {
    let spec = volume.spec();
    Ok(VolumeSummary {
        name: spec.name.clone(),
        labels: spec.labels.clone(),
        created_ns: spec.created_ns,
        size: spec.size,
        occupied: file::occupied_tree(volume.dir())?,
        anonymous: spec.anonymous,
        users,
        error: None,
    })
}

fn unreadable(name: &str, users: Vec<String>, error: &volume::Error) -> VolumeSummary {
    VolumeSummary {
        name: name.to_owned(),
        labels: Default::default(),
        created_ns: 0,
        size: 0,
        occupied: 0,
        anonymous: false,
        users,
        error: Some(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        let volume = VolumeSummary {
            labels: [("tier".to_owned(), "db".to_owned())].into(),
            users: vec!["box".to_owned()],
            ..unreadable(
                "my-data",
                Vec::new(),
                &volume::Error::NotFound(String::new()),
            )
        };
        let check = |filter: VolumeFilter, expect: bool| {
            assert_eq!(filter.lets_through(&volume), expect, "{filter:?}");
        };
        let all = VolumeFilter::default;
        check(all(), true);
        for (value, expect) in [(None, true), (Some("db"), true), (Some("web"), false)] {
            let label = vec![("tier".to_owned(), value.map(str::to_owned))];
            let labels = label.clone();
            check(VolumeFilter { labels, ..all() }, expect);
            let without_labels = label;
            check(
                VolumeFilter {
                    without_labels,
                    ..all()
                },
                !expect,
            );
        }
        for (part, expect) in [("data", true), ("my", true), ("x", false)] {
            let names = vec![part.to_owned()];
            check(VolumeFilter { names, ..all() }, expect);
        }
        for (dangling, expect) in [(true, false), (false, true)] {
            let dangling = Some(dangling);
            check(VolumeFilter { dangling, ..all() }, expect);
        }
        let drivers = vec!["nfs".to_owned()];
        check(VolumeFilter { drivers, ..all() }, false);
    }
}
